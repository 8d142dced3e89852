"""What a sync shows of the runs that a daemon does for it, and how long it waits for them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from kit.builders import NOON, RATE_LIMIT, STREAM, at, given, run_started, sweep_started, walking
from kit.loopback import serving
from milepost.cli.actions import Operator
from milepost.cli.daemon_client import OpenSweeps, daemon_at
from milepost.cli.options import NO_TITLES
from milepost.cli.sync_actions import Look, sync_through_daemon
from milepost.core import events
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import StreamCommand, SyncNow
from milepost.core.errors import MilepostError, StoreBusy
from milepost.core.events import Reason, RunEnded, RunStatus, Tally
from milepost.core.model import Platform, Stream
from milepost.core.ports import RunResult
from milepost.core.position import Mode
from milepost.core.problems import Scope
from milepost.engine.interrupt import Stop
from milepost.service.api.overview import ChangesSince
from milepost.settings.model import HttpSettings, SyncSettings

DONE = events.SweepCompleted(Mode.INCREMENTAL, NOON, NOON, Tally(batches=1, unchanged=50))
FULL = events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, unchanged=50))


def run(number: int, *happened: events.Event, after: Checkpoint | None = None) -> Checkpoint:
    """Return a checkpoint after a run of its own."""
    return given(run_started(), *happened, after=after or Checkpoint(STREAM), run_id=f"run_{number}")


class Daemon:
    """A daemon whose stream has got to each of these checkpoints, one look after the other."""

    def __init__(self, *looks: Checkpoint, refusal: MilepostError | None = None, read: int = 0) -> None:
        self.looks = [*looks]
        self.asked: list[StreamCommand] = []
        self.shown: list[Checkpoint] = []
        self._refusal = refusal
        self._read = read

    async def checkpoints(self) -> list[Checkpoint]:
        return [self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]]

    async def is_at_work(self) -> bool:
        return len(self.looks) > 1

    async def ask(self, _: Stream, command: StreamCommand) -> None:
        self.asked.append(command)
        if self._refusal is not None:
            raise self._refusal

    async def read(self) -> Mapping[Stream, int]:
        return {STREAM: self._read}

    async def sync(self, *, full: bool = False, stop: Stop | None = None) -> Sequence[RunResult]:
        who = Operator([STREAM], NO_TITLES, self.ask, self.read, is_daemon=True)
        look = Look(self, self.is_at_work, lambda: NOON, self.shown.append)  # type: ignore[arg-type]
        return await sync_through_daemon(who, [STREAM], look, SyncSettings(), stop or Stop(), full=full)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.cli.sync_actions.POLL_SECONDS", 0.0)


async def test_the_run_under_way_is_not_the_one_that_was_asked_for() -> None:
    before = run(1, sweep_started())
    ended = given(DONE, after=before, run_id="run_1")
    second = run(2, sweep_started(), DONE, after=ended)
    daemon = Daemon(before, ended, ended, second, second, second)
    (result,) = await daemon.sync()
    assert daemon.asked == [SyncNow("command line")]
    assert result.run is not None
    assert (result.run.run_id, result.run.status) == ("run_2", RunStatus.COMPLETE)


async def test_a_full_sync_waits_for_a_full_sweep() -> None:
    before = run(1, sweep_started(), DONE)
    other = run(2, sweep_started(), DONE, after=before)
    full = run(3, sweep_started(), FULL, after=other)
    (result,) = await Daemon(before, other, other, full, full, full).sync(full=True)
    assert result.run is not None
    assert result.run.mode is Mode.FULL


async def test_a_limit_that_outlasts_a_run_is_not_waited_for() -> None:
    limited = run(
        1,
        sweep_started(),
        events.RateLimited(Scope.PAGE, 1, NOON, at(7500), RATE_LIMIT),
        RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, walking("c")),
    )
    (result,) = await Daemon(*[limited] * 9).sync()
    assert (result.run, result.error) == (None, None)


async def test_a_stream_that_is_paused_meanwhile_says_so() -> None:
    before = run(1, sweep_started(), DONE)
    paused = given(events.StreamPaused("command line"), after=before)
    (result,) = await Daemon(before, before, paused, paused, paused).sync()
    assert result.error == "it was paused by the command line, and has to be resumed first"


async def test_a_daemon_that_ends_leaves_no_run_to_wait_for() -> None:
    before = run(1, sweep_started(), DONE)
    (result,) = await Daemon(before).sync()
    assert result == RunResult(STREAM, None)


async def test_a_stop_does_not_wait_for_the_batch_in_hand() -> None:
    class Busy(Daemon):
        async def ask(self, _: Stream, command: StreamCommand) -> None:
            stop.request()
            await asyncio.Event().wait()

    stop = Stop()
    async with asyncio.timeout(10):
        (result,) = await Busy(run(1, sweep_started(), DONE)).sync(stop=stop)
    assert result == RunResult(STREAM, None)


async def test_a_refusal_is_of_its_stream_and_a_silent_daemon_of_all() -> None:
    before = run(1, sweep_started(), DONE)
    (result,) = await Daemon(before, refusal=MilepostError("it is paused")).sync()
    assert result.error == "it is paused"
    with pytest.raises(StoreBusy):
        await Daemon(before, refusal=StoreBusy("no answer")).sync()


async def test_batches_that_changed_nothing_are_shown_as_the_daemon_counts_them() -> None:
    under_way = run(1, sweep_started(), events.BatchStored(walking("c"), Tally(batches=1, inserted=50)))
    second = run(2, sweep_started(), DONE, after=given(DONE, after=under_way, run_id="run_1"))
    daemon = Daemon(under_way, under_way, under_way, second, second, second, read=150)
    await asyncio.wait_for(daemon.sync(), 10)
    assert replace(daemon.shown[0], unrecorded=Tally()) == under_way
    assert daemon.shown[0].unrecorded == Tally(unchanged=100)


# --- how far the sweeps of a daemon are -------------------------------------------------------------------------------


OTHER = Stream(Platform.INSTAGRAM, STREAM.page_id)


def syncing(conversations: int) -> dict[str, Any]:
    return {"state": "syncing", "sweep": {"mode": "full", "conversations": conversations}}


IDLE = {"state": "idle", "sweep": None}


class FakeDaemon:
    """Shows these states of its streams, and remembers which tags it was asked with. Without one, it is away."""

    def __init__(self) -> None:
        self.states: Mapping[str, dict[str, Any]] | None = {}
        self.changes = ChangesSince()
        self.asked: list[str | None] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.query.get("since"))
        if self.states is None:
            return web.json_response({"detail": "it is ending"}, status=503)
        tag = self.changes.remember(self.states)
        since, streams, removed = self.changes.since(self.asked[-1], tag)
        return web.json_response({"tag": tag, "since": since, "streams": streams, "removed": removed})


async def test_each_look_asks_for_the_changes_since_the_last_one() -> None:
    fake = FakeDaemon()
    async with serving(fake.answer) as base_url, daemon_at(HttpSettings(listen=base_url[7:])) as daemon:
        sweeps = OpenSweeps(daemon)
        fake.states = {STREAM.key: syncing(50), OTHER.key: IDLE}
        assert await sweeps.read() == {STREAM: 50}
        fake.states = {STREAM.key: syncing(100), OTHER.key: syncing(7)}
        assert await sweeps.read() == {STREAM: 100, OTHER: 7}
        fake.states = {STREAM.key: syncing(100) | {"state": "retrying"}, OTHER.key: IDLE}
        assert await sweeps.read() == {STREAM: 100}
        fake.states = {OTHER.key: IDLE}
        assert await sweeps.read() == {}
    assert fake.asked[0] is None
    assert all(fake.asked[1:])


async def test_a_daemon_that_is_away_or_has_restarted_changes_nothing_by_that() -> None:
    fake = FakeDaemon()
    async with serving(fake.answer) as base_url, daemon_at(HttpSettings(listen=base_url[7:])) as daemon:
        sweeps = OpenSweeps(daemon)
        fake.states = {STREAM.key: syncing(50), OTHER.key: syncing(7)}
        await sweeps.read()
        fake.states = None
        assert await sweeps.read() == {STREAM: 50, OTHER: 7}
        fake.changes, fake.states = ChangesSince(), {STREAM.key: syncing(60)}  # as another process
        assert await sweeps.read() == {STREAM: 60}
