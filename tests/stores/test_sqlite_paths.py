"""One Milepost for each database, by whatever path it is reached."""

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from kit.builders import STREAM
from milepost.core.errors import StoreBusy
from milepost.core.model import Stream
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import live
from stores.processes import a_child, command, lines, outcome, running
from stores.sqlite_files import names_in

ODD_NAMES = ("a b", "50%", "%41", "what?", "a#b", "a[1]", "*", "a&b=c", "it's", '"', "ü☃", "e\u0301", "-", "file:a")


class TestAPath:
    @pytest.mark.parametrize("name", ODD_NAMES)
    async def test_a_path_may_have_any_characters(self, tmp_path: Path, name: str) -> None:
        directory = tmp_path / name
        directory.mkdir()
        path = directory / name

        async with open_sqlite(path) as store:
            after = await live(store, STREAM, 3)
        async with open_sqlite(path) as store:
            assert await store.load(STREAM) == after
        async with open_sqlite_reader(path) as journal_reader:
            await journal_reader.verify()

        assert names_in(directory) == {name, f"{name}.lock"}
        assert names_in(tmp_path) == {name}

    @pytest.mark.parametrize("name", ["milepost.db", ":memory:", "file:a?mode=memory"])
    async def test_a_path_may_be_relative(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.chdir(tmp_path)

        async with open_sqlite(Path(name)) as store:
            after = await live(store, STREAM, 3)

        async with open_sqlite(tmp_path / name) as store:
            assert await store.load(STREAM) == after


class TestASecondMilepost:
    async def test_a_second_store_in_this_process_is_refused(self, path: Path) -> None:
        async with open_sqlite(path):
            with pytest.raises(StoreBusy, match=f"process {os.getpid()}"):
                async with open_sqlite(path):
                    pass
        async with open_sqlite(path):
            pass

    async def test_a_second_process_is_refused_until_the_first_has_ended(self, path: Path) -> None:
        async with open_sqlite(path):
            (printed,) = outcome(command(path))
        assert printed.startswith(f"StoreBusy another Milepost (process {os.getpid()}) is using the database {path}")

        assert outcome(command(path))[-1] == "done"

    async def test_a_second_process_is_let_in_once_the_first_is_killed(self, path: Path) -> None:
        with running(command(path, commits=100_000)) as process:
            assert lines(process, 2)[0] == "open"
            with pytest.raises(StoreBusy, match=f"process {process.pid}"):
                async with open_sqlite(path):
                    pass
            process.kill()
            process.wait()

        async with open_sqlite(path) as store:
            assert (await store.load(Stream.parse("messenger:page-0"))).version > 0

    async def test_a_second_store_is_refused_through_a_symlink(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "elsewhere.db"
        link.symlink_to(path)

        async with open_sqlite(path):
            with pytest.raises(StoreBusy):
                async with open_sqlite(link):
                    pass
        async with open_sqlite(link):
            with pytest.raises(StoreBusy):
                async with open_sqlite(path):
                    pass

    async def test_checking_the_lock_keeps_nobody_out(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`milepost status` checks by taking the lock for a moment, in which a daemon may start."""
        with path.with_name(f"{path.name}.lock").open("w") as looking:
            fcntl.flock(looking, fcntl.LOCK_SH)
            monkeypatch.setattr(
                "milepost.stores.sqlite.connection.sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN)
            )

            async with open_sqlite(path):
                pass

    async def test_a_reader_is_let_in_beside_a_store(self, path: Path) -> None:
        async with open_sqlite(path) as store, open_sqlite_reader(path) as journal_reader:
            after = await live(store, STREAM, 3)
            assert await journal_reader.checkpoints() == [after]

    async def test_a_child_process_does_not_pass_on_the_lock(self, path: Path) -> None:
        """Programs that Milepost starts do not hold its database after it."""
        with ExitStack() as later:
            async with open_sqlite(path):
                later.enter_context(a_child())
            async with open_sqlite(path):
                pass
