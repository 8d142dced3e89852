"""`milepost journal tail`: the newest entries, the entries that follow, and how it ends."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result

from kit.builders import NOON, entries, run_started, sweep_started, walking
from kit.databases import record
from milepost.cli.journal import command, follow
from milepost.core.errors import StoreAway
from milepost.core.events import BatchStored, SweepCompleted, Tally
from milepost.core.model import Platform, Stream
from milepost.core.position import Mode
from milepost.stores.reader import StoredEntry
from milepost.stores.sqlite.reader import SqliteReader

OTHER = Stream(Platform.INSTAGRAM, "1234567890")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a journal of twelve entries of one stream and one of another: seq 1 to 12, and 13."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "simulated.db"
    stored = [BatchStored(walking(f"c{number}"), Tally(batches=1, inserted=number)) for number in range(10)]
    record(path, run_started(), sweep_started(), *stored)
    record(path, SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)), stream=OTHER, run_id="run-2")
    return path


def tail(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["tail", *arguments])


def seqs(result: Result) -> list[int]:
    return [json.loads(line)["seq"] for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("database")
def test_the_newest_ten_entries_are_shown_oldest_first() -> None:
    assert seqs(tail("--json")) == list(range(4, 14))


@pytest.mark.usefixtures("database")
def test_the_requested_number_of_entries_is_shown() -> None:
    assert seqs(tail("--json", "-n", "2")) == [12, 13]
    assert seqs(tail("--json", "-n", "100")) == list(range(1, 14))
    assert tail("-n", "0").stdout == ""


@pytest.mark.usefixtures("database")
def test_the_entries_of_one_stream_are_shown_alone() -> None:
    assert seqs(tail("--json", "--stream", OTHER.key)) == [13]


@pytest.mark.usefixtures("database")
def test_people_get_one_line_for_each_entry() -> None:
    (line,) = tail("-n", "1").stdout.splitlines()
    assert line.endswith("#13 v1  Full sweep complete: 1 batch, nothing")


@pytest.mark.usefixtures("database")
def test_a_configured_stream_without_entries_is_accepted() -> None:
    Path("config.yaml").write_text(
        'pages: [{id: "77", access_token: x}]\nsource: {kind: facebook}\nstore: {url: sqlite:///simulated.db}\n'
    )
    result = tail("--stream", "messenger:77")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize("lines", ["-1", "10001", "x"])
def test_an_impossible_number_of_lines_is_wrong_usage(lines: str) -> None:
    assert tail("-n", lines).exit_code == 2


# --- following, in the real process -----------------------------------------------------------------------------------


@contextmanager
def following(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command_line = [sys.executable, "-m", "milepost", "journal", "tail", "-f", *arguments]
    with subprocess.Popen(
        command_line, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_appended_entries_are_shown(database: Path) -> None:
    with following(database.parent, "-n", "1", "--json") as process:
        assert json.loads(line_of(process))["seq"] == 13
        record(database, BatchStored(walking("c10"), Tally(batches=1)))
        assert json.loads(line_of(process))["seq"] == 14


def test_a_followed_stream_is_shown_alone(database: Path) -> None:
    with following(database.parent, "-n", "1", "--json", "--stream", OTHER.key) as process:
        assert json.loads(line_of(process))["seq"] == 13
        record(database, BatchStored(walking("c10"), Tally(batches=1)))
        record(database, run_started(), stream=OTHER, run_id="run-3")
        assert json.loads(line_of(process))["seq"] == 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_following_ends_silently_on_a_signal(database: Path, number: signal.Signals) -> None:
    with following(database.parent, "-n", "1") as process:
        line_of(process)
        record(database, BatchStored(walking("c10"), Tally(batches=1)))
        line_of(process)  # it follows: the signal finds it there
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


def test_following_ends_silently_when_nobody_reads_any_more(database: Path) -> None:
    with following(database.parent, "-n", "1") as process:
        line_of(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.wait(timeout=20)
        assert process.stderr.read() == ""


def test_a_pipe_that_closes_while_it_is_written_to_leaves_no_traceback(database: Path) -> None:
    many = [BatchStored(walking(f"c{number}" * 50), Tally(batches=1)) for number in range(3000)]
    record(database, *many)
    with following(database.parent, "-n", "3000", "--json") as process:
        line_of(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.wait(timeout=20)
        assert process.stderr.read() == ""


# --- following, by itself ---------------------------------------------------------------------------------------------


class BusyArchive:
    """A journal reader whose database is unavailable for the first two reads."""

    def __init__(self, stopped: asyncio.Event) -> None:
        self.asked_after: list[int] = []
        self._stopped = stopped
        self._stored = [StoredEntry(8, entry) for entry in entries(run_started())]

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        assert limit > 0
        assert stream is None
        self.asked_after.append(after)
        if len(self.asked_after) <= 2:
            raise StoreAway("the database is locked")
        if len(self.asked_after) == 4:
            self._stopped.set()
        return [stored for stored in self._stored if stored.seq > after]

    async def latest(self, *, limit: int) -> list[StoredEntry]:
        return self._stored[-limit:]


class SetBack:
    """A journal reader whose journal has lost its entries after the seq 2, and gets a new one after the first look."""

    def __init__(self, stopped: asyncio.Event) -> None:
        self._stopped = stopped
        self._stored = [StoredEntry(seq, entry) for seq in (1, 2) for entry in entries(run_started())]

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        found = [stored for stored in self._stored if stored.seq > after]
        if found or len(self._stored) == 5:
            self._stopped.set()
        return found

    async def latest(self, *, limit: int) -> list[StoredEntry]:
        newest = self._stored[-limit:]
        self._stored += [StoredEntry(newest[-1].seq + 1, entry) for entry in entries(run_started())]
        return newest


async def test_following_goes_on_after_a_failover_that_lost_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.cli.signals.POLL_SECONDS", 0.001)
    stopped, shown = asyncio.Event(), list[StoredEntry]()
    async with asyncio.timeout(10):
        await follow(cast("SqliteReader", SetBack(stopped)), 7, None, shown.append, stopped)
    assert [stored.seq for stored in shown] == [3]


async def test_following_survives_an_unavailable_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.cli.signals.POLL_SECONDS", 0.001)
    stopped, shown = asyncio.Event(), list[StoredEntry]()
    journal_reader = BusyArchive(stopped)
    await follow(cast("SqliteReader", journal_reader), 7, None, shown.append, stopped)
    assert [stored.seq for stored in shown] == [8]
    assert journal_reader.asked_after == [7, 7, 7, 8]
