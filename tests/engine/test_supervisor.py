"""Many streams at once: independent of each other, first come, first served, a bounded number running."""

import asyncio

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from kit.builders import APP_LIMIT, DEAD_TOKEN, NOON, RATE_LIMIT, STREAM, at, problem, refused
from kit.engine_doubles import Before, FlakyStore, Inbox, always, at_call, cursor_of, engine, refusing, run_of, running
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import SyncNow
from milepost.core.errors import StoreRefused
from milepost.core.events import Reason, RunEnded, RunStatus, SweepCompleted
from milepost.core.model import Detail, Keys, Known, Platform, Stream
from milepost.core.plan import Policy
from milepost.core.ports import Outcome, Request
from milepost.core.position import Mode
from milepost.core.problems import ProblemKind
from milepost.engine.supervisor import Schedule, Supervisor

POLICY = Policy(batch_size=1)
OUTAGE = problem(kind=ProblemKind.INVALID_RESPONSE, http_status=500)
UNKNOWN = problem(1, http_status=500)


def keepers() -> set[str]:
    """Return the names of the tasks that work streams."""
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("stream ")}


def streams(count: int) -> list[Stream]:
    return [Stream(Platform.MESSENGER, str(number)) for number in range(count)]


async def test_a_sync_runs_every_stream_once_and_returns_how_each_run_ended() -> None:
    store, keys = MemoryStore(), streams(5)
    sources = {stream: Inbox(3, prefix=stream.page_id) for stream in keys}
    results = await Supervisor(engine(store), sources, Schedule()).sync(keys)
    assert [result.stream for result in results] == list(keys)
    assert [result.run.status for result in results if result.run] == [RunStatus.COMPLETE] * 5
    assert len(store.conversations) == 15


async def test_no_more_streams_run_than_the_concurrency_allows() -> None:
    at_work, most = 0, 0

    async def count(_: Request | str) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1

    keys = streams(10)
    sources = {stream: Inbox(1, prefix=stream.page_id, before=count) for stream in keys}
    results = await Supervisor(engine(MemoryStore(), concurrency=3), sources, Schedule()).sync(keys)
    assert len(results) == 10
    assert most == 3


async def test_a_stream_that_fails_leaves_the_others_untouched() -> None:
    async def break_down(_: Request | str) -> None:
        msg = "a bug in a source"
        raise RuntimeError(msg)

    broken, refusing, healthy = keys = streams(3)
    store = MemoryStore()
    sources = {
        broken: Inbox(3, before=break_down),
        refusing: Inbox(3, before=always(refused())),
        healthy: Inbox(3, prefix="h"),
    }
    results = await Supervisor(engine(store), sources, Schedule()).sync(keys)
    assert results[0].error == "a bug in a source"
    assert run_of(results[1]).status is RunStatus.FAILED
    assert run_of(results[2]).status is RunStatus.COMPLETE
    assert set(store.conversations) == {"h_0", "h_1", "h_2"}


async def test_the_result_of_a_run_that_the_store_ended_is_what_it_had_recorded() -> None:
    store = FlakyStore()
    is_disk_full = True

    async def away_at_the_third(asked: Request | str) -> None:
        if cursor_of(asked) == "2" and is_disk_full:
            store.absences = 1_000_000

    sources = {STREAM: Inbox(5, before=away_at_the_third)}
    supervisor = Supervisor(engine(store), sources, Schedule())
    (result,) = await supervisor.sync([STREAM])
    assert result.error == "the disk is full (make room)"
    assert run_of(result).tally.inserted == len(store.conversations) > 0

    is_disk_full, store.absences = False, 0
    (again,) = await supervisor.sync([STREAM])
    assert run_of(again).status is RunStatus.COMPLETE
    endings = [entry.event.reason for entry in store.entries(STREAM) if isinstance(entry.event, RunEnded)]
    assert endings == [Reason.BROKE_OFF], "the process did not die"


async def test_the_daemon_runs_a_stream_again_after_its_interval() -> None:
    clock = VirtualClock(jitter=0.5)
    inbox = Inbox(1, clock=clock)
    parts = engine(MemoryStore(), clock=clock)
    async with running(Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=300)), parts.stop):
        await asyncio.sleep(700)
    assert inbox.called_at == pytest.approx([0, 300, 600])


async def test_a_stream_at_its_batch_limit_continues_at_once_behind_those_that_wait() -> None:
    slots: list[str] = []
    long, short = streams(2)
    clock = VirtualClock()

    def noting(name: str) -> Inbox:
        async def note(asked: Request | str) -> None:
            slots.append(f"{name}{cursor_of(asked) or 0}")

        return Inbox(4, prefix=name, before=note, clock=clock, call_seconds=1)

    parts = engine(MemoryStore(), clock=clock, concurrency=1)
    supervisor = Supervisor(parts, {long: noting("a"), short: noting("b")}, Schedule(max_batches_per_run=1))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(6.5)
    assert slots == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_a_stop_ends_the_daemon_while_its_streams_sleep() -> None:
    parts = engine(MemoryStore())
    async with running(Supervisor(parts, {STREAM: Inbox(1)}, Schedule()), parts.stop):
        await asyncio.sleep(100)
        stopped_at = parts.clock.now()
    assert parts.clock.now() == stopped_at


async def test_runs_that_fail_one_after_the_other_are_known_until_one_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    parts = engine(store)
    one = Supervisor(parts, {STREAM: Inbox(1, clock=parts.clock)}, Schedule(interval_seconds=300))
    monkeypatch.setattr(store, "known", denied)
    async with running(one, parts.stop):
        await asyncio.sleep(100)
        assert one.failing() == {}, "one failure may pass"
        await asyncio.sleep(600)
        failed = one.failing()[STREAM]
        assert (failed.since, failed.count, str(failed.error)) == (NOON, 3, "permission denied")
        monkeypatch.undo()
        await asyncio.sleep(300)
        assert one.failing() == {}


async def test_news_of_a_stream_whose_runs_fail_do_not_repeat_them_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    parts = engine(store)
    inbox = Inbox(1, clock=parts.clock)
    one = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=300))
    monkeypatch.setattr(store, "known", denied)
    async with running(one, parts.stop):
        for _ in range(200):
            one.prompt(STREAM)
            await asyncio.sleep(1)
    assert len(inbox.called_at) == 2, "a single failure may pass"


async def test_runs_that_an_outage_of_the_database_ends_are_not_said_to_fail_as_well() -> None:
    store = FlakyStore(1_000)
    parts = engine(store)
    one = Supervisor(parts, {STREAM: Inbox(1, clock=parts.clock)}, Schedule(interval_seconds=300))
    async with running(one, parts.stop):
        await asyncio.sleep(2_000)
        assert one.failing() == {}


async def denied(_: Keys) -> Known:
    raise StoreRefused("permission denied")


# --- each to itself ---------------------------------------------------------------------------------------------------


async def test_failing_pages_slow_down_no_other_page() -> None:
    """A dead token, a poison thread and an endless outage beside it: the same calls at the same instants."""
    dead, poison, away, healthy = streams(4)

    async def fail_at_the_third(asked: Request | str) -> Outcome | None:
        is_whole = isinstance(asked, Request) and asked.cursor == "2" and asked.detail is not Detail.POSITION
        return refused(UNKNOWN) if is_whole else None

    async def calls_of(healthy_beside: dict[Stream, Before]) -> list[float]:
        began = asyncio.get_running_loop().time()
        parts = engine(MemoryStore(), concurrency=2)
        sources = {
            stream: Inbox(
                5, prefix=stream.page_id, before=before, gate=parts.rate_limits.gate(stream), clock=parts.clock
            )
            for stream, before in healthy_beside.items()
        }
        sources[healthy] = inbox = Inbox(20, prefix="h", clock=parts.clock, call_seconds=1)
        async with running(Supervisor(parts, sources, Schedule(interval_seconds=600)), parts.stop):
            await asyncio.sleep(1800)
        return [called_at - began for called_at in inbox.called_at]

    alone = await calls_of({})
    beside = await calls_of(
        {dead: always(refused(DEAD_TOKEN)), poison: fail_at_the_third, away: always(refused(OUTAGE))}
    )
    assert beside == pytest.approx(alone, abs=0.01), "but for the jitter of later sweeps"


async def test_a_checkpoint_that_cannot_be_loaded_holds_up_no_other_stream() -> None:
    class Bugged(MemoryStore):
        async def load(self, stream: Stream) -> Checkpoint:
            if stream == broken:
                msg = "a bug in a store"
                raise RuntimeError(msg)
            return await super().load(stream)

    broken, healthy = streams(2)
    store = Bugged()
    parts = engine(store)
    sources = {broken: Inbox(1), healthy: Inbox(3, prefix="h", clock=parts.clock)}
    async with running(Supervisor(parts, sources, Schedule()), parts.stop):
        await asyncio.sleep(1000)
        assert len(sources[healthy].called_at) > 5
    assert set(store.conversations) == {"h_0", "h_1", "h_2"}


# --- streams come and heal --------------------------------------------------------------------------------------------


async def test_a_parked_stream_runs_at_once_when_it_is_woken() -> None:
    is_token_dead = True

    async def refuse_token(_: Request | str) -> Outcome | None:
        return refused(DEAD_TOKEN) if is_token_dead else None

    parts = engine(store := MemoryStore())
    inbox = Inbox(3, before=refuse_token, clock=parts.clock)
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=300))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(1000)
        assert inbox.called_at == [0, 0], "the list is looked at once, and probed slowly"
        is_token_dead = False
        supervisor.wake(STREAM)
        await asyncio.sleep(1)
    assert inbox.called_at[2] == 1000
    assert len(store.conversations) == 3
    assert (await store.load(STREAM)).failure_streak is None


async def test_a_parked_stream_recovers_with_its_next_probe() -> None:
    parts = engine(MemoryStore())
    inbox = Inbox(3, before=refusing(DEAD_TOKEN, until=at(4000), clock=parts.clock), clock=parts.clock)
    async with running(Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=300)), parts.stop):
        await asyncio.sleep(7200)
    probes = [called_at for called_at in inbox.called_at if called_at < 4000]
    assert probes == pytest.approx([0, 0, 1800, 1800, 3600, 3600], abs=10)
    assert (await parts.store.load(STREAM)).last_success_at is not None


async def test_a_request_during_a_run_is_followed_by_another_run() -> None:
    """The run under way may still use what has been mended."""
    parts = engine(MemoryStore())
    inbox = Inbox(1, clock=parts.clock, call_seconds=10)
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=3600))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(5)
        supervisor.wake(STREAM)
        supervisor.wake(STREAM)
        await asyncio.sleep(1000)
    assert inbox.called_at == [0, 10]


async def test_a_stream_that_is_woken_during_a_rate_limit_calls_after_it() -> None:
    parts = engine(MemoryStore())
    limit = replace(RATE_LIMIT, wait_seconds=3600.0)
    gate = parts.rate_limits.gate(STREAM)
    inbox = Inbox(1, before=refusing(limit, until=at(10), clock=parts.clock), gate=gate, clock=parts.clock)
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=300))
    async with running(supervisor, parts.stop):
        for _ in range(10):
            await asyncio.sleep(100)
            supervisor.wake(STREAM)
        await asyncio.sleep(3000)
    assert inbox.called_at[:2] == pytest.approx([0, 3600])


async def test_a_stream_that_met_the_limit_of_another_before_its_first_call_runs_once_that_is_over() -> None:
    clock = VirtualClock()
    first, second = keys = streams(2)
    parts = engine(MemoryStore(), clock=clock, concurrency=1)
    limit: Before = refusing(replace(APP_LIMIT, wait_seconds=600.0), until=at(100), clock=clock)
    gates = {stream: parts.rate_limits.gate(stream) for stream in keys}
    met = Inbox(2, before=limit, clock=clock, gate=gates[first], call_seconds=5)
    held = Inbox(2, prefix="h", clock=clock, gate=gates[second])
    schedule = Schedule(interval_seconds=36_000, max_run_seconds=270)
    async with running(Supervisor(parts, {first: met, second: held}, schedule), parts.stop):
        await asyncio.sleep(1_000)
    assert len(met.called_at) > 1
    assert held.called_at


async def test_a_full_sweep_that_a_rate_limit_keeps_from_beginning_is_made_once_that_is_over() -> None:
    store, clock = MemoryStore(), VirtualClock()
    parts = engine(store, clock=clock)
    inbox = Inbox(2, clock=clock, gate=parts.rate_limits.gate(STREAM))
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=36_000, max_run_seconds=270))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(10)
        parts.rate_limits.observe_refusal(STREAM, replace(APP_LIMIT, wait_seconds=600.0))
        await supervisor.ask(STREAM, SyncNow("Ada", full=True))
        await asyncio.sleep(700)
    modes = [entry.event.mode for entry in store.entries(STREAM) if isinstance(entry.event, SweepCompleted)]
    assert modes == [Mode.FULL, Mode.FULL]


@pytest.mark.parametrize("has_begun", [False, True], ids=["nothing recorded", "cut off"])
async def test_a_run_that_an_outage_of_the_database_ended_is_repeated_within_a_quarter_of_an_hour(
    *, has_begun: bool
) -> None:
    store, clock = FlakyStore(0 if has_begun else 1_000), VirtualClock()

    async def lose_store() -> None:
        store.absences = 1_000

    inbox = Inbox(3, clock=clock, call_seconds=1, before=at_call(2, lose_store) if has_begun else None)
    parts = engine(store, clock=clock)
    schedule = Schedule(interval_seconds=36_000, max_run_seconds=270)
    async with running(Supervisor(parts, {STREAM: inbox}, schedule), parts.stop):
        await asyncio.sleep(400)
        store.absences = 0
        await asyncio.sleep(900)
    assert len(store.conversations) == 3


async def test_a_stream_that_is_admitted_to_a_running_daemon_runs_at_once() -> None:
    first, second = streams(2)
    parts = engine(store := MemoryStore())
    supervisor = Supervisor(parts, {first: Inbox(1, clock=parts.clock)}, Schedule())
    later = Inbox(3, prefix="later", clock=parts.clock)
    async with running(supervisor, parts.stop):
        await asyncio.sleep(100)
        supervisor.admit(second, later)
        await asyncio.sleep(1)
    assert later.called_at[0] == 100
    assert supervisor.streams == (first, second)
    assert "later_2" in store.conversations


async def test_a_stream_that_is_admitted_before_the_start_runs_with_the_others() -> None:
    first, second = streams(2)
    parts = engine(MemoryStore())
    supervisor = Supervisor(parts, {first: Inbox(1)}, Schedule())
    supervisor.admit(second, other := Inbox(1, prefix="o"))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(1)
    assert other.called_at == [0]


# --- streams go -------------------------------------------------------------------------------------------------------


async def test_a_dismissed_stream_ends_after_the_current_batch_and_the_others_go_on() -> None:
    leaving, staying = streams(2)
    parts = engine(store := MemoryStore())
    inbox, other = (
        Inbox(100, prefix=stream.page_id, clock=parts.clock, call_seconds=10) for stream in (leaving, staying)
    )
    supervisor = Supervisor(parts, {leaving: inbox, staying: other}, Schedule())
    async with running(supervisor, parts.stop):
        await asyncio.sleep(25)
        supervisor.dismiss(leaving)
        assert supervisor.streams == (staying,)
        await asyncio.sleep(500)
        assert keepers() == {f"stream {staying.key}"}
    checkpoint = await store.load(leaving)
    assert (run_of(checkpoint).status, run_of(checkpoint).reason) == (RunStatus.PAUSED, Reason.REMOVED)
    assert run_of(checkpoint).tally.batches == 3, "the third was under way"
    assert max(inbox.called_at) <= 30
    assert max(other.called_at) > 500


async def test_a_stream_that_is_admitted_again_continues_where_it_was() -> None:
    parts = engine(store := MemoryStore())
    supervisor = Supervisor(parts, {STREAM: Inbox(10, clock=parts.clock, call_seconds=10)}, Schedule())
    async with running(supervisor, parts.stop):
        await asyncio.sleep(25)
        supervisor.dismiss(STREAM)
        await asyncio.sleep(100)
        later = Inbox(10, clock=parts.clock, call_seconds=10)
        supervisor.admit(STREAM, later)
        await asyncio.sleep(200)
    assert isinstance(later.asked[0], Request)
    assert later.asked[0].cursor == "3"
    assert later.called_at[0] == 125
    assert len(store.conversations) == 10


@pytest.mark.parametrize("back_after_seconds", [0, 1, 4.999, 5, 6])
async def test_a_stream_that_is_admitted_again_at_once_is_worked_by_one_task_at_a_time(
    back_after_seconds: float,
) -> None:
    parts = engine(store := MemoryStore())
    supervisor = Supervisor(parts, {STREAM: Inbox(10, clock=parts.clock, call_seconds=10)}, Schedule())
    async with running(supervisor, parts.stop):
        await asyncio.sleep(25)
        supervisor.dismiss(STREAM)
        await asyncio.sleep(back_after_seconds)
        supervisor.admit(STREAM, Inbox(10, clock=parts.clock, call_seconds=10))
        assert supervisor.streams == (STREAM,)
        await asyncio.sleep(200)
        assert keepers() == {f"stream {STREAM.key}"}
    assert len(store.conversations) == 10
    assert RunStatus.INTERRUPTED not in {
        entry.event.status for entry in store.entries(STREAM) if isinstance(entry.event, RunEnded)
    }


@pytest.mark.parametrize("waiting_for", ["a retry", "a rate limit", "a slot", "the interval"])
async def test_a_stream_is_dismissed_whatever_it_waits_for_without_another_call(waiting_for: str) -> None:
    leaving, other = streams(2)
    refusals = {"a retry": refused(), "a rate limit": refused(replace(RATE_LIMIT, wait_seconds=100.0))}

    async def before(_: Request | str) -> Outcome | None:
        return refusals.get(waiting_for)

    slow = Policy(batch_size=1, base_delay_seconds=1000, max_delay_seconds=1000)
    parts = engine(MemoryStore(), policy=slow, concurrency=1 if waiting_for == "a slot" else 2)
    inbox = Inbox(3, before=before, clock=parts.clock)
    sources = {other: Inbox(3, prefix="o", call_seconds=10, clock=parts.clock), leaving: inbox}
    supervisor = Supervisor(parts, sources, Schedule(max_run_seconds=2000))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(5)
        called = len(inbox.asked)
        supervisor.dismiss(leaving)
        await asyncio.sleep(100)
        assert keepers() == {f"stream {other.key}"}
    assert len(inbox.asked) == called
    run = (await parts.store.load(leaving)).run
    assert run is None or run.status is not RunStatus.RUNNING


async def test_a_stream_that_is_dismissed_before_the_start_does_not_run() -> None:
    parts = engine(MemoryStore())
    inbox = Inbox(1)
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule())
    supervisor.dismiss(STREAM)
    async with running(supervisor, parts.stop):
        await asyncio.sleep(1000)
    assert inbox.asked == []


async def test_a_run_whose_page_is_removed_while_it_waits_for_a_slot_does_not_begin() -> None:
    store, (one, other) = MemoryStore(), streams(2)
    parts, inbox = engine(store, concurrency=1), Inbox(3)
    supervisor = Supervisor(parts, {one: inbox}, Schedule())
    with capture_logs() as logs:
        async with parts.slots.hold(other):
            waiting = asyncio.create_task(supervisor.run_once(one, full=False))
            await asyncio.sleep(1)
            supervisor.dismiss(one)
        result = await waiting
    assert (result.run, result.error) == (None, "its page was removed meanwhile")
    assert (inbox.asked, store.journal, logs) == ([], [], [])


async def test_a_stream_that_is_admitted_after_the_daemon_has_worked_begins_nothing() -> None:
    first, late = streams(2)
    parts = engine(MemoryStore())
    supervisor = Supervisor(parts, {first: Inbox(1)}, Schedule())
    async with running(supervisor, parts.stop):
        await asyncio.sleep(10)

    supervisor.admit(late, inbox := Inbox(1, prefix="l"))

    await asyncio.sleep(10)
    assert inbox.asked == []


# --- settings change --------------------------------------------------------------------------------------------------


async def test_a_new_policy_takes_effect_with_the_next_run() -> None:
    parts = engine(MemoryStore(), policy=Policy(batch_size=7))
    inbox = Inbox(4, clock=parts.clock, call_seconds=10)
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=300, max_batches_per_run=2))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(5)
        supervisor.adopt(Policy(batch_size=9), Schedule(interval_seconds=300, max_batches_per_run=2), concurrency=16)
        await asyncio.sleep(100)
    assert [asked.limit for asked in inbox.asked if isinstance(asked, Request)][:4] == [7, 7, 9, 9]


async def test_a_shorter_interval_takes_effect_for_streams_that_already_wait() -> None:
    parts = engine(MemoryStore())
    inbox = Inbox(1, clock=parts.clock)
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=86400))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(1000)
        supervisor.adopt(POLICY, Schedule(interval_seconds=600), concurrency=16)
        await asyncio.sleep(1300)
    assert inbox.called_at == pytest.approx([0, 1000, 1600, 2200])


async def test_a_longer_interval_takes_effect_for_streams_that_already_wait() -> None:
    parts = engine(MemoryStore())
    inbox = Inbox(1, clock=parts.clock)
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=300))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(100)
        supervisor.adopt(POLICY, Schedule(interval_seconds=1000), concurrency=16)
        await asyncio.sleep(1200)
    assert inbox.called_at == pytest.approx([0, 1000])


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waiting_for", ["a call", "a retry", "a rate limit", "the store", "a slot", "the interval"])
async def test_a_stop_interrupts_every_wait(waiting_for: str) -> None:
    async def before(_: Request | str) -> Outcome | None:
        if waiting_for in {"a call", "a slot"}:
            await asyncio.Event().wait()
        answers = {"a retry": refused(), "a rate limit": refused(replace(RATE_LIMIT, wait_seconds=100.0))}
        return answers.get(waiting_for)

    keys = streams(2)
    store = FlakyStore(absences=1_000_000 if waiting_for == "the store" else 0)
    slow = Policy(batch_size=1, base_delay_seconds=1000, max_delay_seconds=1000)
    parts = engine(store, policy=slow, concurrency=1 if waiting_for == "a slot" else 2)
    sources = {stream: Inbox(3, prefix=stream.page_id, before=before) for stream in keys}
    supervisor = Supervisor(parts, sources, Schedule(max_run_seconds=2000))
    async with running(supervisor, parts.stop):
        await asyncio.sleep(10)
    assert asyncio.get_running_loop().time() == 10
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_daemon_leaves_no_task_behind() -> None:
    parts = engine(MemoryStore(), concurrency=1)
    limit = replace(RATE_LIMIT, wait_seconds=100.0)
    sources = {
        stream: Inbox(50, prefix=stream.page_id, call_seconds=1, before=before)
        for stream, before in zip(
            streams(3), (None, refusing(limit, until=at(100), clock=parts.clock), None), strict=True
        )
    }
    daemon = asyncio.create_task(Supervisor(parts, sources, Schedule()).run())
    await asyncio.sleep(10.5)
    daemon.cancel()
    await asyncio.wait({daemon})
    assert daemon.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert asyncio.get_running_loop().time() == 10.5
