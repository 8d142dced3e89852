"""A new database beside others: they are named once in a warning, and not touched."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from milepost.core.model import Changes, Platform, Stream
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import commit_after, conversation_row

INBOX = Stream(Platform.MESSENGER, "1")


async def filled(path: Path, conversations: int) -> None:
    async with open_sqlite(path) as store:
        rows = tuple(conversation_row(f"t_{number}", of=INBOX, contact_id=None) for number in range(conversations))
        await store.commit(commit_after(await store.load(INBOX), changes=Changes(rows)))


def files(folder: Path) -> dict[str, int]:
    return {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}


async def warning_of(path: Path) -> list[str]:
    """Open the database, and return what the warning names beside it."""
    with capture_logs() as logs:
        async with open_sqlite(path):
            pass
    return [each["beside"] for each in logs if each["log_level"] == "warning"]


async def test_a_new_database_beside_others_is_warned_about(tmp_path: Path) -> None:
    await filled(tmp_path / "milepost.db", 3)
    before = files(tmp_path)
    new = tmp_path / "simulated.db"

    assert await warning_of(new) == ["milepost.db holds 3 conversations, last written at 2026-03-01T12:00:00.000Z"]

    assert {name: at for name, at in files(tmp_path).items() if not name.startswith(new.name)} == before
    assert await warning_of(new) == [], "it is new no more"


async def test_the_warning_counts_what_another_database_holds_now(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "busy.db") as store:
        row = conversation_row("t_1", of=INBOX, contact_id=None)
        await store.commit(commit_after(await store.load(INBOX), changes=Changes((row,))))
        (named,) = await warning_of(tmp_path / "new.db")
    assert named.startswith("busy.db holds 1 conversation, ")


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"x" * 200])
async def test_other_files_are_skipped(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.db").write_bytes(content)
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "nowhere.db").symlink_to("gone.db")
    with closing(sqlite3.connect(tmp_path / "crm.db")) as connection:
        connection.execute("CREATE TABLE conversations (id)")
    await filled(tmp_path / "empty.db", 0)
    assert await warning_of(tmp_path / "milepost.db") == []
    assert (tmp_path / "other.db").read_bytes() == content


async def test_only_the_latest_few_of_many_are_named(tmp_path: Path) -> None:
    for number in range(5):
        await filled(tmp_path / f"{number}.db", 1)
        os.utime(tmp_path / f"{number}.db", (number, number))
    (named,) = await warning_of(tmp_path / "new.db")
    assert len(named.split("; ")) == 3
    assert named.startswith("4.db holds")
