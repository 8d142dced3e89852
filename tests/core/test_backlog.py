"""core.backlog and core.message_reading: which messages are owed, and the decisions on reading them."""

from datetime import datetime, timedelta
from math import inf

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
    sweep_started,
    unreadable,
)
from milepost.core.backlog import earlier_limit, reopen
from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.decide import decide
from milepost.core.events import (
    BatchShrunk,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    RateLimited,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStatus,
    Stage,
    SweepCompleted,
    Tally,
)
from milepost.core.evolve import fold
from milepost.core.merge import difference
from milepost.core.message_reading import (
    MAX_IDLE,
    MAX_RESETS,
    MESSAGES_PER_REQUEST,
    ROUNDS,
    decide_messages,
    drop_gap,
    gap_in,
    payload_of,
    request_of,
)
from milepost.core.model import (
    Changes,
    Conversation,
    Detail,
    Interaction,
    Known,
    KnownDeadLetter,
    RefusedRow,
    Table,
)
from milepost.core.ports import DueDeadLetter, Fetched, MessagesOutcome, OpenGap
from milepost.core.position import Gap, GapEnding, MessagesFailed, MessagesOwed, MessagesRead, Mode
from milepost.core.problems import Problem
from milepost.core.records import Record
from milepost.core.redrive import redrive, to_reread
from milepost.core.walk import EPOCH

GONE = problem(100, subcode=33)
HISTORY = replace(GAP, history_to=at(-3600))
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


def elsewhere(updated: float, *events: str) -> Known:
    """Return what a store holds of the conversation where it stands under another page."""
    known = stored(updated, *events)
    return replace(known, conversations={"t_1": replace(known.conversations["t_1"], page_id="another")})


def owed_of(read: Conversation, known: Known, before: Checkpoint | None = None) -> list[Gap]:
    """Return the gaps that a batch of this conversation opens."""
    pending = decide(before or checkpoint_of(), fetched(read), context())
    decision = pending.record(known)
    events = decision.events if isinstance(decision, Record) else ()
    return [gap for event in events if isinstance(event, MessagesOwed) for gap in event.gaps]


class TestWhatIsOwed:
    def test_messages_between_the_list_and_the_stored_state_are_owed(self) -> None:
        (gap,) = owed_of(listed(-60, -30, -10), stored(-3600, "m_-3600"))

        assert gap == Gap(gap.gap_id, "t_1", NOON, at(-10), at(-60), at(-3600), cursor="older", listed=3)

    def test_a_gap_is_recorded_with_the_batch_that_stores_its_newest_message(self) -> None:
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

    @pytest.mark.parametrize("known", ["m_-60", "m_-30", "m_-10"])
    def test_nothing_is_owed_where_one_of_the_listed_messages_is_stored(self, known: str) -> None:
        assert owed_of(listed(-60, -30, -10), stored(-3600, known)) == []

    def test_a_list_that_names_no_older_messages_does_not_prove_that_there_are_none(self) -> None:
        """What is stored is older than all of it, and not in it: it was cut short."""
        (gap,) = owed_of(listed(-60, -30, has_older=False), stored(-3600, "m_-3600"))

        assert (gap.back_to, gap.cursor, gap.listed) == (at(-3600), None, 2)

    def test_a_list_as_long_as_was_asked_for_may_not_be_all(self) -> None:
        full = listed(*(-float(each) for each in range(POLICY.messages_per_conversation)), has_older=False)
        (gap,) = owed_of(full, stored())

        assert gap.cursor is None

    def test_new_messages_are_owed_if_the_list_leaves_all_messages_out(self) -> None:
        """The API silently leaves out fields for which a permission is missing."""
        (gap,) = owed_of(listed(), stored(-3600))
        assert (gap.newest_at, gap.back_to, gap.cursor, gap.listed) == (NOON, at(-3600), "older", 0)

        assert owed_of(listed(updated=-3600), stored(-3600)) == []

    def test_nothing_is_owed_without_news(self) -> None:
        assert owed_of(listed(-60, -30), stored(0, "m_-30", "m_-60")) == []
        assert owed_of(listed(-60, -30, updated=-10), stored(0)) == []  # of an older state

    def test_news_is_owed_where_the_stored_time_is_in_the_future(self) -> None:
        (gap,) = owed_of(listed(-60, -30), stored(86_400 * 365))
        assert (gap.reached_at, gap.newest_at) == (at(-60), at(-30))

    @pytest.mark.parametrize(("seconds", "history_to"), [(86_400.0, -86_400.0), (0.0, -600.0), (60.0, -600.0)])
    def test_the_history_of_a_conversation_that_was_stored_without_messages_is_owed_when_they_come(
        self, seconds: float, history_to: float
    ) -> None:
        """They were not requested, or the API left them out. Messages since the first sight are no history."""
        policy = replace(POLICY, message_history_seconds=seconds, watermark_overlap_seconds=600.0)
        decision = decide(checkpoint_of(), fetched(listed(-60, -30)), context(policy=policy)).record(stored(0))

        assert isinstance(decision, Record)
        (owed,) = (event for event in decision.events if isinstance(event, MessagesOwed))
        assert [(gap.history_to, gap.reached_at, gap.cursor) for gap in owed.gaps] == [
            (at(history_to), at(-60), "older")
        ]
        assert owed_of(listed(-60, -30, has_older=False), stored(0)) == []

    def test_messages_that_could_not_be_read_until_now_are_owed_without_news(self) -> None:
        dead_letter = KnownDeadLetter("d_1", "f", NOON, is_open=True)
        known = replace(stored(0), dead_letters={"t_1/messages": dead_letter})
        (gap,) = owed_of(listed(-60, -30), known)

        assert gap.back_to == at(0)

    @pytest.mark.parametrize(
        ("updated", "has_older", "is_owed"), [(-3600.0, True, True), (0.0, True, False), (-3600.0, False, False)]
    )
    def test_messages_that_could_not_be_read_until_now_are_owed_if_news_has_pushed_them_out_of_the_list(
        self, updated: float, *, has_older: bool, is_owed: bool
    ) -> None:
        """The list closes their dead letter, although it may no longer show them."""
        dead_letter = KnownDeadLetter("d_1", "f", NOON, is_open=True)
        known = replace(stored(updated, "m_-60"), dead_letters={"t_1/messages": dead_letter})
        gaps = owed_of(listed(-60, -30, has_older=has_older), known)

        assert [(gap.reached_at, gap.cursor) for gap in gaps] == [(at(-60), "older")] * is_owed

    @pytest.mark.parametrize("row", [None, -7200.0])
    @pytest.mark.parametrize(("messages", "is_open"), [((), True), ((), False), ((-60.0,), True)])
    def test_a_conversation_whose_row_the_store_refuses_owes_only_news(
        self, row: float | None, messages: tuple[float, ...], *, is_open: bool
    ) -> None:
        """The row stays as it is, so each sweep would take the conversation for a new one."""
        dead_letters = {"t_1/row": KnownDeadLetter("d_1", "f", NOON, is_open=is_open)}
        if messages:
            dead_letters["t_1/messages"] = KnownDeadLetter("d_2", "f", NOON, is_open=True)
        rows = Known() if row is None else stored(row)
        known = replace(rows, interaction_events=frozenset({"m_-60"}), dead_letters=dead_letters)
        before = given(SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))

        assert len(owed_of(listed(*messages), known, before)) == 1
        assert owed_of(listed(*messages, updated=-3600), known, before) == []

    @pytest.mark.parametrize("row", [None, 0.0])
    @pytest.mark.parametrize("is_open", [True, False])
    def test_messages_that_the_store_refuses_are_no_gap_in_what_is_stored(
        self, row: float | None, *, is_open: bool
    ) -> None:
        """They are never stored, so each sweep would owe what is below them."""
        at_first = Known() if row is None else stored(row)
        refused_before = {"t_1/row", "t_1/events/m_-30"} if row is None else {"t_1/events/m_-30"}
        dead_letters = {each: KnownDeadLetter("d_1", "f", NOON, is_open=is_open) for each in refused_before}

        assert len(owed_of(listed(-60, -30), at_first)) == 1
        assert owed_of(listed(-60, -30), replace(at_first, dead_letters=dead_letters)) == []

    def test_a_history_is_owed_if_the_store_refused_the_conversation_before(self) -> None:
        dead_letter = KnownDeadLetter("d_1", "f", NOON, is_open=True)
        before = given(SweepCompleted(Mode.FULL, at(-3600), NOON, Tally(batches=1)))
        known = Known(dead_letters={"t_1/row": dead_letter})
        (first,), (later,) = owed_of(listed(-60, -30), known), owed_of(listed(-60, -30), known, before)

        assert first.history_to == EPOCH
        assert later.history_to == at(-3600) - timedelta(seconds=POLICY.watermark_overlap_seconds)

    @pytest.mark.parametrize("seconds", [0.0, 60.0])
    def test_messages_since_a_conversation_could_first_not_be_read_are_no_history(self, seconds: float) -> None:
        policy = replace(POLICY, message_history_seconds=seconds)
        known = Known(dead_letters={"t_1": KnownDeadLetter("d_1", "f", at(-3600), is_open=True)})
        closed = Known(dead_letters={"t_1": KnownDeadLetter("d_1", "f", at(-3600), is_open=False)})

        def limits(known: Known) -> list[datetime | None]:
            read = fetched(listed(-60, -30))
            before = given(SweepCompleted(Mode.FULL, at(-10), NOON, Tally(batches=1)))
            decision = decide(before, read, context(policy=policy)).record(known)
            assert isinstance(decision, Record)
            owed = (event for event in decision.events if isinstance(event, MessagesOwed))
            return [gap.history_to for event in owed for gap in event.gaps]

        overlap = timedelta(seconds=POLICY.watermark_overlap_seconds)
        assert limits(known) == [at(-3600) - overlap]
        assert limits(closed) == [at(-10) - overlap]

    def test_a_conversation_that_moves_here_brings_the_gaps_of_its_other_page(self) -> None:
        owed_there = (GAP, replace(GAP, gap_id="g_9", conversation_id="t_9"))
        known = replace(elsewhere(0.0, "m_0"), owed_elsewhere=owed_there)

        (gap,) = owed_of(listed(0.0), known)

        assert gap.gap_id != GAP.gap_id
        assert replace(gap, gap_id=GAP.gap_id) == GAP

    def test_a_gap_of_a_conversation_that_another_page_keeps_is_not_left_to_that_page(self) -> None:
        known = replace(elsewhere(-3600), moved_to={"another": NOON})

        (gap,) = owed_of(listed(-20, -10, 0.0), known)

        assert OpenGap(gap, is_forgotten=False, has_moved=True).ending is None
        assert OpenGap(replace(gap, is_elsewhere=False), is_forgotten=False, has_moved=True).ending is GapEnding.MOVED

    def test_nothing_is_owed_of_people_who_were_erased(self) -> None:
        assert owed_of(listed(-60, -30), replace(stored(), forgotten=frozenset({"t_1"}))) == []

    def test_each_gap_of_a_conversation_is_read_for_itself(self) -> None:
        (first,) = owed_of(listed(-60, -50), stored(-3600, "m_-3600"))
        (second,) = owed_of(listed(-20, -10), stored(-50, "m_-3600", "m_-60", "m_-50"))

        assert first.gap_id != second.gap_id
        assert (first.back_to, second.back_to) == (at(-3600), at(-50))


def history_of(read: Conversation, before: Checkpoint | None = None, **policy: object) -> list[Gap]:
    """Return the histories that a batch opens with this conversation, which is not stored."""
    pending = decide(before or checkpoint_of(), fetched(read), context(policy=replace(POLICY, **policy)))
    decision = pending.record(Known())
    assert isinstance(decision, Record)
    return [gap for event in decision.events if isinstance(event, MessagesOwed) for gap in event.gaps]


class TestHistory:
    """The messages that are owed when a conversation is met for the first time."""

    def test_the_older_messages_of_a_conversation_are_owed_back_to_the_limit(self) -> None:
        (gap,) = history_of(listed(-60, -30), message_history_seconds=86_400.0)

        assert (gap.history_to, gap.reached_at, gap.cursor) == (at(-86_400), at(-60), "older")
        assert not gap.is_at_limit

    def test_a_gap_is_recorded_with_the_batch_that_stores_its_newest_message(self) -> None:
        decision = decide(checkpoint_of(), fetched(listed(-60, -30)), context()).record(Known())

        assert isinstance(decision, Record)
        assert MessagesOwed in [type(event) for event in decision.events]
        assert {row.event_id for row in decision.changes.interaction_events} == {"m_-60", "m_-30"}

    def test_all_older_messages_can_be_owed(self) -> None:
        (gap,) = history_of(listed(-60, -30), message_history_seconds=inf)

        assert gap.history_to == EPOCH

    @pytest.mark.parametrize("seconds", [0.0, 60.0])
    def test_a_conversation_that_reaches_back_to_the_limit_owes_nothing(self, seconds: float) -> None:
        assert history_of(listed(-60, -30), message_history_seconds=seconds) == []

    def test_a_history_at_its_limit_that_an_older_entry_records_owes_nothing(self) -> None:
        before = given(run_started(), MessagesOwed((replace(HISTORY, reached_at=at(-3600)),)))

        assert (before.backlog, before.history) == (0, None)

    @pytest.mark.parametrize(
        ("count", "has_older", "is_owed"),
        [(None, True, True), (3, True, True), (2, True, False), (2, False, False), (3, False, False), (1, True, True)],
    )
    def test_a_conversation_that_came_whole_owes_nothing(
        self, count: int | None, *, has_older: bool, is_owed: bool
    ) -> None:
        """A `next` was captured where all had come, and the count is an estimate; below what came it tells nothing."""
        read = replace(listed(-60, -30, has_older=has_older), message_count=count)

        assert bool(history_of(read)) is is_owed

    @pytest.mark.parametrize(
        ("count", "has_older", "is_owed"),
        [(None, False, True), (20, False, False), (21, False, True), (20, True, True)],
    )
    def test_a_full_list_owes_a_history_unless_its_count_and_cursor_show_the_end(
        self, count: int | None, *, has_older: bool, is_owed: bool
    ) -> None:
        full = listed(*(-float(each) for each in range(POLICY.messages_per_conversation)), has_older=has_older)

        assert bool(history_of(replace(full, message_count=count))) is is_owed

    @pytest.mark.parametrize(
        ("count", "has_older", "is_owed"),
        [(None, False, True), (None, True, True), (0, False, False), (0, True, True), (3, False, True)],
    )
    def test_a_conversation_that_came_without_messages_owes_them_unless_it_has_none(
        self, count: int | None, *, has_older: bool, is_owed: bool
    ) -> None:
        bare = replace(listed(has_older=has_older), message_count=count)

        assert bool(history_of(bare)) is is_owed
        assert history_of(bare, messages_per_conversation=0) == []

    def test_messages_that_did_not_come_with_a_thread_that_was_read_alone_are_owed(self) -> None:
        """The list leaves out its messages, but the request for the thread did not."""
        lean = given(BatchShrunk(1, Detail.BARE, UNKNOWN, "t_1"), after=given(run_started(), sweep_started()))
        bare = fetched(replace(listed(has_older=False), message_count=3))

        def owed(answer: Fetched) -> list[type[Event]]:
            record = decide(lean, answer, context()).record(Known())
            assert isinstance(record, Record)
            return [type(event) for event in record.events if isinstance(event, MessagesOwed | DeadLetterOpened)]

        assert owed(bare) == [DeadLetterOpened]
        assert owed(replace(bare, is_whole=True)) == [MessagesOwed]

    def test_messages_that_did_not_come_are_on_record_even_if_they_are_older_than_the_limit(self) -> None:
        """No search finds their conversation in the tables if the limit is moved further back."""
        bare = replace(listed(has_older=False), message_count=3, updated_time=at(-7200))

        (gap,) = history_of(bare, message_history_seconds=3600.0)

        assert gap.is_at_limit

    def test_messages_since_the_previous_sweep_are_owed_whatever_the_limit(self) -> None:
        before = given(SweepCompleted(Mode.FULL, at(-3600), NOON, Tally(batches=1)))
        (gap,) = history_of(listed(-60, -30), before, message_history_seconds=0.0, watermark_overlap_seconds=600.0)

        assert gap.history_to == at(-4200)

    def test_nothing_is_owed_of_people_who_were_erased(self) -> None:
        assert owed_of(listed(-60, -30), Known(forgotten=frozenset({"t_1"}))) == []

    def test_a_redrive_that_meets_a_conversation_owes_its_history(self) -> None:
        dead_letter = DueDeadLetter(DeadLetter("d_1", STREAM, Stage.FETCH, "t_1", "it failed", NOON), "{}")
        record = redrive(DONE, dead_letter, fetched(listed(-60, -30)), context()).record(Known())

        assert isinstance(record, Record)
        (owed,) = (event for event in record.events if isinstance(event, MessagesOwed))
        assert owed.gaps[0].is_history


class TestAnEarlierLimit:
    def test_histories_at_their_limit_are_owed_again_after_a_full_sweep(self) -> None:
        assert earlier_limit(DONE, NOON, budget(), replace(POLICY, message_history_seconds=60.0)) == at(-60)

    def test_no_other_run_looks_for_them(self) -> None:
        incremental = given(run_started(), SweepCompleted(Mode.INCREMENTAL, NOON, NOON, Tally(batches=1)))
        stopped = given(run_started(), RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT))

        assert earlier_limit(incremental, NOON, budget(), POLICY) is None
        assert earlier_limit(stopped, NOON, budget(), POLICY) is None
        assert earlier_limit(DONE, NOON, budget("another run"), POLICY) is None
        assert earlier_limit(DONE, NOON, budget(), replace(POLICY, message_history_seconds=0.0)) is None

    def test_histories_that_are_owed_again_continue_after_their_cursors(self) -> None:
        (event,) = reopen(DONE, [replace(HISTORY, reached_at=at(-3600), attempts=2)], EPOCH, budget()).events

        assert event == MessagesOwed((replace(HISTORY, reached_at=at(-3600), history_to=EPOCH),))


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

    def test_reading_ends_at_a_message_that_was_stored_before(self) -> None:
        record = settled(messages_fetched(*newest(-3700, -180), next_cursor="oldest"), stored(-3600, "m_-3700"))

        assert [row.event_id for row in record.changes.interaction_events] == ["m_-180"]
        assert read_of(record).ending is GapEnding.CLOSED

    def test_reading_does_not_end_at_a_message_that_was_stored_since(self) -> None:
        """Another gap may have been read beyond its end."""
        record = settled(messages_fetched(*newest(-180, -150), next_cursor="oldest"), stored(-3600, "m_-150"))

        assert read_of(record).ending is None

    def test_reading_ends_with_the_conversation(self) -> None:
        assert read_of(settled(messages_fetched(*newest(-180)), stored())).ending is GapEnding.THREAD_END
        begun_anew = replace(GAP, resets=1)
        assert read_of(settled(messages_fetched(), stored(), gap=begun_anew)).ending is GapEnding.THREAD_END

    def test_an_empty_answer_to_a_cursor_may_be_that_of_a_dead_one_so_reading_begins_anew(self) -> None:
        event = read_of(settled(messages_fetched(), stored()))

        assert (event.ending, event.gap.cursor, event.gap.resets) == (None, None, 1)

    def test_a_history_ends_at_its_limit(self) -> None:
        page = messages_fetched(*newest(-4000, -180), next_cursor="oldest")
        read = read_of(settled(page, stored(), HISTORY))

        assert (read.ending, read.gap.reached_at, read.stored) == (GapEnding.HISTORY_LIMIT, at(-4000), 2)
        assert read.gap.is_at_limit
        assert read_of(settled(messages_fetched(*newest(-4000)), stored(), HISTORY)).ending is GapEnding.THREAD_END
        assert read_of(settled(messages_fetched(next_cursor="o"), stored(), HISTORY)).ending is None

    def test_no_stored_message_ends_a_history(self) -> None:
        """It has read them itself before its cursor died, or a gap has, whose last request went beyond its end."""
        again = replace(HISTORY, cursor=None, reached_at=at(-200))
        page = messages_fetched(*newest(-250, -200, -180), next_cursor="oldest")

        assert read_of(settled(page, stored(-3600, "m_-180", "m_-200", "m_-250"), again)).ending is None

    def test_an_empty_page_with_more_behind_it_does_not_end_reading(self) -> None:
        event = read_of(settled(messages_fetched(next_cursor="oldest"), stored()))

        assert (event.ending, event.gap.cursor, event.gap.idle) == (None, "oldest", 1)

    def test_nothing_of_a_person_who_was_erased_is_stored(self) -> None:
        known = replace(stored(), forgotten=frozenset({"t_1"}))
        record = settled(messages_fetched(*newest(-180), next_cursor="oldest"), known)

        assert record.changes == Changes()
        assert read_of(record).ending is GapEnding.FORGOTTEN
        assert drop_gap(DONE, GAP, GapEnding.FORGOTTEN, budget()).events == (
            MessagesRead(GAP, ending=GapEnding.FORGOTTEN),
        )

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

    def test_messages_that_are_read_count_in_their_run_and_the_backlog_shrinks(self) -> None:
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

    def test_a_gap_that_fails_in_several_runs_becomes_a_dead_letter_that_keeps_it(self) -> None:
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

    def test_a_page_that_fails_in_one_run_is_requested_in_smaller_parts_in_the_next(self) -> None:
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

    def test_a_conversation_that_is_gone_owes_nothing_once_several_runs_say_so(self) -> None:
        """A hidden limit has the same code, and messages that are given up are never requested again."""
        assert after_failures(GONE, ROUNDS * POLICY.attempts - 1).ending is None
        assert after_failures(GONE, ROUNDS * POLICY.attempts).ending is GapEnding.GONE

    @pytest.mark.parametrize(("listed", "count"), [(3, None), (0, 3)])
    def test_a_conversation_that_is_empty_all_at_once_is_no_end(self, listed: int, count: int | None) -> None:
        """A list of conversations had some of its messages, or their number; an incident looks like an empty list."""
        gap = replace(GAP, cursor=None, listed=listed, message_count=count)
        event = failed_of(settled(messages_fetched(), stored(), gap))

        assert (event.gap.attempts, event.ending) == (1, None)
        assert event.problem.message == "the list of messages is empty, though some of them were listed or counted"

    @pytest.mark.parametrize("count", [None, 0])
    def test_a_conversation_that_may_always_have_been_empty_is_read_to_its_end(self, count: int | None) -> None:
        gap = replace(GAP, cursor=None, message_count=count)

        assert read_of(settled(messages_fetched(), stored(), gap)).ending is GapEnding.THREAD_END

    def test_a_dead_token_is_no_more_than_a_failure(self) -> None:
        assert after_failures(DEAD_TOKEN, 1).gap.attempts == 1


def due(gap: Gap = GAP) -> DueDeadLetter:
    dead_letter = DeadLetter("d_1", STREAM, Stage.FETCH, f"t_1/older/{gap.gap_id}", "it failed", NOON)
    return DueDeadLetter(dead_letter, payload_of(gap))


class TestRedrive:
    def test_a_redrive_continues_where_reading_failed(self) -> None:
        assert to_reread(due(replace(GAP, limit=1))) == request_of(replace(GAP, limit=1))

    def test_the_messages_of_a_redrive_are_stored_and_the_rest_is_owed_again(self) -> None:
        page = messages_fetched(*newest(-180), next_cursor="oldest")
        record = redrive(DONE, due(), page, context()).record(stored())

        assert isinstance(record, Record)
        closed, owed = record.events
        assert closed == DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(interaction_events=1))
        assert isinstance(owed, MessagesOwed)
        assert owed.gaps[0].cursor == "oldest"
        assert [row.event_id for row in record.changes.interaction_events] == ["m_-180"]

    def test_nothing_is_owed_after_a_redrive_that_read_the_last_message(self) -> None:
        record = redrive(DONE, due(), messages_fetched(*newest(-180)), context()).record(stored())

        assert isinstance(record, Record)
        assert [type(event) for event in record.events] == [DeadLetterClosed]

    def test_a_history_that_a_redrive_reads_to_its_limit_stays_on_record(self) -> None:
        page = messages_fetched(*newest(-4000), next_cursor="oldest")
        record = redrive(DONE, due(HISTORY), page, context()).record(stored())

        assert isinstance(record, Record)
        _, owed = record.events
        assert isinstance(owed, MessagesOwed)
        assert owed.gaps[0].is_at_limit

    def test_a_failure_puts_a_redrive_off(self) -> None:
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

    def test_nothing_of_an_erased_person_is_read(self) -> None:
        erased = replace(due(), payload=None)
        assert to_reread(erased) is None
        record = redrive(DONE, erased, None, context()).record(Known())

        assert isinstance(record, Record)
        assert record.events == (DeadLetterClosed("d_1", Resolution.FORGOTTEN),)
