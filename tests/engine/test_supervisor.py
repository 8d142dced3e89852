"""Many streams at once: apart from each other, in fair turns, a bounded number at work."""

import asyncio

from kit.builders import NOON, refused
from kit.memory_store import MemoryStore
from kit.shell import FlakyStore, Inbox, LeapingClock, shared
from milepost.core.events import Reason, RunEnded, RunStatus
from milepost.core.model import Platform, Stream
from milepost.core.plan import Policy
from milepost.core.ports import Outcome, Request
from milepost.engine.stop import Stop
from milepost.engine.supervisor import Pace, Supervisor

POLICY = Policy(batch_size=1)


def streams(count: int) -> list[Stream]:
    return [Stream(Platform.MESSENGER, str(number)) for number in range(count)]


async def test_a_sync_gives_every_stream_one_turn_and_says_how_each_ended() -> None:
    store, keys = MemoryStore(), streams(5)
    sources = {stream: Inbox(3, prefix=stream.page_id) for stream in keys}
    results = await Supervisor(shared(store, LeapingClock()), sources, Pace()).sync(keys)
    assert [result.stream for result in results] == [stream.key for stream in keys]
    assert [result.run.status for result in results if result.run] == [RunStatus.COMPLETE] * 5
    assert len(store.conversations) == 15


async def test_no_more_streams_are_at_work_than_the_concurrency_allows() -> None:
    at_work, most = 0, 0

    async def count(_: Request) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1

    keys = streams(10)
    sources = {stream: Inbox(1, prefix=stream.page_id, before=count) for stream in keys}
    results = await Supervisor(shared(MemoryStore(), LeapingClock()), sources, Pace(concurrency=3)).sync(keys)
    assert len(results) == 10
    assert most == 3


async def test_a_stream_that_breaks_leaves_the_others_untouched() -> None:
    async def break_down(_: Request) -> None:
        msg = "a bug in a source"
        raise RuntimeError(msg)

    async def refuse(_: Request) -> Outcome:
        return refused()

    broken, refusing, healthy = keys = streams(3)
    store = MemoryStore()
    sources = {
        broken: Inbox(3, before=break_down),
        refusing: Inbox(3, before=refuse),
        healthy: Inbox(3, prefix="h"),
    }
    results = await Supervisor(shared(store, LeapingClock()), sources, Pace()).sync(keys)
    assert results[0].error == "a bug in a source"
    assert results[1].run is not None
    assert results[1].run.status is RunStatus.FAILED
    assert results[2].run is not None
    assert results[2].run.status is RunStatus.COMPLETE
    assert set(store.conversations) == {"h_0", "h_1", "h_2"}


async def test_a_run_that_the_store_breaks_off_is_summed_up_by_what_it_had_recorded() -> None:
    store = FlakyStore()
    is_disk_full = True

    async def away_at_the_third(request: Request) -> None:
        if request.cursor == "2" and is_disk_full:
            store.absences = 1_000_000

    (stream,) = streams(1)
    sources = {stream: Inbox(5, before=away_at_the_third)}
    supervisor = Supervisor(shared(store, LeapingClock(), policy=POLICY), sources, Pace())
    (result,) = await supervisor.sync([stream])
    assert result.error == "the disk is full (make room)"
    assert result.run is not None
    assert result.run.tally.inserted == len(store.conversations) > 0

    is_disk_full, store.absences = False, 0
    (again,) = await supervisor.sync([stream])
    assert again.run is not None
    assert again.run.status is RunStatus.COMPLETE
    endings = [entry.event.reason for entry in store.entries(stream.key) if isinstance(entry.event, RunEnded)]
    assert endings == [Reason.BROKE_OFF], "the process did not die"


async def test_the_daemon_comes_back_to_a_stream_after_its_interval() -> None:
    clock, stop = LeapingClock(luck=0.5), Stop()
    began = []

    async def note(request: Request) -> None:
        if request.cursor is None:
            began.append(clock.now() - NOON)
        if len(began) == 3:
            stop.request()

    (stream,) = streams(1)
    inbox = Inbox(1, before=note, clock=clock)
    parts = shared(MemoryStore(), clock, stop=stop, policy=POLICY)
    async with asyncio.timeout(10):
        await Supervisor(parts, {stream: inbox}, Pace(interval_seconds=300)).run()
    assert [round(since.total_seconds(), 3) for since in began] == [0, 300, 600]


async def test_a_stream_at_its_batch_limit_goes_on_at_once_behind_those_that_wait() -> None:
    clock, stop = LeapingClock(), Stop()
    turns: list[str] = []
    long, short = streams(2)

    def noting(name: str, last: str = "never") -> Inbox:
        async def note(request: Request) -> None:
            turns.append(f"{name}{request.cursor or 0}")
            if request.cursor == last:
                stop.request()

        return Inbox(4, prefix=name, before=note, clock=clock)

    parts = shared(MemoryStore(), clock, stop=stop, policy=POLICY)
    pace = Pace(concurrency=1, max_batches_per_run=1)
    async with asyncio.timeout(10):
        await Supervisor(parts, {long: noting("a"), short: noting("b", last="2")}, pace).run()
    assert turns == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert clock.slept[:4] == [0.0] * 4, "nobody waited"


async def test_a_stop_ends_the_daemon_while_its_streams_sleep() -> None:
    stop = Stop()

    class Sleeper(LeapingClock):
        async def sleep_until(self, instant: object) -> None:
            stop.request()
            await asyncio.Event().wait()

    (stream,) = streams(1)
    async with asyncio.timeout(10):
        await Supervisor(shared(MemoryStore(), Sleeper(), stop=stop), {stream: Inbox(1)}, Pace()).run()
    assert stop.is_requested
