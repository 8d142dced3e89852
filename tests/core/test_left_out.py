"""core.backlog: histories that owe nothing are not on record, and are found when they do."""

from datetime import datetime, timedelta
from math import inf

import pytest
from msgspec.structs import replace

from kit.builders import (
    NOON,
    POLICY,
    STREAM,
    at,
    budget,
    checkpoint_of,
    contact,
    context,
    conversation,
    fetched,
    given,
    message,
    run_started,
)
from milepost.core.backlog import next_search, open_found
from milepost.core.checkpoint import Checkpoint
from milepost.core.decide import decide
from milepost.core.events import Reason, RunEnded, RunStatus, SweepCompleted, Tally
from milepost.core.merge import difference
from milepost.core.model import Conversation, Known, RefusedRow, Table
from milepost.core.plan import Policy
from milepost.core.position import (
    Gap,
    HistoriesLeftOut,
    HistorySearch,
    MessagesOwed,
    Mode,
    ThreadsSearched,
    UnopenedThread,
)
from milepost.core.records import Record
from milepost.core.walk import EPOCH

DAY = 86_400.0
MET = HistoriesLeftOut(at(-60), 60.0, since=NOON)
FULL = SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1))


def listed(*seconds: float, count: int | None = None, key: str = "t_1") -> Conversation:
    """Return a conversation with older messages as a list shows it."""
    newest = tuple(message(f"{key}_{each:g}", at(each)) for each in sorted(seconds, reverse=True))
    read = conversation(key, at(max(seconds)), of=contact(), messages=newest)
    return replace(read, has_older=True, older_cursor="older", message_count=count)


def recorded(
    *read: Conversation,
    before: Checkpoint | None = None,
    known: Known | None = None,
    refused: tuple[RefusedRow, ...] = (),
    seconds: float = 60.0,
) -> list[MessagesOwed]:
    """Return what is recorded of a batch about messages."""
    inputs = replace(context(policy=replace(POLICY, message_history_seconds=seconds)), refused=refused)
    decision = decide(before or checkpoint_of(), fetched(*read), inputs).record(known or Known())
    assert isinstance(decision, Record)
    return [event for event in decision.events if isinstance(event, MessagesOwed)]


def known_of(of: HistoriesLeftOut) -> Checkpoint:
    """Return the checkpoint of a first copy in which these histories were left out so far."""
    return given(run_started(), MessagesOwed((), of))


def left_out(of: HistoriesLeftOut, *events: MessagesOwed) -> Checkpoint:
    """Return the checkpoint after a full sweep of a stream in which these histories were left out."""
    return given(run_started(), FULL, MessagesOwed((), of), *events)


class TestLeavingOut:
    def test_the_limit_and_the_latest_end_of_histories_at_their_limit_are_on_record(self) -> None:
        assert recorded(listed(-90, -30), listed(-70, key="t_2"), listed(-80, key="t_3")) == [
            MessagesOwed((), HistoriesLeftOut(at(-70), 60.0, since=NOON))
        ]

    def test_histories_that_do_not_change_the_record_are_not_recorded_at_all(self) -> None:
        assert recorded(listed(-90, -30), before=known_of(MET)) == []
        assert recorded(listed(-90, -30), before=known_of(HistoriesLeftOut(at(-60), 10.0, since=at(-5)))) == []

    @pytest.mark.parametrize(
        ("read", "seconds", "after"),
        [
            (listed(-20, -10), 0.0, HistoriesLeftOut(at(-20), 0.0, since=NOON)),
            (listed(-80, -10), 30.0, HistoriesLeftOut(at(-60), 30.0, since=NOON)),
            (listed(-59, -10), 59.0, HistoriesLeftOut(at(-59), 59.0, since=NOON)),
        ],
    )
    def test_a_shorter_limit_is_remembered(self, read: Conversation, seconds: float, after: HistoriesLeftOut) -> None:
        assert recorded(read, before=known_of(MET), seconds=seconds) == [MessagesOwed((), after)]

    def test_histories_that_are_owed_are_recorded_beside_those_left_out(self) -> None:
        (event,) = recorded(listed(-90, -30), listed(-30, key="t_2"))

        assert [gap.conversation_id for gap in event.gaps] == ["t_2"]
        assert event.left_out == HistoriesLeftOut(at(-90), 60.0, since=NOON)

    @pytest.mark.parametrize(("count", "is_left_out"), [(None, True), (3, True), (2, False), (1, False)])
    def test_a_history_that_the_count_of_messages_would_not_show_is_on_record(
        self, count: int | None, *, is_left_out: bool
    ) -> None:
        read = replace(listed(-90, -30, count=count), has_older=True)
        full = replace(read, interactions=(*read.interactions, message("t_1_-95", at(-95)))[:2])
        inputs = context(policy=replace(POLICY, message_history_seconds=60.0, messages_per_conversation=2))
        decision = decide(checkpoint_of(), fetched(full), inputs).record(Known())
        assert isinstance(decision, Record)
        (event,) = (event for event in decision.events if isinstance(event, MessagesOwed))

        assert bool(event.gaps) is not is_left_out
        assert bool(event.left_out) is is_left_out

    def test_all_histories_are_on_record_if_the_store_refuses_rows(self) -> None:
        refused = (RefusedRow(Table.INTERACTION_EVENTS, "t_1_-90", "too long"),)
        (event,) = recorded(listed(-90, -30), refused=refused)

        assert event.left_out is None
        assert event.gaps[0].is_at_limit

    def test_all_histories_are_on_record_while_a_search_is_under_way(self) -> None:
        searching = known_of(replace(MET, search=HistorySearch(at(-3600), at(-100))))
        (event,) = recorded(listed(-90, -30), before=searching)

        assert event.left_out is None
        assert event.gaps[0].is_at_limit

    def test_histories_left_out_by_the_previous_page_are_left_out_by_the_page_that_takes_over(self) -> None:
        rows = difference(STREAM, fetched(listed(-60, -30)).batch, Known(), NOON).changes
        there = {row.conversation_id: replace(row, page_id="another") for row in rows.conversations}
        events = frozenset(row.event_id for row in rows.interaction_events)
        known = Known(there, interaction_events=events, left_out_elsewhere=(HistoriesLeftOut(at(-30), 30.0),))
        searching = known_of(replace(MET, searched_to=at(-90), search=HistorySearch(at(-3600), at(-100))))

        (first,), (later,) = (
            recorded(listed(-60, -30), known=known),
            recorded(listed(-60, -30), known=known, before=searching),
        )

        assert first.left_out == HistoriesLeftOut(at(-30), 30.0)
        assert later.left_out == HistoriesLeftOut(at(-30), 30.0, at(-90), HistorySearch(at(-3600)), NOON)

    def test_the_fold_keeps_what_is_known_of_histories_left_out_until_an_entry_changes_it(self) -> None:
        assert left_out(MET).left_out == MET
        assert left_out(MET, MessagesOwed(())).left_out == MET
        assert given(run_started(), FULL).left_out is None


class TestTheNextSearch:
    def search(self, before: Checkpoint, seconds: float, now: datetime = NOON) -> HistorySearch | None:
        return next_search(before, now, budget(), replace(POLICY, message_history_seconds=seconds))

    def test_a_search_begins_after_a_full_sweep_with_an_earlier_limit(self) -> None:
        assert self.search(left_out(MET), 61.0) == HistorySearch(at(-61))
        assert self.search(left_out(MET), inf) == HistorySearch(EPOCH)

    @pytest.mark.parametrize("seconds", [0.0, 30.0, 60.0])
    def test_a_search_does_not_begin_without_an_earlier_limit(self, seconds: float) -> None:
        assert self.search(left_out(MET), seconds) is None

    def test_the_same_limit_is_no_earlier_one_at_any_later_time(self) -> None:
        assert self.search(left_out(MET), 60.0, at(DAY)) is None
        assert self.search(left_out(MET), DAY + 59.0, at(DAY)) is None
        assert self.search(left_out(MET), DAY + 61.0, at(DAY)) == HistorySearch(at(-61))

    def test_a_search_does_not_begin_if_no_history_was_left_out(self) -> None:
        assert self.search(given(run_started(), FULL), inf) is None

    def test_a_search_begins_only_after_a_full_sweep(self) -> None:
        incremental = given(
            run_started(), MessagesOwed((), MET), SweepCompleted(Mode.INCREMENTAL, NOON, NOON, Tally(batches=1))
        )
        assert self.search(incremental, inf) is None
        assert next_search(left_out(MET), NOON, budget("another run"), Policy()) is None

    def test_a_search_continues_after_any_run_that_succeeded(self) -> None:
        search = HistorySearch(at(-3600), at(-100))
        under_way = MessagesOwed((), replace(MET, search=search))
        incremental = SweepCompleted(Mode.INCREMENTAL, NOON, NOON, Tally(batches=1))
        limited = RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT)
        failed = RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED)

        assert self.search(given(run_started(), under_way, incremental), 30.0) == search
        assert self.search(given(run_started(), under_way, limited), inf) == search
        assert self.search(given(run_started(), under_way, failed), inf) is None
        assert self.search(given(run_started(), under_way, incremental), 0.0) is None


class TestAConversationThatIsListedAgain:
    """A search leaves out those that are deleted, so what they owe is known when they are back."""

    def reopened(self, of: HistoriesLeftOut | None, seconds: float, *, is_deleted: bool = True) -> list[Gap]:
        rows = difference(STREAM, fetched(listed(-90, -30)).batch, Known(), NOON).changes
        deleted_at = NOON if is_deleted else None
        before = {row.conversation_id: replace(row, deleted_at=deleted_at) for row in rows.conversations}
        known = Known(before, interaction_events=frozenset(row.event_id for row in rows.interaction_events))
        events = recorded(listed(-90, -30), known=known, before=known_of(of) if of else None, seconds=seconds)
        return [gap for event in events for gap in event.gaps]

    def test_a_history_is_owed_as_far_back_as_the_search_reached(self) -> None:
        searched = HistoriesLeftOut(at(-3600), searched_to=at(-3600))
        (gap,) = self.reopened(searched, 7200.0)

        assert (gap.history_to, gap.reached_at, gap.cursor) == (at(-3600), at(-90), "older")
        assert not gap.is_at_limit

    def test_a_history_is_owed_while_a_search_is_under_way(self) -> None:
        (gap,) = self.reopened(replace(MET, searched_to=at(-100), search=HistorySearch(at(-3600))), 3600.0)

        assert gap.history_to == at(-3600)

    @pytest.mark.parametrize("seconds", [0.0, 60.0])
    def test_a_history_is_on_record_if_the_limit_is_later_by_now(self, seconds: float) -> None:
        (gap,) = self.reopened(HistoriesLeftOut(at(-3600), searched_to=at(-3600)), seconds)

        assert gap.is_at_limit

    def test_a_later_search_will_find_a_history_that_is_not_recorded(self) -> None:
        assert self.reopened(MET, 3600.0) == []
        assert self.reopened(None, 3600.0) == []

    def test_a_conversation_that_was_always_listed_owes_nothing_more(self) -> None:
        assert self.reopened(HistoriesLeftOut(at(-3600), searched_to=at(-3600)), 3600.0, is_deleted=False) == []


def thread(key: str = "t_1", *, oldest: float = -90.0, count: int | None = 50, stored: int = 20) -> UnopenedThread:
    """Return a conversation of a step, which was met at noon."""
    return UnopenedThread(key, NOON, count, stored, at(oldest), at(-30))


def found(*threads: UnopenedThread, of: HistoriesLeftOut = MET, until: datetime | None = None) -> MessagesOwed:
    """Return what a step of a search for histories of an hour records."""
    search = HistorySearch(at(-3600), at(-4000))
    before = left_out(replace(of, search=search))
    (event,) = open_found(before, search, ThreadsSearched(threads, until), budget(), at(9)).events
    assert isinstance(event, MessagesOwed)
    return event


class TestAStep:
    def test_a_history_that_was_left_out_is_read_from_the_newest_message_to_the_new_limit(self) -> None:
        (gap,) = found(thread()).gaps

        assert gap == Gap(
            gap.gap_id,
            "t_1",
            at(9),
            at(-30),
            at(-90),
            at(-90),
            history_to=at(-3600),
            listed=20,
            message_count=50,
        )
        assert not gap.is_at_limit

    def test_a_conversation_with_an_unknown_count_may_have_older_messages(self) -> None:
        (gap,) = found(thread(count=None)).gaps

        assert gap.message_count is None

    @pytest.mark.parametrize(
        "whole", [thread(stored=50), thread(oldest=-3600), thread(oldest=-4000), thread(oldest=-40)]
    )
    def test_a_conversation_that_is_whole_or_reaches_back_or_was_opened_is_left_alone(
        self, whole: UnopenedThread
    ) -> None:
        """One that is younger than the limit was opened when it was met: the API has no older messages of it."""
        assert found(whole).gaps == ()

    @pytest.mark.parametrize("stored", [49, 51])
    def test_a_count_proves_nothing_unless_it_equals_the_number_of_stored_messages(self, stored: int) -> None:
        """More may be stored than were counted: some were unsent since, where no list shows it."""
        assert len(found(thread(stored=stored)).gaps) == 1

    def test_the_next_search_opens_what_the_last_one_left_and_what_was_left_out_since(self) -> None:
        before, later = thread("t_1", oldest=-1000), thread("t_2", oldest=-90)

        assert (
            found(before, later, of=HistoriesLeftOut(at(-900), searched_to=at(-900))).gaps[0].conversation_id == "t_1"
        )
        both = found(before, later, of=HistoriesLeftOut(at(-60), 60.0, at(-900))).gaps
        assert [gap.conversation_id for gap in both] == ["t_1", "t_2"]

    def test_a_conversation_that_was_met_before_any_was_left_out_was_opened_then(self) -> None:
        assert found(thread(), of=replace(MET, since=at(5))).gaps == ()
        assert found(thread(), of=replace(MET, searched_to=at(-30), since=at(5))).gaps == ()
        assert len(found(thread(), of=replace(MET, since=at(-5))).gaps) == 1
        assert len(found(thread(), of=replace(MET, since=None)).gaps) == 1

    def test_all_older_messages_are_owed_if_only_the_newest_were_to_be_read(self) -> None:
        assert len(found(thread(oldest=-30), of=HistoriesLeftOut(NOON, 0.0)).gaps) == 1

    @pytest.mark.parametrize("hours_behind", [0, 2, 24 * 365])
    def test_they_are_owed_even_if_a_clock_that_was_behind_dated_the_row_before_its_messages(
        self, hours_behind: int
    ) -> None:
        met = NOON - timedelta(hours=hours_behind)
        of = HistoriesLeftOut(NOON, 0.0, since=met)

        assert len(found(replace(thread(oldest=-30), first_synced_at=met), of=of).gaps) == 1

    def test_each_step_records_its_progress_and_the_last_one_the_end_of_the_search(self) -> None:
        assert found(thread(), until=at(-50)).left_out == replace(MET, search=HistorySearch(at(-3600), at(-50)))
        assert found(thread()).left_out == HistoriesLeftOut(at(-3600), searched_to=at(-3600), since=NOON)

    def test_a_search_that_is_over_is_not_repeated(self) -> None:
        after = left_out(MET, found(thread()))

        assert next_search(after, NOON, budget(), replace(POLICY, message_history_seconds=3600.0)) is None
        assert (
            next_search(after, NOON + timedelta(days=9), budget(), replace(POLICY, message_history_seconds=1.0)) is None
        )
