"""Who may open the files of a database: only their owner, whatever the umask and whatever was there before."""

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.builders import STREAM
from kit.needs import unprivileged
from milepost.core.errors import StoreRefused
from milepost.stores.sqlite.copy import open_sqlite_target
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import live
from stores.processes import command, outcome
from stores.sqlite_files import raw


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes_beside(path: Path) -> dict[str, str]:
    """Return the permissions of a database and of each file beside it."""
    return {each.name: oct(stat.S_IMODE(each.stat().st_mode)) for each in path.parent.glob(f"{path.name}*")}


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def closed(path: Path, *suffixes: str) -> dict[str, str]:
    return {f"{path.name}{suffix}": "0o600" for suffix in ("", *suffixes)}


WHILE_OPEN = ("-wal", "-shm", ".lock")


class TestANewDatabase:
    async def test_a_new_database_is_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "milepost.db"
        async with open_sqlite(path) as store:
            await live(store, STREAM, 2)
            assert modes_beside(path) == closed(path, *WHILE_OPEN)
        assert modes_beside(path) == closed(path, ".lock")

    async def test_a_new_database_is_private_before_anything_is_in_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, seen = tmp_path / "milepost.db", list[dict[str, str]]()
        connect = sqlite3.connect

        def spied(*arguments: object, **keywords: object) -> sqlite3.Connection:
            seen.append(modes_beside(path))
            return connect(*arguments, **keywords)  # type: ignore[call-overload, no-any-return]

        monkeypatch.setattr(sqlite3, "connect", spied)
        async with open_sqlite(path):
            pass
        assert seen
        assert all(modes[path.name] == "0o600" for modes in seen)

    def test_the_target_of_a_copy_is_private_as_well(self, tmp_path: Path) -> None:
        path = tmp_path / "copy.db"
        with open_sqlite_target(path) as target:
            assert modes_beside(path) == {"copy.db-copy": "0o600", "copy.db.lock": "0o600"}
            target.publish()
        assert modes_beside(path) == closed(path, ".lock")


class TestADatabaseThatOthersMayOpen:
    @pytest.mark.parametrize("mode", [0o644, 0o660, 0o666, 0o755, 0o604])
    async def test_an_open_database_is_closed_to_others_with_the_files_beside_it(self, path: Path, mode: int) -> None:
        with raw(path) as other:  # which holds -wal and -shm in place, as a crash leaves them
            other.execute("PRAGMA journal_mode = WAL")
            other.execute("UPDATE checkpoints SET version = 0")
            for each in path.parent.glob("milepost.db*"):
                each.chmod(mode)
            async with open_sqlite(path) as store:
                assert modes_beside(path) == closed(path, *WHILE_OPEN)
                await live(store, STREAM, 2)

    async def test_an_open_database_is_closed_to_others_by_a_rebuild(self, path: Path) -> None:
        set_mode(path, 0o644)
        async with open_sqlite_reader(path, alone=True) as journal_reader:
            await journal_reader.rebuild()
            assert modes_beside(path)[path.name] == "0o600"

    async def test_closing_a_database_to_others_is_logged_once(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_mode(path, 0o640)
        for _ in range(2):
            async with open_sqlite(path):
                pass
        assert capsys.readouterr().out.count("database closed to other users") == 1

    def test_an_open_database_of_somebody_else_is_used_with_a_warning(self, path: Path) -> None:
        user = unprivileged()
        if user is None:
            pytest.skip("takes root: the database has to be somebody else's")
        with tempfile.TemporaryDirectory() as directory:
            Path(directory).chmod(0o777)
            theirs = Path(shutil.copy(path, directory))
            theirs.chmod(0o666)
            printed = outcome(command(theirs), user=user)
            assert printed[-1] == "done"
            assert any("database open to other users" in line for line in printed)
            assert stat.S_IMODE(theirs.stat().st_mode) == 0o666


@pytest.mark.parametrize("text", ["# my notes", "# my notes\n" * 1_000])
async def test_a_file_that_is_no_database_of_milepost_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    notes = tmp_path / "milepost.db"
    notes.write_text(text)
    set_mode(notes, 0o644)
    with pytest.raises(StoreRefused):
        async with open_sqlite(notes):
            pass
    assert modes_beside(notes)[notes.name] == "0o644"


async def test_a_folder_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "milepost.db"
    folder.mkdir(mode=0o755)
    with pytest.raises(StoreRefused, match="unable to open"):
        async with open_sqlite(folder):
            pass
    assert modes_beside(folder)[folder.name] == "0o755"
