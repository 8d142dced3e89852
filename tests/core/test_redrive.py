"""redrive.redrive: dead letters retried, automatically or on request."""

from datetime import datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from kit.builders import (
    NETWORK,
    NOON,
    RATE_LIMIT,
    STREAM,
    at,
    batch,
    budget,
    contact,
    context,
    conversation,
    fetched,
    given,
    message,
    refused,
    unreadable,
    walking,
)
from kit.decisions import decision_on, knowing, record, skipped
from kit.decisions import walking as walking_since_noon
from milepost.core.checkpoint import DeadLetter
from milepost.core.events import (
    BatchStored,
    DeadLetterClosed,
    DeadLetterOpened,
    RateLimited,
    RedriveFailed,
    Resolution,
    Stage,
    Tally,
)
from milepost.core.model import Changes, ConversationRow, Keys, Known, KnownDeadLetter, RefusedRow, Table
from milepost.core.ports import DueDeadLetter, Outcome
from milepost.core.position import MessagesOwed
from milepost.core.problems import Problem, Scope
from milepost.core.records import Record
from milepost.core.redrive import discard, redrive, to_reread
from milepost.core.retry import redrive_seconds

BEFORE = given(DeadLetterOpened("d_1", Stage.FETCH, "t_1", "bad"), after=walking_since_noon())
READ = conversation("t_1", at(-5), of=contact("c_1"), messages=[message("m_1")], snippet="hi")
NEVER = None


def due(
    stage: Stage = Stage.FETCH, subject: str = "t_1", payload: str | None = "{}", attempts: int = 0
) -> DueDeadLetter:
    return DueDeadLetter(DeadLetter("d_1", STREAM, stage, subject, "bad", at(-900), attempts), payload)


def due_rows(stage: Stage, table: Table, key: str) -> DueDeadLetter:
    """Return the dead letter that keeps a refused row of READ."""
    around = context(at(-900), refused_rows=[RefusedRow(table, key, "too long")])
    decided = record(decision_on(walking_since_noon(), fetched(READ, next_cursor="x"), around))
    (dead_letter,) = (event for event in decided.events if isinstance(event, DeadLetterOpened))
    (payload,) = decided.changes.payloads
    return DueDeadLetter(DeadLetter("d_1", STREAM, stage, dead_letter.subject, "too long", at(-900)), payload.payload)


def redriven(
    dead_letter: DueDeadLetter,
    outcome: Outcome | None = None,
    known: Known | None = None,
    now: datetime = NOON,
    refused_rows: tuple[RefusedRow, ...] = (),
) -> Record:
    during = context(now, refused_rows=refused_rows)
    return record(redrive(BEFORE, dead_letter, outcome, during).record(known or Known()))


def keys_looked_up(dead_letter: DueDeadLetter, outcome: Outcome | None) -> Keys:
    keys = redrive(BEFORE, dead_letter, outcome, context()).keys
    assert keys is not None
    return keys


ROW = due_rows(Stage.STORE, Table.CONVERSATIONS, "t_1")
PERSON = due_rows(Stage.STORE, Table.CONTACTS, "c_1")
CHUNK = due_rows(Stage.EVENTS, Table.INTERACTION_EVENTS, "m_1")


class TestToReread:
    @pytest.mark.parametrize("subject", ["t_1", "t_1/messages"])
    def test_a_redrive_reads_the_conversation_that_could_not_be_read(self, subject: str) -> None:
        assert to_reread(due(subject=subject)) == "t_1"

    @pytest.mark.parametrize(
        "dead_letter",
        [
            pytest.param(due(subject="sha256:abc"), id="its id is unknown"),
            pytest.param(due(payload=None), id="the person was erased"),
            pytest.param(ROW, id="its row is kept"),
            pytest.param(CHUNK, id="its events are kept"),
        ],
    )
    def test_a_redrive_reads_nothing_if_it_cannot_or_need_not(self, dead_letter: DueDeadLetter) -> None:
        assert to_reread(dead_letter) is None


class TestReread:
    @pytest.mark.parametrize("subject", ["t_1", "t_1/messages"])
    def test_a_reread_closes_the_dead_letter_and_writes_what_was_read(self, subject: str) -> None:
        decided = redriven(due(subject=subject), fetched(READ))

        assert decided.events == (
            DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(inserted=1, contacts=1, interaction_events=1)),
        )
        assert [row.conversation_id for row in decided.changes.conversations] == ["t_1"]

    @pytest.mark.parametrize(
        ("count", "has_older", "closes"), [(7, False, False), (None, True, False), (0, False, True)]
    )
    def test_a_reread_without_messages_does_not_close_their_dead_letter_unless_there_are_none(
        self, count: int | None, *, has_older: bool, closes: bool
    ) -> None:
        read = replace(READ, interactions=(), message_count=count, has_older=has_older)

        event = redriven(due(subject="t_1/messages"), fetched(read), knowing(read)).events[-1]

        assert isinstance(event, DeadLetterClosed if closes else RedriveFailed)
        assert isinstance(redriven(due(), fetched(read), knowing(read)).events[-1], DeadLetterClosed)

    def test_what_failed_in_a_sweep_is_still_news_and_what_failed_in_a_first_copy_never_is(self) -> None:
        late = due()
        since = replace(BEFORE, watermark=at(-1000))
        after_sweep = record(redrive(since, late, fetched(READ), context()).record(Known()))
        in_first_copy = redriven(late, fetched(READ))

        day_before = late.dead_letter.opened_at - timedelta(days=1)
        assert (after_sweep.changes.news_after, in_first_copy.changes.news_after) == (day_before, None)

    def test_a_reread_older_than_the_stored_row_leaves_it_alone(self) -> None:
        decided = redriven(due(), fetched(READ), knowing(replace(READ, updated_time=at(9), snippet="newer")))

        assert decided.changes == Changes()
        assert decided.events == (DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(unchanged=1)),)

    def test_a_reread_counts_for_the_stream_and_not_as_a_batch(self) -> None:
        after = given(*redriven(due(), fetched(READ)).events, after=BEFORE)

        assert after.open_dead_letters == BEFORE.open_dead_letters - 1
        assert (after.total.inserted, after.total.batches) == (BEFORE.total.inserted + 1, BEFORE.total.batches)
        assert after.sweep == BEFORE.sweep

    @pytest.mark.parametrize(
        ("outcome", "reason"),
        [
            (refused(NETWORK), "it went wrong"),
            (fetched(unreadable("t_1", "id: expected str")), "id: expected str"),
            (fetched(), "it was not in the answer"),
        ],
    )
    def test_a_failed_reread_is_retried_later(self, outcome: Outcome, reason: str) -> None:
        known = Known(dead_letters={"t_1": KnownDeadLetter("d_1", "", NOON, is_open=True)})

        decided = redriven(due(), outcome, known, now=at(7))

        assert decided.events == (RedriveFailed("d_1", 1, reason, at(7 + 1800)),)

    def test_the_reason_of_a_failed_reread_is_cut_to_its_limit(self) -> None:
        (failed,) = redriven(due(), refused(Problem(NETWORK.kind, "x" * 10_000))).events

        assert isinstance(failed, RedriveFailed)
        assert len(failed.reason) == 500

    def test_a_reread_that_hits_a_rate_limit_uses_up_no_attempt(self) -> None:
        (limited,) = redriven(due(), refused(RATE_LIMIT)).events

        assert limited == RateLimited(Scope.PAGE, 1, NOON, at(60), RATE_LIMIT)

    def test_a_rate_limit_that_made_the_dead_letter_is_a_failure_like_any_other(self) -> None:
        before = due()
        alike = replace(before, dead_letter=replace(before.dead_letter, reason=str(RATE_LIMIT)))

        (failed,) = redriven(alike, refused(RATE_LIMIT)).events

        assert isinstance(failed, RedriveFailed)
        assert failed.attempts == 1

    def test_a_rate_limit_that_says_when_it_ends_is_believed_even_if_one_made_the_dead_letter(self) -> None:
        before = due()
        alike = replace(before, dead_letter=replace(before.dead_letter, reason=str(RATE_LIMIT)))

        (limited,) = redriven(alike, refused(replace(RATE_LIMIT, wait_seconds=600.0))).events

        assert isinstance(limited, RateLimited)
        assert limited.until == at(600)

    def test_a_reread_closes_other_dead_letters_of_the_same_conversation(self) -> None:
        known = Known(
            dead_letters={
                "t_1": KnownDeadLetter("d_1", "", NOON, is_open=True),
                "t_1/messages": KnownDeadLetter("d_2", "", NOON, is_open=True),
                "contact c_1": KnownDeadLetter("d_3", "", NOON, is_open=True),
            }
        )

        events = redriven(due(), fetched(READ), known).events

        assert {(each.dead_letter_id, each.resolution) for each in events if isinstance(each, DeadLetterClosed)} == {
            ("d_1", Resolution.REDRIVEN),
            ("d_2", Resolution.RECOVERED),
            ("d_3", Resolution.RECOVERED),
        }

    def test_a_reread_whose_row_is_refused_leaves_the_row_to_its_own_dead_letter(self) -> None:
        refused_rows = (RefusedRow(Table.CONVERSATIONS, "t_1", "too long"),)
        known = Known(dead_letters={"t_1/row": KnownDeadLetter("d_2", "", NOON, is_open=True)})

        decided = redriven(due(), fetched(READ), known, refused_rows=refused_rows)

        tally = Tally(contacts=1, interaction_events=1)
        owed, closed = decided.events
        assert isinstance(owed, MessagesOwed), "what is stored of a conversation whose row is refused may be older"
        assert closed == DeadLetterClosed("d_1", Resolution.REDRIVEN, tally)
        assert not decided.changes.conversations
        assert [each.dead_letter_id for each in decided.changes.payloads] == ["d_2"]

    def test_a_reread_opens_a_dead_letter_for_what_else_is_refused(self) -> None:
        refused_rows = (RefusedRow(Table.INTERACTION_EVENTS, "m_1", "too long"),)

        decided = redriven(due(), fetched(READ), refused_rows=refused_rows)

        opened, closed = decided.events
        assert isinstance(opened, DeadLetterOpened)
        assert opened.subject == "t_1/events/m_1"
        assert closed == DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(inserted=1, contacts=1, dead_lettered=1))
        assert given(*decided.events, after=BEFORE).open_dead_letters == BEFORE.open_dead_letters

    @pytest.mark.parametrize("who", ["t_1", "c_1"])
    def test_a_reread_of_a_forgotten_person_writes_nothing(self, who: str) -> None:
        decided = redriven(due(), fetched(READ), Known(forgotten=frozenset({who})))

        assert decided.changes == Changes()
        (closed,) = decided.events
        assert isinstance(closed, DeadLetterClosed)
        assert closed.resolution is Resolution.FORGOTTEN

    def test_a_reread_looks_up_all_that_it_may_touch(self) -> None:
        keys = keys_looked_up(due(), fetched(READ))

        assert (keys.conversations, keys.contacts, keys.interaction_events) == (("t_1",), ("c_1",), ("m_1",))
        assert set(keys.subjects) == {"t_1", "t_1/row", "t_1/messages", "contact c_1"}


class TestKeptRows:
    @pytest.mark.parametrize(
        ("dead_letter", "tally"),
        [
            pytest.param(ROW, Tally(inserted=1), id="a conversation"),
            pytest.param(PERSON, Tally(contacts=1), id="a contact"),
            pytest.param(CHUNK, Tally(interaction_events=1), id="a chunk of events"),
        ],
    )
    def test_a_kept_row_is_written(self, dead_letter: DueDeadLetter, tally: Tally) -> None:
        decided = redriven(dead_letter)

        assert decided.events == (DeadLetterClosed("d_1", Resolution.REDRIVEN, tally),)
        changes = decided.changes
        assert len(changes.conversations + changes.contacts + changes.interaction_events) == 1

    def test_a_kept_row_has_the_time_of_writing_it_and_not_of_reading_it(self) -> None:
        (row,) = redriven(ROW, now=at(60)).changes.conversations
        (person,) = redriven(PERSON, now=at(60)).changes.contacts

        assert (row.updated_time, row.first_synced_at, row.synced_at) == (at(-5), at(60), at(60))
        assert (person.last_interaction_at, person.first_seen_at, person.updated_at) == (at(-5), at(60), at(60))

    @pytest.mark.parametrize("seconds", [-5, 0])
    @pytest.mark.parametrize("dead_letter", [ROW, PERSON, CHUNK])
    def test_a_kept_row_does_not_overwrite_one_as_new_or_newer(
        self, dead_letter: DueDeadLetter, seconds: float
    ) -> None:
        decided = redriven(dead_letter, known=knowing(replace(READ, updated_time=at(seconds))))

        assert decided.changes == Changes()
        assert decided.events == (DeadLetterClosed("d_1", Resolution.REDRIVEN),)

    @pytest.mark.parametrize("dead_letter", [ROW, PERSON])
    def test_a_kept_row_overwrites_an_older_one(self, dead_letter: DueDeadLetter) -> None:
        decided = redriven(dead_letter, known=knowing(replace(READ, updated_time=at(-6))))

        (closed,) = decided.events
        assert isinstance(closed, DeadLetterClosed)
        assert closed.tally in {Tally(updated=1), Tally(contacts=1)}

    @pytest.mark.parametrize("dead_letter", [ROW, PERSON, CHUNK])
    def test_a_kept_row_that_is_refused_again_is_retried_later(self, dead_letter: DueDeadLetter) -> None:
        decided = redriven(dead_letter, refused_rows=(RefusedRow(Table.CONVERSATIONS, "t_1", "still too long"),))

        assert decided == Record((RedriveFailed("d_1", 1, "still too long", at(1800)),))

    @pytest.mark.parametrize("dead_letter", [ROW, PERSON, CHUNK])
    def test_a_kept_row_is_written_without_the_characters_that_no_database_takes(
        self, dead_letter: DueDeadLetter
    ) -> None:
        """Earlier versions kept them, and PostgreSQL refused the row for ever."""
        payload = dead_letter.payload or ""
        for text in ('"Ada"', '"hello"', '"hi"'):
            payload = payload.replace(text, r'"\u0000a\u0000"')
        assert "u0000" in payload

        decided = redriven(replace(dead_letter, payload=payload))

        (closed,) = decided.events
        assert isinstance(closed, DeadLetterClosed)
        assert closed.tally.replaced_characters == 2
        written = decided.changes
        texts = [each.name for each in written.contacts]
        texts += [each.snippet for each in written.conversations] + [each.text for each in written.interaction_events]
        assert texts == ["\ufffda\ufffd"]

    @pytest.mark.parametrize("dead_letter", [ROW, CHUNK])
    def test_a_kept_row_of_a_forgotten_person_is_not_written(self, dead_letter: DueDeadLetter) -> None:
        for who in ("t_1", "c_1"):
            assert redriven(dead_letter, known=Known(forgotten=frozenset({who}))).changes == Changes()

    @pytest.mark.parametrize("dead_letter", [ROW, PERSON, CHUNK])
    def test_a_kept_row_looks_up_what_is_stored_of_it(self, dead_letter: DueDeadLetter) -> None:
        keys = keys_looked_up(dead_letter, None)

        rows = msgspec.json.decode(dead_letter.payload or "", type=Changes)
        assert set(keys.conversations) >= {row.conversation_id for row in rows.conversations}
        assert set(keys.contacts) >= {"c_1"}
        assert set(keys.interaction_events) == {row.event_id for row in rows.interaction_events}


def test_an_erased_payload_closes_the_dead_letter() -> None:
    decided = redriven(due(payload=None))

    assert decided == Record((DeadLetterClosed("d_1", Resolution.FORGOTTEN),))


def test_an_item_without_an_id_fails_and_is_not_retried_automatically() -> None:
    decided = redriven(due(subject="sha256:abc"))

    (failed,) = decided.events
    assert isinstance(failed, RedriveFailed)
    assert (failed.attempts, failed.redrive_at) == (1, NEVER)


class TestNextRedrive:
    def test_redrives_are_delayed_up_to_a_day_and_end_after_ten(self) -> None:
        waits = [redrive_seconds(failures) for failures in range(1, 13)]

        assert waits == [900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 86400, 86400, None, None]

    def test_there_is_no_automatic_redrive_after_the_tenth(self) -> None:
        (ninth,) = redriven(due(attempts=8), refused(NETWORK)).events
        (tenth,) = redriven(due(attempts=9), refused(NETWORK)).events

        assert isinstance(ninth, RedriveFailed)
        assert isinstance(tenth, RedriveFailed)
        assert (ninth.attempts, ninth.redrive_at) == (9, at(86400))
        assert (tenth.attempts, tenth.redrive_at) == (10, NEVER)


class TestUnchangedBatches:
    QUIET = skipped(BEFORE, fetched(conversation("t_2"), next_cursor="after 2"), knowing(conversation("t_2")))
    STORED = BatchStored(walking("after 2", NOON), Tally(batches=1, unchanged=1, without_contact=1), batch=2)

    def test_unchanged_batches_are_recorded_before_a_redrive(self) -> None:
        decided = record(redrive(self.QUIET, due(), fetched(READ), context()).record(Known()))

        assert decided.events[0] == self.STORED

    def test_unchanged_batches_are_recorded_before_a_discard(self) -> None:
        decided = discard(self.QUIET, due().dead_letter, "a test thread", budget())

        assert decided.events == (
            self.STORED,
            DeadLetterClosed("d_1", Resolution.DISCARDED, reason="a test thread"),
        )


def test_messages_that_are_written_late_are_compared_with_the_next_answer() -> None:
    """They may have been edited or unsent since they were read, while the fingerprint says that nothing has changed."""
    whole = record(decision_on(walking_since_noon(), fetched(READ), context()))
    known = Known({row.conversation_id: row for row in whole.changes.conversations})
    assert [row.messages_fingerprint for row in known.conversations.values()] != [None]

    changes = redriven(CHUNK, known=known).changes

    assert len(changes.interaction_events) > 0
    assert [row.messages_fingerprint for row in changes.conversations] == [None]


def test_kept_rows_have_the_values_of_the_batch() -> None:
    (row,) = redriven(ROW).changes.conversations
    whole = record(decision_on(walking_since_noon(), fetched(READ), context())).changes.conversations[0]

    assert isinstance(row, ConversationRow)
    now = {"first_synced_at": NOON, "synced_at": NOON, "messages_fingerprint": None}
    assert replace(row, **now) == replace(whole, **now)
    assert batch(READ).conversations == (READ,)
