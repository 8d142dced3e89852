"""`milepost journal export`: JSON Lines, whole or not at all."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import cast

import click
import pytest
from click.testing import CliRunner, Result

from kit.builders import NOON, entries, run_started, sweep_started, walking
from kit.databases import record
from milepost.cli.atomic_file import OWNER_ONLY, atomic_file
from milepost.cli.journal import EXPORT_PAGE, command, write_out
from milepost.core.errors import JournalDamaged, MilepostError
from milepost.core.events import BatchStored, SweepCompleted, Tally
from milepost.core.model import Platform, Stream
from milepost.core.position import Mode
from milepost.stores.reader import StoredEntry
from milepost.stores.sqlite.reader import SqliteReader, open_sqlite_reader

STORED = [StoredEntry(number, entry) for number, entry in enumerate(entries(run_started(), sweep_started()), start=1)]
OTHER = Stream(Platform.INSTAGRAM, "1234567890")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "simulated.db"
    record(path, run_started(), sweep_started(), BatchStored(walking("c1"), Tally(batches=1)))
    record(path, SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)), stream=OTHER, run_id="run-2")
    return path


def export(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["export", *arguments])


def seqs(text: str) -> list[int]:
    return [json.loads(line)["seq"] for line in text.splitlines()]


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if not path.name.startswith("simulated.db")}


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_every_entry_goes_to_stdout(arguments: tuple[str, ...]) -> None:
    result = export(*arguments)
    assert seqs(result.stdout) == [1, 2, 3, 4]
    assert result.stderr == ""


def test_every_entry_goes_to_a_file(database: Path) -> None:
    result = export("journal.jsonl")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "4 entries written to journal.jsonl\n")
    assert seqs(Path("journal.jsonl").read_text()) == [1, 2, 3, 4]
    assert files(database.parent) == {"journal.jsonl"}


@pytest.mark.usefixtures("database")
def test_an_existing_file_is_overwritten_only_by_force() -> None:
    file = Path("journal.jsonl")
    file.write_text("precious")
    refused = export("journal.jsonl")
    assert refused.exit_code == 2
    assert "--force overwrites it" in refused.stderr
    assert file.read_text() == "precious"
    assert export("--force", "journal.jsonl").exit_code == 0
    assert seqs(file.read_text()) == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["simulated.db", "link.db", "simulated.db-wal", "simulated.db.lock"])
def test_no_file_of_the_database_is_ever_overwritten(database: Path, name: str) -> None:
    Path("link.db").symlink_to("simulated.db")
    content = database.read_bytes()
    refused = export("--force", name)
    assert (refused.exit_code, "belongs to the database itself" in refused.stderr) == (2, True)
    assert database.read_bytes() == content


@pytest.mark.usefixtures("database")
def test_a_link_stays_a_link() -> None:
    Path("link.jsonl").symlink_to("target.jsonl")
    Path("target.jsonl").write_text("old")
    assert export("--force", "link.jsonl").exit_code == 0
    assert Path("link.jsonl").is_symlink()
    assert seqs(Path("target.jsonl").read_text()) == [1, 2, 3, 4]


@pytest.mark.usefixtures("database")
def test_only_a_regular_file_is_ever_replaced() -> None:
    os.mkfifo("pipe")
    assert "not a regular file" in export("--force", "pipe").stderr
    assert Path("pipe").is_fifo()


def test_a_failure_leaves_the_old_file_and_no_new_one(database: Path) -> None:
    database.unlink()
    Path("old.jsonl").write_text("precious")
    assert isinstance(export("--force", "old.jsonl").exception, MilepostError)
    assert isinstance(export("new.jsonl").exception, MilepostError)
    assert files(database.parent) == {"old.jsonl"}
    assert Path("old.jsonl").read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "journal.jsonl"

    def write() -> None:
        with atomic_file(target, force=False) as file:
            file.write(b"ours")
            target.write_text("theirs")

    with pytest.raises(click.UsageError, match="exists"):
        write()
    assert target.read_text() == "theirs"
    assert files(tmp_path) == {"journal.jsonl"}


@pytest.mark.parametrize("error", [JournalDamaged("an entry cannot be read"), KeyboardInterrupt()])
def test_an_export_that_fails_for_whatever_reason_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "journal.jsonl", force=False) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("database")
def test_a_missing_directory_is_reported() -> None:
    error = export("missing/journal.jsonl").exception
    assert isinstance(error, MilepostError)
    assert error.message == "missing/journal.jsonl cannot be written: No such file or directory"


def test_a_long_journal_is_read_a_page_at_a_time(database: Path) -> None:
    record(database, *(BatchStored(walking("c1"), Tally(batches=1)) for _ in range(2 * EXPORT_PAGE)))

    async def written() -> tuple[int, bytes]:
        out = BytesIO()
        async with open_sqlite_reader(database) as journal_reader:
            return await write_out(journal_reader, out, asyncio.Event()), out.getvalue()

    number, text = asyncio.run(written())
    assert number == 4 + 2 * EXPORT_PAGE
    assert seqs(text.decode()) == list(range(1, number + 1))


class GrowingArchive:
    """A journal reader to which an entry is added after the newest was read."""

    async def latest(self, *, limit: int) -> list[StoredEntry]:
        assert limit == 1
        return STORED[:1]

    async def entries(self, *, after: int, limit: int) -> list[StoredEntry]:
        return [stored for stored in STORED if stored.seq > after][:limit]


async def test_an_export_ends_at_the_entry_that_was_the_newest_when_it_began() -> None:
    out = BytesIO()
    assert await write_out(cast("SqliteReader", GrowingArchive()), out, asyncio.Event()) == 1
    assert seqs(out.getvalue().decode()) == [1]


def test_a_stop_ends_the_export(database: Path) -> None:
    async def stopped() -> None:
        event, out = asyncio.Event(), BytesIO()
        event.set()
        async with open_sqlite_reader(database) as journal_reader:
            with pytest.raises(click.Abort):
                await write_out(journal_reader, out, event)
        assert out.getvalue() == b""

    asyncio.run(stopped())


def test_a_pipe_that_nobody_reads_leaves_no_traceback(database: Path) -> None:
    record(database, *(BatchStored(walking("c" * 100), Tally(batches=1)) for _ in range(3000)))
    with subprocess.Popen(
        [sys.executable, "-m", "milepost", "journal", "export"],
        cwd=database.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("name", ["export", "tail"])
def test_a_full_disk_is_reported(name: str) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "milepost", "journal", name],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert "stdout cannot be written: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


def test_only_the_owner_may_ever_open_the_file(tmp_path: Path) -> None:
    target = tmp_path / "journal.jsonl"
    before = os.umask(0)
    try:
        with atomic_file(target, force=False) as file:
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == OWNER_ONLY
        assert stat.S_IMODE(target.stat().st_mode) == OWNER_ONLY
    finally:
        os.umask(before)
