"""`store copy`: a database is copied into an empty one of either kind, whole and verified, or not at all."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.builders import STREAM
from kit.pgbouncer import needs_pgbouncer, pooled
from kit.postgres import ROLE, Mode, Server, on_both_releases
from kit.small_disk import small_disk
from milepost.core.errors import BadConfiguration, MilepostError, RowsRejected, StoreAway, StoreBusy, StoreRefused
from milepost.core.model import DataSource
from milepost.stores import copy as copying
from milepost.stores.audit import Audit
from milepost.stores.copy import TABLES, CopyJob, CopyResult, Phase, Progress, Report, Row, Table, copy_between
from milepost.stores.open import copy_store, forget, open_reader, open_store
from milepost.stores.postgresql.copy import PostgresqlCopyTarget
from milepost.stores.sqlite import migrate as migrating
from milepost.stores.sqlite.copy import SqliteCopyTarget
from milepost.stores.url import StoreUrl
from stores.any_rows import any_changes
from stores.databases import KEYS, AnyDatabase, Databases, Everything, Kind, databases
from stores.histories import commit_after, live, stream
from stores.sqlite_files import DROP_TRIGGERS, execute

Pair = tuple[AnyDatabase, AnyDatabase]
WAYS: list[tuple[Kind, Kind]] = [("sqlite", "postgresql"), ("postgresql", "sqlite")]
SECONDS = 20.0


def ignore(_: Progress) -> None:
    pass


async def copied(
    source: AnyDatabase, target: AnyDatabase, report: Report = ignore, *, replaces_nul: bool = False
) -> CopyResult:
    return await copy_store(CopyJob(source.store_url, target.store_url, replaces_nul), report)


@pytest.fixture
def maker(tmp_path: Path, postgres: Server) -> Iterator[Databases]:
    with databases(tmp_path, postgres) as maker:
        yield maker


@pytest.fixture(params=WAYS, ids=" to ".join)
def pair(request: pytest.FixtureRequest, maker: Databases) -> Pair:
    """Return a database with rows in every table, and one that is not made yet."""
    return made(maker, *request.param)


@pytest.fixture
def into_postgresql(maker: Databases) -> Pair:
    return made(maker, "sqlite", "postgresql")


@pytest.fixture
def into_sqlite(maker: Databases) -> Pair:
    return made(maker, "postgresql", "sqlite")


def made(maker: Databases, one: Kind, other: Kind) -> Pair:
    source, target = maker.build(one), maker.build(other, is_migrated=False)
    asyncio.run(source.fill())
    return source, target


@pytest.fixture
def source(pair: Pair) -> AnyDatabase:
    return pair[0]


@pytest.fixture
def target(pair: Pair) -> AnyDatabase:
    return pair[1]


@pytest.fixture
def there_and_back(maker: Databases) -> list[AnyDatabase]:
    return [maker.build("sqlite"), maker.build("postgresql"), maker.build("sqlite")]


def without_nul(everything: Everything) -> Everything:
    return {
        table: [tuple(each.replace("\0", "\ufffd") if isinstance(each, str) else each for each in row) for row in rows]
        for table, rows in everything.items()
    }


def holds_nothing(database: AnyDatabase) -> bool:
    """Whether nothing is left of a copy: of a file nothing but its lock, of a schema its empty tables."""
    if database.kind == "sqlite":
        return {each.name for each in database.file.parent.glob(f"{database.file.name}*")} <= {
            f"{database.file.name}.lock"
        }
    return not database.has_tables() or not any(database.everything().values())


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


@pytest.mark.parametrize("pair", [*WAYS, ("sqlite", "sqlite"), ("postgresql", "postgresql")], indirect=True)
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
            (Phase.COPYING, "forgotten"),
            (Phase.COPYING, "journal"),
            (Phase.COPYING, "missed_conversations"),
            (Phase.REBUILDING, "journal"),
            (Phase.COMPARING, "source"),
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


class TestNotEmpty:
    async def test_a_target_with_a_journal_is_refused_and_left_alone(
        self, source: AnyDatabase, target: AnyDatabase
    ) -> None:
        async with open_store(target.store_url) as store:
            await live(store, stream(7), 3)
        before = target.everything()

        with pytest.raises(StoreRefused, match=r"is not empty: it has rows in .*journal") as refused:
            await copied(source, target)

        assert "drop that one first" in refused.value.hint
        assert target.everything() == before

    async def test_a_target_with_rows_and_no_journal_is_refused(self, source: AnyDatabase, target: AnyDatabase) -> None:
        async with open_store(target.store_url):
            pass
        target.execute("INSERT INTO dead_letter_payloads VALUES ('d_1', 'mine')")

        with pytest.raises(StoreRefused, match="is not empty: it has rows in dead_letter_payloads"):
            await copied(source, target)

        assert target.rows("SELECT * FROM dead_letter_payloads") == [("d_1", "mine")]

    async def test_a_target_that_is_an_earlier_copy_is_refused(self, source: AnyDatabase, target: AnyDatabase) -> None:
        await copied(source, target)
        with pytest.raises(StoreRefused, match="is not empty"):
            await copied(source, target)
        assert target.everything() == source.everything()

    async def test_a_target_that_is_the_source_itself_is_refused(self, source: AnyDatabase) -> None:
        before = source.everything()
        with pytest.raises(BadConfiguration, match="is the database to be copied"):
            await copied(source, source)
        assert source.everything() == before

    async def test_a_file_of_another_program_is_refused(self, into_sqlite: Pair) -> None:
        source, target = into_sqlite
        target.execute("CREATE TABLE customers (name)")
        before = target.file.read_bytes()
        with pytest.raises(StoreRefused, match="is the database of another program"):
            await copied(source, target)
        assert target.file.read_bytes() == before

    async def test_a_schema_of_another_program_is_refused(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        target.execute(f"CREATE SCHEMA milepost AUTHORIZATION {ROLE}")
        target.execute("CREATE TABLE milepost.contacts (name text)")
        with pytest.raises(StoreRefused, match=r"the schema milepost .* is not empty"):
            await copied(source, target)
        assert target.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'milepost'") == [("contacts",)]

    async def test_a_target_whose_migration_was_cut_off_is_migrated(
        self, into_sqlite: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, target = into_sqlite
        with monkeypatch.context() as patch:
            patch.setattr(migrating, "shipped", lambda: {"0001_journal", "0002_contacts"})
            migrating.migrate(target.file)
        await copied(source, target)
        assert target.everything() == source.everything()


class TestUnfinishedCopiesOfEarlierVersions:
    """They copied step by step, and marked the target until it was verified."""

    @pytest.fixture
    def marked(self, target: AnyDatabase) -> AnyDatabase:
        asyncio.run(target.fill(commits=3))
        target.execute("INSERT INTO unfinished_copy VALUES (1, 'sqlite:///old.db', '2026-03-01T12:00:00.000Z')")
        return target

    async def test_a_marked_target_is_emptied_and_filled_anew(self, source: AnyDatabase, marked: AnyDatabase) -> None:
        marked.execute("INSERT INTO dead_letter_payloads VALUES ('d_1', 'of the copy that was cut off')")
        await copied(source, marked)
        assert marked.everything() == source.everything()
        assert marked.mark() == []

    async def test_a_marked_database_is_opened_by_nobody(self, marked: AnyDatabase, maker: Databases) -> None:
        before = marked.everything()

        async def opened(opening: AbstractAsyncContextManager[object]) -> None:
            async with opening:
                raise AssertionError("it was opened")

        for attempt in (
            opened(open_store(marked.store_url)),
            opened(open_reader(marked.store_url)),
            opened(open_reader(marked.store_url, alone=True)),
            forget(marked.store_url, stream(0), "c_1"),
            copied(marked, maker.build("sqlite")),
        ):
            with pytest.raises(StoreRefused, match="is not whole") as refused:
                await attempt
            assert "milepost store copy" in refused.value.hint
        assert marked.everything() == before

    async def test_the_journal_of_a_copy_is_append_only(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        await copied(source, target)
        with pytest.raises(psycopg.errors.RestrictViolation):
            target.execute("TRUNCATE journal")


class TestRejectedRows:
    async def test_a_rejected_row_is_named_by_table_and_key_without_its_text(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        source.execute("UPDATE conversations SET snippet = 'secret' || char(0) WHERE conversation_id LIKE '%/3/1'")

        with pytest.raises(MilepostError) as refused:
            await copied(source, target)

        assert refused.value.message == (
            "the target does not accept conversations conversation_id 'messenger:page-0/3/1': "
            "a text in it holds a NUL character, which PostgreSQL does not accept"
        )
        assert "--replace-nul" in refused.value.hint
        assert holds_nothing(target)

    async def test_nul_is_replaced_on_request(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        source.execute("UPDATE conversations SET snippet = 'a' || char(0) || 'b' WHERE conversation_id LIKE '%/3/1'")

        await copied(source, target, replaces_nul=True)

        ((snippet,),) = target.rows("SELECT snippet FROM conversations WHERE conversation_id = 'messenger:page-0/3/1'")
        assert snippet == "a\N{REPLACEMENT CHARACTER}b"

    async def test_a_row_that_the_target_stores_differently_is_not_verified(self, into_postgresql: Pair) -> None:
        """An instant that is not in Milepost's format comes back differently."""
        source, target = into_postgresql
        source.execute("UPDATE contacts SET updated_at = '2026-03-01T12:00:00Z' WHERE contact_id LIKE '%/3/1'")

        with pytest.raises(MilepostError, match=r"not verified: contacts .*/3/1' differs"):
            await copied(source, target)
        assert holds_nothing(target)

    @settings(max_examples=2, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    async def test_any_row_without_nul_survives_a_copy_there_and_back(
        self, there_and_back: list[AnyDatabase], data: st.DataObject
    ) -> None:
        first, second, third = there_and_back
        for database in (second, third):
            empty(database)
        async with open_store(first.store_url, synchronous="normal") as store:
            for _ in range(25):
                before = await store.load(STREAM.key)
                changes = data.draw(any_changes(STREAM, with_nul=True))
                await store.commit(commit_after(before, changes=changes, run_id=f"{before.version}"))
        first.execute("UPDATE contact_interaction_events SET attachments = NULL WHERE NOT json_valid(attachments)")

        await copied(first, second, replaces_nul=True)
        await copied(second, third)

        assert third.everything() == second.everything()
        assert without_nul(first.everything()) == second.everything()


def empty(database: AnyDatabase) -> None:
    """Empty a database by the mark of a copy that is to be begun again."""
    if database.kind == "sqlite":
        database.file.unlink(missing_ok=True)
    else:
        database.execute("INSERT INTO unfinished_copy VALUES (1, '', now()) ON CONFLICT DO NOTHING")


class Memory:
    """A CopySource and a CopyTarget of one table in memory."""

    def __init__(self, rows: Sequence[Row] = (), refused: Row | None = None) -> None:
        self.rows = list(rows)
        self.is_published = False
        self.change: Callable[[list[Row]], list[Row]] = list
        self._refused = refused

    def counts(self) -> dict[str, int]:
        return {table.name: len(self._of(table)) for table in TABLES}

    def read(self, table: Table) -> Iterator[Row]:
        return iter(self._of(table))

    def _of(self, table: Table) -> list[Row]:
        return sorted(self.rows) if table.name == "dead_letter_payloads" else []

    def add(self, table: Table, rows: list[Row]) -> None:
        if self._refused in rows:
            raise RowsRejected("it is odd", hint="mend it")
        self.rows += self.change(rows)

    def rebuild(self) -> Audit:
        return Audit(0, 0, 0, 0, None)

    def verify(self) -> Audit:
        return self.rebuild()

    def refresh(self) -> None:
        pass

    def publish(self) -> None:
        self.is_published = True

    def interrupt(self) -> None:
        pass


SCHEMAS = CopyJob(StoreUrl("postgresql://one/x"), StoreUrl("postgresql://one/x", schema="other"))
"""Two schemas of one database are two databases."""


def copy_in_memory(source: Memory, target: Memory, chunk_rows: int) -> None:
    @contextmanager
    def opened(database: Memory) -> Iterator[Memory]:
        yield database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "CHUNK_ROWS", chunk_rows)
        asyncio.run(copy_between(SCHEMAS, opened(source), opened(target), ignore))


payloads = st.lists(st.tuples(st.text(max_size=2), st.integers(0, 2)), unique_by=lambda row: row[0], max_size=8)
chunk_sizes = st.integers(1, 4)


class TestAnyRows:
    @given(payloads, chunk_sizes)
    def test_all_rows_are_copied(self, rows: list[Row], chunk_rows: int) -> None:
        source, target = Memory(rows), Memory()
        copy_in_memory(source, target, chunk_rows)
        assert target.is_published
        assert sorted(target.rows) == sorted(rows)

    @given(payloads.filter(bool), chunk_sizes, st.sampled_from(["lost", "changed", "added"]))
    def test_a_target_that_loses_changes_or_adds_a_row_is_not_published(
        self, rows: list[Row], chunk_rows: int, fault: str
    ) -> None:
        odd = rows[0]
        changed: dict[str, list[Row]] = {"lost": [], "changed": [(odd[0], "?")], "added": [odd, (f"{odd[0]}…", 0)]}
        source, target = Memory(rows), Memory()
        target.change = lambda added: [new for row in added for new in (changed[fault] if row == odd else [row])]
        with pytest.raises(MilepostError, match="the copy is not verified: dead_letter_payloads dead_letter_id"):
            copy_in_memory(source, target, chunk_rows)
        assert not target.is_published

    @given(payloads.filter(bool), chunk_sizes, st.data())
    def test_the_rejected_row_is_named(self, rows: list[Row], chunk_rows: int, data: st.DataObject) -> None:
        odd = data.draw(st.sampled_from(rows))
        target = Memory(refused=odd)
        with pytest.raises(MilepostError) as refused:
            copy_in_memory(Memory(rows), target, chunk_rows)
        expected = f"the target does not accept dead_letter_payloads dead_letter_id {odd[0]!r}: it is odd"
        assert (refused.value.message, refused.value.hint) == (expected, "mend it")
        assert not target.is_published


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


class TestUnusable:
    async def test_a_missing_source_is_refused(self, maker: Databases) -> None:
        source, target = maker.build("sqlite"), maker.build("sqlite")
        with pytest.raises(StoreRefused, match="there is no database at"):
            await copied(source, target)
        assert not target.file.exists()

    async def test_a_source_of_an_older_version_is_refused_and_not_migrated(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        source.execute("DROP TABLE unfinished_copy")
        source.execute("DELETE FROM schema_migrations WHERE name = '0005_unfinished_copy'")

        with pytest.raises(StoreRefused, match="is of an older Milepost") as refused:
            await copied(source, target)

        assert "milepost sync" in refused.value.hint
        assert source.rows("SELECT name FROM sqlite_master WHERE name = 'unfinished_copy'") == []
        assert not target.has_tables()

    async def test_a_source_with_a_damaged_journal_is_not_copied(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        source.execute(f"{DROP_TRIGGERS}; UPDATE journal SET data = '{{}}' WHERE seq = 2")

        with pytest.raises(MilepostError, match="the copy is not sound") as unsound:
            await copied(source, target)

        assert "milepost journal verify" in unsound.value.hint
        assert holds_nothing(target)

    async def test_a_source_in_use_is_refused_before_anything_is_created(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        async with open_store(source.store_url):
            with pytest.raises(StoreBusy, match="works on the database"):
                await copied(source, target)
        assert not target.has_tables()

    async def test_a_target_in_use_is_refused(self, into_sqlite: Pair) -> None:
        source, target = into_sqlite
        async with open_store(target.store_url):
            with pytest.raises(StoreBusy, match="works on the database"):
                await copied(source, target)
        assert not any(target.everything().values())
