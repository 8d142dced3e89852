"""Workers that share streams through one queue and one journal: what is due is worked once, and nothing spins."""

import asyncio
import copy
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from kit.builders import APP_LIMIT, STREAM, refused
from kit.engine_doubles import Before, Inbox, engine, types
from kit.memory_leases import Jobs, MemoryJournal, MemoryLeases
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import PauseStream, ResumeStream, SyncNow
from milepost.core.errors import JournalDamaged, StoreAway, StoreRefused
from milepost.core.events import RunEnded, RunStatus
from milepost.core.model import Platform, Stream
from milepost.core.ports import Commit, Committed, Outcome, Rejected, Request
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Interrupt
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.fleet.worker import HEARTBEAT_SECONDS, JournalFollower, Worker
from milepost.stores.postgresql.reader import ALIVE_SECONDS
from milepost.stores.reader import StoredEntry

ADA = "Ada"
PACE = Schedule(interval_seconds=1000)


class Remote(MemoryStore):
    """A store with the latency of a server, which refuses all commits while `refuses_all` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses_all = False
        self.refusals = 0
        self.unreadable: set[Stream] = set()
        self.locked: Stream | None = None
        self.loads = Counter[Stream]()

    async def load(self, stream: Stream) -> Checkpoint:
        await asyncio.sleep(0.01)
        self.loads[stream] += 1
        if stream == self.locked:
            await asyncio.sleep(15)
            raise StoreAway("canceling statement due to statement timeout")
        if stream in self.unreadable:
            raise JournalDamaged("a stored checkpoint cannot be read")
        return await super().load(stream)

    async def commit(self, commit: Commit) -> Committed | Rejected:
        await asyncio.sleep(0.01)
        if self.refuses_all:
            self.refusals += 1
            raise StoreRefused("permission denied")
        return await super().commit(commit)


@dataclass
class Member:
    """A worker with its parts."""

    worker: Worker
    supervisor: Supervisor
    leases: MemoryLeases
    parts: EngineContext
    shares: dict[str, int]
    sources: dict[Stream, Inbox]
    clock: VirtualClock


@dataclass
class Crew:
    """Workers on one database."""

    store: Remote = field(default_factory=Remote)
    jobs: Jobs = field(default_factory=Jobs)
    members: list[Member] = field(default_factory=list)

    async def join(
        self,
        streams: Iterable[Stream],
        *,
        batches: int = 3,
        call_seconds: float = 1.0,
        concurrency: int = 16,
        before: Before | None = None,
        ahead: timedelta = timedelta(),
    ) -> Member:
        clock, shares = VirtualClock(), dict[str, int]()
        clock.set_by = ahead
        parts = engine(self.store, clock=clock, concurrency=concurrency)
        sources = {
            stream: Inbox(
                batches,
                prefix=stream.key,
                clock=clock,
                call_seconds=call_seconds,
                before=before,
                gate=parts.rate_limits.gate(stream),
            )
            for stream in streams
        }
        supervisor, leases = Supervisor(parts, sources, PACE), MemoryLeases(self.jobs)
        follower = JournalFollower(MemoryJournal(self.store))  # type: ignore[arg-type]  # it reads no more of a JournalReader
        await follower.begin()
        worker = Worker(parts, supervisor, leases, follower, Interrupt(), shares.__setitem__)
        member = Member(worker, supervisor, leases, parts, shares, sources, clock)
        self.members.append(member)
        return member

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for member in self.members:
                tasks.create_task(member.worker.run())
                await asyncio.sleep(0.7)  # no two are in step
            try:
                yield
            finally:
                for member in self.members:
                    member.parts.stop.request()

    def runs(self, stream: Stream) -> int:
        return types(self.store, stream).count("run_started")

    def sweeps(self, stream: Stream) -> int:
        """Count complete sweeps: one that found nothing new leaves no more than that in the journal."""
        return types(self.store, stream).count("sweep_completed")

    def interrupted(self, streams: Iterable[Stream]) -> int:
        return sum(
            isinstance(entry.event, RunEnded) and entry.event.status is RunStatus.INTERRUPTED
            for stream in streams
            for entry in self.store.entries(stream)
        )


@pytest.fixture
def crew() -> Crew:
    return Crew()


def streams(count: int) -> list[Stream]:
    return [Stream(Platform.MESSENGER, str(number)) for number in range(count)]


async def until(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (others bring it about)
            await asyncio.sleep(0.1)


async def test_all_streams_run_once_and_again_after_their_interval(crew: Crew) -> None:
    keys = streams(12)
    for _ in range(3):
        await crew.join(keys, concurrency=2)
    async with crew.at_work():
        await asyncio.sleep(600)
        assert [crew.sweeps(stream) for stream in keys] == [1] * 12
        await asyncio.sleep(800)
        assert [crew.sweeps(stream) for stream in keys] == [2] * 12
    assert crew.interrupted(keys) == 0


async def test_a_worker_takes_no_more_leases_than_it_has_slots(crew: Crew) -> None:
    keys = streams(12)
    for _ in range(2):
        await crew.join(keys, concurrency=2)
    async with crew.at_work():
        await until(lambda: all(crew.runs(stream) for stream in keys))
    assert [member.leases.most for member in crew.members] == [2, 2]


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
async def test_a_worker_that_is_given_fewer_slots_goes_on_with_those(crew: Crew, *, is_busy: bool) -> None:
    keys = streams(6)
    member = await crew.join(keys, batches=20, concurrency=6)
    async with crew.at_work():
        await (asyncio.sleep(5) if is_busy else until(lambda: all(crew.sweeps(stream) for stream in keys)))
        member.supervisor.adopt(member.parts.policy, PACE, 2)
        await asyncio.sleep(3 * PACE.interval_seconds)
        assert all(crew.sweeps(stream) >= 3 for stream in keys)


async def test_a_requested_sync_is_one_run_whichever_worker_runs_it(crew: Crew) -> None:
    busy, asked = await crew.join([STREAM]), await crew.join([STREAM], concurrency=1)
    async with crew.at_work():
        await until(lambda: crew.sweeps(STREAM) == 1)
        await asyncio.sleep(100)
        async with asked.parts.slots.hold(Stream(Platform.INSTAGRAM, "other")):
            await asked.supervisor.ask(STREAM, SyncNow(ADA, full=True))
            await until(lambda: crew.sweeps(STREAM) == 2)
            await asyncio.sleep(100)
        await asyncio.sleep(100)
    assert crew.sweeps(STREAM) == 2
    assert busy.leases.jobs.leases == {}


@pytest.mark.parametrize("ahead_seconds", [-20, 0, 20])
async def test_news_is_read_within_seconds_and_once_whichever_worker_hears_of_it(
    crew: Crew, ahead_seconds: float
) -> None:
    members = [await crew.join([STREAM]), await crew.join([STREAM], ahead=timedelta(seconds=ahead_seconds))]
    async with crew.at_work():
        await until(lambda: crew.sweeps(STREAM) == 1)
        await asyncio.sleep(100)
        members[1].supervisor.prompt(STREAM)
        await until(lambda: crew.sweeps(STREAM) == 2, seconds=10)  # of which its calls take most
        await asyncio.sleep(100)
        assert crew.sweeps(STREAM) == 2
        for member in members:
            member.supervisor.prompt(STREAM)
        await asyncio.sleep(100)
        assert crew.sweeps(STREAM) <= 2 + (2 if ahead_seconds == 0 else 8), "clocks that differ cost a few sweeps"
        before = crew.sweeps(STREAM)
        await asyncio.sleep(100)
    assert crew.sweeps(STREAM) == before


async def test_a_pause_and_a_resume_by_any_worker_hold_for_all(crew: Crew) -> None:
    """Both times the run continues until the batch under way is done."""
    await crew.join([STREAM], batches=100)
    asked = await crew.join([STREAM], batches=100, concurrency=1)
    async with asked.parts.slots.hold(Stream(Platform.INSTAGRAM, "other")), crew.at_work():
        await until(lambda: len(crew.store.conversations) == 5)
        await asked.supervisor.ask(STREAM, PauseStream(ADA))
        await asyncio.sleep(4)
        stored = len(crew.store.conversations)
        assert stored <= 9
        await asyncio.sleep(3000)
        assert len(crew.store.conversations) == stored
        await asked.supervisor.ask(STREAM, ResumeStream(ADA))
        await asyncio.sleep(10)
        assert len(crew.store.conversations) > stored


async def test_a_pause_by_another_worker_holds_even_where_nothing_is_written(crew: Crew) -> None:
    """A sweep that finds nothing new meets no conflict: the worker has to learn of it from the journal."""
    walking, asked = await crew.join([STREAM], batches=30), await crew.join([], concurrency=1)
    async with crew.at_work():
        await until(lambda: crew.sweeps(STREAM) == 1)
        await walking.supervisor.ask(STREAM, SyncNow(ADA, full=True))
        calls = len(walking.sources[STREAM].asked)
        await until(lambda: len(walking.sources[STREAM].asked) > calls + 3)
        await asked.supervisor.ask(STREAM, PauseStream(ADA))
        await asyncio.sleep(100)
    assert len(walking.sources[STREAM].asked) < calls + 12
    assert crew.sweeps(STREAM) == 1


async def test_a_rate_limit_of_the_app_met_by_one_worker_stops_the_others_from_calling(crew: Crew) -> None:
    first, second = streams(2)
    limits = 0

    async def limit_once(_: Request | str) -> Outcome | None:
        nonlocal limits
        limits += 1
        return refused(APP_LIMIT) if limits == 4 else None

    await crew.join([first], batches=20, before=limit_once)
    spared = await crew.join([second], batches=200)
    async with crew.at_work():
        await until(lambda: "rate_limited" in types(crew.store, first))
        await asyncio.sleep(4)
        calls = len(spared.sources[second].asked)
        await asyncio.sleep(20)
        assert len(spared.sources[second].asked) == calls


async def test_a_lease_whose_end_was_lost_does_not_block_the_next_run(crew: Crew) -> None:
    member = await crew.join([STREAM])
    member.leases.losses = 1
    async with crew.at_work():
        await asyncio.sleep(1500)
    assert crew.sweeps(STREAM) == 2


async def test_a_run_that_cannot_be_recorded_is_not_repeated_at_once(crew: Crew) -> None:
    member = await crew.join([STREAM])
    async with crew.at_work():
        await until(lambda: crew.sweeps(STREAM) == 1)
        await asyncio.sleep(100)
        await member.supervisor.ask(STREAM, SyncNow(ADA))
        crew.store.refuses_all = True
        await asyncio.sleep(600)
        assert 0 < crew.store.refusals <= 4
        crew.store.refuses_all = False
        await asyncio.sleep(1500)
    assert crew.sweeps(STREAM) >= 2


async def test_a_stream_whose_checkpoint_cannot_be_read_is_not_tried_over_and_over(crew: Crew) -> None:
    """A newer worker may have written it, as during an upgrade."""
    broken, sound = streams(2)
    await crew.join([broken, sound])
    crew.store.unreadable.add(broken)

    async with crew.at_work():
        await asyncio.sleep(1200)
        assert crew.store.loads[broken] <= 2 * 3  # at the start and 15 minutes later
        assert crew.sweeps(sound) == 2
        crew.store.unreadable.clear()
        await asyncio.sleep(1000)

    assert crew.sweeps(broken) == 1


async def test_a_stream_that_somebody_removes_keeps_no_other_from_its_run(crew: Crew) -> None:
    """Its checkpoint can be read only after that, or after a timeout."""
    locked, *others = streams(6)
    crew.store.locked = locked
    member = await crew.join([locked, *others], concurrency=2)

    async with crew.at_work():
        await until(lambda: all(crew.sweeps(stream) for stream in others), seconds=30)
        crew.store.locked = None
        await until(lambda: crew.sweeps(locked) == 1, seconds=60)

    assert member.leases.most == 2


async def test_a_worker_that_cannot_follow_the_journal_looks_only_every_few_seconds_for_what_is_due(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer worker may write entries that this one does not know, as during an upgrade."""

    async def unknown(*_: object, **__: object) -> list[StoredEntry]:
        raise JournalDamaged("the journal holds an entry of an unknown type", hint="run the newer version")

    await crew.join([STREAM])
    monkeypatch.setattr(MemoryJournal, "entries", unknown)

    with capture_logs() as logs:
        async with crew.at_work():
            await asyncio.sleep(1200)

    assert crew.sweeps(STREAM) == 2
    assert crew.store.loads[STREAM] <= 200
    assert {line["hint"] for line in logs if line.get("part") == "journal"} == {"run the newer version"}


async def test_the_streams_of_a_silent_worker_are_reassigned_well_within_a_minute(crew: Crew) -> None:
    keys = streams(4)
    silent = MemoryLeases(crew.jobs)
    await silent.offer(stream.key for stream in keys)
    for stream in keys:
        await silent.take([stream.key])
    await crew.join(keys)
    async with crew.at_work():
        await until(lambda: all(crew.runs(stream) for stream in keys), seconds=45)


async def test_an_outage_of_the_database_takes_no_lease_from_anybody(crew: Crew) -> None:
    """Right after it, all heartbeats are too old, and every worker is alive."""
    keys = streams(6)
    for _ in range(3):
        await crew.join(keys, batches=100, concurrency=4)
    async with crew.at_work():
        await until(lambda: all(crew.runs(stream) for stream in keys))
        crew.jobs.is_away = True
        await asyncio.sleep(ALIVE_SECONDS + 2 * HEARTBEAT_SECONDS)
        crew.jobs.is_away = False
        await asyncio.sleep(60)
    assert crew.interrupted(keys) == 0
    assert [crew.runs(stream) for stream in keys] == [1] * 6


async def test_workers_go_on_after_a_failover_that_lost_the_last_commits(crew: Crew) -> None:
    """The journal of the new primary is the truth, also for what was read of the one before."""
    keys = streams(4)
    for _ in range(2):
        await crew.join(keys)
    async with crew.at_work():
        await until(lambda: all(crew.sweeps(stream) == 1 for stream in keys))
        replica = copy.deepcopy(vars(crew.store))
        await asyncio.sleep(2.5 * PACE.interval_seconds)
        assert all(crew.sweeps(stream) > 2 for stream in keys)
        vars(crew.store).update(replica)
        calls = crew.jobs.calls
        await asyncio.sleep(2.5 * PACE.interval_seconds)
        assert all(crew.sweeps(stream) > 2 for stream in keys)
        assert crew.jobs.calls - calls < 20_000, "nothing spins"


async def test_a_follower_cut_off_as_it_reads_a_new_primary_begins_there_anew(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would go on with the checkpoints of entries that are lost, and pass over those in their place."""
    (stream,) = keys = streams(1)
    await crew.join(keys)
    async with crew.at_work():
        await until(lambda: crew.sweeps(stream) == 1)
        replica = copy.deepcopy(vars(crew.store))
        await until(lambda: crew.sweeps(stream) == 2, seconds=2 * PACE.interval_seconds)
    journal = MemoryJournal(crew.store)
    follower = JournalFollower(journal)  # type: ignore[arg-type]  # as above
    await follower.begin()
    vars(crew.store).update(replica)

    async def is_away() -> list[Checkpoint]:
        raise StoreAway("the connection broke")

    with monkeypatch.context() as patched:
        patched.setattr(journal, "checkpoints", is_away)
        with pytest.raises(StoreAway):
            await follower.catch_up(lambda _: None)
    await follower.catch_up(lambda _: None)
    assert follower.checkpoints[stream] == await crew.store.load(stream)


async def test_a_page_whose_other_stream_runs_elsewhere_is_called_at_half_the_pace(crew: Crew) -> None:
    messenger, instagram = Stream(Platform.MESSENGER, "7"), Stream(Platform.INSTAGRAM, "7")
    ours, theirs = await crew.join([messenger], batches=30), await crew.join([instagram], batches=10)
    async with crew.at_work():
        await until(lambda: len(crew.store.conversations) > 10)
        assert (ours.shares["7"], theirs.shares["7"]) == (2, 2)
        await asyncio.sleep(20)
        assert (ours.shares["7"], theirs.shares["7"]) == (1, 1)


async def test_a_stop_ends_the_runs_under_way_and_others_continue_them_at_once(crew: Crew) -> None:
    keys = streams(4)
    leaving = await crew.join(keys, batches=50)
    async with crew.at_work():
        await until(lambda: all(crew.runs(stream) for stream in keys))
    assert crew.jobs.leases == {}
    assert crew.interrupted(keys) == 0
    assert leaving.parts.stop.is_requested
    crew.members = []
    await crew.join(keys, batches=50)
    async with crew.at_work():
        await until(lambda: [crew.runs(stream) for stream in keys] == [2] * 4, seconds=3)


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(days=1)], ids=["back by an hour", "forward by a day"])
async def test_a_step_of_the_clock_neither_delays_nor_hastens_any_run(crew: Crew, step: timedelta) -> None:
    keys = streams(4)
    members = [await crew.join(keys) for _ in range(2)]
    async with crew.at_work():
        await asyncio.sleep(600)
        for member in members:
            member.clock.set_by += step
        await asyncio.sleep(200)
        assert [crew.sweeps(stream) for stream in keys] == [1] * 4
        await asyncio.sleep(600)
        assert [crew.sweeps(stream) for stream in keys] == [2] * 4


async def test_workers_whose_clocks_differ_run_each_stream_once_and_log_it(crew: Crew) -> None:
    keys = streams(4)
    for ahead in (timedelta(), timedelta(hours=1)):
        await crew.join(keys, concurrency=2, ahead=ahead)
    with capture_logs() as logs:
        async with crew.at_work():
            await asyncio.sleep(5600)
    assert min(crew.sweeps(stream) for stream in keys) >= 5
    assert max(crew.sweeps(stream) for stream in keys) <= 12, "a worker that is behind the other takes its turns early"
    lines = [line for line in logs if line["event"] == "clocks differ between workers"]
    assert [3590 < line["ahead_seconds"] < 3610 for line in lines] == [True]


async def test_a_sync_requested_by_a_worker_whose_clock_is_ahead_is_one_run(crew: Crew) -> None:
    await crew.join([STREAM])
    asked = await crew.join([], ahead=timedelta(hours=1))
    async with crew.at_work():
        await until(lambda: crew.sweeps(STREAM) == 1)
        await asyncio.sleep(100)
        await asked.supervisor.ask(STREAM, SyncNow(ADA))
        await asyncio.sleep(300)
    assert crew.sweeps(STREAM) == 2


async def test_a_recorded_end_in_the_future_keeps_no_worker_waiting(crew: Crew) -> None:
    keys = streams(4)
    ahead = await crew.join(keys, ahead=timedelta(days=1))
    async with crew.at_work():
        await until(lambda: all(crew.sweeps(stream) for stream in keys))
    crew.members.remove(ahead)
    await crew.join(keys)
    async with crew.at_work():
        await asyncio.sleep(1200)
    assert [crew.sweeps(stream) for stream in keys] == [2] * 4


async def test_streams_that_are_due_and_find_no_slot_here_wait_for_one(crew: Crew) -> None:
    mine = streams(3)
    member = await crew.join(mine, concurrency=1, call_seconds=10)
    async with crew.at_work():
        await asyncio.sleep(5)
        assert len(member.parts.slots.waiting) == 2
        assert max(member.parts.slots.waiting_seconds().values()) > 3
        await asyncio.sleep(200)
        assert list(member.parts.slots.waiting) == []
