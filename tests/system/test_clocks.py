"""The machine's clock is wrong, or is set while Milepost works: every stream goes on, and the log says it once."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from kit.binary import milepost, started, until
from kit.installation import Installation, assert_copied, on_sqlite_first, page_section
from kit.loopback import serving
from kit.needs import long_only
from kit.simulated import BICYCLES, STREAMS, Clock, frozen_world

LIBRARIES = (
    *Path("/usr/lib").glob("*/faketime/libfaketime.so.1"),
    Path("/usr/lib/faketime/libfaketime.so.1"),
    Path("/usr/lib64/faketime/libfaketime.so.1"),
)
LIBRARY = next((path for path in LIBRARIES if path.exists()), None)

needs_faketime = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: the package faketime")


class FakeTime:
    """The wall clock of programs started with `environment`. `time.sleep` fails in them, `asyncio.sleep` works."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        self.set_by(0)

    @property
    def environment(self) -> dict[str, str]:
        """The environment to start a program with."""
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Or waits by the monotonic clock end at once, and threads that wait for each other keep a processor busy.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",  # or Python takes every module for changed, and compiles and stores all of them anew
        }

    def set_by(self, seconds: int) -> None:
        """Set the clock to the real time plus this many seconds."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{seconds:+d}\n")
        written.replace(self._file)  # programs read the file all the time, and must never find it empty


PASSED_ON = ("Content-Type", "facebook-api-version")


@asynccontextmanager
async def dated(base_url: str, date: str) -> AsyncIterator[str]:
    """Pass on the responses of the API at `base_url` with this Date; yields the base URL."""
    async with aiohttp.ClientSession() as session:

        async def answer(request: web.Request) -> web.Response:
            token = {"Authorization": request.headers.get("Authorization", "")}
            async with session.get(f"{base_url}{request.path_qs}", headers=token) as answered:
                passed_on = {name: answered.headers[name] for name in PASSED_ON if name in answered.headers}
                body = await answered.read()
                return web.Response(status=answered.status, body=body, headers={**passed_on, "Date": date})

        async with serving(answer) as url:
            yield url


HOUR = 3600
SYNC = {"interval": "1s"}
INTERVAL_RUNS = 2  # for each stream to complete afterwards


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> FakeTime:
    return FakeTime(tmp_path_factory.mktemp("clock"))


def sweeps(installation: Installation) -> dict[str, int]:
    """Return the number of completed sweeps of each stream."""
    if not installation.has_tables():
        return {}
    found = installation.rows("SELECT stream, count(*) FROM journal WHERE type = 'sweep_completed' GROUP BY stream")
    return dict(found)


async def every_stream_goes_on(installation: Installation) -> None:
    """Wait until each stream has completed more sweeps."""
    before = sweeps(installation)
    await until(
        lambda: all(sweeps(installation).get(each, 0) >= before.get(each, 0) + INTERVAL_RUNS for each in STREAMS)
    )


def lines_with(said: str, text: str) -> list[str]:
    return [line for line in said.splitlines() if text in line]


@needs_faketime
@on_sqlite_first
@pytest.mark.parametrize("seconds", [-HOUR, *long_only(24 * HOUR)], ids=["back by an hour", "forward by a day"])
async def test_setting_the_clock_under_the_daemon_stops_no_stream(
    installation: Installation, machine: FakeTime, seconds: int
) -> None:
    async with frozen_world(20) as simulator:
        installation.configure_for(simulator, sync=SYNC)
        async with started(installation.folder, "run", environment=machine.environment) as daemon:
            await every_stream_goes_on(installation)

            machine.set_by(seconds)
            await every_stream_goes_on(installation)

            await daemon.says("clock set")
            daemon.signal(signal.SIGTERM)
            ended = await daemon.ended()
    assert ended.code == 0, ended
    assert len(lines_with(ended.stderr, "clock set back" if seconds < 0 else "clock set forward")) == 1, ended
    assert "task failed" not in ended.stderr, ended


@needs_faketime
@on_sqlite_first
async def test_a_restart_does_not_wait_for_times_stored_by_a_clock_that_was_ahead(
    installation: Installation, machine: FakeTime
) -> None:
    async with frozen_world(20) as simulator:
        installation.configure_for(simulator, sync=SYNC)
        machine.set_by(HOUR)
        async with started(installation.folder, "run", environment=machine.environment) as daemon:
            await every_stream_goes_on(installation)
            daemon.signal(signal.SIGTERM)
            assert (await daemon.ended()).code == 0
        assert all(
            checkpoint.updated_at is not None and checkpoint.updated_at > datetime.now(UTC) + timedelta(minutes=50)
            for checkpoint in installation.checkpoints().values()
        )

        machine.set_by(0)
        async with started(installation.folder, "run", environment=machine.environment) as daemon:
            await every_stream_goes_on(installation)
            daemon.signal(signal.SIGTERM)
            ended = await daemon.ended()
    (line,) = lines_with(ended.stderr, "the journal is ahead of the clock")
    assert "the end of a run" in line


DATES = [
    pytest.param(timedelta(days=30), id="30 days ahead", marks=pytest.mark.long),
    pytest.param(timedelta(days=365 * 7970), id="in the year 9999", marks=pytest.mark.long),
    pytest.param(-timedelta(days=1), id="a day behind"),
]


async def everything_is_copied_by_a_date_that_is_wrong(
    installation: Installation, date: timedelta, environment: dict[str, str]
) -> None:
    """Sync twice with the wrong Date, then change most of the inbox, and sync again as usual."""
    now = datetime.now(UTC).replace(microsecond=0)
    world_time = Clock(now - timedelta(hours=2))
    async with frozen_world(200, pages=(BICYCLES,), clock=world_time) as simulator:
        pages, sync = [page_section(page) for page in simulator.pages], {"batch_size": 20}
        async with dated(simulator.base_url, format_datetime(now + date, usegmt=True)) as base_url:
            installation.configure(base_url, *pages, sync=sync)
            for _ in range(2):
                ended = await milepost(installation.folder, "sync", environment=environment)
                assert ended.code == 0, ended
                assert len(lines_with(ended.stderr, "clocks differ from the API's")) == 1, ended

        installation.configure(simulator.base_url, *pages, sync=sync)
        adopted = await milepost(installation.folder, "store", "adopt", "--yes")  # the same API, without the proxy
        assert adopted.code == 0, adopted
        world_time.now += timedelta(hours=1)
        for conversation in simulator.world.truth(BICYCLES.id, "messenger", world_time.now)[50:]:
            simulator.world.receive(BICYCLES.id, "messenger", world_time.now, conversation.id)
        world_time.now += timedelta(minutes=30)
        ended = await installation.sync()
        assert ended.code == 0, ended
        assert_copied(installation, simulator.world, world_time.now, was_frozen=False)


@pytest.mark.parametrize("date", DATES)
async def test_nothing_is_missed_if_the_servers_date_is_wrong(installation: Installation, date: timedelta) -> None:
    await everything_is_copied_by_a_date_that_is_wrong(installation, date, {})


@needs_faketime
async def test_nothing_is_missed_if_date_and_own_clock_are_equally_wrong(
    installation: Installation, machine: FakeTime
) -> None:
    machine.set_by(40 * 24 * HOUR)
    await everything_is_copied_by_a_date_that_is_wrong(installation, timedelta(days=30), machine.environment)
