"""What each command loads: nothing heavy that it may not need."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"aiohttp", "prometheus_client", "structlog", "tqdm"}
OF_POSTGRESQL = {"procrastinate", "psycopg", "psycopg_pool"}


# Those that only read, and those that complete the name of a stream.
LIGHT = ("status", "journal", "config", "streams", "dead_letters", "deliveries")


def loaded_with(names: tuple[str, ...]) -> set[str]:
    modules = ", ".join(f"milepost.cli.{name}" for name in names)
    program = f"import sys, milepost.stores.sqlite.reader, milepost.stores.sqlite.store, {modules}; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
        ).stdout.split()
    )


def test_reading_and_completing_a_stream_load_nothing_heavy() -> None:
    loaded = loaded_with(LIGHT)
    assert "milepost.settings" in loaded
    assert not HEAVY & loaded


def test_acting_through_a_daemon_loads_no_server() -> None:
    loaded = loaded_with(("sync_actions", "actions"))
    assert "aiohttp" in loaded
    assert not {"aiohttp.web", "prometheus_client", "tqdm"} & loaded


@pytest.mark.parametrize("command", ["run", "sync", "status"])
def test_with_sqlite_nothing_for_postgresql_is_loaded_nor_collected_at_the_end(tmp_path: Path, command: str) -> None:
    """Looked at when it works: on its way it might load what it has not at its start."""
    (tmp_path / "config.yaml").write_text(
        "source: {calls_per_second: 0}\nsync: {max_batches_per_run: 1}\nhttp: {listen: '127.0.0.1:0'}"
    )
    program = f"""
import asyncio, atexit, gc, os, signal, sys
from milepost.cli import main
from milepost.engine.supervisor import Supervisor

run = Supervisor._run

async def last_run(self, stream, *, full=False):
    result = await run(self, stream, full=full)
    os.kill(os.getpid(), signal.SIGTERM)
    return result

Supervisor._run = last_run
atexit.register(lambda: print(*sys.modules, "frozen" if gc.get_freeze_count() else ""))
sys.argv = ["milepost", {command!r}]
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    loaded = set(ended.stdout.split())
    assert "milepost.settings" in loaded, ended
    assert not OF_POSTGRESQL & loaded
    assert "tqdm" not in loaded  # stderr is no terminal here
    assert "frozen" in loaded, "what is loaded would be collected at exit"
