"""The program's output for people and scripts."""

import asyncio
import subprocess
import sys

from kit.binary import command, milepost, started
from kit.fork_server import ENVIRONMENT
from kit.installation import Installation
from kit.simulated import STREAMS, frozen_world
from kit.terminal import milepost_on_terminal
from milepost import __version__

HEAVY = {
    "aiohttp",
    "aiosqlite",
    "asyncio",
    "prometheus_client",
    "pydantic",
    "sqlite3",
    "structlog",
    "tqdm",
    "yaml",
}


async def test_the_summary_goes_to_stdout_and_logs_to_stderr_in_plain_lines(installation: Installation) -> None:
    async with frozen_world(60) as simulator:
        installation.configure_for(simulator)
        done = await installation.sync()
    heading, *lines = done.stdout.splitlines()
    assert heading.split()[:3] == ["stream", "status", "batches"]
    assert [line.split()[:4] for line in lines[:3]] == [[stream, "complete", "3", "60"] for stream in STREAMS]
    assert lines[3].split()[:3] == ["total", "9", "180"]
    assert "sweep completed" in done.stderr
    assert "sweep completed" not in done.stdout
    assert not set("\x1b\r\b") & set(done.stdout + done.stderr), "escape codes are for terminals"


async def test_a_terminal_shows_progress_and_stdout_stays_clean(installation: Installation) -> None:
    async with frozen_world(200, "latency=60ms,http_500=1/4") as simulator:
        installation.configure_for(simulator)
        done = await milepost_on_terminal(installation.folder, "sync")
    assert done.code == 0, done
    for stream in STREAMS:
        assert f"{stream}  " in done.stderr
    assert "conversations" in done.stderr
    assert "walk" in done.stderr
    assert "complete" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("stream ")
    assert not set("\x1b\r\b") & set(done.stdout)


async def test_a_sync_works_with_closed_standard_streams(installation: Installation) -> None:
    async with frozen_world(20) as simulator:
        installation.configure_for(simulator)
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command("sync"), cwd=installation.folder, env=ENVIRONMENT
        )
        assert await process.wait() == 0
    assert installation.rows("SELECT count(*) FROM conversations") == [(60,)]


async def test_what_stderr_does_not_take_changes_no_exit_code(installation: Installation) -> None:
    """Otherwise systemd would start a daemon with a bad configuration again and again, as after any other failure."""
    installation.config.write_text("sync: {intervall: 5m}")
    full = ("/bin/sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    for code, argument in ((78, "run"), (2, "nonsense")):
        async with started(installation.folder, argument, under=full) as running:
            assert (await running.ended()).code == code


async def test_a_current_directory_that_is_gone_is_named(installation: Installation) -> None:
    gone = ("/bin/sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh")
    async with started(installation.folder, "sync", under=gone) as running:
        ended = await running.ended()
    assert (ended.code, ended.stderr) == (1, "milepost: the current directory: No such file or directory\n")


async def test_what_the_encoding_of_the_terminal_lacks_is_escaped(installation: Installation) -> None:
    written = await milepost(installation.folder, "config", "init", environment={"PYTHONIOENCODING": "latin-1"})
    assert written.code == 0, written
    assert "\\u2192 `milepost run` copies a simulated world" in written.stdout


async def test_help_and_version_need_no_configuration(installation: Installation) -> None:
    version = await milepost(installation.folder, "--version")
    assert (version.code, version.stdout) == (0, f"milepost, version {__version__}\n")
    shown = await milepost(installation.folder, "--help")
    assert shown.code == 0
    assert [
        word for word in ("run", "sync", "status", "journal", "config", "simulate") if f"  {word} " not in shown.stdout
    ] == []
    of_sync = await milepost(installation.folder, "sync", "--help")
    assert of_sync.stdout.startswith("Usage: milepost sync [OPTIONS] [STREAM]...")
    assert "Exit codes: 0 every sweep complete" in of_sync.stdout
    assert [path.name for path in installation.folder.iterdir()] == ["said"]


def test_help_starts_fast_because_it_loads_nothing_heavy() -> None:
    _, *arguments = command("--help")
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert {"click", "milepost"} <= loaded
    assert not loaded & HEAVY
