"""No call is made during a rate limit, one stream alone probes whether it is over, and waiting costs nothing.

And older messages get half of a page's calls while one of its streams is being swept.
"""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from msgspec.structs import replace

from kit.builders import at, problem, refused
from kit.engine_doubles import Before, Inbox, after, cursor_of, engine, refusing, run_of, running, subscribed
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.checkpoint import RateLimit
from milepost.core.events import RateLimited, Reason, RunStatus
from milepost.core.model import Keys, Known, Platform, Stream
from milepost.core.plan import Policy
from milepost.core.ports import Held, Outcome, Request, Usage
from milepost.core.problems import Problem, Scope
from milepost.engine.context import EngineContext
from milepost.engine.feed import Feed, UsageReported
from milepost.engine.rate_limits import CallShares, RateLimits
from milepost.engine.supervisor import Schedule, Supervisor

HOUR = 3600.0
MESSENGER, INSTAGRAM = (Stream(platform, "1") for platform in (Platform.MESSENGER, Platform.INSTAGRAM))
OTHER = Stream(Platform.MESSENGER, "2")
ALL = (MESSENGER, INSTAGRAM, OTHER)
APP_LIMIT = problem(4)
PAGE_LIMIT = problem(613)
STREAM_TROUBLE = problem(190)


def gated(parts: EngineContext, stream: Stream, before: Before | None = None) -> Inbox:
    return Inbox(3, prefix=stream.key, before=before, gate=parts.rate_limits.gate(stream), clock=parts.clock)


def rate_limits() -> RateLimits:
    return RateLimits(VirtualClock(), Feed(), floor_seconds=60)


def closed(among: Sequence[Stream], of: RateLimits) -> set[Stream]:
    return {stream for stream in among if of.gate(stream).is_closed()}


# --- whom a limit holds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("met", "held"),
    [(APP_LIMIT, {*ALL}), (PAGE_LIMIT, {MESSENGER, INSTAGRAM}), (STREAM_TROUBLE, set())],
    ids=["app", "page", "none"],
)
async def test_a_limit_holds_its_scope_from_the_response_that_reports_it(met: Problem, held: set[Stream]) -> None:
    known = rate_limits()
    known.gate(MESSENGER).refused(met)
    assert closed(ALL, known) == held


async def test_the_stream_whose_limit_ends_last_probes_first_and_the_others_follow() -> None:
    known = rate_limits()
    known.gate(MESSENGER).refused(replace(APP_LIMIT, wait_seconds=100.0))
    known.gate(OTHER).refused(replace(APP_LIMIT, wait_seconds=200.0))
    await asyncio.sleep(200)
    assert closed(ALL, known) == {MESSENGER, INSTAGRAM}
    await asyncio.sleep(5)
    assert closed(ALL, known) == set()


async def test_a_limit_that_was_reported_holds_until_it_is_recorded() -> None:
    """An entry that is committed meanwhile may still hold the limit before it."""
    parts = engine(store := MemoryStore())
    known, checkpoint = parts.rate_limits, await store.load(MESSENGER)
    limit = RateLimit(Scope.PAGE, 1, at(0), at(60), PAGE_LIMIT)
    known.observe(replace(checkpoint, rate_limit=limit))
    await asyncio.sleep(61)
    known.gate(MESSENGER).refused(PAGE_LIMIT)
    known.observe(replace(checkpoint, rate_limit=limit))
    assert closed(ALL, known) == {MESSENGER, INSTAGRAM}
    known.observe(replace(checkpoint, rate_limit=replace(limit, attempts=2, until=at(61 + 120))))
    known.observe(replace(checkpoint, rate_limit=None))
    assert closed(ALL, known) == set()


async def test_a_reported_limit_holds_as_long_as_the_recorded_one() -> None:
    """A limit that is met again right after the last one is waited out for longer."""
    store = MemoryStore()
    known, checkpoint = rate_limits(), await store.load(MESSENGER)
    known.observe(replace(checkpoint, rate_limit=RateLimit(Scope.PAGE, 1, at(0), at(60), PAGE_LIMIT)))
    await asyncio.sleep(60)
    known.gate(MESSENGER).refused(PAGE_LIMIT)
    assert known.held_until(MESSENGER) == at(60 + 120)


async def test_reported_usage_reaches_the_readers() -> None:
    feed = Feed()
    notices = subscribed(feed)
    gate = RateLimits(VirtualClock(), feed, floor_seconds=60).gate(MESSENGER)
    usage = Usage(Scope.PAGE, "call_count", 0.85)
    gate.used(())
    gate.used((usage,))
    assert list(notices) == [UsageReported(MESSENGER, (usage,))]


async def test_the_fullest_budget_of_a_page_is_known_for_an_hour() -> None:
    known = rate_limits()
    app, page, fuller = (
        Usage(Scope.APP, "call_count", 0.5),
        Usage(Scope.PAGE, "total_time", 0.4),
        Usage(Scope.PAGE, "call_count", 0.7),
    )
    known.gate(MESSENGER).used((app, page, fuller))

    assert [known.usage(stream) for stream in ALL] == [fuller, fuller, app]
    known.gate(MESSENGER).used((page,))
    assert [known.usage(stream) for stream in ALL] == [app, app, app]
    await asyncio.sleep(HOUR)
    assert known.usage(MESSENGER) is None


# --- a daemon inside a limit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "held"), [(APP_LIMIT, ALL), (PAGE_LIMIT, (MESSENGER, INSTAGRAM))], ids=["app", "page"]
)
async def test_a_limit_of_an_hour_costs_one_call_per_probe_and_nothing_else(
    limit: Problem, held: Sequence[Stream]
) -> None:
    parts = engine(store := MemoryStore())

    async def begin_later(asked: Request | str) -> Outcome | None:
        return refused(limit) if at(10) <= parts.clock.now() < at(HOUR) else None

    sources = {stream: gated(parts, stream, begin_later if stream in held else None) for stream in ALL}
    async with running(Supervisor(parts, sources, Schedule(interval_seconds=60)), parts.stop):
        await asyncio.sleep(2 * HOUR + 30)  # between two runs
    inside = sorted(each for stream in held for each in sources[stream].called_at if 10 <= each < HOUR)
    limited = [row for row in store.journal if row.type == "rate_limited"]
    assert len(inside) == len(limited), "every refusal is on record"
    under_way, probes = inside[: len(held)], inside[len(held) :]
    assert set(under_way) == {under_way[0]}, "they had all called before the first response came"
    since = [probe - under_way[0] for probe in probes]
    assert since == pytest.approx([60, 180, 420, 900, 1800, 2700], abs=1), "waits double up to a quarter of an hour"
    for stream in ALL:
        checkpoint = await store.load(stream)
        assert run_of(checkpoint).status is RunStatus.COMPLETE, "and goes on when it is over"
        assert checkpoint.open_dead_letters == 0
    assert not [run for run in store.runs.values() if run.retries or run.failed_batches]
    if OTHER not in held:
        assert max(later - earlier for earlier, later in pairwise(sources[OTHER].called_at)) < 70


async def test_a_rate_limit_survives_the_process() -> None:
    store = MemoryStore()
    first = engine(store)
    limit = replace(APP_LIMIT, wait_seconds=HOUR)
    sources = {stream: gated(first, stream, refusing(limit, until=at(10), clock=first.clock)) for stream in ALL}
    async with running(Supervisor(first, sources, Schedule()), first.stop):
        await asyncio.sleep(5)

    second = engine(store)
    sources = {stream: gated(second, stream) for stream in ALL}
    async with running(Supervisor(second, sources, Schedule()), second.stop):
        await asyncio.sleep(HOUR - 6)
        assert [inbox.asked for inbox in sources.values()] == [[], [], []]
        await asyncio.sleep(11)
        assert all(inbox.asked for inbox in sources.values())


async def test_a_sync_waits_out_a_limit_that_ends_within_its_time() -> None:
    parts = engine(MemoryStore())
    inbox = gated(parts, OTHER, refusing(PAGE_LIMIT, until=at(30), clock=parts.clock))
    (result,) = await Supervisor(parts, {OTHER: inbox}, Schedule()).sync([OTHER])
    assert (run_of(result).status, run_of(result).retries) == (RunStatus.COMPLETE, 0)
    assert inbox.called_at[:2] == pytest.approx([0, 60])


async def test_a_sync_ends_at_a_limit_that_lasts_longer() -> None:
    parts = engine(MemoryStore(), concurrency=1)
    limit = replace(PAGE_LIMIT, wait_seconds=HOUR)
    sources = {stream: gated(parts, stream, refusing(limit, until=at(HOUR), clock=parts.clock)) for stream in ALL[:2]}
    results = await Supervisor(parts, sources, Schedule()).sync(list(sources))
    assert [result.run.reason for result in results if result.run] == [Reason.RATE_LIMIT]
    assert sum(len(inbox.asked) for inbox in sources.values()) == 1, "the other platform of the page was not called"
    assert asyncio.get_running_loop().time() == 0


async def test_a_limit_that_another_process_recorded_is_kept() -> None:
    """As after a commit that was durable, but whose answer never came."""
    parts = engine(store := MemoryStore())
    other = engine(store)
    limit = replace(PAGE_LIMIT, wait_seconds=HOUR)
    inbox = gated(other, OTHER, refusing(limit, until=at(10), clock=other.clock))
    await Supervisor(other, {OTHER: inbox}, Schedule()).sync([OTHER])
    inbox = gated(parts, OTHER)
    await Supervisor(parts, {OTHER: inbox}, Schedule()).sync([OTHER])
    assert inbox.asked == []


async def test_an_unchanged_batch_resets_the_count_of_limits() -> None:
    parts = engine(MemoryStore())
    limited_at = {None: 0.0, "2": 60.0}

    async def before(asked: Request | str) -> Outcome | None:
        now = asyncio.get_running_loop().time()
        return refused(PAGE_LIMIT) if limited_at.get(cursor_of(asked)) == now else None

    await Supervisor(parts, {OTHER: gated(parts, OTHER)}, Schedule()).sync([OTHER])
    inbox = gated(parts, OTHER, before)
    await Supervisor(parts, {OTHER: inbox}, Schedule()).sync([OTHER], full=True)
    assert sorted(set(inbox.called_at)) == pytest.approx([0, 60, 120])


# --- a limit that comes ahead -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("named_seconds", [30.0, HOUR], ids=["inside the run", "beyond the run"])
async def test_a_limit_met_ahead_is_recorded_before_any_wait(named_seconds: float) -> None:
    class Slow(MemoryStore):
        async def known(self, keys: Keys) -> Known:
            await asyncio.sleep(1)  # long enough for the next batch to be refused
            return await super().known(keys)

    store = Slow()
    parts = engine(store, policy=Policy(batch_size=1, rate_limit_floor_seconds=10))
    limit = replace(PAGE_LIMIT, wait_seconds=named_seconds)

    async def before(asked: Request | str) -> Outcome | None:
        return refused(limit) if cursor_of(asked) == "1" and parts.clock.now() < at(5) else None

    inbox = gated(parts, OTHER, before)
    (result,) = await Supervisor(parts, {OTHER: inbox}, Schedule()).sync([OTHER])
    checkpoint = await store.load(OTHER)
    (limited,) = [row.event for row in store.entries(OTHER) if isinstance(row.event, RateLimited)]
    assert limited.until == at(named_seconds), "from when it was met, not from when it was settled"
    if named_seconds == HOUR:
        assert checkpoint.rate_limit is not None
        assert run_of(result).reason is Reason.RATE_LIMIT
    else:
        assert run_of(result).status is RunStatus.COMPLETE
        assert inbox.called_at[2] == pytest.approx(named_seconds)


async def test_a_refusal_before_a_stop_is_on_record_when_the_process_ends() -> None:
    class Stopping(MemoryStore):
        async def known(self, keys: Keys) -> Known:
            await asyncio.sleep(1)
            parts.stop.request()
            return await super().known(keys)

    store = Stopping()
    parts = engine(store)

    inbox = gated(parts, OTHER, after("1", refused(replace(PAGE_LIMIT, wait_seconds=100.0))))
    await Supervisor(parts, {OTHER: inbox}, Schedule()).sync([OTHER])
    checkpoint = await store.load(OTHER)
    assert checkpoint.rate_limit is not None
    assert run_of(checkpoint).reason is Reason.SHUTDOWN


async def test_a_limit_is_dated_by_its_response_however_late_it_is_decided() -> None:
    """The entry and what every other stream goes by agree, also where the database keeps a refusal waiting."""

    class Busy(MemoryStore):
        async def known(self, keys: Keys) -> Known:
            await asyncio.sleep(30)
            return await super().known(keys)

    store = Busy()
    parts = engine(store)

    inbox = gated(parts, OTHER, after("1", refused(replace(PAGE_LIMIT, wait_seconds=100.0))))
    await Supervisor(parts, {OTHER: inbox}, Schedule(max_run_seconds=70)).sync([OTHER])
    checkpoint = await store.load(OTHER)
    assert checkpoint.rate_limit is not None
    assert checkpoint.rate_limit.until == at(inbox.called_at[1] + 100)


async def test_a_held_call_is_made_only_after_the_limit() -> None:
    """The other platform of the page meets a limit before the next batch is requested."""
    parts = engine(MemoryStore())

    async def limited_by_the_other(asked: Request | str) -> Outcome | None:
        if cursor_of(asked) is None and parts.clock.now() < at(5):
            parts.rate_limits.gate(INSTAGRAM).refused(PAGE_LIMIT)
        return None

    inbox = gated(parts, MESSENGER, limited_by_the_other)
    held = 0
    fetch = inbox.fetch

    async def counting(request: Request) -> object:
        nonlocal held
        answer = await fetch(request)
        held += isinstance(answer, Held)
        return answer

    inbox.fetch = counting  # type: ignore[method-assign, assignment]  # to count
    (result,) = await Supervisor(parts, {MESSENGER: inbox}, Schedule()).sync([MESSENGER])
    assert run_of(result).status is RunStatus.COMPLETE
    assert inbox.called_at[1] == pytest.approx(65)
    assert held <= 1, "at most what was looked ahead for"


# --- how a page's calls are shared -----------------------------------------------------------------------------------


def test_the_streams_of_a_page_count_their_calls_together_and_each_page_for_itself() -> None:
    shares = CallShares()
    with shares.sweeping(INSTAGRAM):
        shares.count_batches(INSTAGRAM, 2)
        shares.count_messages(MESSENGER)

        demand = shares.demand(MESSENGER, None)
        assert (demand.batches, demand.messages, demand.is_swept) == (2, 1, True)
        assert not shares.demand(INSTAGRAM, None).is_swept
        assert not shares.demand(OTHER, None).is_swept
    assert not shares.demand(MESSENGER, None).is_swept


def test_counting_begins_with_the_first_of_the_sweeps_under_way() -> None:
    shares = CallShares()
    with shares.sweeping(INSTAGRAM):
        shares.count_batches(INSTAGRAM, 1)
        with shares.sweeping(MESSENGER):
            assert shares.demand(MESSENGER, None).batches == 1
    assert shares.demand(MESSENGER, None).batches == 1
    with shares.sweeping(MESSENGER):
        assert shares.demand(MESSENGER, None).batches == 0


def test_holding_messages_back_is_reported_only_when_it_changes() -> None:
    shares = CallShares()

    assert not shares.note_held_back(MESSENGER, is_held_back=False)
    assert shares.note_held_back(MESSENGER, is_held_back=True)
    assert not shares.note_held_back(MESSENGER, is_held_back=True)
    assert shares.note_held_back(MESSENGER, is_held_back=False)
