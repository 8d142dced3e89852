"""core.backlog: which messages are owed, when they are read, and what reading them means."""

import pytest
from msgspec.structs import replace

from kit.builders import (
    DEAD_CURSOR,
    DEAD_TOKEN,
    GAP,
    NETWORK,
    NOON,
    POLICY,
    RATE_LIMIT,
    STREAM,
    TOO_HEAVY,
    UNKNOWN,
    at,
    budget,
    checkpoint_of,
    contact,
    context,
    conversation,
    entries,
    fetched,
    given,
    message,
    messages_fetched,
    problem,
    refused,
    run_started,
    unreadable,
)
from milepost.core.backlog import MAX_PARKED, ReadGap, next_gap, plan_backlog
from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.decide import decide
from milepost.core.events import (
    DeadLetterClosed,
    DeadLetterOpened,
    RateLimited,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStatus,
    Stage,
    StreamPaused,
    SweepCompleted,
    Tally,
)
from milepost.core.evolve import fold
from milepost.core.gaps import Gap, GapEnding, MessagesFailed, MessagesOwed, MessagesRead
from milepost.core.merge import difference
from milepost.core.message_reading import (
    MAX_IDLE,
    MAX_RESETS,
    MESSAGES_PER_REQUEST,
    ROUNDS,
    decide_messages,
    forget_gap,
    gap_in,
    payload_of,
    request_of,
)
from milepost.core.model import (
    Changes,
    Conversation,
    Interaction,
    Known,
    KnownDeadLetter,
    RefusedRow,
    Table,
)
from milepost.core.plan import Finish, Wait
from milepost.core.ports import DueDeadLetter, MessagesOutcome
from milepost.core.position import Mode
from milepost.core.problems import Problem
from milepost.core.records import Record
from milepost.core.redrive import redrive, to_reread

GONE = problem(100, subcode=33)
DONE = given(run_started(), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)), MessagesOwed((GAP,)))


def newest(*seconds: float) -> tuple[Interaction, ...]:
    """Return messages of these times, the newest first."""
    return tuple(message(f"m_{each:g}", at(each)) for each in sorted(seconds, reverse=True))


def listed(*seconds: float, has_older: bool = True, updated: float = 0.0) -> Conversation:
    """Return a conversation as a list shows it."""
    read = conversation("t_1", at(updated), of=contact(), messages=newest(*seconds))
    return replace(read, has_older=has_older, older_cursor="older" if has_older else None)


def stored(updated: float = -3600.0, *events: str) -> Known:
    """Return what a store holds of the conversation: its state at a time, and some of its messages."""
    before = conversation("t_1", at(updated), of=contact())
    rows = difference(STREAM, fetched(before).batch, Known(), NOON).changes
    return Known(
        {row.conversation_id: row for row in rows.conversations},
        {row.contact_id: row for row in rows.contacts},
        frozenset(events),
    )


def owed_of(read: Conversation, known: Known, before: Checkpoint | None = None) -> list[Gap]:
    """Return the gaps that a batch of this conversation opens."""
    pending = decide(before or checkpoint_of(), fetched(read), context())
    decision = pending.record(known)
    events = decision.events if isinstance(decision, Record) else ()
    return [gap for event in events if isinstance(event, MessagesOwed) for gap in event.gaps]


class TestWhatIsOwed:
    def test_messages_between_the_list_and_the_stored_state_are_owed(self) -> None:
        (gap,) = owed_of(listed(-60, -30, -10), stored(-3600, "m_-3600"))

        assert gap == Gap(gap.gap_id, "t_1", NOON, at(-10), at(-60), at(-3600), cursor="older")

    def test_it_is_recorded_with_the_batch_that_stores_the_newest(self) -> None:
        known = stored(-3600, "m_-3600")
        decision = decide(checkpoint_of(), fetched(listed(-60, -30)), context()).record(known)

        assert isinstance(decision, Record)
        assert [type(event).__name__ for event in decision.events] == [
            "RunStarted",
            "SweepStarted",
            "MessagesOwed",
            "SweepCompleted",
        ]
        assert {row.event_id for row in decision.changes.interaction_events} == {"m_-60", "m_-30"}

    def test_nothing_is_owed_of_what_is_met_for_the_first_time(self) -> None:
        assert owed_of(listed(-60, -30), Known()) == []

    @pytest.mark.parametrize("known", ["m_-60", "m_-30", "m_-10"])
    def test_nothing_is_owed_where_one_of_the_listed_messages_is_stored(self, known: str) -> None:
        assert owed_of(listed(-60, -30, -10), stored(-3600, known)) == []

    def test_nothing_is_owed_where_the_list_shows_all(self) -> None:
        assert owed_of(listed(-60, -30, has_older=False), stored()) == []

    def test_a_list_as_long_as_was_asked_for_may_not_be_all(self) -> None:
        full = listed(*(-float(each) for each in range(POLICY.messages_per_conversation)), has_older=False)
        (gap,) = owed_of(full, stored())

        assert gap.cursor is None

    def test_nothing_is_owed_without_news(self) -> None:
        assert owed_of(listed(-60, -30), stored(0)) == []

    def test_what_could_not_be_read_until_now_is_owed_without_news(self) -> None:
        dead_letter = KnownDeadLetter("d_1", "f", is_open=True)
        known = replace(stored(0), dead_letters={"t_1/messages": dead_letter})
        (gap,) = owed_of(listed(-60, -30), known)

        assert gap.back_to == at(0)

    def test_it_is_owed_where_the_store_refused_the_conversation_before(self) -> None:
        dead_letter = KnownDeadLetter("d_1", "f", is_open=True)
        (gap,) = owed_of(listed(-60, -30), Known(dead_letters={"t_1/row": dead_letter}))

        assert gap.back_to == at(-60)

    def test_nothing_is_owed_of_people_who_were_erased(self) -> None:
        assert owed_of(listed(-60, -30), replace(stored(), forgotten=frozenset({"t_1"}))) == []

    def test_each_gap_of_a_conversation_is_read_for_itself(self) -> None:
        (first,) = owed_of(listed(-60, -50), stored(-3600, "m_-3600"))
        (second,) = owed_of(listed(-20, -10), stored(-50, "m_-3600", "m_-60", "m_-50"))

        assert first.gap_id != second.gap_id
        assert (first.back_to, second.back_to) == (at(-3600), at(-50))


class TestWhenItIsRead:
    def test_it_is_read_after_the_sweep(self) -> None:
        assert plan_backlog(DONE, NOON, budget()) == ReadGap()

    def test_nothing_is_read_where_nothing_is_owed(self) -> None:
        done = given(run_started(), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
        assert plan_backlog(done, NOON, budget()) is None

    def test_reading_ends_at_the_time_limit_and_for_a_stop(self) -> None:
        assert plan_backlog(DONE, at(270), budget()) == Finish(Reason.TIME_LIMIT)
        assert plan_backlog(DONE, NOON, budget(stops_for=Reason.SHUTDOWN)) == Finish(Reason.SHUTDOWN)

    def test_a_rate_limit_is_waited_out_if_it_ends_within_the_run(self) -> None:
        assert plan_backlog(DONE, NOON, budget(), at(60)) == Wait(at(60))
        assert plan_backlog(DONE, at(60), budget(), at(60)) == ReadGap()
        assert plan_backlog(DONE, NOON, budget(), at(270)) == Finish(Reason.RATE_LIMIT)

    @pytest.mark.parametrize(
        ("ended", "is_read"),
        [
            (RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT), True),
            (RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT), True),
            (RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT), False),
            (RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN), False),
            (RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED), False),
            (RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION), False),
        ],
    )
    def test_it_is_read_after_a_run_that_could_read(self, ended: RunEnded, *, is_read: bool) -> None:
        after = given(run_started(), MessagesOwed((GAP,)), ended)
        assert (plan_backlog(after, NOON, budget()) == ReadGap()) is is_read

    def test_nothing_is_read_while_the_stream_is_paused_or_by_a_run_that_recorded_nothing(self) -> None:
        assert plan_backlog(given(StreamPaused("somebody"), after=DONE), NOON, budget()) is None
        assert plan_backlog(DONE, NOON, budget("another run")) is None

    def test_what_waits_for_a_retry_is_passed_over(self) -> None:
        waiting, other = replace(GAP, attempts=1, retry_at=at(5)), replace(GAP, gap_id="g_2")

        assert next_gap([waiting, other], {"g_1"}, NOON, POLICY) == other
        assert next_gap([waiting], {"g_1"}, NOON, POLICY) == Wait(at(5))
        assert next_gap([waiting], {"g_1"}, at(5), POLICY) == waiting

    def test_a_retry_that_a_clock_ahead_has_set_is_due(self) -> None:
        waiting = replace(GAP, attempts=1, retry_at=at(86_400))
        assert next_gap([waiting], {"g_1"}, NOON, POLICY) == waiting

    def test_what_failed_often_enough_in_this_run_is_left_to_the_next(self) -> None:
        failed = replace(GAP, attempts=POLICY.attempts)

        assert next_gap([failed], {"g_1"}, NOON, POLICY) is None
        assert next_gap([failed], set(), NOON, POLICY) == failed

    def test_after_several_that_failed_the_others_are_left_too(self) -> None:
        failed = [replace(GAP, gap_id=f"g_{n}", attempts=POLICY.attempts) for n in range(MAX_PARKED)]
        other = replace(GAP, gap_id="other")
        tried = {gap.gap_id for gap in failed}

        assert next_gap([*failed[1:], other], tried, NOON, POLICY) == other
        assert next_gap([*failed, other], tried, NOON, POLICY) is None


def settled(outcome: MessagesOutcome, known: Known, gap: Gap = GAP, **inputs: object) -> Record:
    decision = decide_messages(DONE, gap, outcome, context(**inputs)).record(known)  # type: ignore[arg-type]
    assert isinstance(decision, Record)
    return decision


def read_of(record: Record) -> MessagesRead:
    (event,) = (event for event in record.events if isinstance(event, MessagesRead))
    return event


class TestReading:
    def test_messages_are_stored_and_reading_goes_on_after_the_cursor(self) -> None:
        record = settled(messages_fetched(*newest(-180, -150), next_cursor="oldest"), stored())

        assert {row.event_id for row in record.changes.interaction_events} == {"m_-180", "m_-150"}
        assert {row.contact_id for row in record.changes.interaction_events} == {"c_1"}
        event = read_of(record)
        assert (event.stored, event.ending) == (2, None)
        assert (event.gap.cursor, event.gap.reached_at, event.gap.stored) == ("oldest", at(-180), 2)

    def test_it_ends_at_a_message_that_was_stored_before(self) -> None:
        record = settled(messages_fetched(*newest(-3700, -180), next_cursor="oldest"), stored(-3600, "m_-3700"))

        assert [row.event_id for row in record.changes.interaction_events] == ["m_-180"]
        assert read_of(record).ending is GapEnding.CLOSED

    def test_it_does_not_end_at_a_message_that_was_stored_since(self) -> None:
        """Another gap may have been read beyond its end."""
        record = settled(messages_fetched(*newest(-180, -150), next_cursor="oldest"), stored(-3600, "m_-150"))

        assert read_of(record).ending is None

    def test_it_ends_with_the_conversation(self) -> None:
        assert read_of(settled(messages_fetched(*newest(-180)), stored())).ending is GapEnding.THREAD_END
        assert read_of(settled(messages_fetched(), stored())).ending is GapEnding.THREAD_END

    def test_an_empty_page_with_more_behind_it_does_not_end_it(self) -> None:
        event = read_of(settled(messages_fetched(next_cursor="oldest"), stored()))

        assert (event.ending, event.gap.cursor, event.gap.idle) == (None, "oldest", 1)

    def test_nothing_of_a_person_who_was_erased_is_stored(self) -> None:
        known = replace(stored(), forgotten=frozenset({"t_1"}))
        record = settled(messages_fetched(*newest(-180), next_cursor="oldest"), known)

        assert record.changes == Changes()
        assert read_of(record).ending is GapEnding.FORGOTTEN
        assert forget_gap(DONE, GAP, budget()).events == (MessagesRead(GAP, ending=GapEnding.FORGOTTEN),)

    def test_messages_that_the_store_refuses_become_dead_letters_one_by_one(self) -> None:
        rows = tuple(RefusedRow(Table.INTERACTION_EVENTS, key, "no") for key in ("m_-180", "m_-150"))
        page = messages_fetched(*newest(-180, -160, -150), next_cursor="oldest")
        record = settled(page, stored(), refused_rows=rows)

        subjects = [event.subject for event in record.events if isinstance(event, DeadLetterOpened)]
        assert subjects == ["t_1/events/m_-150", "t_1/events/m_-180"]
        assert (read_of(record).stored, read_of(record).dead_lettered) == (1, 2)
        assert set(decide_messages(DONE, GAP, page, context(refused_rows=rows)).keys.subjects) == set(subjects)  # type: ignore[union-attr]

    def test_messages_that_cannot_be_read_become_a_dead_letter(self) -> None:
        odd = unreadable("sha256:1", "no time", "{}")
        record = settled(messages_fetched(*newest(-180), next_cursor="oldest", unreadable=[odd]), stored())

        assert [event.subject for event in record.events if isinstance(event, DeadLetterOpened)] == ["sha256:1"]

    def test_what_is_read_counts_in_its_run_and_the_backlog_shrinks(self) -> None:
        record = settled(messages_fetched(*newest(-180)), stored())
        after = fold(entries(*record.events, after=DONE), DONE)

        assert (after.backlog, after.total.interaction_events) == (0, 1)
        assert after.run is not None
        assert (after.run.tally.interaction_events, after.run.status) == (1, RunStatus.COMPLETE)


def failed_of(record: Record) -> MessagesFailed:
    (event,) = (event for event in record.events if isinstance(event, MessagesFailed))
    return event


def after_failures(what: Problem, times: int, gap: Gap = GAP) -> MessagesFailed:
    """Return the last of so many failures in a row."""
    event = MessagesFailed(gap, what)
    for _ in range(times):
        event = failed_of(settled(refused(what), stored(), event.gap))
    return event


class TestFailures:
    def test_a_failure_is_retried_after_a_delay(self) -> None:
        event = after_failures(NETWORK, 1)

        assert (event.gap.attempts, event.gap.retry_at, event.ending) == (1, at(1), None)

    def test_after_as_many_attempts_as_a_run_has_the_next_run_tries_again(self) -> None:
        event = after_failures(NETWORK, POLICY.attempts)

        assert (event.gap.attempts, event.gap.retry_at, event.ending) == (POLICY.attempts, None, None)

    def test_what_fails_in_several_runs_becomes_a_dead_letter_that_keeps_what_is_owed(self) -> None:
        before = after_failures(NETWORK, ROUNDS * POLICY.attempts - 1)
        assert before.ending is None
        record = settled(refused(NETWORK), stored(), before.gap)

        opened, failed = record.events
        assert isinstance(opened, DeadLetterOpened)
        assert (opened.subject, opened.stage) == ("t_1/older/g_1", Stage.FETCH)
        assert isinstance(failed, MessagesFailed)
        assert failed.ending is GapEnding.DEAD_LETTER
        (payload,) = record.changes.payloads
        assert gap_in(payload.payload) == replace(GAP, limit=1)
        after = fold(entries(*record.events, after=DONE), DONE)
        assert (after.backlog, after.open_dead_letters, after.total.dead_lettered) == (0, 1, 1)

    def test_a_success_makes_failures_forgotten(self) -> None:
        tried = replace(GAP, attempts=2, resets=2, retry_at=NOON, limit=3)
        gap = read_of(settled(messages_fetched(*newest(-180), next_cursor="oldest"), stored(), tried)).gap

        assert (gap.attempts, gap.resets, gap.retry_at, gap.limit) == (0, 0, None, 12)

    def test_a_rate_limit_costs_nothing(self) -> None:
        (event,) = settled(refused(RATE_LIMIT), stored()).events

        assert isinstance(event, RateLimited)

    def test_a_request_that_is_too_heavy_becomes_smaller_at_once(self) -> None:
        event = after_failures(TOO_HEAVY, 1)

        assert request_of(GAP).limit == MESSAGES_PER_REQUEST
        assert (request_of(event.gap).limit, event.gap.attempts, event.gap.retry_at) == (12, 0, None)
        assert request_of(after_failures(TOO_HEAVY, 3).gap).limit == 1

    def test_what_fails_in_one_run_is_requested_in_smaller_parts_in_the_next(self) -> None:
        limits = [request_of(after_failures(UNKNOWN, runs * POLICY.attempts).gap).limit for runs in range(ROUNDS)]

        assert limits == [50, 3, 1]

    def test_a_lost_cursor_leads_back_to_the_newest_message(self) -> None:
        event = after_failures(DEAD_CURSOR, 1)

        assert (event.gap.cursor, event.gap.resets, event.ending) == (None, 1, None)

    def test_cursors_that_are_lost_again_and_again_make_a_dead_letter(self) -> None:
        gap = replace(GAP, resets=MAX_RESETS)
        assert failed_of(settled(refused(DEAD_CURSOR), stored(), gap)).ending is GapEnding.DEAD_LETTER

    def test_a_cursor_that_leads_to_itself_is_lost_in_the_end(self) -> None:
        gap = GAP
        for _ in range(POLICY.attempts):
            gap = failed_of(settled(messages_fetched(*newest(-180), next_cursor="older"), stored(), gap)).gap

        assert (gap.cursor, gap.resets) == (None, 1)

    def test_cursors_that_come_round_are_a_loop_too(self) -> None:
        gap, known = replace(GAP, walked_to=at(-150)), stored(-3600, "m_-110")
        for turn in range(MAX_IDLE):
            gap = read_of(settled(messages_fetched(*newest(-110), next_cursor=f"{turn}"), known, gap)).gap
        event = failed_of(settled(messages_fetched(*newest(-110), next_cursor="again"), known, gap))

        assert event.problem.message == "the cursors of the messages lead to nothing new"

    def test_a_conversation_that_is_gone_owes_nothing(self) -> None:
        assert after_failures(GONE, POLICY.attempts - 1).ending is None
        assert after_failures(GONE, POLICY.attempts).ending is GapEnding.GONE

    def test_a_dead_token_is_no_more_than_a_failure(self) -> None:
        assert after_failures(DEAD_TOKEN, 1).gap.attempts == 1


def due(gap: Gap = GAP) -> DueDeadLetter:
    dead_letter = DeadLetter("d_1", STREAM, Stage.FETCH, f"t_1/older/{gap.gap_id}", "it failed", NOON)
    return DueDeadLetter(dead_letter, payload_of(gap))


class TestRedrive:
    def test_it_reads_on_where_reading_failed(self) -> None:
        assert to_reread(due(replace(GAP, limit=1))) == request_of(replace(GAP, limit=1))

    def test_what_it_reads_is_stored_and_the_rest_is_owed_again(self) -> None:
        page = messages_fetched(*newest(-180), next_cursor="oldest")
        record = redrive(DONE, due(), page, context()).record(stored())

        assert isinstance(record, Record)
        closed, owed = record.events
        assert closed == DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(interaction_events=1))
        assert isinstance(owed, MessagesOwed)
        assert owed.gaps[0].cursor == "oldest"
        assert [row.event_id for row in record.changes.interaction_events] == ["m_-180"]

    def test_nothing_is_owed_where_it_read_the_last(self) -> None:
        record = redrive(DONE, due(), messages_fetched(*newest(-180)), context()).record(stored())

        assert isinstance(record, Record)
        assert [type(event) for event in record.events] == [DeadLetterClosed]

    def test_a_failure_puts_it_off(self) -> None:
        record = redrive(DONE, due(), refused(NETWORK), context()).record(stored())

        assert isinstance(record, Record)
        (failed,) = record.events
        assert isinstance(failed, RedriveFailed)
        assert (failed.attempts, record.changes.payloads) == (1, ())

    def test_a_lost_cursor_is_not_tried_again(self) -> None:
        record = redrive(DONE, due(), refused(DEAD_CURSOR), context()).record(stored())

        assert isinstance(record, Record)
        (payload,) = record.changes.payloads
        assert gap_in(payload.payload).cursor is None

    def test_of_an_erased_person_nothing_is_read(self) -> None:
        erased = replace(due(), payload=None)
        assert to_reread(erased) is None
        record = redrive(DONE, erased, None, context()).record(Known())

        assert isinstance(record, Record)
        assert record.events == (DeadLetterClosed("d_1", Resolution.FORGOTTEN),)
