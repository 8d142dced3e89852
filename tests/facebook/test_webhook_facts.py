"""What webhooks say of messages: every documented and every captured form, and what says nothing."""

import json
from collections.abc import Mapping
from datetime import timedelta

import pytest
from msgspec.structs import replace

from facebook.test_webhooks import ACCOUNT, MILLISECONDS, PAGE, Json, between, delivery, update, updates
from kit.builders import NOON
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.facebook.webhooks import Update, UpdateResult

HEART = {"mid": "m_A", "action": "react", "reaction": "love", "emoji": "\u2764"}
AD = {"source": "ADS", "ad_id": "55", "type": "OPEN_THREAD", "ads_context_data": {"ad_title": "Bread", "post_id": 7}}
LATER_MILLISECONDS = MILLISECONDS + 1234


def facts(
    told: Mapping[str, object], *, sender: str = "9001", recipient: str = "101", **where: str
) -> list[WebhookEvent]:
    found = update(between(sender, recipient, **told), **where)
    return [event for event in found.events if event.kind.is_fact]


def fact(told: Mapping[str, object], **where: str) -> WebhookEvent:
    (found,) = facts(told, **where)
    assert (found.stream, found.contact_id) == (PAGE, "9001")
    return found


class TestEdits:
    @pytest.mark.parametrize("num_edit", [1, "1", 2])
    def test_an_edit_has_the_text(self, num_edit: object) -> None:
        found = fact({"message_edit": {"mid": "m_A", "text": "new", "num_edit": num_edit}})
        assert (found.kind, found.message_id, found.detail) == (WebhookKind.EDIT, "m_A", '{"text":"new"}')

    def test_a_text_without_a_number_is_an_edit(self) -> None:
        assert fact({"message_edit": {"mid": "m_A", "text": "new"}}).kind is WebhookKind.EDIT

    def test_the_number_0_is_none(self) -> None:
        assert facts({"message_edit": {"mid": "m_A", "num_edit": 0}}) == []

    def test_two_edits_are_two_events_and_a_repetition_is_none(self) -> None:
        first = {"message_edit": {"mid": "m_A", "text": "new", "num_edit": 1}}
        second = {"message_edit": {"mid": "m_A", "text": "newer", "num_edit": 2}}
        assert fact(first).key == fact(first).key != fact(second).key

    def test_a_text_is_kept_as_every_database_takes_it_and_without_signatures(self) -> None:
        text = "a\0b\ud83d https://scontent.xx.fbcdn.net/v.jpg?oh=1"
        found = fact({"message_edit": {"mid": "m_A", "text": text, "num_edit": 1}})
        assert json.loads(found.detail or "") == {"text": "a\ufffdb\ufffd https://scontent.xx.fbcdn.net/v.jpg"}


class TestUnsent:
    @pytest.mark.parametrize("is_deleted", [True, "true"])
    def test_it_says_nothing_but_that(self, is_deleted: object) -> None:
        found = update(between("9001", "101", message={"mid": "m_A", "is_deleted": is_deleted}))
        (event,) = found.events
        assert (event.kind, event.message_id, event.detail) == (WebhookKind.UNSEND, "m_A", None)


class TestReactions:
    def test_it_is_whose_it_is(self) -> None:
        found = fact({"reaction": HEART})
        assert (found.kind, found.message_id, found.actor) == (WebhookKind.REACTION, "m_A", "9001")
        assert json.loads(found.detail or "") == {"reaction": "love", "emoji": "\u2764"}
        of_page = fact({"reaction": HEART}, sender="101", recipient="9001")
        assert of_page.actor == "101"
        assert of_page.key != found.key

    def test_one_that_was_taken_back_says_no_more(self) -> None:
        found = fact({"reaction": {"mid": "m_A", "action": "unreact"}})
        assert (found.detail, found.actor) == (None, "9001")
        assert found.key != fact({"reaction": HEART}).key

    @pytest.mark.parametrize("said", [{}, {"reaction": "", "emoji": ""}, {"reaction": 7, "emoji": None}])
    def test_one_of_an_unknown_kind_is_one(self, said: Json) -> None:
        assert fact({"reaction": {"mid": "m_A", "action": "react", **said}}).detail == "{}"


class TestReferrals:
    @pytest.mark.parametrize("key", ["message", "postback"])
    def test_one_that_came_with_a_message_is_about_it(self, key: str) -> None:
        found = update(between("9001", "101", **{key: {"mid": "m_A", "referral": AD}}))
        message, referral = found.events
        assert message.kind is WebhookKind.MESSAGE
        assert (referral.kind, referral.message_id, referral.actor) == (WebhookKind.REFERRAL, "m_A", "")
        assert json.loads(referral.detail or "") == AD

    def test_one_of_a_thread_is_about_the_next_message_by_its_second(self) -> None:
        item = between("9001", "101", referral={"ref": "r", "source": "SHORTLINK"}) | {"timestamp": LATER_MILLISECONDS}
        (found,) = update(item).events
        assert (found.kind, found.message_id, found.actor) == (WebhookKind.REFERRAL, "", "9001")
        assert found.occurred_at == NOON + timedelta(seconds=1)
        again, another = (update(item | {"timestamp": LATER_MILLISECONDS + more}).events[0] for more in (0, 1))
        assert again.key == found.key != another.key

    def test_signatures_and_what_is_too_much_are_left_out(self) -> None:
        data = {"photo_url": "https://cdn.example/a.jpg?oh=1", "ad_title": "x" * 10_000, "deep": {"deeper": {"est": 1}}}
        said: Json = {"ref": "a\0", "ads_context_data": data, "list": [1], "id": 2**70, "none": None}
        said |= {f"key {number}": number for number in range(100)}
        kept = json.loads(fact({"referral": said}).detail or "")
        assert kept["ref"] == "a\ufffd"
        assert kept["id"] == str(2**70)
        assert kept["ads_context_data"]["photo_url"] == "https://cdn.example/a.jpg"
        assert len(kept["ads_context_data"]["ad_title"]) == 2500
        assert kept["ads_context_data"]["deep"] == {}
        assert len(kept) == 30

    def test_a_shop_s_product_is_one(self) -> None:
        (_, found) = update(
            between("9001", "101", message={"mid": "m_A", "referral": {"product": {"id": "66"}}})
        ).events
        assert found.detail == '{"product":{"id":"66"}}'


class TestReads:
    def test_what_the_contact_has_read_changes_nothing(self) -> None:
        found = update(between("9001", "101", read={"watermark": MILLISECONDS}))
        assert found == Update("message_reads", UpdateResult.IGNORED)

    def test_what_the_page_has_read_is_about_the_contact_s_messages_until_then(self) -> None:
        read = {"read": {"watermark": MILLISECONDS - 5000}}
        found = fact(read, sender="101", recipient="9001")
        assert (found.kind, found.message_id) == (WebhookKind.READ, "")
        assert found.occurred_at == NOON - timedelta(seconds=5)

    def test_an_instagram_message_that_was_read_is_named(self) -> None:
        where = {"kind": "instagram", "account_id": "17841"}
        (found,) = facts({"read": {"mid": "aWdfZA"}}, sender="17841", recipient="77", **where)
        assert (found.stream, found.message_id, found.contact_id) == (ACCOUNT, "aWdfZA", "77")


@pytest.mark.parametrize(
    "told",
    [
        {"message_edit": {"mid": "m_A", "text": "new", "num_edit": 1}},
        {"reaction": HEART},
        {"referral": {"ref": "r"}},
    ],
)
def test_what_does_not_say_whose_it_is_makes_no_fact(told: Json) -> None:
    """Nobody could have it erased."""
    (found,) = updates(delivery({"timestamp": MILLISECONDS, **told}))
    assert [event for event in found.events if event.kind.is_fact] == []


def test_a_message_that_was_unsent_is_erased_whosever_it_was() -> None:
    (found,) = updates(delivery({"timestamp": MILLISECONDS, "message": {"mid": "m_A", "is_deleted": True}}))
    (event,) = found.events
    assert (event.kind, event.message_id, event.contact_id, event.detail) == (WebhookKind.UNSEND, "m_A", None, None)
    assert found.result is UpdateResult.WITHOUT_SENDER


def test_an_edit_that_does_not_say_whose_it_is_has_its_stream_read() -> None:
    edit = {"message_edit": {"mid": "m_A", "text": "new", "num_edit": 1}}
    (found,) = updates(delivery({"timestamp": MILLISECONDS, **edit}))
    assert [(event.kind, event.message_id) for event in found.events] == [(WebhookKind.REVISION, "m_A")]


def test_an_old_id_of_messenger_is_the_one_of_the_list() -> None:
    assert fact({"reaction": HEART | {"mid": "mid.X"}}).message_id == "m_mid.X"


def test_a_standby_thread_s_facts_are_the_same() -> None:
    (plain, of_standby) = (fact({"reaction": HEART}, key=key) for key in ("messaging", "standby"))
    assert replace(plain) == of_standby
