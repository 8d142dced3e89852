"""`milepost pause`, `resume` and `sync` as real processes: alone with the database, and beside a daemon."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kit.binary import Running, milepost, started, until
from kit.installation import Installation, on_both_databases, on_sqlite_first
from kit.ports import unused_port
from kit.simulated import BICYCLES, frozen_world
from milepost.simulator.server import SimulatorServer

KEY = f"messenger:{BICYCLES.id}"
TITLE = f"Fahrrad Müller ({KEY})"
TOKEN = "a-token-of-some-length"


def configure(installation: Installation, simulator: SimulatorServer, **http: str) -> None:
    page = {"id": BICYCLES.id, "name": BICYCLES.name, "platforms": ["messenger"], "access_token": BICYCLES.token}
    listen = f"127.0.0.1:{unused_port()}"
    installation.configure(simulator.base_url, page, http={"listen": listen, **http}, sync={"interval": "1h"})


@asynccontextmanager
async def idle_daemon(installation: Installation, **http: str) -> AsyncIterator[tuple[SimulatorServer, Running]]:
    """Run a daemon that has completed its first sweep and is not due for an hour; yield its API and it."""
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        configure(installation, simulator, **http)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            yield simulator, daemon


def events(installation: Installation) -> list[str]:
    return [type_ for (type_,) in installation.rows("SELECT type FROM journal ORDER BY seq")]


@on_both_databases
async def test_beside_a_daemon_they_go_through_it(installation: Installation) -> None:
    async with idle_daemon(installation, token=TOKEN):
        paused = await milepost(installation.folder, "pause", KEY)
        refused = await installation.sync()
        status = await milepost(installation.folder, "status")
        resumed = await milepost(installation.folder, "resume", KEY, KEY)
    assert (paused.code, paused.stdout) == (0, f"{TITLE}: paused; `milepost resume {KEY}` resumes it\n")
    assert refused.code == 1, refused
    assert f"{TITLE}: the stream was paused by the command line" in refused.stdout
    assert f"with `milepost resume {KEY}`" in status.stdout
    assert "when resumed" in status.stdout
    assert (resumed.code, resumed.stdout) == (0, f"{TITLE}: resumed, and syncs at once\n")
    assert [each for each in events(installation) if each.startswith("stream_")] == ["stream_paused", "stream_resumed"]


@on_sqlite_first
@pytest.mark.parametrize("arguments", [(), (KEY,), ("--full",)], ids=["all", "one", "full"])
async def test_a_sync_beside_a_daemon_waits_for_its_run_and_sums_it_up(
    installation: Installation, arguments: tuple[str, ...]
) -> None:
    async with idle_daemon(installation) as (_, daemon):
        done = await installation.sync(*arguments)
        assert not daemon.has_ended
    assert done.code == 0, done
    heading, first, *_ = done.stdout.splitlines()
    assert heading.split()[:3] == ["page", "stream", "status"]
    assert first.split()[:4] == ["Fahrrad", "Müller", KEY, "complete"]
    assert "A daemon is using" in done.stderr
    assert len(installation.endings(KEY)) == 2
    modes = installation.rows("SELECT data ->> 'mode' FROM journal WHERE type = 'sweep_completed' ORDER BY seq")
    assert modes[-1] == ("full" if "--full" in arguments else "incremental",)


async def test_a_sync_whose_daemon_stops_meanwhile_ends_with_the_progress_saved(installation: Installation) -> None:
    async with idle_daemon(installation) as (simulator, daemon):
        simulator.hold()
        async with started(installation.folder, "sync") as sync:
            await until(lambda: "sync_requested" in events(installation))
            await daemon.kill()
            done = await sync.ended()
    assert done.code == 75, done
    # The daemon may die before or after it has confirmed the request.
    assert "not synced" in done.stdout or "does not answer" in done.stderr
    assert "Traceback" not in done.stderr


async def test_ctrl_c_ends_only_the_watching(installation: Installation) -> None:
    async with idle_daemon(installation) as (simulator, daemon):
        simulator.hold()
        async with started(installation.folder, "sync") as sync:
            await sync.says("it syncs the streams")
            await until(lambda: "sync_requested" in events(installation))
            sync.signal(signal.SIGINT)
            done = await sync.ended()
        simulator.release()
        await until(lambda: len(installation.endings(KEY)) == 2)
        assert not daemon.has_ended
    assert done.code == 75, done
    assert "The daemon continues" in done.stderr


async def test_a_daemon_that_is_elsewhere_than_configured_is_named(installation: Installation) -> None:
    async with idle_daemon(installation):
        text = installation.config.read_text()
        installation.config.write_text(text.replace("listen: 127.0.0.1:", "listen: 127.0.0.1:1 #"))
        for command in (("pause", KEY), ("resume", KEY), ("sync",)):
            done = await milepost(installation.folder, *command)
            assert done.code == 75, done
            assert "another Milepost is using the database and does not answer at http://127.0.0.1:1" in done.stderr
            assert "http.listen" in done.stderr


async def test_a_wrong_token_is_a_matter_of_the_configuration(installation: Installation) -> None:
    async with idle_daemon(installation, token=TOKEN):
        installation.config.write_text(installation.config.read_text().replace(TOKEN, TOKEN[::-1]))
        for command in (("pause", KEY), ("sync",)):
            done = await milepost(installation.folder, *command)
            assert (done.code, "refuses the token" in done.stderr) == (78, True), done


async def test_without_a_daemon_the_next_start_finds_the_stream_paused(installation: Installation) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        configure(installation, simulator)
        paused = await milepost(installation.folder, "pause", KEY)
        refused = await installation.sync()
        resumed = await milepost(installation.folder, "resume", KEY)
        done = await installation.sync()
    assert (paused.code, refused.code, resumed.code, done.code) == (0, 1, 0, 0)
    assert "was paused by the command line, and has to be resumed first" in refused.stdout
    assert resumed.stdout == f"{TITLE}: resumed; it syncs with the next run\n"


async def test_a_mistyped_stream_is_wrong_usage_that_names_the_one_that_was_meant(installation: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        configure(installation, simulator)
        for command in ("pause", "resume", "sync"):
            for typed in (KEY[:-1], KEY.replace("messenger", "mesenger")):
                done = await milepost(installation.folder, command, typed)
                assert done.code == 2, done
                assert f"did you mean {KEY}?" in done.stderr


async def test_beside_a_daemon_a_mistyped_stream_is_wrong_usage_too(installation: Installation) -> None:
    async with idle_daemon(installation):
        for command in ("pause", "resume", "sync"):
            done = await milepost(installation.folder, command, KEY[:-1])
            assert done.code == 2, done
            assert f"did you mean {KEY}?" in done.stderr
