"""One run of one stream, over a scripted inbox, an in-memory store and a clock that leaps."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from msgspec.structs import replace

from kit.builders import BAD_VERSION, DEAD_TOKEN, RATE_LIMIT, STREAM, at, budget, problem, refused
from kit.engine_doubles import (
    Before,
    FlakyStore,
    Inbox,
    cursor_of,
    engine,
    find_open_dead_letters,
    ran,
    run_of,
    subscribed,
    types,
)
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import RecordTokenHealth
from milepost.core.errors import RowsRejected, StoreAway, VersionConflict
from milepost.core.events import Reason, RunStatus, Stage, StoreReturned
from milepost.core.failures import LASTING_LIMITS
from milepost.core.model import Detail, Keys, Known, RefusedRow, Table, TokenHealth
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import Commit, Committed, Outcome, Rejected, Request
from milepost.core.problems import Problem, ProblemKind
from milepost.engine.context import Mailbox
from milepost.engine.feed import Feed, Recorded, StoreRetried
from milepost.engine.interrupt import Stop

TOO_HEAVY = Problem(ProblemKind.API, "Please reduce the amount of data you're asking for", http_status=500, code=1)
POLICY = Policy(batch_size=1, attempts=3, base_delay_seconds=2, max_delay_seconds=32)


def fails_at(cursor: str, times: int, answer: Outcome) -> Inbox:
    """An inbox of five batches whose batch after `cursor` is refused so many times."""
    left = times

    async def before(asked: Request | str) -> Outcome | None:
        nonlocal left
        if cursor_of(asked) == cursor and left:
            left -= 1
            return answer
        return None

    return Inbox(5, before=before)


async def finished(inbox: Inbox, store: MemoryStore, *, within: RunBudget | None = None) -> Checkpoint:
    return await ran(engine(store, policy=POLICY), inbox, within or budget())


async def test_a_run_stores_the_whole_inbox_and_journals_every_batch() -> None:
    store, inbox = MemoryStore(), Inbox(4)
    checkpoint = await finished(inbox, store)
    assert set(store.conversations) == {"t_0", "t_1", "t_2", "t_3"}
    assert set(store.contacts) == {("messenger", STREAM.page_id, f"c_t_{n}") for n in range(4)}
    assert types(store, STREAM) == ["run_started", "sweep_started", *["batch_stored"] * 4, "sweep_completed"]
    assert run_of(checkpoint).status is RunStatus.COMPLETE
    assert checkpoint == await store.load(STREAM)


async def test_each_batch_is_requested_once_and_the_catch_up_starts_at_the_head() -> None:
    inbox = Inbox(4)
    await finished(inbox, MemoryStore())
    assert inbox.cursors == [None, "1", "2", "3"] * 2


async def test_a_refused_batch_is_retried_after_a_jittered_wait() -> None:
    store, clock = MemoryStore(), VirtualClock(jitter=0.5)
    inbox = fails_at("2", 2, refused())
    checkpoint = await ran(engine(store, clock=clock, policy=POLICY), inbox)
    assert clock.slept == pytest.approx([1.0, 2.0])  # half of 2 s, then half of 4 s
    assert (run_of(checkpoint).status, run_of(checkpoint).retries) == (RunStatus.COMPLETE, 2)
    assert len(store.conversations) == 5


async def test_a_run_fails_when_its_retries_are_used_up_and_the_next_continues_at_the_same_batch() -> None:
    store = MemoryStore()
    failed = await finished(fails_at("2", 4, refused()), store)  # three attempts, and the look at the list
    assert (run_of(failed).status, run_of(failed).reason) == (RunStatus.FAILED, Reason.RETRIES_EXHAUSTED)
    assert run_of(failed).failed_batches == 1
    again = Inbox(5)
    await finished(again, store, within=budget("r_2"))
    assert again.cursors[:2] == [None, "2"], "the head, and then the batch that failed"
    assert len(store.conversations) == 5


async def test_attempts_are_counted_across_runs_that_end_while_waiting_to_try_again() -> None:
    store, clock = MemoryStore(), VirtualClock(jitter=0.99)
    patient = Policy(batch_size=1, attempts=2, base_delay_seconds=1000, max_delay_seconds=1000)
    endings = []
    for number in range(2):
        inbox = fails_at("2", 3, refused())
        run = budget(f"r_{number}", started_at=clock.now(), deadline_at=clock.now() + timedelta(seconds=270))
        checkpoint = await ran(engine(store, clock=clock, policy=patient), inbox, run)
        endings.append(run_of(checkpoint).reason)
        await asyncio.sleep(1000)
    assert endings == [Reason.TIME_LIMIT, Reason.RETRIES_EXHAUSTED]


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        (replace(RATE_LIMIT, wait_seconds=3600.0), RunStatus.PAUSED, Reason.RATE_LIMIT),
        (DEAD_TOKEN, RunStatus.STOPPED, Reason.AUTHORIZATION),
        (BAD_VERSION, RunStatus.STOPPED, Reason.CONFIGURATION),
    ],
)
async def test_a_problem_that_no_retry_solves_ends_the_run_with_its_position_saved(
    what: Problem, status: RunStatus, reason: Reason
) -> None:
    store, inbox = MemoryStore(), fails_at("2", 100, refused(what))
    checkpoint = await finished(inbox, store)
    assert (run_of(checkpoint).status, run_of(checkpoint).reason, run_of(checkpoint).retries) == (status, reason, 0)
    looks = 0 if reason is Reason.RATE_LIMIT else 1  # whether the list can be read at all
    assert inbox.cursors.count("2") == 1 + looks
    assert checkpoint.sweep is not None
    assert checkpoint.sweep.position.cursor == "2"


async def test_the_batch_limit_ends_the_run_and_the_next_goes_on_from_there() -> None:
    store, inbox = MemoryStore(), Inbox(5)
    checkpoint = await finished(inbox, store, within=budget(max_batches=2))
    assert run_of(checkpoint).reason is Reason.BATCH_LIMIT
    assert inbox.cursors == [None, "1"], "nothing is fetched ahead beyond the limit"
    again = Inbox(5)
    await finished(again, store, within=budget("r_2"))
    assert again.cursors == [None, "2", "3", "4", None, "1", "2", "3", "4"], "what is new comes first"


async def test_the_time_limit_ends_the_run_with_its_position_saved() -> None:
    store, inbox = MemoryStore(), Inbox(50, call_seconds=100)
    checkpoint = await finished(inbox, store)
    assert run_of(checkpoint).reason is Reason.TIME_LIMIT
    assert checkpoint.sweep is not None
    assert checkpoint.sweep.position.cursor == str(len(store.conversations))


async def test_a_stop_interrupts_a_fetch_and_keeps_what_was_committed() -> None:
    store, stop = MemoryStore(), Stop()
    hangs = asyncio.Event()

    async def hang_at_the_third(asked: Request | str) -> None:
        if cursor_of(asked) == "2":
            hangs.set()
            await asyncio.Event().wait()

    inbox = Inbox(5, before=hang_at_the_third)
    parts = engine(store, stop=stop, policy=POLICY)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        run = tasks.create_task(ran(parts, inbox))
        await hangs.wait()
        stop.request()
    checkpoint = run.result()
    assert (run_of(checkpoint).status, run_of(checkpoint).reason) == (RunStatus.PAUSED, Reason.SHUTDOWN)
    assert set(store.conversations) == {"t_0", "t_1"}
    assert checkpoint.sweep is not None
    assert checkpoint.sweep.position.cursor == "2"


async def test_a_stop_lets_the_current_commit_finish() -> None:
    stop = Stop()

    class StopsInCommit(MemoryStore):
        async def commit(self, commit: Commit) -> Committed | Rejected:
            stop.request()
            await asyncio.sleep(0)
            return await super().commit(commit)

    store = StopsInCommit()
    checkpoint = await ran(engine(store, stop=stop, policy=POLICY), Inbox(5))
    assert set(store.conversations) == {"t_0"}
    assert run_of(checkpoint).reason is Reason.SHUTDOWN


async def test_a_stop_before_anything_was_read_leaves_no_entry() -> None:
    store, stop = MemoryStore(), Stop()
    stop.request()
    await ran(engine(store, stop=stop, policy=POLICY), Inbox(5))
    assert store.journal == []


async def test_a_run_that_a_dead_process_left_open_is_journaled_as_interrupted() -> None:
    store = MemoryStore()

    class Died(Exception):
        pass

    async def die_at_the_third(asked: Request | str) -> None:
        if cursor_of(asked) == "2":
            raise Died

    with pytest.raises(Died):
        await finished(Inbox(5, before=die_at_the_third), store)
    after = await finished(Inbox(5), store, within=budget("r_2"))
    ended = [row for row in store.entries(STREAM) if row.type == "run_ended"]
    assert [(row.run_id, row.event.status) for row in ended] == [  # type: ignore[union-attr]  # a RunEnded, by its type
        (budget().run_id, RunStatus.INTERRUPTED)
    ]
    assert run_of(after).status is RunStatus.COMPLETE
    assert len(store.conversations) == 5


async def test_readers_are_notified_of_an_outage_and_the_next_commit_records_its_length() -> None:
    store, clock, feed = FlakyStore(absences=2), VirtualClock(), Feed()
    notices = subscribed(feed)
    await ran(engine(store, clock=clock, policy=POLICY, feed=feed), Inbox(3))
    away = [notice for notice in notices if isinstance(notice, StoreRetried)]
    assert [notice.attempts for notice in away] == [1, 2]
    first = next(notice for notice in notices if isinstance(notice, Recorded))
    assert [entry.type for entry in first.entries][:2] == ["store_returned", "run_started"]
    assert types(store, STREAM).count("store_returned") == 1
    assert store.entries(STREAM)[0].event.away_seconds == sum(clock.slept)  # type: ignore[union-attr]  # StoreReturned
    assert len(store.conversations) == 3


async def test_a_second_outage_is_counted_anew() -> None:
    class AwayTwice(FlakyStore):
        async def commit(self, commit: Commit) -> Committed | Rejected:
            answer = await super().commit(commit)
            if commit.entries[-1].version == 4:
                self.absences = 1
            return answer

    store, clock = AwayTwice(absences=3), VirtualClock()
    await ran(engine(store, clock=clock, policy=POLICY), Inbox(3))
    returned = [entry.event for entry in store.entries(STREAM) if entry.type == "store_returned"]
    assert returned == [StoreReturned(sum(clock.slept[:3]), 3), StoreReturned(clock.slept[3], 1)]


async def test_a_run_gives_up_an_unavailable_store_at_its_deadline() -> None:
    store = FlakyStore(absences=10_000)
    with pytest.raises(StoreAway):
        await finished(Inbox(3), store)
    assert store.journal == []


async def test_a_second_writer_ends_the_run_and_stores_nothing_of_it() -> None:
    store = MemoryStore()

    async def another_writes(asked: Request | str) -> None:
        if cursor_of(asked) == "2":
            await finished(Inbox(2, prefix="x"), store, within=budget("r_other"))

    with pytest.raises(VersionConflict):
        await finished(Inbox(5, before=another_writes), store)
    assert "t_2" not in store.conversations


async def test_readers_get_every_entry_after_its_commit_in_order() -> None:
    store, feed = MemoryStore(), Feed()
    notices = subscribed(feed)
    await ran(engine(store, policy=POLICY, feed=feed), Inbox(3))
    versions = [entry.version for notice in notices if isinstance(notice, Recorded) for entry in notice.entries]
    assert versions == list(range(1, len(store.journal) + 1))


async def test_readers_learn_how_long_each_fetch_took() -> None:
    feed = Feed()
    notices = subscribed(feed)
    await ran(engine(MemoryStore(), policy=POLICY, feed=feed), Inbox(3))
    assert [notice.fetch_seconds for notice in notices if isinstance(notice, Recorded)] == [0.1] * 4


# --- remedies ---------------------------------------------------------------------------------------------------------


async def test_a_dead_cursor_begins_the_walk_anew_and_stores_nothing_twice() -> None:
    store, inbox = MemoryStore(), fails_at("2", 2, refused(problem(2642)))
    checkpoint = await finished(inbox, store)
    assert inbox.cursors == [None, "1", "2", "2"] + [None, "1", "2", "3", "4"] * 2
    assert types(store, STREAM).count("cursor_lost") == 1
    assert (run_of(checkpoint).status, run_of(checkpoint).tally.inserted) == (RunStatus.COMPLETE, 5)


async def test_a_batch_that_is_too_heavy_is_halved_and_grows_back() -> None:
    async def too_heavy(asked: Request | str) -> Outcome | None:
        is_heavy = isinstance(asked, Request) and asked.cursor == "1" and asked.limit > 12
        return refused(TOO_HEAVY) if is_heavy else None

    store, inbox = MemoryStore(), Inbox(20, before=too_heavy)
    checkpoint = await ran(engine(store, policy=Policy(batch_size=50)), inbox)
    limits = [asked.limit for asked in inbox.asked if isinstance(asked, Request)]
    assert limits[:5] == [50, 50, 25, 12, 12]
    assert limits[21] == 50, "that of the last batch of the walk"
    assert len(store.conversations) == 20
    assert (run_of(checkpoint).status, run_of(checkpoint).retries) == (RunStatus.COMPLETE, 0)


def poisonous(what: Problem) -> Before:
    """Refuse the third thread in every list that shows more than its position, and when it is read alone."""

    async def before(asked: Request | str) -> Outcome | None:
        if asked == "t_2":
            return refused(what)
        is_read = isinstance(asked, Request) and asked.cursor == "2" and asked.detail is not Detail.POSITION
        return refused(what) if is_read else None

    return before


async def test_a_thread_that_fails_alone_is_stepped_over_and_becomes_a_dead_letter() -> None:
    store, inbox = MemoryStore(), Inbox(5, before=poisonous(problem(1, http_status=500)))
    checkpoint = await ran(engine(store, policy=Policy(batch_size=4)), inbox)
    (dead_letter,) = find_open_dead_letters(store)
    assert (dead_letter.subject, dead_letter.stage) == ("t_2", Stage.FETCH)
    assert "code 1" in dead_letter.reason
    assert set(store.conversations) == {"t_0", "t_1", "t_3", "t_4"}
    assert run_of(checkpoint).status is RunStatus.COMPLETE_WITH_ERRORS


async def test_a_thread_that_only_lists_fail_for_is_read_alone() -> None:
    async def before(asked: Request | str) -> Outcome | None:
        return None if isinstance(asked, str) else await in_lists(asked)

    in_lists = poisonous(problem(1, http_status=500))
    store, inbox = MemoryStore(), Inbox(5, before=before)
    checkpoint = await ran(engine(store, policy=Policy(batch_size=4)), inbox)
    assert find_open_dead_letters(store) == []
    assert set(store.conversations) == {"t_0", "t_1", "t_2", "t_3", "t_4"}
    assert set(inbox.reread_ids) == {"t_2"}
    assert run_of(checkpoint).status is RunStatus.COMPLETE


async def test_a_rate_limit_before_a_thread_is_read_alone_is_waited_out() -> None:
    """It says nothing about the thread."""
    limits = iter([RATE_LIMIT])

    async def before(asked: Request | str) -> Outcome | None:
        limit = next(limits, None) if asked == "t_2" else None
        return refused(limit) if limit is not None else await poison(asked)

    poison = poisonous(problem(1, http_status=500))
    store, inbox = MemoryStore(), Inbox(5, before=before)
    checkpoint = await ran(engine(store, policy=Policy(batch_size=4)), inbox)
    assert [dead_letter.subject for dead_letter in find_open_dead_letters(store)] == ["t_2"]
    assert "rate_limited" in types(store, STREAM)
    assert inbox.reread_ids == ["t_2", "t_2"]
    assert run_of(checkpoint).status is RunStatus.COMPLETE_WITH_ERRORS


@pytest.mark.parametrize("code", [4, 32, 613, 80006])
async def test_a_thread_that_is_refused_as_by_a_rate_limit_is_stepped_over(code: int) -> None:
    store, inbox = MemoryStore(), Inbox(5, before=poisonous(problem(code, http_status=400)))
    limits = budget(deadline_at=at(3600))
    checkpoint = await ran(engine(store, policy=Policy(batch_size=4)), inbox, limits)
    assert [dead_letter.subject for dead_letter in find_open_dead_letters(store)] == ["t_2"]
    assert set(store.conversations) == {"t_0", "t_1", "t_3", "t_4"}
    assert types(store, STREAM).count("rate_limited") == LASTING_LIMITS, "none in the scan, which knows it"
    assert run_of(checkpoint).status is RunStatus.COMPLETE_WITH_ERRORS


async def test_while_such_a_thread_is_known_no_list_is_requested_twice() -> None:
    class Slow(MemoryStore):
        async def known(self, keys: Keys) -> Known:
            await asyncio.sleep(1.5)  # so that a list is requested ahead
            return await super().known(keys)

    limit, clock = poisonous(problem(613)), VirtualClock()
    parts = engine(Slow(), policy=Policy(batch_size=1), clock=clock)
    await ran(parts, Inbox(30, before=limit), budget(deadline_at=at(3600)))
    inbox = Inbox(30, before=limit, call_seconds=1)
    checkpoint = await ran(parts, inbox, budget("r_2", deadline_at=at(7200), wants_full=True))
    assert run_of(checkpoint).status is RunStatus.COMPLETE
    lists = [asked for asked in inbox.asked if isinstance(asked, Request) and asked.detail is not Detail.POSITION]
    beyond_scan = Counter(asked.cursor for asked in lists if int(asked.cursor or 0) > 10)
    assert set(beyond_scan.values()) == {1}
    assert positions(inbox) < len(lists)


async def test_a_rate_limit_that_says_when_it_ends_is_believed() -> None:
    store, inbox = MemoryStore(), Inbox(5, before=poisonous(problem(613, wait_seconds=60.0)))
    limits = budget(deadline_at=at(3600))
    checkpoint = await ran(engine(store, policy=Policy(batch_size=4)), inbox, limits)
    assert run_of(checkpoint).reason is Reason.RATE_LIMIT
    assert positions(inbox) == 0


def positions(inbox: Inbox) -> int:
    """Return how often somebody looked whether the list can be read."""
    return sum(isinstance(asked, Request) and asked.detail is Detail.POSITION for asked in inbox.asked)


async def test_a_missing_permission_is_of_the_thread_if_the_list_can_be_read() -> None:
    store, inbox = MemoryStore(), Inbox(5, before=poisonous(problem(10, http_status=403)))
    checkpoint = await ran(engine(store, policy=Policy(batch_size=4)), inbox)
    assert [dead_letter.subject for dead_letter in find_open_dead_letters(store)] == ["t_2"]
    assert run_of(checkpoint).status is RunStatus.COMPLETE_WITH_ERRORS


async def test_a_missing_permission_is_of_the_stream_if_the_list_cannot_be_read_either() -> None:
    store, inbox = MemoryStore(), fails_at("2", 100, refused(problem(10, http_status=403)))
    checkpoint = await finished(inbox, store)
    assert (run_of(checkpoint).status, run_of(checkpoint).reason) == (RunStatus.STOPPED, Reason.AUTHORIZATION)
    assert positions(inbox) == 1
    assert find_open_dead_letters(store) == []


async def test_nobody_looks_at_the_list_before_the_last_attempt() -> None:
    inbox = fails_at("2", 2, refused())
    await finished(inbox, MemoryStore())
    assert positions(inbox) == 0


@pytest.mark.parametrize("what", ["a stop", "a removal", "a command"])
async def test_whatever_comes_up_comes_before_the_look_at_the_list(what: str) -> None:
    stop, mailbox = Stop(), Mailbox()

    async def before(asked: Request | str) -> Outcome | None:
        if cursor_of(asked) != "2":
            return None
        match what:
            case "a stop":
                stop.request()
            case "a removal":
                mailbox.dismiss()
            case _ if mailbox.interrupt.is_set or len(inbox.asked) > 4:
                return None
            case _:
                mailbox.ask(RecordTokenHealth(TokenHealth(is_valid=True)))
        return refused(problem(10))

    store, inbox = MemoryStore(), Inbox(5, before=before)
    parts = engine(store, stop=stop, policy=POLICY)
    checkpoint = await ran(parts, inbox, mailbox=mailbox)
    assert positions(inbox) == 0
    assert run_of(checkpoint).status is (RunStatus.COMPLETE if what == "a command" else RunStatus.PAUSED)
    assert "fetch_failed" not in types(store, STREAM), "the refusal is dropped, and the request made again"


async def test_a_row_that_the_store_refuses_becomes_a_dead_letter_and_the_others_are_stored() -> None:
    store = MemoryStore()
    store.refuses = {(Table.CONVERSATIONS, "t_2"), (Table.CONTACTS, "c_t_3")}
    checkpoint = await finished(Inbox(5), store)
    assert {dead_letter.subject for dead_letter in find_open_dead_letters(store)} == {"t_2/row", "contact c_t_3"}
    assert set(store.conversations) == {"t_0", "t_1", "t_3", "t_4"}
    assert len(store.contacts) == 4
    assert run_of(checkpoint).status is RunStatus.COMPLETE_WITH_ERRORS


async def test_rows_that_the_store_refuses_one_after_the_other_are_all_found() -> None:
    class OneByOne(MemoryStore):
        async def commit(self, commit: Commit) -> Committed | Rejected:
            answer = await super().commit(commit)
            return Rejected(answer.rows[:1]) if isinstance(answer, Rejected) else answer

    store = OneByOne()
    store.refuses = {(Table.CONVERSATIONS, "t_1"), (Table.CONTACTS, "c_t_1")}
    await finished(Inbox(3), store)
    assert {dead_letter.subject for dead_letter in find_open_dead_letters(store)} == {"t_1/row", "contact c_t_1"}
    assert set(store.conversations) == {"t_0", "t_2"}


async def test_a_store_that_refuses_what_it_was_not_given_ends_the_run() -> None:
    class Confused(MemoryStore):
        async def commit(self, commit: Commit) -> Committed | Rejected:
            return Rejected((RefusedRow(Table.CONVERSATIONS, "t_9", "no reason"),))

    with pytest.raises(RowsRejected):
        await finished(Inbox(3), Confused())


async def test_a_run_leaves_no_task_behind() -> None:
    async def hang(asked: Request | str) -> None:
        if cursor_of(asked) == "2":
            await asyncio.Event().wait()

    await finished(Inbox(5, before=hang, call_seconds=100), MemoryStore(), within=budget(deadline_at=at(150)))
    assert asyncio.all_tasks() == {asyncio.current_task()}
