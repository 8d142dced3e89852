"""The wall clock is set while Milepost runs: no wait becomes longer or shorter, and the step is logged."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from kit.builders import NOON, RATE_LIMIT, at, problem, refused
from kit.engine_doubles import FlakyStore, Inbox, engine, running, types
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.events import FetchFailed, RateLimited, Reason, RunEnded
from milepost.core.model import Platform, Stream
from milepost.core.plan import Policy
from milepost.core.ports import Outcome, Request
from milepost.core.problems import Scope
from milepost.engine.clock import Anchor, Deadline, SystemClock
from milepost.engine.context import EngineContext
from milepost.engine.feed import Feed
from milepost.engine.rate_limits import RateLimits
from milepost.engine.supervisor import MAX_LATENESS_SECONDS, Schedule, Supervisor

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STREAMS = [Stream(Platform.MESSENGER, str(number)) for number in range(4)]
PACE = Schedule(interval_seconds=60)
UNKNOWN = problem(1, http_status=500)

either_way = pytest.mark.parametrize("step", [-HOUR, DAY], ids=["back by an hour", "forward by a day"])


class World:
    """A supervisor of some streams, and their clock."""

    def __init__(self, store: MemoryStore | None = None, *, schedule: Schedule = PACE, streams: int = 4) -> None:
        self.store = store or MemoryStore()
        self.clock = VirtualClock()
        self.streams = STREAMS[:streams]
        self.parts: EngineContext = engine(self.store, clock=self.clock, policy=Policy(batch_size=1, attempts=9))
        self.retry: Outcome | None = None
        self.call_seconds = 0.0
        self.sources = {
            stream: Inbox(
                3,
                before=self._before,
                prefix=stream.page_id,
                gate=self.parts.rate_limits.gate(stream),
                clock=self.clock,
            )
            for stream in self.streams
        }
        self.supervisor = Supervisor(self.parts, self.sources, schedule)

    async def _before(self, _: Request | str) -> Outcome | None:
        await asyncio.sleep(self.call_seconds)
        return self.retry

    def sweeps(self) -> list[int]:
        return [types(self.store, stream).count("sweep_completed") for stream in self.streams]

    def calls(self) -> int:
        return sum(len(source.asked) for source in self.sources.values())


# --- a supervisor -----------------------------------------------------------------------------------------------------


@either_way
async def test_a_clock_step_changes_no_streams_interval(step: timedelta) -> None:
    world = World()
    async with running(world.supervisor, world.parts.stop):
        await asyncio.sleep(30)
        assert world.sweeps() == [1, 1, 1, 1]
        world.clock.set_by += step
        await asyncio.sleep(20)
        assert world.sweeps() == [1, 1, 1, 1], "nor does anything begin before its time"
        await asyncio.sleep(300)
        assert min(world.sweeps()) >= 5
        assert max(world.sweeps()) <= 7


@either_way
async def test_a_clock_step_changes_no_rate_limits_length(step: timedelta) -> None:
    world = World()
    world.retry = refused(replace(problem(4), wait_seconds=200.0))
    async with running(world.supervisor, world.parts.stop):
        await asyncio.sleep(10)
        world.retry = None
        calls = world.calls()
        world.clock.set_by += step
        await asyncio.sleep(185)
        assert world.calls() == calls, "a call inside the limit"
        await asyncio.sleep(30)
        assert min(world.sweeps()) >= 1


@either_way
async def test_a_clock_step_delays_no_retry(step: timedelta) -> None:
    world = World()
    world.retry = refused(UNKNOWN)
    async with running(world.supervisor, world.parts.stop):
        await asyncio.sleep(0.5)
        assert any(isinstance(entry.event, FetchFailed) for entry in world.store.entries(STREAMS[0]))
        world.retry = None
        world.clock.set_by += step
        await asyncio.sleep(40)
        assert min(world.sweeps()) >= 1


@either_way
async def test_a_clock_step_changes_no_runs_time_limit_and_does_not_stall_it(step: timedelta) -> None:
    world = World(schedule=Schedule(interval_seconds=60, max_run_seconds=100), streams=1)
    world.sources[STREAMS[0]].batches = 1000
    world.call_seconds = 10.0
    async with running(world.supervisor, world.parts.stop):
        await asyncio.sleep(45)
        world.clock.set_by += step
        await asyncio.sleep(45)
        assert types(world.store, STREAMS[0]).count("run_ended") == 0
        assert world.supervisor.stalled() is None
        await asyncio.sleep(25)
        (ended,) = [entry.event for entry in world.store.entries(STREAMS[0]) if isinstance(entry.event, RunEnded)]
        assert ended.reason is Reason.TIME_LIMIT
        assert world.supervisor.stalled() is None


async def test_a_run_that_never_ends_counts_as_stalled_even_if_the_clock_was_set_back() -> None:
    world = World(schedule=Schedule(interval_seconds=60, max_run_seconds=100), streams=1)
    world.call_seconds = 10_000.0
    async with running(world.supervisor, world.parts.stop):
        await asyncio.sleep(50)
        world.clock.set_by -= HOUR
        await asyncio.sleep(50 + MAX_LATENESS_SECONDS + 1)
        assert world.supervisor.stalled() is not None


@either_way
async def test_a_clock_step_does_not_prolong_the_wait_for_an_unavailable_store(step: timedelta) -> None:
    world = World(FlakyStore(10_000), schedule=Schedule(interval_seconds=60, max_run_seconds=100), streams=1)
    syncing = asyncio.create_task(world.supervisor.sync(world.streams))
    await asyncio.sleep(20)
    world.clock.set_by += step
    await asyncio.sleep(60)
    assert not syncing.done()
    (result,) = await asyncio.wait_for(syncing, 100)
    assert result.error is not None


# --- stored instants in the future ------------------------------------------------------------------------------------


async def life_by_a_clock_that_is(ahead: timedelta, world: World) -> MemoryStore:
    """Run a process with such a clock for a while, and return what it leaves."""
    world.clock.set_by = ahead
    async with running(world.supervisor, world.parts.stop):
        await asyncio.sleep(30)
    return world.store


async def test_after_a_restart_no_stream_waits_for_the_instants_of_a_clock_that_was_ahead() -> None:
    store = await life_by_a_clock_that_is(DAY, World())
    world = World(store)
    async with running(world.supervisor, world.parts.stop):
        await asyncio.sleep(100)
        assert world.sweeps() == [3, 3, 3, 3]


async def test_a_rate_limit_that_begins_in_the_future_counts_as_over() -> None:
    before = World()
    before.retry = refused(replace(problem(4), wait_seconds=200.0))
    store = await life_by_a_clock_that_is(DAY, before)
    assert any(isinstance(entry.event, RateLimited) for entry in store.entries(STREAMS[0]))
    world = World(store)
    async with running(world.supervisor, world.parts.stop):
        await asyncio.sleep(20)
        assert world.sweeps() == [1, 1, 1, 1]


@either_way
async def test_a_limit_recorded_before_the_step_does_not_replace_the_shifted_one(step: timedelta) -> None:
    clock = VirtualClock()
    known = RateLimits(clock, Feed(), floor_seconds=60)
    recorded = Checkpoint(STREAMS[0], rate_limit=RateLimit(Scope.PAGE, 1, NOON, at(60), RATE_LIMIT))
    known.observe(recorded)
    clock.set_by += step
    known.observe(recorded)
    assert known.held_until(STREAMS[0]) == at(60) + step


async def test_another_limit_that_begins_in_the_future_replaces_the_shifted_one() -> None:
    clock = VirtualClock()
    known = RateLimits(clock, Feed(), floor_seconds=60)
    recorded = Checkpoint(STREAMS[0], rate_limit=RateLimit(Scope.PAGE, 1, NOON, at(60), RATE_LIMIT))
    known.observe(recorded)
    clock.set_by -= HOUR
    later = RateLimit(Scope.PAGE, 2, NOON, at(7200), RATE_LIMIT)
    known.observe(replace(recorded, rate_limit=later))
    assert known.held_until(STREAMS[0]) is None


# --- the machine's clock ----------------------------------------------------------------------------------------------


class Machine(SystemClock):
    """A machine whose clocks a test sets."""

    def __init__(self) -> None:
        self.wall, self.uptime = NOON, 100.0
        super().__init__()

    def steady(self) -> float:
        return self.uptime

    def _read(self) -> datetime:
        return self.wall

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.uptime += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_clock_step_is_logged_once_with_its_size_and_a_hint(machine: Machine) -> None:
    with capture_logs() as logs:
        machine.pass_time(10_000)
        machine.now()
        machine.wall -= HOUR
        machine.now()
        machine.now()
        machine.wall += DAY
        machine.now()
        machine.now()
    assert [(line["event"], line["seconds"], line["log_level"]) for line in logs] == [
        ("clock set back", 3600, "warning"),
        ("clock set forward", 86400, "warning"),
    ]
    assert "time synchronization" in logs[0]["hint"]


def test_slewing_the_clock_is_no_step(machine: Machine) -> None:
    with capture_logs() as logs:
        for _ in range(1000):
            machine.pass_time(30)
            machine.wall += timedelta(milliseconds=15)
            machine.now()
    assert logs == []


def test_a_suspension_of_the_machine_is_no_step(machine: Machine) -> None:
    with capture_logs() as logs:
        machine.pass_time(8 * 3600)
        machine.now()
    assert logs == []


def test_a_suspension_between_the_readings_of_the_two_clocks_is_no_step() -> None:
    class Suspended(Machine):
        is_next = False

        def steady(self) -> float:
            before = self.uptime
            if self.is_next:
                self.is_next = False
                self.pass_time(8 * 3600)
            return before

    machine = Suspended()
    with capture_logs() as logs:
        machine.is_next = True
        assert machine.now() == NOON + 8 * HOUR
        machine.now()
    assert logs == []


async def test_a_sleep_is_measured_by_the_steady_clock(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        machine.pass_time(seconds)
        machine.wall -= timedelta(seconds=10)

    monkeypatch.setattr(asyncio, "sleep", nap)
    await machine.sleep_until(NOON + timedelta(seconds=100))
    assert sum(naps) == 100
    assert max(naps) <= 30


async def test_a_sleep_through_a_suspension_ends_with_the_nap(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        machine.pass_time(8 * 3600 if seconds else 0)

    monkeypatch.setattr(asyncio, "sleep", nap)
    await machine.sleep_until(NOON + timedelta(hours=2))
    assert sum(naps) <= 30


def test_the_system_clock_returns_utc_and_its_steady_time_advances() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.steady() <= clock.steady()


def test_an_anchor_measures_by_how_much_the_clock_was_set(machine: Machine) -> None:
    anchor = Anchor(machine)
    machine.pass_time(5000)
    assert anchor.moved() == timedelta()
    machine.wall -= HOUR
    assert anchor.moved() == -HOUR
    assert anchor.take_moved() == -HOUR
    assert anchor.moved() == timedelta()


def test_a_deadline_shifts_with_the_clock(machine: Machine) -> None:
    deadline = Deadline(machine, at(100))
    machine.wall -= HOUR
    assert deadline.at == at(100) - HOUR
    machine.pass_time(99)
    assert not deadline.has_passed
    machine.pass_time(1)
    assert deadline.has_passed
