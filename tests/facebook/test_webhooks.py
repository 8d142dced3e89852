"""The body of a webhook request: every documented and every captured form, and what is none."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.builders import NOON
from milepost.core.model import Platform, Stream
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.facebook.webhooks import (
    Malformed,
    UnknownAccount,
    Update,
    UpdateResult,
    unknown_accounts,
    updates_in,
)

PAGE = Stream(Platform.MESSENGER, "101")
ACCOUNT = Stream(Platform.INSTAGRAM, "101")
ROUTES = {("page", "101"): PAGE, ("instagram", "17841"): ACCOUNT}
MILLISECONDS = round(NOON.timestamp() * 1000)

Json = dict[str, object]


def route(kind: str, account_id: str) -> Stream | None:
    return ROUTES.get((kind, account_id))


def updates(body: object) -> list[Update]:
    return list(updates_in(json.dumps(body).encode(), route, NOON + timedelta(seconds=5)))


def delivery(item: Json, *, key: str = "messaging", kind: str = "page", account_id: str = "101") -> Json:
    return {"object": kind, "entry": [{"id": account_id, "time": MILLISECONDS + 300, key: [item]}]}


def update(item: Json, **where: str) -> Update:
    (found,) = updates(delivery(item, **where))
    return found


def event_of(item: Json, **where: str) -> WebhookEvent:
    (event,) = update(item, **where).events
    return event


def between(sender: str, recipient: str, **told: object) -> Json:
    return {"sender": {"id": sender}, "recipient": {"id": recipient}, "timestamp": MILLISECONDS, **told}


def written(message_id: str = "m_A", contact_id: str | None = "9001", stream: Stream = PAGE) -> WebhookEvent:
    return WebhookEvent(stream, WebhookKind.MESSAGE, message_id, contact_id, NOON)


class TestMessages:
    @pytest.mark.parametrize("key", ["messaging", "standby"])
    def test_a_message_is_an_event_also_while_another_app_owns_the_thread(self, key: str) -> None:
        found = update(between("9001", "101", message={"mid": "m_A", "text": "hi"}), key=key)
        assert found == Update("messages", None, (written(),))

    def test_an_echo_is_about_whom_the_page_wrote_to(self) -> None:
        found = update(between("101", "9001", message={"mid": "m_A", "is_echo": True, "app_id": 42}))
        assert found == Update("message_echoes", None, (written(),))

    def test_an_instagram_message_is_routed_by_its_account(self) -> None:
        message = {"mid": "aWdfZA", "attachments": [{"type": "ephemeral"}]}
        found = update(between("77", "17841", message=message), kind="instagram", account_id="17841")
        assert found == Update("messages", None, (written("aWdfZA", "77", ACCOUNT),))

    def test_an_old_id_of_messenger_is_the_one_of_the_list(self) -> None:
        assert event_of(between("9001", "101", message={"mid": "mid.X"})) == written("m_mid.X")

    def test_a_postback_is_a_message(self) -> None:
        found = update(between("9001", "101", postback={"mid": "m_A", "title": "Go"}))
        assert found == Update("messaging_postbacks", None, (written(),))

    @pytest.mark.parametrize("num_edit", [0, "0"])
    def test_an_edit_with_the_number_0_announces_a_message(self, num_edit: object) -> None:
        found = update(between("9001", "101", message_edit={"mid": "m_A", "num_edit": num_edit}))
        assert found == Update("message_edits", None, (written(),))

    @pytest.mark.parametrize(
        ("edit", "which"), [({"mid": "m_A", "num_edit": "1"}, "1"), ({"mid": "m_A", "num_edit": 2}, "2")]
    )
    def test_an_edit_without_its_text_has_the_message_read_again(self, edit: Json, which: str) -> None:
        event = event_of(between("9001", "101", message_edit=edit))
        assert event == WebhookEvent(PAGE, WebhookKind.REVISION, "m_A", "9001", NOON, which)
        assert event.key != written().key

    @pytest.mark.parametrize(
        "timestamp",
        [MILLISECONDS, str(MILLISECONDS), MILLISECONDS // 1000, str(MILLISECONDS // 1000)],
    )
    def test_seconds_and_milliseconds_are_told_apart_by_their_size(self, timestamp: object) -> None:
        item = between("9001", "101", message={"mid": "m_A"}) | {"timestamp": timestamp}
        assert event_of(item) == written()

    @pytest.mark.parametrize("timestamp", [None, "soon", -1, 1e300, [], True, 10**40])
    def test_what_is_no_timestamp_counts_as_when_it_was_sent(self, timestamp: object) -> None:
        event = event_of(between("9001", "101", message={"mid": "m_A"}) | {"timestamp": timestamp})
        assert event.occurred_at == NOON + timedelta(milliseconds=300)

    def test_a_timestamp_in_the_future_counts_as_when_it_was_received(self) -> None:
        event = event_of(between("9001", "101", message={"mid": "m_A"}) | {"timestamp": MILLISECONDS + 10**9})
        assert event.occurred_at <= NOON + timedelta(seconds=5)

    def test_entries_and_updates_are_all_read(self) -> None:
        items = [between("9001", "101", message={"mid": f"m_{number}"}) for number in range(3)]
        entry = {"id": "101", "time": MILLISECONDS, "messaging": items[:2], "standby": items[2:]}
        assert len(updates({"object": "page", "entry": [entry, {"id": "101", "time": 1}, entry]})) == 6


class TestWhatIsNoEvent:
    @pytest.mark.parametrize(
        ("told", "field"),
        [
            ({"read": {"watermark": MILLISECONDS}}, "message_reads"),
            ({"delivery": {"mids": ["m_A"], "watermark": MILLISECONDS}}, "message_deliveries"),
            ({"delivery": {"watermark": MILLISECONDS}}, "message_deliveries"),
            ({"reaction": {"action": "react", "emoji": "\u2764"}}, "message_reactions"),
            ({"reaction": {"mid": "m_A", "action": "stare"}}, "message_reactions"),
            ({"referral": {}}, "messaging_referrals"),
            ({"optin": {"type": "notification_messages"}}, "messaging_optins"),
            ({"pass_thread_control": {"new_owner_app_id": "42"}}, "messaging_handovers"),
            ({"app_roles": {"42": ["primary_receiver"]}}, "messaging_handovers"),
            ({"policy_enforcement": {"action": "block"}}, "messaging_policy_enforcement"),
            ({"message": {"text": "without an id"}}, "messages"),
            ({"message": {"mid": "m_\0"}}, "messages"),
            ({"message": "m_A"}, "messages"),
            ({"postback": {"title": "Go"}}, "messaging_postbacks"),
            ({"invented_yesterday": {}}, "other"),
            ({}, "other"),
        ],
    )
    def test_another_update_is_counted_and_ignored(self, told: Json, field: str) -> None:
        assert update(between("9001", "101", **told)) == Update(field, UpdateResult.IGNORED)

    def test_an_update_of_another_page_is_ignored(self) -> None:
        found = update(between("9001", "102", message={"mid": "m_A"}), account_id="102")
        assert found == Update("messages", UpdateResult.UNKNOWN_PAGE)

    def test_a_page_is_not_an_instagram_account(self) -> None:
        found = update(between("9001", "101", message={"mid": "m_A"}), kind="instagram")
        assert found == Update("messages", UpdateResult.UNKNOWN_PAGE)

    def test_a_read_without_a_sender_is_a_fault_of_the_set_up(self) -> None:
        assert update({"read": {"mid": "x"}}) == Update("message_reads", UpdateResult.WITHOUT_SENDER)

    def test_a_message_without_a_sender_is_read_nevertheless(self) -> None:
        found = update({"timestamp": MILLISECONDS, "message_edit": {"mid": "m_A", "num_edit": 0}})
        assert found == Update("message_edits", UpdateResult.WITHOUT_SENDER, (written(contact_id=None),))

    def test_changes_are_ignored_by_known_fields(self) -> None:
        changes: list[Json] = [{"field": field, "value": {}} for field in ("messages", "feed", 7)]
        found = updates({"object": "page", "entry": [{"id": "101", "time": 1, "changes": changes}]})
        assert [each.field for each in found] == ["messages", "other", "other"]
        assert {each.result for each in found} == {UpdateResult.IGNORED}

    @pytest.mark.parametrize(
        ("account_id", "result"),
        [
            ("101", UpdateResult.WITHOUT_VALUES),
            ("102", UpdateResult.UNKNOWN_PAGE),
            ("0", UpdateResult.TEST),
        ],
    )
    def test_an_entry_without_values_is_a_fault_of_the_set_up(self, account_id: str, result: UpdateResult) -> None:
        entry = {"id": account_id, "time": 1, "changed_fields": ["messages", "name", 7]}
        assert updates({"object": "page", "entry": [entry]}) == [
            Update("messages", result),
            Update("other", result),
            Update("other", result),
        ]

    @pytest.mark.parametrize(
        "nothing", [{}, {"changed_fields": None}, {"changed_fields": "messages"}, {"messaging": 1}]
    )
    def test_an_entry_that_holds_nothing_is_no_update(self, nothing: Json) -> None:
        assert updates({"object": "page", "entry": [{"id": "101", "time": 1} | nothing]}) == []

    @pytest.mark.parametrize(
        "body",
        [
            {
                "object": "page",
                "entry": [
                    {
                        "id": "0",
                        "time": 1790000000,
                        "changes": [{"field": "messages", "value": {"message": {"mid": "test_message_id"}}}],
                    }
                ],
            },
            delivery(between("12334", "23245", message={"mid": "random_mid"})),
            {"messaging": [between("12334", "23245", message={"mid": "random_mid"}) | {"timestamp": "1527459824"}]},
            between("12334", "23245", message={"mid": "random_mid", "text": "random_text"}),
        ],
    )
    def test_the_test_button_is_recognized(self, body: Json) -> None:
        assert [(each.field, each.result) for each in updates(body)] == [("messages", UpdateResult.TEST)]


NAMES = st.sampled_from(
    ["object", "entry", "id", "messaging", "standby", "changes", "message", "mid", "sender", "field"]
)


class TestUnknownAccounts:
    def found(self, body: Json) -> list[UnknownAccount]:
        return list(unknown_accounts(json.dumps(body).encode(), route))

    @pytest.mark.parametrize("key", ["messaging", "standby"])
    def test_messages_and_people_show_whose_an_account_is(self, key: str) -> None:
        item = between("9001", "17842", message={"mid": "m_A"})
        body = delivery(item, key=key, kind="instagram", account_id="17842")
        assert self.found(body) == [UnknownAccount("17842", ("m_A",), ("9001",))]

    @pytest.mark.parametrize(("kind", "account_id"), [("instagram", "17841"), ("page", "102"), ("instagram", "0")])
    def test_those_of_known_accounts_of_pages_and_of_the_test_button_are_none(self, kind: str, account_id: str) -> None:
        item = between("9001", account_id, message={"mid": "m_A"})
        assert self.found(delivery(item, kind=kind, account_id=account_id)) == []

    def test_an_update_of_any_form_names_what_it_does(self) -> None:
        item: Json = {"sender": None, "recipient": {"id": 9001}, "read": ["m_A"]}
        assert self.found(delivery(item, kind="instagram", account_id="17842")) == [
            UnknownAccount("17842", (), ("9001",))
        ]


class TestMalformed:
    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'"text"', b"NaN", b"[" * 100_000, b"\xff\xfe"])
    def test_a_body_that_is_no_json_object_is_refused(self, body: bytes) -> None:
        with pytest.raises(Malformed):
            list(updates_in(body, route, NOON))

    def test_half_of_a_surrogate_pair_is_no_obstacle(self) -> None:
        body = json.dumps(delivery(between("9001", "101", message={"mid": "m_A", "text": "\ud83d"}))).encode()
        assert [each.events for each in updates_in(body, route, NOON + timedelta(seconds=5))] == [(written(),)]

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "object",
                            "entry",
                            "id",
                            "messaging",
                            "standby",
                            "changes",
                            "message",
                            "mid",
                            "sender",
                            "field",
                        ]
                    ),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=25,
        )
    )
    def test_no_json_is_an_error(self, body: object) -> None:
        try:
            found = list(updates_in(json.dumps(body).encode(), lambda _, __: PAGE, datetime.now(UTC)))
        except Malformed:
            assert not isinstance(body, dict)
        else:
            assert all(each.events or each.result is not None for each in found)
