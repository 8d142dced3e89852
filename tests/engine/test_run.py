"""One run of one stream, over a scripted inbox, an in-memory store and a clock that leaps."""

import asyncio
from datetime import timedelta

import pytest

from kit.builders import BAD_VERSION, DEAD_TOKEN, NOON, RATE_LIMIT, STREAM, refused, work
from kit.memory_store import MemoryStore
from kit.shell import FlakyStore, Inbox, LeapingClock, heard, shared, types
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreAway, VersionConflict
from milepost.core.events import Reason, RunStatus
from milepost.core.plan import Policy, Slice
from milepost.core.ports import Commit, Committed, Outcome, Request
from milepost.engine.feed import Feed, Recorded, StoreRetried
from milepost.engine.run import run_slice
from milepost.engine.stop import Stop

POLICY = Policy(batch_size=1, attempts=3, base_delay_seconds=2, max_delay_seconds=32)


def fails_at(cursor: str, times: int, answer: Outcome) -> Inbox:
    """An inbox of five batches whose batch after `cursor` is refused so many times."""
    left = times

    async def before(request: Request) -> Outcome | None:
        nonlocal left
        if request.cursor == cursor and left:
            left -= 1
            return answer
        return None

    return Inbox(5, before=before)


async def finished(inbox: Inbox, store: MemoryStore, *, slice_: Slice | None = None) -> Checkpoint:
    return await run_slice(shared(store, LeapingClock(), policy=POLICY), STREAM, inbox, slice_ or work())


async def test_a_run_stores_the_whole_inbox_and_journals_every_batch() -> None:
    store, inbox = MemoryStore(), Inbox(4)
    checkpoint = await finished(inbox, store)
    assert set(store.conversations) == {"t_0", "t_1", "t_2", "t_3"}
    assert set(store.contacts) == {("messenger", STREAM.page_id, f"c_t_{n}") for n in range(4)}
    assert types(store, STREAM) == ["run_started", "sweep_started", *["batch_stored"] * 4, "sweep_completed"]
    assert checkpoint.run is not None
    assert checkpoint.run.status is RunStatus.COMPLETE
    assert checkpoint == await store.recall(STREAM.key)


async def test_each_batch_is_asked_for_once_and_the_catch_up_starts_at_the_head() -> None:
    inbox = Inbox(4)
    await finished(inbox, MemoryStore())
    assert inbox.cursors == [None, "1", "2", "3", None]


async def test_a_refused_batch_is_tried_again_after_a_jittered_wait() -> None:
    store, clock = MemoryStore(), LeapingClock(luck=0.5)
    inbox = fails_at("2", 2, refused())
    checkpoint = await run_slice(shared(store, clock, policy=POLICY), STREAM, inbox, work())
    assert clock.slept == pytest.approx([1.0, 2.0])  # half of 2 s, then half of 4 s
    assert checkpoint.run is not None
    assert (checkpoint.run.status, checkpoint.run.retries) == (RunStatus.COMPLETE, 2)
    assert len(store.conversations) == 5


async def test_when_retries_are_used_up_the_run_fails_and_the_next_goes_on_at_the_same_batch() -> None:
    store = MemoryStore()
    failed = await finished(fails_at("2", 3, refused()), store)
    assert failed.run is not None
    assert (failed.run.status, failed.run.reason) == (RunStatus.FAILED, Reason.RETRIES_EXHAUSTED)
    assert failed.run.failed_batches == 1
    again = Inbox(5)
    await finished(again, store, slice_=work("r_2"))
    assert again.cursors[0] == "2"
    assert len(store.conversations) == 5


async def test_attempts_are_counted_across_runs_that_end_while_waiting_to_try_again() -> None:
    store, clock = MemoryStore(), LeapingClock(luck=0.99)
    patient = Policy(batch_size=1, attempts=3, base_delay_seconds=1000, max_delay_seconds=1000)
    endings = []
    for number in range(3):
        inbox = fails_at("2", 3, refused())
        run = work(f"r_{number}", started_at=clock.now(), deadline_at=clock.now() + timedelta(seconds=270))
        checkpoint = await run_slice(shared(store, clock, policy=patient), STREAM, inbox, run)
        assert checkpoint.run is not None
        endings.append(checkpoint.run.reason)
        clock.time += timedelta(seconds=1000)
    assert endings == [Reason.TIME_LIMIT, Reason.TIME_LIMIT, Reason.RETRIES_EXHAUSTED]


@pytest.mark.parametrize(
    ("problem", "status", "reason"),
    [
        (RATE_LIMIT, RunStatus.PAUSED, Reason.RATE_LIMIT),
        (DEAD_TOKEN, RunStatus.STOPPED, Reason.AUTHORIZATION),
        (BAD_VERSION, RunStatus.STOPPED, Reason.CONFIGURATION),
    ],
)
async def test_what_no_retry_mends_ends_the_run_at_once_with_its_place_saved(
    problem: object, status: RunStatus, reason: Reason
) -> None:
    store, inbox = MemoryStore(), fails_at("2", 1, refused(problem))  # type: ignore[arg-type]  # a Problem
    checkpoint = await finished(inbox, store)
    assert checkpoint.run is not None
    assert (checkpoint.run.status, checkpoint.run.reason, checkpoint.run.retries) == (status, reason, 0)
    assert inbox.cursors.count("2") == 1
    assert checkpoint.sweep is not None
    assert checkpoint.sweep.position.cursor == "2"


async def test_the_batch_limit_ends_the_run_and_the_next_goes_on_from_there() -> None:
    store, inbox = MemoryStore(), Inbox(5)
    checkpoint = await finished(inbox, store, slice_=work(max_batches=2))
    assert checkpoint.run is not None
    assert checkpoint.run.reason is Reason.BATCH_LIMIT
    assert inbox.cursors == [None, "1"], "nothing is fetched ahead beyond the limit"
    again = Inbox(5)
    await finished(again, store, slice_=work("r_2"))
    assert again.cursors == ["2", "3", "4", None]


async def test_the_time_limit_ends_the_run_with_its_place_saved() -> None:
    store, clock = MemoryStore(), LeapingClock()

    async def slow(_: Request) -> None:
        clock.time += timedelta(seconds=100)

    inbox = Inbox(50, before=slow)
    checkpoint = await run_slice(shared(store, clock, policy=POLICY), STREAM, inbox, work())
    assert checkpoint.run is not None
    assert checkpoint.run.reason is Reason.TIME_LIMIT
    assert checkpoint.sweep is not None
    assert checkpoint.sweep.position.cursor == str(len(store.conversations))


async def test_a_stop_cuts_a_fetch_short_and_keeps_what_was_committed() -> None:
    store, stop = MemoryStore(), Stop()
    hangs = asyncio.Event()

    async def hang_at_the_third(request: Request) -> None:
        if request.cursor == "2":
            hangs.set()
            await asyncio.Event().wait()

    inbox = Inbox(5, before=hang_at_the_third)
    parts = shared(store, LeapingClock(), stop=stop, policy=POLICY)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        run = tasks.create_task(run_slice(parts, STREAM, inbox, work()))
        await hangs.wait()
        stop.request()
    checkpoint = run.result()
    assert checkpoint.run is not None
    assert (checkpoint.run.status, checkpoint.run.reason) == (RunStatus.PAUSED, Reason.SHUTDOWN)
    assert set(store.conversations) == {"t_0", "t_1"}
    assert checkpoint.sweep is not None
    assert checkpoint.sweep.position.cursor == "2"


async def test_a_stop_lets_the_commit_in_hand_finish() -> None:
    stop = Stop()

    class StopsInCommit(MemoryStore):
        async def commit(self, commit: Commit) -> Committed:
            stop.request()
            await asyncio.sleep(0)
            return await super().commit(commit)

    store = StopsInCommit()
    checkpoint = await run_slice(shared(store, LeapingClock(), stop=stop, policy=POLICY), STREAM, Inbox(5), work())
    assert set(store.conversations) == {"t_0"}
    assert checkpoint.run is not None
    assert checkpoint.run.reason is Reason.SHUTDOWN


async def test_a_stop_before_anything_was_read_leaves_no_entry() -> None:
    store, stop = MemoryStore(), Stop()
    stop.request()
    await run_slice(shared(store, LeapingClock(), stop=stop, policy=POLICY), STREAM, Inbox(5), work())
    assert store.journal == []


async def test_a_run_that_a_dead_process_left_open_is_journaled_as_interrupted() -> None:
    store = MemoryStore()

    class Died(Exception):
        pass

    async def die_at_the_third(request: Request) -> None:
        if request.cursor == "2":
            raise Died

    with pytest.raises(Died):
        await finished(Inbox(5, before=die_at_the_third), store)
    after = await finished(Inbox(5), store, slice_=work("r_2"))
    ended = [row for row in store.entries(STREAM.key) if row.type == "run_ended"]
    assert [(row.run_id, row.event.status) for row in ended] == [  # type: ignore[union-attr]  # a RunEnded, by its type
        (work().run_id, RunStatus.INTERRUPTED)
    ]
    assert after.run is not None
    assert after.run.status is RunStatus.COMPLETE
    assert len(store.conversations) == 5


async def test_while_the_store_is_away_readers_hear_of_it_and_the_next_commit_says_how_long() -> None:
    store, clock, feed = FlakyStore(absences=2), LeapingClock(), Feed()
    signals = heard(feed)
    await run_slice(shared(store, clock, policy=POLICY, feed=feed), STREAM, Inbox(3), work())
    away = [signal for signal in signals if isinstance(signal, StoreRetried)]
    assert [signal.attempts for signal in away] == [1, 2]
    first = next(signal for signal in signals if isinstance(signal, Recorded))
    assert [entry.type for entry in first.entries][:2] == ["store_returned", "run_started"]
    assert store.entries(STREAM.key)[0].event.away_seconds == sum(clock.slept)  # type: ignore[union-attr]  # StoreReturned
    assert len(store.conversations) == 3


async def test_a_store_that_stays_away_is_given_up_at_the_end_of_the_slice() -> None:
    store = FlakyStore(absences=10_000)
    with pytest.raises(StoreAway):
        await finished(Inbox(3), store)
    assert store.journal == []


async def test_a_second_writer_ends_the_run_and_stores_nothing_of_it() -> None:
    store = MemoryStore()

    async def another_writes(request: Request) -> None:
        if request.cursor == "2":
            await finished(Inbox(2, prefix="x"), store, slice_=work("r_other"))

    with pytest.raises(VersionConflict):
        await finished(Inbox(5, before=another_writes), store)
    assert "t_2" not in store.conversations


async def test_readers_hear_every_entry_after_its_commit_in_order() -> None:
    store, feed = MemoryStore(), Feed()
    signals = heard(feed)
    await run_slice(shared(store, LeapingClock(NOON), policy=POLICY, feed=feed), STREAM, Inbox(3), work())
    versions = [entry.version for signal in signals if isinstance(signal, Recorded) for entry in signal.entries]
    assert versions == list(range(1, len(store.journal) + 1))
