"""core.revisions: a message that is read again may be edited, and one that is missing between two was unsent."""

import json
from datetime import timedelta

import pytest
from msgspec.structs import replace

from kit.builders import (
    GAP,
    NOON,
    STREAM,
    UNKNOWN,
    at,
    checkpoint_of,
    contact,
    context,
    conversation,
    fetched,
    given,
    message,
    messages_fetched,
    run_started,
    sweep_started,
    unreadable,
)
from milepost.core.checkpoint import BatchUnchanged
from milepost.core.decide import decide
from milepost.core.events import BatchShrunk, BatchStored, DeadLetterOpened, SweepCompleted, Tally
from milepost.core.merge import difference
from milepost.core.message_reading import decide_messages
from milepost.core.model import (
    UNAVAILABLE,
    Conversation,
    Detail,
    Interaction,
    InteractionEventRow,
    Known,
    RefusedRow,
    Table,
)
from milepost.core.position import MessagesRead
from milepost.core.problems import ProblemKind
from milepost.core.records import Decision, Record
from milepost.core.revisions import erased_in, read_before, readings

ASKED = 20
LATER = NOON + timedelta(minutes=5)
NESTED = given(run_started(), sweep_started())


def thread(*messages: Interaction, has_older: bool = False) -> Conversation:
    return replace(conversation("t_1", NOON, of=contact(), messages=messages), has_older=has_older)


def numbered(*numbers: int) -> tuple[Interaction, ...]:
    """Return messages, the newest first: the higher the number the newer."""
    return tuple(message(f"m_{n}", at(60 * n), text=f"text {n}") for n in sorted(numbers, reverse=True))


def stored(read: Conversation, *changed: InteractionEventRow) -> Known:
    """Return what a store holds after an answer, and of messages that were changed since; and their fingerprint."""
    shown = decide(checkpoint_of(), fetched(read), context()).record(Known())
    assert isinstance(shown, Record)
    rows = {row.event_id: row for row in (*shown.changes.interaction_events, *changed)}
    return Known(
        {row.conversation_id: row for row in shown.changes.conversations},
        {row.contact_id: row for row in shown.changes.contacts},
        frozenset(rows),
        messages=rows,
    )


def several(number: int, *numbers: int) -> Conversation:
    """Return one of several conversations, with messages, the newest first."""
    messages = tuple(message(f"m_{number}_{n}", at(60 * n), text="text") for n in sorted(numbers, reverse=True))
    return conversation(f"t_{number}", at(-number), of=contact(f"c_{number}"), messages=messages)


def stored_batch(*read: Conversation) -> Known:
    shown = decide(checkpoint_of(), fetched(*read), context()).record(Known())
    assert isinstance(shown, Record)
    rows = {row.event_id: row for row in shown.changes.interaction_events}
    return Known(
        {row.conversation_id: row for row in shown.changes.conversations},
        {row.contact_id: row for row in shown.changes.contacts},
        frozenset(rows),
        messages=rows,
    )


def row(read: Interaction, **columns: object) -> InteractionEventRow:
    (found,) = stored(thread(read)).messages.values()
    return replace(found, **columns)


def decision(read: Conversation, known: Known, **inputs: object) -> Decision:
    before = inputs.pop("before", checkpoint_of())
    return decide(before, fetched(read), context(now=LATER, **inputs)).record(known)  # type: ignore[arg-type]


def revised(read: Conversation, known: Known, **inputs: object) -> dict[str, InteractionEventRow]:
    found = decision(read, known, **inputs)
    return {each.event_id: each for each in found.changes.revised} if isinstance(found, Record) else {}


class TestEdited:
    def test_another_text_replaces_the_stored_one(self) -> None:
        before, after = message("m_1", NOON, "hello"), message("m_1", NOON, "hallo")

        assert revised(thread(after), stored(thread(before))) == {"m_1": row(before, text="hallo", edited_at=LATER)}

    def test_an_edit_is_counted_and_the_conversation_has_the_new_fingerprint(self) -> None:
        before, after = thread(message("m_1", NOON, "hello")), thread(message("m_1", NOON, "hallo"))
        known = stored(before)

        record = decision(after, known)

        assert isinstance(record, Record)
        (ended,) = (event for event in record.events if isinstance(event, SweepCompleted))
        assert ended.tally == Tally(batches=1, updated=1, edited=1, without_contact=0)
        assert ended.tally.has_changes
        (changed,) = record.changes.conversations
        assert changed.synced_at == LATER
        assert changed.messages_fingerprint == stored(after).conversations["t_1"].messages_fingerprint
        assert changed.messages_fingerprint != known.conversations["t_1"].messages_fingerprint

    def test_a_message_that_is_read_as_stored_changes_nothing(self) -> None:
        read = thread(*numbered(1, 2, 3))

        assert revised(read, stored(read)) == {}

    @pytest.mark.parametrize("detail", [Detail.NESTED, Detail.LEAN])
    def test_a_placeholder_is_no_edit_to_nothing(self, detail: Detail) -> None:
        before = message("m_1", NOON, "hello")
        placeholder = replace(before, kind=UNAVAILABLE, text=None)
        reduced = given(BatchShrunk(1, detail, UNKNOWN), after=NESTED)

        assert revised(thread(placeholder), stored(thread(before)), before=reduced) == {}

    def test_urls_and_sizes_of_attachments_change_at_each_reading(self) -> None:
        def sent(link: str, size: int | None) -> Conversation:
            attached = json.dumps([{"type": "image", "id": "7", "link": link} | ({"size": size} if size else {})])
            return thread(replace(message("m_1", NOON, None), attachments=attached))

        assert revised(sent("https://b.example/2", None), stored(sent("https://a.example/1", 7))) == {}

    def test_another_attachment_is_an_edit_and_one_less_known_is_none(self) -> None:
        def sent(*ids: str | None) -> Conversation:
            attached = json.dumps([{"type": "image"} | ({"id": each} if each else {}) for each in ids])
            return thread(replace(message("m_1", NOON, "look"), attachments=attached))

        (changed,) = revised(sent("7", "8"), stored(sent("7"))).values()
        assert (changed.text, changed.edited_at) == ("look", LATER)
        assert "8" in (changed.attachments or "")
        assert revised(sent("8", "7"), stored(sent("7", "8"))) == {}
        assert revised(sent(None), stored(sent("7"))) == {}
        assert revised(thread(message("m_1", NOON, "look")), stored(sent("7"))) == {}

    def test_content_that_was_not_there_before_is_filled_in_and_no_edit(self) -> None:
        whole = replace(message("m_1", NOON, None), kind="attachment", attachments='[{"type":"image","id":"7"}]')
        placeholder = replace(whole, kind=UNAVAILABLE, attachments=None)

        (changed,) = revised(thread(whole), stored(thread(placeholder))).values()

        assert (changed.kind, changed.attachments, changed.edited_at) == ("attachment", whole.attachments, None)

    def test_an_unsent_message_that_is_there_after_all_has_its_text_again(self) -> None:
        read = message("m_1", NOON, "hello")
        known = stored(thread(read), row(read, text=None, deleted_at=NOON, content_at=None))

        assert revised(thread(read), known) == {"m_1": row(read)}

    def test_a_page_of_messages_shows_edits_too(self) -> None:
        before = thread(*numbered(1, 2, 3))
        page = messages_fetched(message("m_2", at(120), "another"))
        record = decide_messages(NESTED, replace(GAP, cursor=None), page, context(now=LATER)).record(stored(before))

        assert isinstance(record, Record)
        assert [(each.event_id, each.text) for each in record.changes.revised] == [("m_2", "another")]
        assert [each.messages_fingerprint for each in record.changes.conversations] == [None], "it is of the old text"
        (event,) = (each for each in record.events if isinstance(each, MessagesRead))
        assert (event.stored, event.edited, event.unsent) == (0, 1, 0)

    def test_an_answer_of_an_older_state_changes_nothing(self) -> None:
        known = stored(thread(message("m_1", NOON, "hallo")))
        older = replace(thread(message("m_1", NOON, "hello")), updated_time=at(-60))

        assert revised(older, known) == {}


class TestUnsent:
    def test_a_message_that_is_missing_between_two_is_erased_and_its_row_stays(self) -> None:
        known = stored(thread(*numbered(1, 2, 3)))

        assert revised(thread(*numbered(1, 3)), known) == {
            "m_2": replace(known.messages["m_2"], text=None, attachments=None, deleted_at=LATER, content_at=None)
        }

    def test_an_unsent_message_is_counted(self) -> None:
        record = decision(thread(*numbered(1, 3)), stored(thread(*numbered(1, 2, 3))))

        assert isinstance(record, Record)
        (ended,) = (event for event in record.events if isinstance(event, SweepCompleted))
        assert (ended.tally.unsent, ended.tally.edited, ended.tally.updated) == (1, 0, 1)

    @pytest.mark.parametrize(
        ("left", "why"),
        [
            ((2, 3), "it is the oldest: the window may have moved on"),
            ((1, 2), "it is the newest: the answer may be an older one"),
            ((), "nothing came"),
        ],
    )
    def test_an_edge_proves_nothing(self, left: tuple[int, ...], why: str) -> None:
        assert revised(thread(*numbered(*left)), stored(thread(*numbered(1, 2, 3)))) == {}, why

    def test_the_second_of_an_edge_proves_nothing(self) -> None:
        same_second = replace(message("m_0", at(60)), text="in the same second as 1")
        known = stored(thread(*numbered(3, 2, 1), same_second))

        assert revised(thread(*numbered(1, 2, 3)), known) == {}

    def test_an_answer_that_may_be_cut_short_proves_nothing(self) -> None:
        known = stored(thread(*numbered(1, 2, 3)))

        assert revised(thread(*numbered(1, 3), has_older=True), known) == {}

    def test_a_full_answer_with_older_messages_behind_it_proves_an_unsent_one(self) -> None:
        known = stored(thread(*numbered(*range(30))))
        shown = [n for n in range(30) if n != 25][-ASKED:]

        assert revised(thread(*numbered(*shown), has_older=True), known).keys() == {"m_25"}

    def test_an_answer_that_misses_more_than_it_has_is_not_believed(self) -> None:
        known = stored(thread(*numbered(*range(10))))

        assert revised(thread(*numbered(0, 9)), known) == {}
        assert revised(thread(*numbered(0, 1, 2, 3, 9)), known).keys() == {f"m_{n}" for n in range(4, 9)}

    def test_an_answer_that_misses_messages_of_most_of_its_conversations_is_not_believed_for_a_day(self) -> None:
        """An incident looks the same, and an erasure cannot be undone."""
        whole = [several(n, 1, 2, 3) for n in range(10)]
        known = stored_batch(*whole)
        answer = fetched(*(several(n, 1, 3) if n < 6 else whole[n] for n in range(10)))

        record = decide(checkpoint_of(), answer, context(now=LATER)).record(known)

        assert isinstance(record, Record)
        assert record.changes.revised == ()
        (ended,) = (event for event in record.events if isinstance(event, SweepCompleted))
        assert (ended.tally.unsent, ended.tally.doubted, ended.has_errors) == (0, 6, True)
        assert ended.problem is not None
        assert ended.problem.kind is ProblemKind.MESSAGES_MISSING

        doubtful = given(run_started(), sweep_started(), ended)
        tomorrow = LATER + timedelta(days=1, minutes=1)
        record = decide(doubtful, answer, context(now=tomorrow)).record(known)

        assert isinstance(record, Record)
        assert {row.event_id for row in record.changes.revised} == {f"m_{n}_2" for n in range(6)}
        (ended,) = (event for event in record.events if isinstance(event, SweepCompleted))
        assert (ended.tally.unsent, ended.tally.doubted, ended.problem) == (6, 0, None)

    def test_a_conversation_that_is_written_meanwhile_is_looked_up_again(self) -> None:
        whole = [several(n, 1, 2, 3) for n in range(8)]
        known = stored_batch(*whole)
        answer = fetched(*(replace(several(n, 1, 3), snippet="another") for n in range(8)))

        record = decide(checkpoint_of(), answer, context(now=LATER)).record(known)

        assert isinstance(record, Record)
        assert [row.messages_fingerprint for row in record.changes.conversations] == [None] * 8

    @pytest.mark.parametrize(("incomplete", "threads"), [(5, 5), (6, 12), (1, 1), (40, 80)])
    def test_people_who_unsend_in_a_few_conversations_or_in_the_minority_are_believed(
        self, incomplete: int, threads: int
    ) -> None:
        whole = [several(n, 1, 2, 3) for n in range(threads)]
        answer = fetched(*(several(n, 1, 3) if n < incomplete else whole[n] for n in range(threads)))

        record = decide(checkpoint_of(), answer, context(now=LATER)).record(stored_batch(*whole))

        assert isinstance(record, Record)
        assert {row.event_id for row in record.changes.revised} == {f"m_{n}_2" for n in range(incomplete)}

    def test_an_answer_without_order_proves_nothing(self) -> None:
        """Otherwise the text of message 11, which is still there behind the end of the answer, would be erased."""
        known = stored(thread(*numbered(*range(30))))
        (late,) = numbered(9)
        shown = (*numbered(*range(12, 30)), late, *numbered(10))
        assert len(shown) == ASKED

        assert revised(thread(*shown, has_older=True), known) == {}

    def test_a_page_without_order_proves_nothing(self) -> None:
        known = stored(thread(*numbered(1, 2, 3, 4)))
        (newest, oldest), (between,) = numbered(4, 1), numbered(3)
        gap = replace(GAP, cursor=None, limit=3)

        page = messages_fetched(newest, oldest, between, next_cursor="older")
        record = decide_messages(NESTED, gap, page, context(now=LATER)).record(known)

        assert isinstance(record, Record)
        assert record.changes.revised == ()

    def test_an_answer_with_unreadable_messages_proves_nothing(self) -> None:
        known = stored(thread(*numbered(1, 2, 3)))
        batch = fetched(thread(*numbered(1, 3)), unreadable("t_1/messages"))

        record = decide(checkpoint_of(), batch, context(now=LATER)).record(known)

        assert isinstance(record, Record)
        assert record.changes.revised == ()

    def test_a_request_of_less_detail_proves_nothing(self) -> None:
        known = stored(thread(*numbered(1, 2, 3)))
        lean = given(BatchShrunk(1, Detail.LEAN, UNKNOWN), after=NESTED)

        assert revised(thread(*numbered(1, 3)), known, before=lean) == {}

    def test_a_message_that_was_unsent_before_is_not_unsent_again(self) -> None:
        whole = thread(*numbered(1, 2, 3))
        gone = replace(stored(whole).messages["m_2"], text=None, deleted_at=NOON)

        assert revised(thread(*numbered(1, 3)), stored(whole, gone)) == {}

    def test_a_page_proves_an_unsent_message_unless_it_is_short_or_has_bare_ids(self) -> None:
        known = stored(thread(*numbered(1, 2, 3)))

        def found(page: object, limit: int = 2) -> list[str]:
            gap = replace(GAP, cursor=None, limit=limit)
            record = decide_messages(NESTED, gap, page, context(now=LATER)).record(known)  # type: ignore[arg-type]
            assert isinstance(record, Record)
            return [each.event_id for each in record.changes.revised]

        page = messages_fetched(*numbered(1, 3), next_cursor="older")
        assert found(page) == ["m_2"]
        assert found(page, limit=50) == []
        assert found(replace(page, page=replace(page.page, bare_ids=("m_0",)))) == []


class TestTheFingerprint:
    def test_a_conversation_gets_the_fingerprint_of_the_messages_that_came_with_it(self) -> None:
        one, other = stored(thread(*numbered(1, 2))), stored(thread(*numbered(1, 3)))
        prints = [known.conversations["t_1"].messages_fingerprint for known in (one, other)]

        assert None not in prints
        assert len(set(prints)) == 2

    def test_a_conversation_has_no_fingerprint_if_the_answer_may_lack_messages(self) -> None:
        known = stored(thread(*numbered(1, 2), has_older=True))

        assert known.conversations["t_1"].messages_fingerprint is None

    def test_a_conversation_has_no_fingerprint_if_a_message_could_not_be_stored(self) -> None:
        refused = (RefusedRow(Table.INTERACTION_EVENTS, "m_1", "why"),)
        record = decision(thread(*numbered(1, 2)), Known(), refused_rows=refused)

        assert isinstance(record, Record)
        assert [each.messages_fingerprint for each in record.changes.conversations] == [None]

    def test_a_conversation_has_no_fingerprint_if_messages_were_stored_before_it(self) -> None:
        record = decision(thread(*numbered(1, 2)), Known(interaction_events=frozenset({"m_1"})))

        assert isinstance(record, Record)
        assert [each.messages_fingerprint for each in record.changes.conversations] == [None]

    def test_an_unchanged_conversation_keeps_its_row_even_without_a_fingerprint(self) -> None:
        """Rows that are older than the fingerprint must not all be written again."""
        read = thread(*numbered(1, 2))
        known = stored(read)
        (old,) = known.conversations.values()
        known = replace(known, conversations={"t_1": replace(old, messages_fingerprint=None)})
        walk = fetched(read, next_cursor="b")

        found = decide(NESTED, walk, context(now=LATER)).record(known)

        assert isinstance(found, BatchUnchanged)

    def test_each_conversation_of_a_batch_has_a_reading_unless_it_came_without_messages(self) -> None:
        batch = fetched(thread(*numbered(1, 2)), conversation("t_2", NOON)).batch
        (reading,) = readings(batch, Detail.NESTED, ASKED)

        assert (reading.conversation_id, reading.oldest_at, reading.newest_at) == ("t_1", at(60), at(120))


class TestWhatNeedsNoLookup:
    READ = thread(*numbered(1, 2))

    def read_before(self, read: Conversation, **columns: object) -> frozenset[str]:
        """Return what needs no lookup in an answer after another one, whose row was changed since."""
        (stored_row,) = stored(self.READ).conversations.values()
        keys = decide(checkpoint_of(), fetched(read), context(now=LATER)).keys
        assert keys is not None
        assert {"m_1", "m_2"} <= set(keys.interaction_events)
        return read_before(keys, {"t_1": replace(stored_row, **columns)})

    def test_messages_that_came_with_their_conversation_before_need_no_lookup(self) -> None:
        assert self.read_before(self.READ) == {"m_1", "m_2"}

    def test_other_messages_may_be_new_and_are_looked_up(self) -> None:
        assert self.read_before(thread(*numbered(1, 2, 3))) == frozenset()

    def test_messages_of_a_newer_conversation_are_looked_up_even_with_the_same_fingerprint(self) -> None:
        """Two lists may have the same fingerprint, but a new message changes the time of its conversation."""
        assert self.read_before(replace(self.READ, updated_time=LATER)) == frozenset()

    def test_messages_are_looked_up_if_there_is_no_fingerprint_to_compare(self) -> None:
        in_part = replace(self.READ, has_older=True)

        assert self.read_before(self.READ, messages_fingerprint=None) == frozenset()
        assert self.read_before(in_part, messages_fingerprint=None) == frozenset()

    def test_messages_of_a_conversation_without_a_row_are_looked_up(self) -> None:
        keys = decide(checkpoint_of(), fetched(self.READ), context()).keys

        assert keys is not None
        assert read_before(keys, {}) == frozenset()


class TestARevisionThatTheStoreRefuses:
    REFUSED = (RefusedRow(Table.INTERACTION_EVENTS, "m_1", "why"),)

    def test_a_refused_revision_becomes_a_dead_letter_and_is_found_again(self) -> None:
        known = stored(thread(message("m_1", NOON, "hello")))
        record = decision(thread(message("m_1", NOON, "hallo")), known, refused_rows=self.REFUSED)

        assert isinstance(record, Record)
        assert record.changes.revised == ()
        assert [each.subject for each in record.events if isinstance(each, DeadLetterOpened)] == ["t_1/events/m_1"]
        assert [each.messages_fingerprint for each in record.changes.conversations] == [None]
        stored_events = [event for event in record.events if isinstance(event, BatchStored | SweepCompleted)]
        assert [each.tally.edited for each in stored_events] == [0]

    def test_nothing_of_a_page_is_lost_with_a_refused_revision(self) -> None:
        known = stored(thread(*numbered(1, 2)))
        page = messages_fetched(message("m_1", at(60), "another"))
        record = decide_messages(NESTED, GAP, page, context(refused_rows=self.REFUSED)).record(known)

        assert isinstance(record, Record)
        assert record.changes.revised == ()
        assert [each.subject for each in record.events if isinstance(each, DeadLetterOpened)] == ["t_1/events/m_1"]

    def test_a_conversation_whose_row_is_refused_does_not_keep_a_page_from_being_stored(self) -> None:
        known = stored(thread(*numbered(1, 2)))
        page = messages_fetched(message("m_1", at(60), "another"))
        refused = (RefusedRow(Table.CONVERSATIONS, "t_1", "why"),)
        record = decide_messages(NESTED, GAP, page, context(refused_rows=refused)).record(known)

        assert isinstance(record, Record)
        assert record.changes.conversations == ()
        assert [each.event_id for each in record.changes.revised] == ["m_1"]


class TestPayloads:
    def test_the_content_of_one_message_is_erased_and_all_else_stays(self) -> None:
        payload = {
            "id": "t_1",
            "snippet": "a sec",
            "messages": {
                "data": [
                    {"id": "m_1", "message": "a secret", "shares": {"data": []}, "created_time": "2026-03-01"},
                    {"id": "m_2", "message": "another"},
                ]
            },
        }
        left = json.loads(erased_in(json.dumps(payload), ["m_1"]))

        assert left["snippet"] is None
        assert left["messages"]["data"] == [
            {"id": "m_1", "message": None, "shares": None, "created_time": "2026-03-01"},
            {"id": "m_2", "message": "another"},
        ]

    def test_a_message_whose_id_begins_like_that_of_an_unsent_one_keeps_everything(self) -> None:
        rows = {"interaction_events": [{"event_id": "m_10", "text": "about m_1-b", "kind": "message"}]}

        assert json.loads(erased_in(json.dumps(rows), ["m_1"])) == rows

    def test_an_item_that_was_cut_short_is_erased_whole_if_it_names_the_message(self) -> None:
        item = {"reason": "too long", "item": '{"id": "m_1", "message": "a secr'}

        assert json.loads(erased_in(json.dumps(item), ["m_1"])) == {"reason": "too long", "item": ""}

    def test_an_item_may_have_an_id_of_any_shape(self) -> None:
        item = {"id": ["t_1"], "messages": [{"id": {}, "message": "kept"}, {"id": "m_1", "message": "gone"}]}
        left = {"id": ["t_1"], "messages": [{"id": {}, "message": "kept"}, {"id": "m_1", "message": None}]}
        assert json.loads(erased_in(json.dumps(item), ["m_1"])) == left


def test_an_erased_person_is_revised_by_nothing() -> None:
    known = replace(stored(thread(message("m_1", NOON, "hello"))), forgotten=frozenset({"c_1"}))

    assert revised(thread(message("m_1", NOON, "hallo")), known) == {}


def test_rows_of_a_batch_are_as_they_were_before_there_were_revisions() -> None:
    read = thread(*numbered(1, 2))
    record = decision(read, Known())

    assert isinstance(record, Record)
    found = difference(STREAM, fetched(read).batch, Known(), LATER).changes
    without = tuple(replace(each, messages_fingerprint=None) for each in record.changes.conversations)
    undated = tuple(replace(each, content_at=None) for each in record.changes.interaction_events)
    assert replace(record.changes, conversations=without, interaction_events=undated) == found
