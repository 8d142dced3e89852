"""Responses as batches: what is read, what is treated leniently, what is unreadable, and what is a problem."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.graph_answers import (
    ACCOUNT,
    ACCOUNT_ID,
    NEXT_URL,
    PAGE,
    PAGE_ID,
    TOKEN,
    Json,
    encoded,
    error,
    instagram_person,
    listed,
    message,
    person,
    thread,
)
from milepost.core.model import Batch, Contact, Conversation, Direction, Interaction
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.decoding import Asked, Edge, decode, decode_thread
from milepost.facebook.leniency import MAX_PAYLOAD_CHARACTERS
from milepost.facebook.responses import place_of
from milepost.facebook.threads import OwnIds

EDGE_URL = f"https://graph.facebook.com/v26.0/{PAGE_ID}/conversations"
EDGE = Edge(OwnIds({PAGE_ID, ACCOUNT_ID}), EDGE_URL)
UPDATED_AT = datetime(2026, 6, 26, 1, 13, 24, tzinfo=UTC)
GOOD = thread("t_good")


def read(body: bytes) -> Batch:
    batch = decode(body, 200, EDGE)
    assert isinstance(batch, Batch), batch
    return batch


def refused(body: bytes) -> Problem:
    problem = decode(body, 200, EDGE)
    assert isinstance(problem, Problem), problem
    return problem


def one(item: Json) -> Conversation:
    (conversation,) = read(encoded(listed(item))).conversations
    return conversation


def one_message(**fields: object) -> Interaction:
    (event,) = one(thread("t_1", message(**fields))).interactions  # type: ignore[arg-type] # fields of the JSON
    return event


class TestConversation:
    def test_every_field_of_a_conversation_is_read(self) -> None:
        assert one(GOOD) == Conversation(
            "t_good",
            UPDATED_AT,
            Contact("26508222372100001", "Nora Villaseñor"),
            link=f"/{PAGE_ID}/inbox/2582605345287947/",
            snippet="Hello",
            message_count=93,
            unread_count=0,
            can_reply=True,
        )

    def test_a_conversation_needs_only_an_id_and_a_time(self) -> None:
        item: Json = {"id": "t_1", "updated_time": "2012-11-21T21:43:22+0000"}
        assert one(item) == Conversation("t_1", datetime(2012, 11, 21, 21, 43, 22, tzinfo=UTC))

    def test_order_is_kept(self) -> None:
        batch = read(encoded(listed(thread("t_b"), thread("t_c"), thread("t_a"))))
        assert [each.conversation_id for each in batch.conversations] == ["t_b", "t_c", "t_a"]

    def test_a_time_in_another_zone_is_converted_to_utc(self) -> None:
        updated_time = one(thread(updated_time="2026-06-26T03:13:24+0200")).updated_time
        assert updated_time == UPDATED_AT
        assert updated_time.tzinfo is UTC

    def test_a_signed_url_in_a_snippet_loses_its_signature(self) -> None:
        assert one(thread(snippet="look https://a.fbcdn.net/1.jpg?oh=x")).snippet == "look https://a.fbcdn.net/1.jpg"


class TestContact:
    @pytest.mark.parametrize("people", [[person(), PAGE], [PAGE, person()]])
    def test_the_contact_is_the_participant_who_is_not_us(self, people: list[Json]) -> None:
        contact = one(thread(participants={"data": people})).contact
        assert contact == Contact("26508222372100001", "Nora Villaseñor")

    def test_on_instagram_our_side_has_the_accounts_id_and_contacts_have_usernames(self) -> None:
        contact = one(thread(participants={"data": [ACCOUNT, instagram_person()]})).contact
        assert contact == Contact("6543210987654321", None, "nora.v")

    def test_the_contact_of_a_group_is_the_first_other_participant(self) -> None:
        people = [PAGE, person("2", "Bo"), person("3", "Cy")]
        assert one(thread(participants={"data": people})).contact == Contact("2", "Bo")

    @pytest.mark.parametrize(
        "participants", [None, {}, {"data": []}, {"data": [PAGE]}, [], "odd", {"data": [{"name": "Bo"}]}]
    )
    def test_without_another_participant_the_contact_is_unknown(self, participants: object) -> None:
        assert one(thread(participants=participants)).contact is None

    def test_a_malformed_participant_does_not_hide_the_other(self) -> None:
        people = ["odd", {"id": 7.5}, person(), PAGE]
        assert one(thread(participants={"data": people})).contact == Contact("26508222372100001", "Nora Villaseñor")

    def test_an_empty_name_is_none(self) -> None:
        assert one(thread(participants={"data": [person("2", "")]})).contact == Contact("2")


class TestMessages:
    def test_every_field_of_a_message_is_read(self) -> None:
        assert one_message() == Interaction("m_1", Direction.IN, "message", UPDATED_AT, "26508222372100001", "Hello")

    def test_our_messages_go_out_to_the_conversations_contact(self) -> None:
        event = one_message(sender=PAGE)
        assert (event.direction, event.contact_id) == (Direction.OUT, "26508222372100001")

    def test_in_a_group_each_message_comes_from_its_sender(self) -> None:
        people = {"data": [PAGE, person("2"), person("3")]}
        (event,) = one(thread("t_1", message(sender=person("3")), participants=people)).interactions
        assert event.contact_id == "3"

    @pytest.mark.parametrize("sender", [None, {}, {"id": None}, "odd"])
    def test_a_message_without_a_sender_is_the_contacts(self, sender: object) -> None:
        event = one_message(**{"from": sender})
        assert (event.direction, event.contact_id) == (Direction.IN, "26508222372100001")

    def test_order_is_kept(self) -> None:
        events = one(thread("t_1", message("m_3"), message("m_2"), message("m_1"))).interactions
        assert [event.event_id for event in events] == ["m_3", "m_2", "m_1"]

    @pytest.mark.parametrize("text", ["", None])
    def test_an_empty_text_is_none(self, text: str | None) -> None:
        assert one_message(message=text, sticker="https://scontent.xx.fbcdn.net/s.png").text is None

    @pytest.mark.parametrize("text", ["👍🏼", "שלום", "e\u0301", "可以帮我个忙吗", "\u2028"])
    def test_any_unicode_comes_through(self, text: str) -> None:
        assert one_message(message=text).text == text

    def test_a_signed_url_in_a_text_loses_its_signature(self) -> None:
        assert one_message(message="https://lookaside.fbsbx.com/a?sig=x").text == "https://lookaside.fbsbx.com/a"


ITEM = {"data": [{"id": "651143212510248"}]}
STORY_LINK = "https://lookaside.fbsbx.com/ig_messaging_cdn/?asset_id=1&signature=abc"


class TestKind:
    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ({"message": "Hello"}, "message"),
            ({"message": "Hello", "attachments": ITEM, "shares": ITEM}, "message"),
            ({"message": "", "sticker": "https://scontent.xx.fbcdn.net/s.png", "attachments": ITEM}, "sticker"),
            ({"message": "", "attachments": ITEM}, "attachment"),
            ({"message": "", "shares": ITEM}, "share"),
            ({"message": "Nice shot!", "story": {"reply_to": {"link": STORY_LINK, "id": "180"}}}, "story_reply"),
            ({"message": "", "story": {"mention": {"link": STORY_LINK, "id": "180"}}}, "story_mention"),
            ({"message": "", "is_unsupported": "true"}, "unsupported"),
            ({"message": "", "is_unsupported": True}, "unsupported"),
            ({"message": "Hello", "is_unsupported": "false"}, "message"),
            ({"message": ""}, "unavailable"),
            ({"message": None, "attachments": {"data": []}}, "unavailable"),
        ],
    )
    def test_the_kind_follows_from_the_content(self, fields: dict[str, object], kind: str) -> None:
        assert one_message(**fields).kind == kind


class TestAttachments:
    def kept(self, **fields: object) -> list[Json]:
        attachments = one_message(**fields).attachments
        assert attachments is not None
        assert "?" not in attachments
        kept: list[Json] = json.loads(attachments)
        return kept

    def test_an_image_keeps_everything_but_its_signed_url(self) -> None:
        image = {
            "id": "651143212510248",
            "mime_type": "image/jpeg",
            "name": "image-651143212510248",
            "size": 54542,
            "image_data": {"width": 1920, "url": "https://scontent.xx.fbcdn.net/v/t1/2.jpg?oh=abc&oe=611F7644"},
        }
        assert self.kept(attachments=listed(image, next_url=NEXT_URL)) == [
            {"type": "image", "id": image["id"], "mime_type": "image/jpeg", "name": image["name"], "size": 54542}
        ]

    @pytest.mark.parametrize(
        ("attachment", "media_type"),
        [
            ({"mime_type": "video/mp4", "image_data": {}}, "video"),
            ({"mime_type": "audio/mpeg"}, "audio"),
            ({"mime_type": "text/plain", "file_url": "https://cdn.fbsbx.com/9.txt?x"}, "file"),
            ({"image_data": {"url": "https://cdn.fbsbx.com/9?x"}}, "image"),
            ({"image_data": {}, "video_data": {"url": "https://cdn.fbsbx.com/9?x"}}, "video"),
            ({"name": "Media not available due to new privacy rules in Europe."}, "file"),
        ],
    )
    def test_the_media_type_follows_from_the_mime_type_or_the_data(self, attachment: Json, media_type: str) -> None:
        (kept,) = self.kept(attachments={"data": [attachment]})
        assert kept["type"] == media_type

    @pytest.mark.parametrize("size", [None, "54542", -1, 2**70])
    def test_an_invalid_size_costs_only_itself(self, size: object) -> None:
        attachment = {"id": "1", "mime_type": "image/gif", "size": size}
        assert self.kept(attachments={"data": [attachment]}) == [{"type": "image", "id": "1", "mime_type": "image/gif"}]

    def test_a_share_keeps_its_link(self) -> None:
        share = {"id": None, "link": "https://example.org/sample.png", "name": "", "description": None}
        assert self.kept(shares={"data": [share]}) == [{"type": "share", "link": "https://example.org/sample.png"}]

    def test_a_share_of_media_keeps_its_link_without_the_signature(self) -> None:
        share = {"link": "https://lookaside.fbsbx.com/ig_messaging_cdn/?asset_id=1&signature=abc"}
        assert self.kept(shares={"data": [share]}) == [
            {"type": "share", "link": "https://lookaside.fbsbx.com/ig_messaging_cdn/"}
        ]

    def test_a_story_keeps_its_id(self) -> None:
        story = {"reply_to": {"link": STORY_LINK, "id": "180"}}
        assert self.kept(story=story) == [{"type": "story_reply", "id": "180"}]

    @pytest.mark.parametrize("fields", [{}, {"attachments": {"data": []}}, {"attachments": []}, {"shares": None}])
    def test_no_attachments_are_none(self, fields: dict[str, object]) -> None:
        assert one_message(**fields).attachments is None


class TestPaging:
    def test_next_means_more(self) -> None:
        assert read(encoded(listed(GOOD, next_url=NEXT_URL, after="c_2"))).next_cursor == "c_2"

    def test_cursors_without_next_mean_the_end(self) -> None:
        assert read(encoded(listed(GOOD, after="c_2"))).next_cursor is None

    @pytest.mark.parametrize("cursors", [{"after": "c_2"}, None])
    def test_an_empty_next_means_the_end(self, cursors: object) -> None:
        paging = {"cursors": cursors, "next": ""}
        assert read(encoded({"data": [GOOD], "paging": paging})) == read(encoded({"data": [GOOD]}))

    @pytest.mark.parametrize(("next_url", "has_older"), [(None, False), (NEXT_URL, True)])
    def test_messages_with_nothing_but_a_paging_are_an_empty_page_of_them(
        self, next_url: str | None, *, has_older: bool
    ) -> None:
        paging = {"cursors": {"before": "b", "after": "a"}, "next": next_url}
        batch = read(encoded(listed(thread("t_1", messages={"paging": paging}))))

        (conversation,) = batch.conversations
        assert (conversation.interactions, conversation.has_older, batch.unreadable) == ((), has_older, ())

    def test_attachments_with_nothing_but_a_paging_are_none(self) -> None:
        assert one_message(message="", attachments={"paging": {"cursors": {}}}).kind == "unavailable"

    def test_an_empty_next_of_messages_means_that_there_are_no_older_ones(self) -> None:
        nested = {"data": [message()], "paging": {"cursors": {"after": "m_2"}, "next": ""}}

        read_back = one(thread("t_1", messages=nested))

        assert (read_back.has_older, read_back.older_cursor) == (False, None)

    def test_equal_cursors_do_not_mean_the_end(self) -> None:
        paging = {"cursors": {"before": "same", "after": "same"}, "next": NEXT_URL}
        assert read(encoded({"data": [GOOD], "paging": paging})).next_cursor == "same"

    def test_an_empty_batch_with_a_next_is_not_the_end(self) -> None:
        assert read(encoded(listed(next_url=NEXT_URL, after="c_2"))) == Batch((), "c_2")

    @pytest.mark.parametrize("body", [b'{"data":[]}', b'{"data":[],"paging":null}', b'{"data":[],"paging":[]}'])
    def test_a_list_without_paging_is_at_its_end(self, body: bytes) -> None:
        assert read(body) == Batch((), None)

    def test_previous_without_next_means_the_end(self) -> None:
        paging = {"previous": NEXT_URL, "cursors": {"before": "b", "after": "a"}}
        assert read(encoded({"data": [GOOD], "paging": paging})).next_cursor is None

    @pytest.mark.parametrize("cursors", [None, {}, [], {"before": "b"}, {"after": ""}, {"after": 7.5}])
    def test_without_cursors_the_one_in_next_is_used(self, cursors: object) -> None:
        paging = {"cursors": cursors, "next": NEXT_URL}
        assert read(encoded({"data": [GOOD], "paging": paging})).next_cursor == "next-cursor"

    @pytest.mark.parametrize(
        "next_url",
        [
            EDGE_URL.replace("v26.0", "v25.0") + "?after=c_2",
            EDGE_URL + "?limit=25&after=c_2&access_token=x",
        ],
    )
    def test_next_may_name_another_version(self, next_url: str) -> None:
        assert read(encoded({"data": [GOOD], "paging": {"next": next_url}})).next_cursor == "c_2"

    def test_where_there_are_no_cursors_the_query_of_next_is_one_without_its_token(self) -> None:
        """Captured from lists of messages, whose paging had a time and a token of its own (restfb#687)."""
        query = "?access_token=x&pretty=0&limit=25&fields=id%2Cname&until=1476721922&__paging_token=enc_Ad%3D"
        cursor = read(encoded({"data": [GOOD], "paging": {"next": EDGE_URL + query}})).next_cursor

        assert cursor == "?until=1476721922&__paging_token=enc_Ad%3D"
        assert place_of(cursor) == {"until": "1476721922", "__paging_token": "enc_Ad="}

    @pytest.mark.parametrize(
        "next_url",
        [
            EDGE_URL,
            EDGE_URL + "?after=",
            EDGE_URL + "?limit=25&access_token=x",
            "https://evil.example.org/v26.0/" + PAGE_ID + "/conversations?after=c_2",
            "http://graph.facebook.com/v26.0/" + PAGE_ID + "/conversations?after=c_2",
            "https://graph.facebook.com/v26.0/77/conversations?after=c_2",
            f"{EDGE_URL}/more?after=c_2",
            "https://[::1/?after=c_2",
            EDGE_URL + "?after=" + "c" * 5000,
            " ",
            True,
            {},
        ],
    )
    def test_a_next_without_a_usable_cursor_is_a_problem_not_the_end(self, next_url: object) -> None:
        problem = refused(encoded({"data": [GOOD], "paging": {"next": next_url}}))
        assert (problem.kind, problem.http_status) == (ProblemKind.INVALID_RESPONSE, 200)

    @pytest.mark.parametrize("paging", ["--sanitized--", 7, True, [1]])
    def test_a_malformed_paging_is_a_problem_not_the_end(self, paging: object) -> None:
        assert refused(encoded({"data": [GOOD], "paging": paging})).kind is ProblemKind.INVALID_RESPONSE


class TestLeniency:
    @pytest.mark.parametrize("count", ["7", None, 10**30, -1, 1.5, [], True])
    def test_an_invalid_count_is_treated_as_absent(self, count: object) -> None:
        item = thread("t_1", message_count=count)
        del item["unread_count"]
        conversation = one(item)
        assert (conversation.message_count, conversation.unread_count) == (None, None)
        assert (conversation.contact, conversation.can_reply) == (one(GOOD).contact, True)

    @pytest.mark.parametrize("field", ["link", "snippet", "can_reply", "participants", "messages", "message_count"])
    def test_any_optional_field_may_be_odd_or_null(self, field: str) -> None:
        odd_values: tuple[object, ...] = (None, True, 7, -7.5, [], {}, "odd")
        for odd in odd_values:
            (conversation,) = read(encoded(listed(thread("t_1") | {field: odd}))).conversations
            assert conversation.conversation_id == "t_1"

    def test_a_lone_surrogate_becomes_a_replacement_character(self) -> None:
        body = encoded(listed(thread("t_1", message(message="MARK"), snippet="SNIP"), GOOD))
        broken = body.replace(b"MARK", rb"caf\u00e9 \ud83d\ude00 \ud83d").replace(b"SNIP", rb"\ude00")
        first, second = read(broken).conversations
        assert first.interactions[0].text == "café 😀 \ufffd"
        assert first.snippet == "\ufffd"
        assert second == one(GOOD)

    def test_invalid_utf8_becomes_a_replacement_character(self) -> None:
        body = encoded(listed(thread("t_1", snippet="SNIP"))).replace(b"SNIP", b"caf\xe9!")
        assert read(body).conversations[0].snippet == "caf\ufffd!"

    def test_a_byte_order_mark_is_skipped(self) -> None:
        assert read(b"\xef\xbb\xbf" + encoded(listed(GOOD))) == read(encoded(listed(GOOD)))

    def test_the_last_of_a_repeated_key_counts(self) -> None:
        body = b'{"data":[{"id":"t_1","id":"t_2","updated_time":"2026-06-26T01:13:24+0000"}]}'
        assert read(body).conversations[0].conversation_id == "t_2"

    def test_reading_item_by_item_gives_the_same_result(self) -> None:
        items = [thread("t_1", message(), message("m_2", PAGE, attachments=ITEM)), thread("t_2"), GOOD]
        slowly = read(encoded(listed(*items, "odd", next_url=NEXT_URL)))
        assert slowly.conversations == read(encoded(listed(*items))).conversations
        assert slowly.next_cursor == "after-cursor"


class TestCharactersThatNoDatabaseTakes:
    """NUL, which PostgreSQL refuses, and halves of surrogate pairs, which are no UTF-8."""

    @pytest.mark.parametrize(
        ("escaped", "stored"),
        [
            (r"\u0000", "\ufffd"),
            (r"a\u0000b", "a\ufffdb"),
            (r"\\\u0000", "\\\ufffd"),
            (r"\ud83d", "\ufffd"),
            (r"\u0000\uDE00", "\ufffd\ufffd"),
        ],
    )
    def test_they_are_replaced_in_every_text_and_counted(self, escaped: str, stored: str) -> None:
        sent = message(
            message="MARK",
            attachments=listed({"id": "1", "name": "MARK", "mime_type": "MARK"}),
            shares=listed({"id": "2", "name": "MARK", "link": "MARK"}),
        )
        people = {"data": [person(name="MARK") | {"username": "MARK"}, PAGE]}
        item = thread("t_1", sent, snippet="MARK", link="MARK", participants=people)
        batch = read(encoded(listed(item, GOOD, next_url=NEXT_URL)).replace(b"MARK", escaped.encode()))

        found, untouched = batch.conversations
        (event,) = found.interactions
        assert found.contact == Contact("26508222372100001", stored, stored)
        assert (found.snippet, found.link, event.text) == (stored, stored, stored)
        kept = json.loads(event.attachments or "")
        assert [kept[0]["name"], kept[0]["mime_type"], kept[1]["name"], kept[1]["link"]] == [stored] * 4
        assert found.replaced_characters == 9 * stored.count("\ufffd")
        assert (untouched, batch.next_cursor) == (one(GOOD), "after-cursor")

    def test_they_are_replaced_in_ids_that_are_only_told(self) -> None:
        """PostgreSQL refuses to take a text with NUL out of the JSON, and the whole query with it."""
        odd = {"attachments": listed({"id": "1\0"}), "shares": listed({"id": "2\0"})}
        event = one_message(**odd, story={"mention": {"id": "3\0"}})
        assert [each["id"] for each in json.loads(event.attachments or "")] == ["1\ufffd", "2\ufffd", "3\ufffd"]

    def test_control_characters_that_should_have_been_escaped_cost_nothing(self) -> None:
        body = encoded(listed(thread("t_1", message(message="MARK")), GOOD)).replace(b"MARK", b"one\ntwo\x01\0")
        first, second = read(body).conversations
        assert (first.interactions[0].text, first.replaced_characters) == ("one\ntwo\x01\ufffd", 1)
        assert second == one(GOOD)

    def test_a_text_about_such_a_character_is_left_alone(self) -> None:
        event = one_message(message=r"type \u0000 or \ud83d")
        assert event.text == r"type \u0000 or \ud83d"

    def test_what_is_nothing_but_such_a_character_is_still_a_message(self) -> None:
        event = one_message(message="\0")
        assert (event.kind, event.text) == ("message", "\ufffd")

    def test_they_are_replaced_in_the_payload_of_a_dead_letter(self) -> None:
        (item,) = read(encoded(listed(thread("t_1", snippet="a\0b", updated_time=None, **{"k\0": 1})))).unreadable
        assert (json.loads(item.payload)["snippet"], json.loads(item.payload)["k\ufffd"]) == ("a\ufffdb", 1)

    def test_an_answer_nested_as_deeply_as_can_be_parsed_is_mended(self) -> None:
        deep = b'{"a":' * 400 + rb'"\u0000"' + b"}" * 400
        body = encoded(listed(thread("t_1", odd="DEEP"))).replace(b'"DEEP"', deep)
        assert read(body).conversations[0].replaced_characters == 1


class TestOtherForms:
    """What says the same in another form is read."""

    CONTACT = Contact("26508222372100001", "Nora Villaseñor")

    @pytest.mark.parametrize(
        "people",
        [
            pytest.param([person(), PAGE], id="a list without data"),
            pytest.param({"0": person(), "2": PAGE}, id="an object of its elements"),
            pytest.param({"data": {"0": person(), "2": PAGE}}, id="data that is an object"),
            pytest.param({"data": [person() | {"id": 26508222372100001}, PAGE | {"id": int(PAGE_ID)}]}, id="numbers"),
        ],
    )
    def test_participants(self, people: object) -> None:
        assert one(thread(participants=people)).contact == self.CONTACT

    @pytest.mark.parametrize("people", [[26508222372100001, int(PAGE_ID)], {"data": ["26508222372100001", PAGE_ID]}])
    def test_participants_that_are_nothing_but_ids(self, people: object) -> None:
        assert one(thread(participants=people)).contact == Contact("26508222372100001")

    @pytest.mark.parametrize("sender", [PAGE_ID, int(PAGE_ID), PAGE | {"id": int(PAGE_ID)}])
    def test_a_sender(self, sender: object) -> None:
        assert one_message(**{"from": sender}).direction == Direction.OUT

    @pytest.mark.parametrize(
        "messages",
        [
            [message("m_1"), message("m_2")],
            {"data": {"1": message("m_1"), "3": message("m_2")}},
            {"1": message("m_1"), "3": message("m_2")},
        ],
    )
    def test_messages(self, messages: object) -> None:
        batch = read(encoded(listed(thread("t_1", messages=messages))))

        assert [event.event_id for event in batch.conversations[0].interactions] == ["m_1", "m_2"]
        assert batch.unreadable == ()

    def test_the_list_itself(self) -> None:
        for data in ({"0": GOOD, "7": thread("t_2")}, [GOOD, thread("t_2")]):
            batch = read(encoded({"data": data}))
            assert [each.conversation_id for each in batch.conversations] == ["t_good", "t_2"]
        assert read(encoded({"data": GOOD})).conversations[0].conversation_id == "t_good"

    def test_ids_and_times_as_numbers(self) -> None:
        odd = thread(id=10384863353100011, updated_time=1782436404)

        assert (one(odd).conversation_id, one(odd).updated_time) == ("10384863353100011", UPDATED_AT)
        assert one_message(id=77).event_id == "77"


class TestUnreadable:
    @pytest.mark.parametrize(
        "fields",
        [
            {"updated_time": None},
            {"updated_time": "yesterday"},
            {"updated_time": "2026-06-26T01:13:24"},
            {"updated_time": "0001-01-01T00:00:00+1400"},
            {"updated_time": 253402300800},  # the year 10000
        ],
    )
    def test_an_item_without_a_time_is_unreadable_and_the_others_are_read(self, fields: dict[str, object]) -> None:
        batch = read(encoded(listed(thread("t_bad", **fields), GOOD, next_url=NEXT_URL)))
        assert [each.conversation_id for each in batch.conversations] == ["t_good"]
        (item,) = batch.unreadable
        assert item.subject == "t_bad"
        assert item.reason
        assert json.loads(item.payload)["id"] == "t_bad"
        assert batch.next_cursor == "after-cursor"

    @pytest.mark.parametrize(
        "item",
        [{"updated_time": "2026-06-26T01:13:24+0000"}, thread(""), {"id": 7}, thread("t" * 1000), "odd", 7, None, []],
    )
    def test_an_item_without_an_id_is_named_after_its_content(self, item: object) -> None:
        first, again = (read(encoded(listed(item, GOOD))) for _ in range(2))
        assert first.unreadable[0].subject.startswith("sha256:")
        assert first.unreadable == again.unreadable
        assert len(first.conversations) == 1

    def test_the_same_item_twice_is_one(self) -> None:
        assert len(read(encoded(listed({"id": "t_1"}, {"id": "t_1"}))).unreadable) == 1

    def test_an_unreadable_message_costs_only_itself(self) -> None:
        events: list[Json] = [
            message("m_2"),
            {"id": "m_bad"},
            message("m_worse", created_time="0001-01-01T00:00:00+1400"),
            message("m_1"),
        ]
        batch = read(encoded(listed(thread("t_1", *events))))
        assert [event.event_id for event in batch.conversations[0].interactions] == ["m_2", "m_1"]
        (item,) = batch.unreadable
        assert item.subject == "t_1/messages"
        assert [each["id"] for each in json.loads(item.payload)] == ["m_bad", "m_worse"]

    @pytest.mark.parametrize("messages", ["odd", 7, {"data": "odd"}, ["odd"]])
    def test_messages_that_are_not_a_list_are_unreadable_as_a_whole(self, messages: object) -> None:
        batch = read(encoded(listed(thread("t_1", messages=messages))))
        assert batch.conversations[0].interactions == ()
        assert batch.unreadable[0].subject == "t_1/messages"

    @pytest.mark.parametrize("bad_id", ["t_\0", "t\n1", "\x1b[31m", "..", "sha256:0"])
    def test_a_thread_whose_id_cannot_be_stored_is_named_after_its_content(self, bad_id: str) -> None:
        batch = read(encoded(listed(thread(bad_id), GOOD)))
        assert [each.conversation_id for each in batch.conversations] == ["t_good"]
        (item,) = batch.unreadable
        assert item.subject != bad_id
        assert item.subject.startswith("sha256:")
        assert json.loads(item.payload)["id"] == bad_id

    def test_a_thread_whose_contacts_id_cannot_be_stored_is_unreadable(self) -> None:
        batch = read(encoded(listed(thread("t_1", participants={"data": [PAGE, person("26\0")]}), GOOD)))
        assert [each.conversation_id for each in batch.conversations] == ["t_good"]
        assert [each.subject for each in batch.unreadable] == ["t_1"]

    @pytest.mark.parametrize("bad", [message("m_\0"), message("m_2", person("26\0"))])
    def test_a_message_whose_id_cannot_be_stored_costs_only_itself(self, bad: Json) -> None:
        batch = read(encoded(listed(thread("t_1", message("m_3"), bad, message("m_1")))))
        assert [event.event_id for event in batch.conversations[0].interactions] == ["m_3", "m_1"]
        assert [each.subject for each in batch.unreadable] == ["t_1/messages"]

    @pytest.mark.parametrize(
        "fields", [{"participants": "MARK"}, {"participants": ["MARK"]}, {"participants": {"data": [{"MARK": "1"}]}}]
    )
    def test_a_lone_surrogate_instead_of_an_object_does_not_spoil_the_list(self, fields: dict[str, object]) -> None:
        batch = read(encoded(listed(thread("t_1", **fields), GOOD)).replace(b"MARK", rb"\ud83d"))
        assert [each.conversation_id for each in batch.conversations] == ["t_1", "t_good"]

    @pytest.mark.parametrize("sender", ["MARK", {"MARK": "1"}])
    def test_nor_does_one_instead_of_a_sender(self, sender: object) -> None:
        odd = thread("t_1", message(**{"from": sender}))  # type: ignore[arg-type] # fields of the JSON
        batch = read(encoded(listed(odd, GOOD)).replace(b"MARK", rb"\ud83d"))
        assert [each.conversation_id for each in batch.conversations] == ["t_1", "t_good"]

    def test_a_lone_surrogate_never_becomes_part_of_a_subject(self) -> None:
        body = encoded(listed(thread("t_MARK", updated_time="MARK"), GOOD)).replace(b"MARK", rb"\ud83d")
        (item,) = read(body).unreadable
        f"{item.subject} {item.reason} {item.payload}".encode()

    def test_the_payload_holds_no_token_no_paging_and_no_signature(self) -> None:
        attachment = {"image_data": {"url": "https://scontent.xx.fbcdn.net/2.jpg?oh=abc"}}
        item = thread(
            "t_bad", message(attachments=listed(attachment, next_url=NEXT_URL)), updated_time=None, token=TOKEN
        )
        (unreadable,) = read(encoded(listed(item))).unreadable
        assert all(secret not in unreadable.payload for secret in (TOKEN, "paging", "oh=abc", "next-cursor"))
        assert "https://scontent.xx.fbcdn.net/2.jpg" in unreadable.payload

    def test_the_payload_is_bounded_and_stays_json(self) -> None:
        (item,) = read(encoded(listed({"id": "t_1", "snippet": '"' * 10**6}))).unreadable
        assert len(item.payload) <= MAX_PAYLOAD_CHARACTERS
        assert json.loads(item.payload)

    def test_the_reason_quotes_nothing(self) -> None:
        (item,) = read(encoded(listed(thread("t_1", updated_time="Nora Villaseñor")))).unreadable
        assert "Nora" not in item.reason


class TestNoBatch:
    def test_an_error_with_status_200_is_an_error(self) -> None:
        problem = refused(encoded(error(2, is_transient=True)))
        assert problem == Problem(
            ProblemKind.API, "An unknown error has occurred.", http_status=200, code=2, is_transient=True
        )

    @pytest.mark.parametrize("data", [[GOOD], [{"id": 7}], None])
    def test_an_error_beside_data_is_an_error(self, data: object) -> None:
        assert refused(encoded({"data": data} | error("190"))).code == 190

    def test_a_null_error_is_no_error(self) -> None:
        assert len(read(encoded(listed(GOOD) | {"error": None})).conversations) == 1

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b'{"data":null}',
            b'{"data":{}}',
            b'{"data":[{"id":"t_1","upda',
            b'{"data":[NaN]}',
            b'{"data":[Infinity]}',
            b"[" * 100_000,
            b'{"data":' * 100_000,
            b'{"data":[{"id":"t_1","updated_time":"2026-06-26T01:13:24+0000","x":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
            b"<html>Sorry, something went wrong.</html>",
            b"\x00\xff",
        ],
    )
    def test_an_invalid_response_is_a_problem(self, body: bytes) -> None:
        problem = refused(body)
        assert (problem.kind, problem.http_status) == (ProblemKind.INVALID_RESPONSE, 200)

    @pytest.mark.parametrize("depth", [100, 300, 500, 900, 990])
    def test_an_item_nested_to_any_depth_raises_nothing(self, depth: int) -> None:
        body = b'{"data":[{"id":"t_1","updated_time":"","x":' + b"[" * depth + b"]" * depth + b"}]}"
        assert isinstance(decode(body, 200, EDGE), Batch | Problem)


class TestMoreThanWasAskedFor:
    """Refused as oversize, so that less is asked for; the grace is wide, because a little more does no harm."""

    @pytest.mark.parametrize("item", [GOOD, {}, 7], ids=["good", "empty", "number"])
    def test_far_more_conversations_are_refused(self, item: object) -> None:
        problem = decode(encoded(listed(*[item] * 303)), 200, EDGE, Asked(50, 20))
        assert isinstance(problem, Problem)
        assert problem.kind is ProblemKind.OVERSIZE
        assert problem.message.startswith("the response has 303 ")
        assert problem.message.endswith(", and 50 were asked for")

    @pytest.mark.parametrize("bad", [[], [{"id": "t_bad"}]], ids=["read as a whole", "read item by item"])
    def test_far_more_messages_of_a_conversation_are_refused(self, bad: list[Json]) -> None:
        long = thread("t_long", *(message(f"m_{number}") for number in range(241)))
        problem = decode(encoded(listed(GOOD, long, *bad)), 200, EDGE, Asked(50, 20))
        assert isinstance(problem, Problem)
        assert problem.kind is ProblemKind.OVERSIZE
        assert problem.message == "the response has 241 messages of a conversation, and 20 were asked for"

    def test_far_more_messages_in_all_are_refused_although_no_conversation_has_many(self) -> None:
        messages = [message(f"m_{number}") for number in range(220)]
        items = [thread(f"t_{number}", *messages) for number in range(60)]
        problem = decode(encoded(listed(*items)), 200, EDGE, Asked(50, 20))
        assert isinstance(problem, Problem)
        assert problem.message == "the response has 13,200 messages, and 1,000 were asked for"

    def test_far_more_messages_of_a_conversation_that_is_read_alone_are_refused(self) -> None:
        long = thread("t_long", *(message(f"m_{number}") for number in range(241)))
        problem = decode_thread(encoded(long), 200, "t_long", EDGE.own_ids)
        assert isinstance(problem, Problem)
        assert problem.kind is ProblemKind.OVERSIZE

    @pytest.mark.parametrize("bad", [[], [{"id": "t_bad"}]], ids=["read as a whole", "read item by item"])
    def test_a_few_more_are_read(self, bad: list[Json]) -> None:
        items = [thread(f"t_{number}") for number in range(200)]
        batch = decode(encoded(listed(*items, *bad)), 200, EDGE, Asked(1, 20))
        assert isinstance(batch, Batch)
        assert len(batch.conversations) == 200

    @pytest.mark.parametrize("count", [1, 10])
    @pytest.mark.parametrize("bad", [[], [{"id": "t_bad"}]], ids=["read as a whole", "read item by item"])
    def test_messages_that_come_although_none_were_asked_for_are_read(self, count: int, bad: list[Json]) -> None:
        messages = [message(f"m_{number}") for number in range(count)]
        items = [thread(f"t_{number}", *messages) for number in range(25)]
        batch = decode(encoded(listed(*items, *bad)), 200, EDGE, Asked(1, 0))
        assert isinstance(batch, Batch)
        assert len(batch.conversations) == 25

    def test_a_large_answer_that_was_asked_for_is_read(self) -> None:
        text = "a, b, c, " * 220
        messages = [message(f"m_{number}", message=text) for number in range(20)]
        items = [thread(f"t_{number}", *messages) for number in range(200)]
        batch = decode(encoded(listed(*items)), 200, EDGE, Asked(200, 20))
        assert isinstance(batch, Batch)
        assert sum(len(each.interactions) for each in batch.conversations) == 4_000


class TestExtremes:
    @pytest.mark.parametrize(
        "digits", ["9" * 5_000, "-" + "9" * 100_000, "9" * 30, "1e999", "-1e99999", "1" * 400 + ".5"]
    )
    def test_a_huge_number_costs_only_its_field(self, digits: str) -> None:
        body = encoded(listed(thread("t_1", message_count=1), GOOD)).replace(
            b'"message_count": 1,', f'"message_count": {digits},'.encode()
        )
        first, second = read(body).conversations
        assert (first.conversation_id, first.message_count) == ("t_1", None)
        assert second.message_count == 93

    @pytest.mark.parametrize("number", ["9" * 5_000, "1e999", "-1e999"])
    def test_a_huge_number_in_an_unreadable_item_stays_in_its_payload(self, number: str) -> None:
        (unreadable,) = read(b'{"data":[{"id":"t_1","odd":' + number.encode() + b"}]}").unreadable
        assert json.loads(unreadable.payload, parse_constant=pytest.fail) == {"id": "t_1", "odd": number}

    def test_the_digits_of_an_error_code_are_no_crash(self) -> None:
        assert refused(b'{"error":{"message":"x","code":' + b"9" * 5_000 + b"}}").code is None

    @pytest.mark.parametrize("unit", ["x", "😀", "é", r"\ud83d", r"\u0000", "access_token=", "https://", "a@", "EAA"])
    def test_an_enormous_text_comes_through(self, unit: str) -> None:
        body = (
            b'{"data":[{"id":"t_1","updated_time":"2026-06-26T01:13:24+0000","snippet":"'
            + unit.encode() * 300_000
            + b'"}]}'
        )
        assert len(read(body).conversations[0].snippet or "") >= 300_000

    @pytest.mark.parametrize("unit", ["x", "access_token= ", "\\", "a@a ", "https://", "EAA", "<script "])
    def test_an_enormous_error_message_is_cut(self, unit: str) -> None:
        problem = refused(b'{"error":{"code":190,"message":"' + unit.encode() * 300_000 + b'"}}')
        assert problem.code == 190
        assert 0 < len(problem.message) <= 500

    @pytest.mark.parametrize("odd", [{"id": []}, 7])
    def test_an_enormous_list_of_odd_elements_is_absent(self, odd: object) -> None:
        found = one_message(attachments={"data": [{"id": "a", "mime_type": "image/png"}, *[odd] * 1_000]})
        assert (found.kind, found.attachments) == ("message", None)
        found = one_message(attachments={"data": [{"id": "a", "mime_type": "image/png"}, *[odd] * 900]})
        assert found.attachments is not None

    def test_an_enormous_id_costs_only_its_item(self) -> None:
        batch = read(encoded(listed(thread("t" * 100_000), GOOD)))
        assert [each.conversation_id for each in batch.conversations] == ["t_good"]
        assert len(batch.unreadable) == 1

    def test_of_repeated_keys_the_last_counts_however_the_response_is_read(self) -> None:
        repeated = b'"id":"t_0","id":"t_1","updated_time":"","updated_time":"2026-06-26T01:13:24+0000"'
        whole = b'{"data":[],"data":[{' + repeated + b"}]}"
        by_item = b'{"data":[],"data":[{' + repeated + b',"message_count":-1}]}'
        assert [read(body).conversations[0].conversation_id for body in (whole, by_item)] == ["t_1", "t_1"]

    def test_an_error_that_is_repeated_as_null_is_an_error_or_a_batch_but_no_crash(self) -> None:
        assert isinstance(decode(b'{"error":{"code":1},"error":null,"data":[]}', 200, EDGE), Batch)
        assert refused(b'{"error":null,"error":{"code":1},"data":[]}').code == 1


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
NAMES = (
    "id", "updated_time", "created_time", "link", "snippet", "message_count", "unread_count", "can_reply", "from",
    "name", "message", "sticker", "attachments", "shares", "story", "is_unsupported", "participants", "messages",
    "data", "paging", "cursors", "after", "next", "error", "image_data", "mime_type", "size",
)  # fmt: skip
PLAUSIBLE = st.recursive(
    SCALARS | st.sampled_from(["t_1", PAGE_ID, "2026-06-26T01:13:24+0000", NEXT_URL, "9999-12-31T23:59:59-0100"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
    max_leaves=40,
)


class TestAnything:
    @given(JSON | st.dictionaries(st.sampled_from(("data", "paging", "error")), PLAUSIBLE))
    def test_any_json_is_a_batch_or_a_problem(self, value: object) -> None:
        outcome = decode(encoded(value), 200, EDGE)
        assert isinstance(outcome, Batch | Problem)

    @given(st.lists(PLAUSIBLE, max_size=5))
    def test_every_item_is_a_conversation_or_unreadable(self, items: list[object]) -> None:
        batch = read(encoded({"data": items}))
        set_aside = {each.subject for each in batch.unreadable if not each.subject.endswith("/messages")}
        assert len(batch.conversations) + len(set_aside) <= len(items)
        assert bool(items) == bool(batch.conversations or set_aside)

    @given(st.binary())
    def test_any_bytes_are_a_batch_or_a_problem(self, body: bytes) -> None:
        assert isinstance(decode(body, 200, EDGE), Batch | Problem)

    @given(st.text(st.characters(exclude_categories=())), st.booleans())
    def test_any_text_comes_through_whole_and_storable(self, text: str, escaped: bool) -> None:
        body = json.dumps(listed(thread("t_1", message(message=text))), ensure_ascii=escaped)
        event = read(body.encode("utf-8", "surrogatepass")).conversations[0].interactions[0]
        storable = (event.text or "").encode()
        if not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text) and "://" not in text:
            assert storable.decode() == text
