"""`store copy`: a database is copied into an empty one of either kind, whole and verified, or not at all."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from kit.needs import long_only
from kit.pgbouncer import needs_pgbouncer, pooled
from kit.postgres import Mode, on_both_releases
from kit.small_disk import small_disk
from milepost.core.errors import MilepostError, StoreAway, StoreBusy
from milepost.core.model import DataSource
from milepost.stores.copy import TABLES, Phase, Progress, Report
from milepost.stores.open import open_reader, open_store
from milepost.stores.postgresql.copy import PostgresqlCopyTarget
from milepost.stores.reader import Audit
from milepost.stores.sqlite.copy import SqliteCopyTarget
from milepost.stores.url import StoreUrl
from stores.copies import WAYS, Pair, copied, holds_nothing
from stores.databases import KEYS, AnyDatabase, Databases
from stores.histories import live, stream
from stores.sqlite_files import execute
from stores.store_dump import Kind

SECONDS = 20.0


class Cut(Exception):
    """The copy ends here."""


def cut_at(phase: Phase, table: str) -> Report:
    def report(progress: Progress) -> None:
        if (progress.phase, progress.table) == (phase, table):
            raise Cut

    return report


def once(phase: Phase, table: str, act: Callable[[], object]) -> Report:
    """Act when a table is done in a phase."""

    def report(progress: Progress) -> None:
        if (progress.phase, progress.table, progress.is_done) == (phase, table, True):
            act()

    return report


@pytest.mark.parametrize("pair", [*WAYS, ("sqlite", "sqlite"), *long_only(("postgresql", "postgresql"))], indirect=True)
async def test_a_copy_is_equal_to_its_source_and_open_to_everybody(source: AnyDatabase, target: AnyDatabase) -> None:
    result = await copied(source, target)

    assert target.everything() == source.everything()
    assert all(target.everything().values()), "a table without rows proves nothing"
    assert target.mark() == []
    assert result.rows == {table.name: len(source.everything()[table.name]) for table in TABLES}
    async with open_reader(target.store_url) as journal_reader:
        assert await journal_reader.verify() == result.audit


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_target_that_was_only_ever_opened_takes_over_the_source(
    source: AnyDatabase, maker: Databases, kind: Kind
) -> None:
    target = maker.build(kind)

    async def opened() -> None:
        async with open_store(target.store_url) as store:
            await store.record_source(DataSource("simulator"))

    asyncio.run(opened())
    asyncio.run(copied(source, target))
    assert target.rows("SELECT kind, base_url FROM source") == [("facebook", "https://a.example")]
    assert target.everything() == source.everything()


@on_both_releases
async def test_a_copy_there_and_back_is_the_same_and_goes_on(maker: Databases) -> None:
    first, third = maker.build("sqlite"), maker.build("sqlite")
    second = maker.build("postgresql", is_migrated=False)
    await first.fill()
    await copied(first, second)
    await copied(second, third)
    assert third.everything() == first.everything()
    for database in (first, second, third):
        async with open_store(database.store_url) as store:
            await live(store, stream(0), 5)
    assert third.everything() == first.everything() == second.everything()


@needs_pgbouncer
async def test_a_copy_works_through_a_pooler_both_ways(into_postgresql: Pair, maker: Databases) -> None:
    source, target = into_postgresql
    back = maker.build("sqlite")
    with pooled(target.database) as pooler:
        through = AnyDatabase(pooler.store_url, target.database)
        await copied(source, through)
        await copied(through, back)
    assert target.everything() == source.everything() == back.everything()


class TestCutOff:
    @pytest.mark.parametrize(
        ("phase", "table"),
        [
            (Phase.COPYING, "journal"),
            (Phase.COMPARING, "source"),
            pytest.param(Phase.COPYING, "forgotten", marks=pytest.mark.long),
            pytest.param(Phase.COPYING, "missed_conversations", marks=pytest.mark.long),
            pytest.param(Phase.REBUILDING, "journal", marks=pytest.mark.long),
        ],
    )
    async def test_a_copy_that_is_cut_off_leaves_nothing_and_starts_over(
        self, source: AnyDatabase, target: AnyDatabase, phase: Phase, table: str
    ) -> None:
        with pytest.raises(Cut):
            await copied(source, target, cut_at(phase, table))
        assert holds_nothing(target)

        await copied(source, target)
        assert target.everything() == source.everything()

    async def test_a_file_left_by_a_killed_copy_is_overwritten(self, into_sqlite: Pair) -> None:
        source, target = into_sqlite
        execute(Path(f"{target.file}-copy"), "CREATE TABLE half (a)")
        await copied(source, target)
        assert target.everything() == source.everything()
        names = {each.name for each in target.file.parent.iterdir() if each.name.startswith(target.file.name)}
        assert not {name for name in names if "copy" in name}

    async def test_a_cancellation_ends_a_long_statement_at_once(
        self, into_postgresql: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, target = into_postgresql
        loop, is_rebuilding = asyncio.get_running_loop(), asyncio.Event()

        def rebuild(self: PostgresqlCopyTarget) -> Audit:
            loop.call_soon_threadsafe(is_rebuilding.set)
            self._connection.execute("SELECT pg_sleep(600)")
            raise AssertionError("it went on")

        monkeypatch.setattr(PostgresqlCopyTarget, "rebuild", rebuild)
        task = asyncio.create_task(copied(source, target))
        await asyncio.wait_for(is_rebuilding.wait(), SECONDS)
        task.cancel()
        await asyncio.wait([task], timeout=SECONDS)
        assert task.cancelled()
        target.database.terminate_backends()
        assert holds_nothing(target)

    async def test_a_cancellation_ends_the_copy_between_two_chunks(self, pair: Pair) -> None:
        source, target = pair
        loop = asyncio.get_running_loop()

        def cancel(_: Progress) -> None:
            loop.call_soon_threadsafe(task.cancel)
            time.sleep(0.01)

        task = asyncio.create_task(copied(source, target, cancel))
        await asyncio.wait([task], timeout=SECONDS)
        assert task.cancelled()
        assert holds_nothing(target)


class TestUnderWay:
    async def test_readers_of_a_target_on_a_server_wait_for_the_end(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        waited: list[str] = []

        def look() -> None:
            with target.database.connect() as connection:
                connection.execute("SET lock_timeout = '10ms'")
                for table in KEYS:
                    with pytest.raises(psycopg.errors.LockNotAvailable):
                        connection.execute(f"SELECT 1 FROM {table}".encode())
                    waited.append(table)

        await copied(source, target, once(Phase.COPYING, "contacts", look))
        assert waited
        assert target.everything() == source.everything()

    async def test_a_target_in_a_file_does_not_exist_before_the_end(self, into_sqlite: Pair) -> None:
        source, target = into_sqlite
        seen: list[bool] = []
        await copied(source, target, lambda _: seen.append(target.file.exists()))
        assert set(seen) == {False}
        assert target.file.exists()

    async def test_a_source_that_changes_meanwhile_is_not_copied(
        self, source: AnyDatabase, target: AnyDatabase
    ) -> None:
        def forget_somebody() -> None:
            source.execute("INSERT INTO forgotten VALUES ('messenger', 'page-0', 'contact', 'just now')")

        def append() -> None:
            columns = "1 + seq, stream, 1 + version, run_id, recorded_at, type, data, hash"
            source.execute(f"INSERT INTO journal SELECT {columns} FROM journal ORDER BY seq DESC LIMIT 1")

        for change in (forget_somebody, append):
            with pytest.raises(StoreBusy, match="was changed while it was copied"):
                await copied(source, target, once(Phase.COPYING, "contacts", change))
            assert holds_nothing(target)

    async def test_another_copy_into_the_same_database_is_refused(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        other = AnyDatabase(StoreUrl(f"sqlite:///{source.file}-2"))
        shutil.copy(source.file, other.file)
        refused: list[StoreBusy] = []

        def copy_another() -> None:
            with pytest.raises(StoreBusy, match=r"another copy into .* is under way") as error:
                asyncio.run(copied(other, target))
            refused.append(error.value)

        await copied(source, target, once(Phase.COPYING, "journal", copy_another))
        assert refused
        assert target.everything() == source.everything()


class TestFailingTargets:
    async def test_a_target_without_projections_is_not_published(
        self, source: AnyDatabase, target: AnyDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for side in (SqliteCopyTarget, PostgresqlCopyTarget):
            monkeypatch.setattr(side, "rebuild", lambda _: Audit(0, 0, 0, 0, None))
        with pytest.raises(MilepostError, match="the copy is not sound"):
            await copied(source, target)
        assert holds_nothing(target)

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    async def test_a_restart_of_the_server_ends_the_copy_and_the_next_one_succeeds(
        self, into_postgresql: Pair, mode: Mode
    ) -> None:
        source, target = into_postgresql
        with pytest.raises(StoreAway):
            await copied(source, target, once(Phase.COPYING, "contacts", lambda: target.database.server.restart(mode)))
        assert holds_nothing(target)
        await copied(source, target)
        assert target.everything() == source.everything()

    async def test_a_full_disk_ends_the_copy_and_the_next_one_succeeds_when_there_is_room(
        self, maker: Databases, tmp_path: Path
    ) -> None:
        source = maker.build("sqlite")
        await source.fill(commits=60)
        with small_disk(tmp_path, "350k") as disk:
            target = AnyDatabase(StoreUrl(f"sqlite:///{disk}/copy.db"))
            with pytest.raises(StoreAway, match="disk is full") as full:
                await copied(source, target)
            assert "make room" in full.value.hint
            assert holds_nothing(target)
            subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)  # noqa: ASYNC221  (takes no time)
            await copied(source, target)
            assert target.everything() == source.everything()
