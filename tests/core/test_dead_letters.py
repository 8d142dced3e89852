"""dead_letters: which parts of a batch open a dead letter, and what closes it."""

from dataclasses import dataclass, field

import msgspec
import pytest
from msgspec.structs import replace

from kit.builders import (
    NOON,
    STREAM,
    UNKNOWN,
    at,
    batch,
    checkpoint_of,
    contact,
    context,
    conversation,
    fetched,
    given,
    message,
    unreadable,
    walking,
)
from kit.decisions import decision_on, events, knowing, looked_up, record, then
from kit.decisions import walking as walking_since_noon
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.dead_letters import MAX_REASON_CHARACTERS
from milepost.core.events import (
    BatchShrunk,
    BatchStored,
    DeadLetterClosed,
    DeadLetterOpened,
    Resolution,
    RunStarted,
    RunStatus,
    Stage,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.model import Changes, Detail, Known, KnownDeadLetter, Platform, RefusedRow, Stream, Table
from milepost.core.ports import Fetched
from milepost.core.records import Record

SECONDS_TO_REDRIVE = 900


@dataclass
class KnownDeadLetters:
    """The dead letters so far, as a store would know them."""

    known: dict[str, KnownDeadLetter] = field(default_factory=dict)

    def take(self, decided: Record) -> None:
        for event in decided.events:
            if isinstance(event, DeadLetterOpened):
                self.known[event.subject] = KnownDeadLetter(event.dead_letter_id, event.fingerprint, NOON, is_open=True)
        payloads = {each.dead_letter_id: each.payload for each in decided.changes.payloads}
        for subject, each in self.known.items():
            self.known[subject] = replace(each, payload=payloads.get(each.dead_letter_id, each.payload))

    def discard_all(self) -> None:
        self.known = {subject: replace(dead_letter, is_open=False) for subject, dead_letter in self.known.items()}

    def on_top_of(self, known: Known) -> Known:
        return replace(known, dead_letters=dict(self.known))


def opened(decided: Record) -> list[DeadLetterOpened]:
    return [event for event in decided.events if isinstance(event, DeadLetterOpened)]


def closed(decided: Record) -> list[str]:
    return [event.dead_letter_id for event in decided.events if isinstance(event, DeadLetterClosed)]


def names(rows: Changes) -> set[str]:
    return {
        *(row.conversation_id for row in rows.conversations),
        *(row.contact_id for row in rows.contacts),
        *(row.event_id for row in rows.interaction_events),
    }


def find_open_dead_letter(subject: str, key: str = "d_1") -> Known:
    return Known(dead_letters={subject: KnownDeadLetter(key, "", NOON, is_open=True)})


def reduced_to(detail: Detail) -> Checkpoint:
    """Return a walk whose next request is for one conversation, with this detail."""
    return given(BatchShrunk(1, detail, UNKNOWN), after=walking_since_noon())


class TestUnreadableItems:
    def test_an_unreadable_item_becomes_a_dead_letter_in_the_same_record(self) -> None:
        decided = record(decision_on(walking_since_noon(), fetched(unreadable(), next_cursor="x"), context()))

        (dead_letter,) = opened(decided)
        assert (dead_letter.stage, dead_letter.subject, dead_letter.reason) == (
            Stage.FETCH,
            "t_bad",
            "id: expected str",
        )
        assert dead_letter.redrive_at == at(SECONDS_TO_REDRIVE)
        assert decided.events[1:] == (
            BatchStored(walking("x"), Tally(batches=1, dead_lettered=1, unreadable=1), batch=2),
        )
        (payload,) = decided.changes.payloads
        assert (payload.dead_letter_id, payload.payload) == (dead_letter.dead_letter_id, "{}")

    def test_an_unreadable_item_without_an_id_is_never_redriven_automatically(self) -> None:
        decided = record(decision_on(checkpoint_of(), fetched(unreadable("sha256:abc")), context()))

        assert opened(decided)[0].redrive_at is None

    def test_a_sweep_of_one_unreadable_item_records_its_start_and_ends_with_errors(self) -> None:
        decided = record(decision_on(checkpoint_of(), fetched(unreadable()), context()))

        assert [type(event) for event in decided.events] == [RunStarted, SweepStarted, DeadLetterOpened, SweepCompleted]
        after = given(*decided.events)
        assert after.run is not None
        assert after.run.status is RunStatus.COMPLETE_WITH_ERRORS
        assert after.open_dead_letters == 1

    def test_an_unreadable_item_with_an_open_dead_letter_is_skipped_and_counted(self) -> None:
        answer = fetched(unreadable(), next_cursor="x")

        decision = decision_on(checkpoint_of(), answer, context(), find_open_dead_letter("t_bad"))

        assert isinstance(decision, BatchUnchanged)
        assert decision.tally == Tally(batches=1, unreadable=1)

    def test_an_unreadable_item_twice_in_one_batch_is_one_dead_letter(self) -> None:
        decided = record(decision_on(checkpoint_of(), fetched(unreadable(), unreadable()), context()))

        assert len(opened(decided)) == len(decided.changes.payloads) == 1

    def test_unreadable_items_of_two_streams_or_instants_are_two_dead_letters(self) -> None:
        instagram = checkpoint_of(Stream(Platform.INSTAGRAM, STREAM.page_id))
        answer = fetched(unreadable())

        keys = {
            opened(record(decision_on(checkpoint, answer, context(now))))[0].dead_letter_id
            for checkpoint in (checkpoint_of(), instagram)
            for now in (NOON, at(1))
        }

        assert len(keys) == 4

    def test_an_unreadable_item_has_its_subject_looked_up(self) -> None:
        assert "t_bad" in looked_up(checkpoint_of(), fetched(unreadable()), context()).subjects


class TestDiscardedDeadLetters:
    @staticmethod
    def discarded(answer: Fetched) -> Known:
        dead_letters = KnownDeadLetters()
        dead_letters.take(record(decision_on(checkpoint_of(), answer, context())))
        dead_letters.discard_all()
        return dead_letters.on_top_of(Known())

    def test_a_discarded_dead_letter_is_not_opened_again_for_the_same_payload(self) -> None:
        answer = fetched(unreadable("t_bad", payload="{}"), next_cursor="x")

        assert isinstance(decision_on(checkpoint_of(), answer, context(at(60)), self.discarded(answer)), BatchUnchanged)

    def test_a_discarded_dead_letter_is_followed_by_another_if_the_payload_differs(self) -> None:
        known = self.discarded(fetched(unreadable("t_bad", payload="{}"), next_cursor="x"))
        answer = fetched(unreadable("t_bad", payload='{"id": 5}'), next_cursor="x")

        assert len(opened(record(decision_on(checkpoint_of(), answer, context(at(60)), known)))) == 1


class TestThreadsSteppedOver:
    ANSWER = fetched(conversation("t_1", at(-5), of=contact()), next_cursor="after 2")

    def test_a_thread_stepped_over_becomes_a_dead_letter_with_its_id_and_error(self) -> None:
        decided = record(decision_on(reduced_to(Detail.POSITION), self.ANSWER, context()))

        (dead_letter,) = opened(decided)
        assert (dead_letter.stage, dead_letter.subject, dead_letter.reason) == (
            Stage.FETCH,
            "t_1",
            "it went wrong (code 1)",
        )
        assert dead_letter.redrive_at == at(SECONDS_TO_REDRIVE)
        assert replace(decided.changes, payloads=()) == Changes()
        assert msgspec.json.decode(decided.changes.payloads[0].payload)["id"] == "t_1"

    def test_a_thread_stepped_over_that_is_stored_as_new_gets_no_dead_letter(self) -> None:
        """It was read alone: a dead letter would be opened and closed again in every sweep."""
        known = knowing(conversation("t_1", at(-5), of=contact()))

        assert isinstance(decision_on(reduced_to(Detail.POSITION), self.ANSWER, context(at(60)), known), BatchUnchanged)

    def test_a_thread_stepped_over_that_was_marked_deleted_gets_a_dead_letter(self) -> None:
        known = knowing(conversation("t_1", at(-5), of=contact()))
        gone = {key: replace(row, deleted_at=at(0)) for key, row in known.conversations.items()}

        decision = decision_on(reduced_to(Detail.POSITION), self.ANSWER, context(), replace(known, conversations=gone))

        assert [dead_letter.subject for dead_letter in opened(record(decision))] == ["t_1"]

    def test_the_sweep_continues_after_a_thread_stepped_over(self) -> None:
        after = then(reduced_to(Detail.POSITION), self.ANSWER)

        assert after.sweep is not None
        assert after.sweep.position == walking("after 2", at(-5))
        assert (after.reduced_request, after.open_dead_letters) == (None, 1)

    def test_a_thread_stepped_over_is_skipped_while_its_dead_letter_is_open(self) -> None:
        decision = decision_on(reduced_to(Detail.POSITION), self.ANSWER, context(), find_open_dead_letter("t_1"))

        assert isinstance(decision, BatchUnchanged)
        assert decision.tally == Tally(batches=1, unreadable=1)

    def test_a_thread_stepped_over_gets_a_dead_letter_besides_that_of_its_row(self) -> None:
        """A redrive of the row writes the state that was refused; this dead letter is about a newer one."""
        (dead_letter,) = opened(
            record(decision_on(reduced_to(Detail.POSITION), self.ANSWER, context(), find_open_dead_letter("t_1/row")))
        )

        assert dead_letter.subject == "t_1"

    def test_a_discarded_thread_stays_discarded_until_it_moves(self) -> None:
        dead_letters = KnownDeadLetters()
        dead_letters.take(record(decision_on(reduced_to(Detail.POSITION), self.ANSWER, context())))
        dead_letters.discard_all()
        known = dead_letters.on_top_of(Known())
        moved = fetched(conversation("t_1", at(30)), next_cursor="after 2")

        assert isinstance(decision_on(reduced_to(Detail.POSITION), self.ANSWER, context(at(60)), known), BatchUnchanged)
        assert len(opened(record(decision_on(reduced_to(Detail.POSITION), moved, context(at(60)), known)))) == 1

    def test_a_thread_stepped_over_has_its_dead_letter_looked_up(self) -> None:
        assert "t_1" in looked_up(reduced_to(Detail.POSITION), self.ANSWER, context()).subjects


class TestThreadsWithoutMessages:
    ANSWER = fetched(conversation("t_1", at(-5), of=contact()), next_cursor="after 2")

    def test_a_thread_without_its_messages_is_written_and_its_messages_become_a_dead_letter(self) -> None:
        decided = record(decision_on(reduced_to(Detail.BARE), self.ANSWER, context()))

        (dead_letter,) = opened(decided)
        assert (dead_letter.stage, dead_letter.subject) == (Stage.FETCH, "t_1/messages")
        assert [row.conversation_id for row in decided.changes.conversations] == ["t_1"]
        assert decided.events[-1] == BatchStored(
            walking("after 2", at(-5)),
            Tally(batches=1, inserted=1, contacts=1, dead_lettered=1, unreadable=1),
            batch=2,
        )

    def test_a_thread_without_its_messages_that_has_no_news_gets_no_dead_letter(self) -> None:
        known = knowing(conversation("t_1", at(-5), of=contact()))

        assert isinstance(decision_on(reduced_to(Detail.BARE), self.ANSWER, context(), known), BatchUnchanged)


class TestRefusedRows:
    READ = conversation("t_1", at(-5), of=contact("c_1"), messages=[message("m_2"), message("m_1")])
    ANSWER = fetched(READ, conversation("t_2", at(-6)), next_cursor="after 2")

    def decided(self, *refused_rows: RefusedRow, known: Known | None = None, seconds: float = 0.0) -> Record:
        around = context(at(seconds), refused_rows=refused_rows)
        return record(decision_on(walking_since_noon(), self.ANSWER, around, known or Known()))

    @pytest.mark.parametrize(
        ("row", "stage", "subject"),
        [
            (RefusedRow(Table.CONVERSATIONS, "t_1", "too long"), Stage.STORE, "t_1/row"),
            (RefusedRow(Table.CONTACTS, "c_1", "too long"), Stage.STORE, "contact c_1"),
            (RefusedRow(Table.INTERACTION_EVENTS, "m_1", "too long"), Stage.EVENTS, "t_1/events/m_1"),
        ],
    )
    def test_a_refused_row_becomes_a_dead_letter_with_its_payload_and_the_others_are_written(
        self, row: RefusedRow, stage: Stage, subject: str
    ) -> None:
        whole = self.decided().changes
        decided = self.decided(row)

        (dead_letter,) = opened(decided)
        assert (dead_letter.stage, dead_letter.subject, dead_letter.reason) == (stage, subject, "too long")
        assert dead_letter.redrive_at == at(SECONDS_TO_REDRIVE)
        withheld = msgspec.json.decode(decided.changes.payloads[0].payload, type=Changes)
        assert names(decided.changes) | names(withheld) == names(whole)
        assert names(decided.changes).isdisjoint(names(withheld))

    def test_a_refused_row_is_not_counted_as_written(self) -> None:
        stored = self.decided(
            RefusedRow(Table.CONVERSATIONS, "t_1", "x"),
            RefusedRow(Table.CONTACTS, "c_1", "x"),
            RefusedRow(Table.INTERACTION_EVENTS, "m_1", "x"),
        ).events[-1]

        assert isinstance(stored, BatchStored)
        assert stored.tally == Tally(
            batches=1, inserted=1, interaction_events=1, without_contact=1, dead_lettered=3, unreadable=3
        )

    def test_refused_messages_of_a_thread_make_one_dead_letter(self) -> None:
        decided = self.decided(*(RefusedRow(Table.INTERACTION_EVENTS, key, "x") for key in ("m_1", "m_2")))

        (dead_letter,) = opened(decided)
        assert dead_letter.subject == "t_1/events/m_2"
        rows = msgspec.json.decode(decided.changes.payloads[0].payload, type=Changes).interaction_events
        assert [row.event_id for row in rows] == ["m_2", "m_1"]

    def test_a_refused_row_opens_no_second_dead_letter_while_its_own_is_open(self) -> None:
        row = RefusedRow(Table.CONVERSATIONS, "t_1", "x")

        assert not opened(self.decided(row, known=find_open_dead_letter("t_1/row")))

    @pytest.mark.parametrize(
        "row", [RefusedRow(Table.CONVERSATIONS, "t_1", "x"), RefusedRow(Table.CONTACTS, "c_1", "x")]
    )
    def test_an_open_dead_letter_keeps_the_newest_state_of_a_refused_row(self, row: RefusedRow) -> None:
        dead_letters = KnownDeadLetters()
        dead_letters.take(self.decided(row))
        known = dead_letters.on_top_of(Known())
        again = context(at(60), refused_rows=[row])
        moved = fetched(conversation("t_1", at(50), of=contact("c_1", "Augusta")), next_cursor="after 2")

        same = self.decided(row, known=known, seconds=60)
        newer = record(decision_on(walking_since_noon(), moved, again, known))

        assert not opened(same)
        assert not same.changes.payloads
        assert not opened(newer)
        (payload,) = newer.changes.payloads
        assert payload.dead_letter_id in {dead_letter.dead_letter_id for dead_letter in dead_letters.known.values()}
        assert "12:00:50" in payload.payload

        dead_letters.take(newer)
        unchanged = record(decision_on(walking_since_noon(), moved, again, dead_letters.on_top_of(Known())))
        assert not unchanged.changes.payloads

    @pytest.mark.parametrize(
        "row",
        [
            RefusedRow(Table.CONVERSATIONS, "t_1", "x"),
            RefusedRow(Table.CONTACTS, "c_1", "x"),
            RefusedRow(Table.INTERACTION_EVENTS, "m_1", "x"),
        ],
    )
    def test_a_discarded_refused_row_stays_discarded(self, row: RefusedRow) -> None:
        dead_letters = KnownDeadLetters()
        dead_letters.take(self.decided(row))
        dead_letters.discard_all()

        assert not opened(self.decided(row, known=dead_letters.on_top_of(Known()), seconds=3600))

    def test_a_refused_row_has_its_dead_letters_looked_up(self) -> None:
        row = RefusedRow(Table.INTERACTION_EVENTS, "m_1", "x")

        keys = looked_up(walking_since_noon(), self.ANSWER, context(refused_rows=[row]))

        assert {"t_1/row", "contact c_1", "t_1/events/m_1"} <= set(keys.subjects)

    def test_the_reason_of_a_refused_row_is_cut_to_its_limit(self) -> None:
        (dead_letter,) = opened(self.decided(RefusedRow(Table.CONVERSATIONS, "t_1", "x" * 10_000)))

        assert dead_letter.reason == "x" * MAX_REASON_CHARACTERS


class TestRecoveredDeadLetters:
    READ = conversation("t_1", at(-5), of=contact("c_1"), messages=[message("m_1")])

    @pytest.mark.parametrize("subject", ["t_1", "t_1/row", "t_1/messages", "contact c_1"])
    def test_a_sweep_that_reads_its_subject_closes_a_dead_letter(self, subject: str) -> None:
        decided = events(
            decision_on(
                walking_since_noon(), fetched(self.READ, next_cursor="x"), context(), find_open_dead_letter(subject)
            )
        )

        assert decided[0] == DeadLetterClosed("d_1", Resolution.RECOVERED)
        assert given(*decided, after=walking_since_noon()).open_dead_letters == -1

    def test_a_dead_letter_is_closed_even_if_its_rows_are_stored_already(self) -> None:
        known = replace(knowing(self.READ), dead_letters=find_open_dead_letter("t_1").dead_letters)

        decided = record(decision_on(walking_since_noon(), fetched(self.READ, next_cursor="x"), context(), known))

        assert closed(decided) == ["d_1"]

    def test_reading_only_its_position_closes_no_dead_letter(self) -> None:
        decision = decision_on(
            reduced_to(Detail.POSITION), fetched(self.READ, next_cursor="x"), context(), find_open_dead_letter("t_1")
        )

        assert isinstance(decision, BatchUnchanged)

    @pytest.mark.parametrize(("detail", "closes"), [(Detail.BARE, False), (Detail.SEPARATE, True)])
    def test_a_dead_letter_about_messages_is_closed_once_they_are_read(self, detail: Detail, closes: bool) -> None:
        decided = record(
            decision_on(
                reduced_to(detail),
                fetched(self.READ, next_cursor="x"),
                context(),
                find_open_dead_letter("t_1/messages"),
            )
        )

        assert (closed(decided) == ["d_1"]) is closes

    def test_a_row_that_is_refused_again_closes_no_dead_letter(self) -> None:
        around = context(refused_rows=[RefusedRow(Table.CONVERSATIONS, "t_1", "x")])

        known = find_open_dead_letter("t_1/row")

        assert not closed(record(decision_on(walking_since_noon(), fetched(self.READ, next_cursor="x"), around, known)))

    def test_only_a_redrive_closes_a_dead_letter_of_events(self) -> None:
        known = find_open_dead_letter("t_1/events/m_1")

        assert not closed(
            record(decision_on(walking_since_noon(), fetched(self.READ, next_cursor="x"), context(), known))
        )

    def test_a_discarded_dead_letter_is_not_closed_again(self) -> None:
        known = Known(dead_letters={"t_1": KnownDeadLetter("d_1", "", NOON, is_open=False)})

        assert not closed(
            record(decision_on(walking_since_noon(), fetched(self.READ, next_cursor="x"), context(), known))
        )


class TestForgottenPeople:
    KNOWN = Known(forgotten=frozenset({"t_1"}))

    @pytest.mark.parametrize(
        ("checkpoint", "answer"),
        [
            (reduced_to(Detail.POSITION), fetched(conversation("t_1"), next_cursor="x")),
            (reduced_to(Detail.BARE), fetched(conversation("t_1"), next_cursor="x")),
            (walking_since_noon(), fetched(unreadable("t_1"), next_cursor="x")),
        ],
    )
    def test_a_forgotten_person_gets_no_dead_letter(self, checkpoint: Checkpoint, answer: Fetched) -> None:
        assert "t_1" in looked_up(checkpoint, answer, context()).conversations
        assert isinstance(decision_on(checkpoint, answer, context(), self.KNOWN), BatchUnchanged)


def test_no_dead_letter_is_looked_up_if_there_can_be_none() -> None:
    assert looked_up(walking_since_noon(), fetched(conversation()), context()).subjects == ()


def test_dead_letters_are_looked_up_while_some_are_open() -> None:
    before = given(DeadLetterOpened("d_1", Stage.FETCH, "t_1", "bad"), after=walking_since_noon())

    assert "t_1" in looked_up(before, fetched(conversation("t_1")), context()).subjects


def test_the_payload_of_a_dead_letter_is_not_in_the_journal() -> None:
    secret = unreadable("t_bad", payload='{"snippet": "a secret"}')
    read = conversation("t_1", of=contact(name="Ada Lovelace"), messages=[message(text="a secret")])
    around = context(refused_rows=[RefusedRow(Table.CONVERSATIONS, "t_1", "x")])

    told = str(record(decision_on(checkpoint_of(), fetched(secret, read), around)).events)

    assert "secret" not in told
    assert "Ada" not in told
    assert batch(secret).unreadable[0].payload not in told
