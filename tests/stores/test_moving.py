"""Moving house: a database is copied into another one, of either kind, whole, and nothing else is claimed of it."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.builders import NOON, STREAM
from kit.pgbouncer import needs_pgbouncer, pooled
from kit.postgres import ROLE, Database, Mode, Server, on_both_releases
from kit.small_disk import small_disk
from milepost.core.errors import BadConfiguration, MilepostError, StoreAway, StoreBusy, StoreRefused
from milepost.core.model import DataSource
from milepost.stores.moving import TABLES, Table
from milepost.stores.moving_house import Move, Moved, move
from milepost.stores.moving_walk import Doing, Step
from milepost.stores.open import forget, open_reader, open_store
from milepost.stores.postgresql import moving
from milepost.stores.sql import load_statements
from milepost.stores.sqlite import migrate as migrating
from milepost.stores.url import StoreUrl
from stores.any_rows import any_changes
from stores.histories import commit_after, live, stream
from stores.houses import Builder, Everything, House, Kind, houses
from stores.sqlite_files import DROP_TRIGGERS

Tell = Callable[[Step], None]
Pair = tuple[House, House]
WAYS: list[tuple[Kind, Kind]] = [("sqlite", "postgresql"), ("postgresql", "sqlite")]


def unheard(_: Step) -> None:
    pass


async def moved(origin: House, target: House, tell: Tell = unheard, *, replaces_nul: bool = False) -> Moved:
    return await move(Move(origin.store_url, target.store_url, replaces_nul=replaces_nul), NOON, tell)


@pytest.fixture
def builder(tmp_path: Path, postgres: Server) -> Iterator[Builder]:
    with houses(tmp_path, postgres) as builder:
        yield builder


@pytest.fixture(params=WAYS, ids=" to ".join)
def pair(request: pytest.FixtureRequest, builder: Builder) -> Pair:
    """Give a database with rows in every table, and one that is not made yet."""
    return built(builder, *request.param)


@pytest.fixture
def into_postgresql(builder: Builder) -> Pair:
    return built(builder, "sqlite", "postgresql")


@pytest.fixture
def into_sqlite(builder: Builder) -> Pair:
    return built(builder, "postgresql", "sqlite")


def built(builder: Builder, one: Kind, other: Kind) -> Pair:
    origin, target = builder.build(one), builder.build(other, is_migrated=False)
    asyncio.run(origin.fill())
    return origin, target


@pytest.fixture
def origin(pair: Pair) -> House:
    return pair[0]


@pytest.fixture
def target(pair: Pair) -> House:
    return pair[1]


@pytest.fixture
def there_and_back(builder: Builder) -> list[House]:
    return [builder.build("sqlite"), builder.build("postgresql"), builder.build("sqlite")]


def without_nul(everything: Everything) -> Everything:
    return {
        table: [tuple(each.replace("\0", "\ufffd") if isinstance(each, str) else each for each in row) for row in rows]
        for table, rows in everything.items()
    }


class Cut(Exception):
    """The process ends here, as far as the databases are concerned."""


def cut_at(table: str, *, in_check: bool = False) -> Tell:
    def tell(step: Step) -> None:
        if (step.table, step.doing) == (table, Doing.CHECKING if in_check else Doing.COPYING):
            raise Cut

    return tell


@pytest.mark.parametrize("pair", [*WAYS, ("sqlite", "sqlite"), ("postgresql", "postgresql")], indirect=True)
async def test_the_copy_is_equal_and_open_to_all(origin: House, target: House) -> None:
    done = await moved(origin, target)

    assert target.everything() == origin.everything()
    assert all(target.everything().values()), "a table without rows proves nothing"
    assert target.mark() == []
    assert {each.table: each.rows for each in done.tables} == {each.table: each.written for each in done.tables}
    async with open_reader(target.store_url) as journal_reader:
        assert await journal_reader.verify() == done.audit


async def test_a_target_that_was_only_ever_opened_takes_over_the_source(origin: House, builder: Builder) -> None:
    for kind in ("sqlite", "postgresql"):
        target = builder.build(kind)
        async with open_store(target.store_url) as store:
            await store.record_source(DataSource("simulator"))
        await moved(origin, target)
        assert target.rows("SELECT kind, base_url FROM source") == [("facebook", "https://a.example")]


async def test_again_writes_nothing(origin: House, target: House) -> None:
    await moved(origin, target)

    again = await moved(origin, target)

    assert [each.written for each in again.tables] == [0] * len(TABLES)
    assert target.everything() == origin.everything()


@on_both_releases
async def test_there_and_back_is_the_same_and_goes_on(builder: Builder) -> None:
    first, third = builder.build("sqlite"), builder.build("sqlite")
    second = builder.build("postgresql", is_migrated=False)
    await first.fill()
    await moved(first, second)
    await moved(second, third)
    assert third.everything() == first.everything()
    for house in (first, second, third):
        async with open_store(house.store_url) as store:
            await live(store, stream(0), 5)
    assert third.everything() == first.everything() == second.everything()


@needs_pgbouncer
async def test_a_pooler_may_lie_between(into_postgresql: Pair) -> None:
    origin, target = into_postgresql
    with pooled(target.database) as pooler:
        through = House(pooler.store_url, target.database)
        await moved(origin, through)
        assert target.everything() == origin.everything()
        assert target.mark() == []


class TestCutOff:
    @pytest.mark.parametrize("table", ["forgotten", "journal", "contacts", "missed_conversations"])
    async def test_goes_on_and_writes_only_what_is_missing(self, origin: House, target: House, table: str) -> None:
        with pytest.raises(Cut):
            await moved(origin, target, cut_at(table))
        assert target.mark() == [(origin.store_url.url,)]

        done = await moved(origin, target)

        assert {each.table: each.written for each in done.tables}[table] == 0
        assert target.everything() == origin.everything()
        assert target.mark() == []

    async def test_before_its_verification_is_verified_first(self, origin: House, target: House) -> None:
        with pytest.raises(Cut):
            await moved(origin, target, cut_at("journal", in_check=True))
        assert target.mark() != []

        assert {each.written for each in (await moved(origin, target)).tables} == {0}
        assert target.mark() == []

    async def test_is_opened_by_nobody(self, origin: House, target: House, builder: Builder) -> None:
        with pytest.raises(Cut):
            await moved(origin, target, cut_at("contacts"))
        before = target.everything()

        async def opened(opening: object) -> None:
            async with opening:  # type: ignore[attr-defined]
                raise AssertionError("it was opened")

        for attempt in (
            opened(open_store(target.store_url)),
            opened(open_reader(target.store_url)),
            opened(open_reader(target.store_url, alone=True)),
            forget(target.store_url, stream(0), "c_1"),
            moved(target, builder.build("sqlite")),
        ):
            with pytest.raises(StoreRefused, match=r"is not whole: a copy of .* is not finished") as refused:
                await attempt
            assert "milepost store copy" in refused.value.hint
        assert target.everything() == before

    async def test_takes_up_what_changed_in_between(self, origin: House, target: House) -> None:
        with pytest.raises(Cut):
            await moved(origin, target, cut_at("missed_conversations"))
        await origin.fill(commits=7)
        origin.execute("UPDATE contacts SET name = 'renamed' WHERE contact_id LIKE '%/2%'")
        origin.execute("DELETE FROM contact_interaction_events WHERE event_id LIKE '%0'")
        origin.execute("DELETE FROM dead_letter_payloads")
        target.execute("UPDATE conversations SET snippet = 'tampered with' WHERE conversation_id LIKE '%1'")

        await moved(origin, target)

        assert target.everything() == origin.everything()


class TestPeopleWhoWereForgotten:
    async def test_between_two_attempts_are_gone_from_the_target(self, origin: House, target: House) -> None:
        with pytest.raises(Cut):
            await moved(origin, target, cut_at("missed_conversations"))
        ((name,), *_) = origin.rows("SELECT contact_id FROM conversations WHERE contact_id IS NOT NULL ORDER BY 1")
        of_them = f"SELECT * FROM contacts WHERE contact_id = '{name}'"
        assert target.rows(of_them) != []

        assert (await forget(origin.store_url, stream(0), name)).conversations == 1
        await moved(origin, target)

        assert target.rows(of_them) == []
        assert target.everything() == origin.everything()

    async def test_in_a_copy_alone_are_not_brought_back(self, origin: House, target: House) -> None:
        await moved(origin, target)
        await forget(target.store_url, stream(0), "somebody")
        before = target.everything()

        with pytest.raises(StoreRefused, match=r"past of its own: forgotten .*'somebody'") as refused:
            await moved(origin, target)

        assert refused.value.hint == "forget them in the database that is copied, too"
        assert (target.everything(), target.mark()) == (before, [])

    async def test_while_it_is_verified_are_noticed(self, origin: House, target: House) -> None:
        def tell(step: Step) -> None:
            if step.doing is Doing.CHECKING and step.table == "contacts":
                origin.execute("DELETE FROM contacts WHERE contact_id = 'None 0'")
                origin.execute("INSERT INTO forgotten VALUES ('messenger', 'page-0', 'contact', 'just now')")

        with pytest.raises(MilepostError, match=r"not verified: forgotten .*'just now'"):
            await moved(origin, target, tell)

        assert target.mark() != []
        await moved(origin, target)
        assert target.everything() == origin.everything()


class TestATargetOfItsOwn:
    async def test_with_another_journal_is_refused_and_left_alone(self, origin: House, target: House) -> None:
        async with open_store(target.store_url) as store:
            await live(store, stream(7), 3)
        before = target.everything()

        with pytest.raises(StoreRefused, match="past of its own: journal seq 1 is not the same"):
            await moved(origin, target)

        assert (target.everything(), target.mark()) == (before, [])

    async def test_that_went_on_after_its_copy_is_refused(self, origin: House, target: House) -> None:
        await moved(origin, target)
        async with open_store(target.store_url) as store:
            await live(store, stream(0), 1)
        before = target.everything()

        with pytest.raises(StoreRefused, match="past of its own: journal seq"):
            await moved(origin, target)

        assert (target.everything(), target.mark()) == (before, [])

    async def test_with_rows_and_no_journal_is_refused(self, origin: House, target: House) -> None:
        async with open_store(target.store_url):
            pass
        target.execute("INSERT INTO dead_letter_payloads VALUES ('d_1', 'mine')")

        with pytest.raises(StoreRefused, match="it has rows in dead_letter_payloads, and no journal"):
            await moved(origin, target)

        assert target.rows("SELECT * FROM dead_letter_payloads") == [("d_1", "mine")]
        assert target.mark() == []

    async def test_that_is_the_origin_itself_is_refused(self, origin: House) -> None:
        with pytest.raises(BadConfiguration, match="is the database that is to be copied"):
            await moved(origin, origin)
        assert origin.mark() == []


class TestWhatOneDatabaseTakesAndTheOtherDoesNot:
    async def test_ends_the_copy_with_the_table_and_the_key_and_none_of_the_text(self, into_postgresql: Pair) -> None:
        origin, target = into_postgresql
        origin.execute("UPDATE conversations SET snippet = 'secret' || char(0) WHERE conversation_id LIKE '%/3/1'")

        with pytest.raises(MilepostError) as refused:
            await moved(origin, target)

        key = "messenger:page-0/3/1"
        assert refused.value.message == (
            f"the target does not take conversations conversation_id {key!r}: "
            "a text in it holds a NUL character, which PostgreSQL does not take"
        )
        assert "--replace-nul" in refused.value.hint
        assert target.mark() != []
        others = f"SELECT count(*) FROM conversations WHERE conversation_id < '{key}' OR conversation_id > '{key}'"
        assert target.rows(others) != [(0,)], "those before it are there"

    async def test_may_be_replaced_when_asked_for(self, into_postgresql: Pair) -> None:
        origin, target = into_postgresql
        origin.execute("UPDATE conversations SET snippet = 'a' || char(0) || 'b' WHERE conversation_id LIKE '%/3/1'")

        await moved(origin, target, replaces_nul=True)

        ((snippet,),) = target.rows("SELECT snippet FROM conversations WHERE conversation_id = 'messenger:page-0/3/1'")
        assert snippet == "a\N{REPLACEMENT CHARACTER}b"
        assert [each.written for each in (await moved(origin, target, replaces_nul=True)).tables] == [0] * len(TABLES)

    async def test_is_never_taken_for_equal(self, into_postgresql: Pair) -> None:
        """An instant that is not written as Milepost writes it comes back otherwise."""
        origin, target = into_postgresql
        origin.execute("UPDATE contacts SET updated_at = '2026-03-01T12:00:00Z' WHERE contact_id LIKE '%/3/1'")

        for _ in range(2):
            with pytest.raises(MilepostError, match=r"not verified: contacts .*/3/1' is not the same in both"):
                await moved(origin, target)
        assert target.mark() != []

    @settings(max_examples=2, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    async def test_any_other_row_comes_there_and_back(self, there_and_back: list[House], data: st.DataObject) -> None:
        first, second, third = there_and_back
        async with open_store(first.store_url, synchronous="normal") as store:
            for _ in range(25):
                before = await store.load(STREAM.key)
                changes = data.draw(any_changes(STREAM, with_nul=True))
                await store.commit(commit_after(before, changes=changes, run_id=f"{before.version}"))
        first.execute("UPDATE contact_interaction_events SET attachments = NULL WHERE NOT json_valid(attachments)")

        await moved(first, second, replaces_nul=True)
        await moved(second, third)

        assert third.everything() == second.everything()
        assert without_nul(first.everything()) == second.everything()


class TestSomebodyAtWork:
    async def test_on_the_origin_is_told_and_nothing_is_begun(self, into_postgresql: Pair) -> None:
        origin, target = into_postgresql
        async with open_store(origin.store_url):
            with pytest.raises(StoreBusy, match="works on the database"):
                await moved(origin, target)
        assert not target.has_tables()

    async def test_on_a_target_in_a_file_is_told(self, into_sqlite: Pair) -> None:
        origin, target = into_sqlite
        async with open_store(target.store_url):
            with pytest.raises(StoreBusy, match="works on the database"):
                await moved(origin, target)
        assert target.mark() == []

    @pytest.mark.parametrize("since", [1, 2, 3], ids=["before", "while it is marked", "while it is copied"])
    async def test_on_a_server_is_told_whenever_they_began(
        self, into_postgresql: Pair, monkeypatch: pytest.MonkeyPatch, since: int
    ) -> None:
        origin, target = into_postgresql
        asked = count(1)

        async def are_at_work(_: StoreUrl) -> bool:
            return next(asked) >= since

        monkeypatch.setattr(moving, "are_at_work", are_at_work)
        with pytest.raises(StoreBusy, match=r"a Milepost works on the database postgresql://.* \(stop it first"):
            await moved(origin, target)
        assert (target.mark() != []) == (since == 3)

    async def test_on_the_origin_in_spite_of_the_lock_is_found_out(self, into_postgresql: Pair) -> None:
        origin, target = into_postgresql

        def tell(step: Step) -> None:
            if (step.doing, step.table, step.is_done) == (Doing.VERIFYING, "journal", True):
                columns = "stream, 1 + max(version), run_id, recorded_at, type, data, hash"
                add = f"SELECT 1 + max(seq), {columns} FROM journal WHERE stream = 'messenger:page-1'"
                origin.execute(f"INSERT INTO journal {add.replace('max(seq)', '(SELECT max(seq) FROM journal)')}")

        with pytest.raises(StoreBusy, match="somebody works on the database that is copied"):
            await moved(origin, target, tell)
        assert target.mark() != []

    async def test_on_another_copy_into_the_same_database_is_told(self, into_postgresql: Pair) -> None:
        origin, target = into_postgresql
        refused: list[MilepostError] = []

        async def another() -> None:
            try:
                await moved(House(StoreUrl(f"sqlite:///{origin.file}-2")), target)
            except MilepostError as error:
                refused.append(error)

        shutil.copy(origin.file, f"{origin.file}-2")
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []

        def tell(step: Step) -> None:
            if step.table == "journal" and not tasks:
                tasks.append(loop.create_task(another()))

        await moved(origin, target, tell)
        await tasks[0]
        assert isinstance(refused[0], StoreBusy)
        assert "another copy into" in refused[0].message
        assert target.everything() == origin.everything()


class TestATargetThatFails:
    async def test_and_was_tampered_with_meanwhile_is_not_verified(self, origin: House, target: House) -> None:
        def tell(step: Step) -> None:
            if (step.doing, step.table) == (Doing.CHECKING, "journal"):
                target.execute("UPDATE contacts SET name = 'Eve' WHERE contact_id LIKE '%/3/1'")

        with pytest.raises(MilepostError, match=r"not verified: contacts .*/3/1' is not the same in both"):
            await moved(origin, target, tell)

        assert target.mark() != []
        await moved(origin, target)
        assert target.everything() == origin.everything()

    async def test_to_keep_its_projections_is_not_verified(self, origin: House, target: House) -> None:
        def tell(step: Step) -> None:
            if (step.doing, step.table) == (Doing.CHECKING, "journal"):
                target.execute("UPDATE runs SET batches = 99")

        with pytest.raises(MilepostError, match=r"the copy is not sound: the run .* is not what the journal says"):
            await moved(origin, target, tell)
        assert target.mark() != []

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    async def test_by_a_restart_ends_the_copy_which_goes_on_when_it_is_run_again(
        self, into_postgresql: Pair, mode: Mode
    ) -> None:
        origin, target = into_postgresql

        def tell(step: Step) -> None:
            if (step.doing, step.table) == (Doing.COPYING, "contacts"):
                target.database.server.restart(mode)

        with pytest.raises(StoreAway):
            await moved(origin, target, tell)

        assert target.mark() != []
        written = {each.table: each.written for each in (await moved(origin, target)).tables}
        assert (written["journal"], written["contacts"]) == (0, 0)
        assert target.everything() == origin.everything()

    async def test_for_its_disk_is_full_ends_the_copy_which_goes_on_when_there_is_room(
        self, builder: Builder, tmp_path: Path
    ) -> None:
        origin = builder.build("sqlite")
        await origin.fill(commits=60)
        with small_disk(tmp_path, "350k") as disk:
            target = House(StoreUrl(f"sqlite:///{disk}/copy.db"))
            with pytest.raises(StoreAway, match="disk is full") as full:
                await moved(origin, target)
            assert "make room" in full.value.hint
            subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)  # noqa: ASYNC221  (takes no time)
            assert target.mark() != []
            await moved(origin, target)
            assert target.everything() == origin.everything()


class TestAnOriginThatIsNotFit:
    async def test_because_there_is_none_is_refused(self, builder: Builder) -> None:
        origin, target = builder.build("sqlite"), builder.build("sqlite")
        with pytest.raises(StoreRefused, match="there is no database at"):
            await moved(origin, target)
        assert not target.file.exists()

    async def test_because_it_is_older_is_refused_and_left_as_it_is(
        self, into_postgresql: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        origin, target = into_postgresql
        origin.execute("DROP TABLE unfinished_copy")
        origin.execute("DELETE FROM schema_migrations WHERE name = '0005_unfinished_copy'")

        with pytest.raises(StoreRefused, match="is of an older Milepost") as refused:
            await moved(origin, target)

        assert "milepost sync" in refused.value.hint
        assert origin.rows("SELECT name FROM sqlite_master WHERE name = 'unfinished_copy'") == []

    async def test_because_its_journal_is_damaged_gives_no_copy(self, into_postgresql: Pair) -> None:
        origin, target = into_postgresql
        origin.execute(f"{DROP_TRIGGERS}; UPDATE journal SET data = '{{}}' WHERE seq = 2")

        with pytest.raises(MilepostError, match="the copy is not sound") as unsound:
            await moved(origin, target)

        assert "milepost journal verify" in unsound.value.hint
        assert target.mark() != []


async def test_a_file_of_another_program_is_no_target(into_sqlite: Pair) -> None:
    origin, target = into_sqlite
    target.execute("CREATE TABLE customers (name)")
    before = target.file.read_bytes()
    with pytest.raises(StoreRefused, match="is the database of another program"):
        await moved(origin, target)
    assert target.file.read_bytes() == before


async def test_a_schema_of_another_program_is_no_target(into_postgresql: Pair) -> None:
    origin, target = into_postgresql
    target.execute(f"CREATE SCHEMA milepost AUTHORIZATION {ROLE}")
    target.execute("CREATE TABLE milepost.contacts (name text)")
    with pytest.raises(StoreRefused, match=r"the schema milepost .* is not empty"):
        await moved(origin, target)
    assert target.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'milepost'") == [("contacts",)]


async def test_a_target_whose_making_was_cut_short_is_made(into_sqlite: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, target = into_sqlite
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "shipped", lambda: {"0001_journal", "0002_contacts"})
        migrating.migrate(target.file)
    await moved(origin, target)
    assert target.everything() == origin.everything()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_chunk_is_read_in_the_order_of_its_key_s_index(database: Database, table: Table) -> None:
    statement = load_statements("postgresql", "moving")[f"read_{table.name}"]
    with database.connect() as connection:
        for costly in ("seqscan", "bitmapscan"):  # as they are on a table that is not empty
            connection.execute(f"SET enable_{costly} = off".encode())
        plan = connection.execute(f"EXPLAIN {statement}".encode(), (*table.beginning, 10)).fetchall()
    steps = "\n".join(step for (step,) in plan)
    assert f"using {table.name}_pkey" in steps
    assert "Sort" not in steps
