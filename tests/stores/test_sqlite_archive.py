"""Reading the journal beside the daemon: what verify finds, what rebuild restores, what a follower sees."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.builders import NOON
from milepost.core.checkpoint import Checkpoint, DeadLetter, evolve
from milepost.core.errors import JournalDamaged, StoreBusy, StoreRefused
from milepost.core.events import RunStatus
from milepost.core.project import RunOf
from milepost.stores import rows
from milepost.stores.archive import LetterState, Placed, open_archive
from milepost.stores.sqlite import SqliteStore, open_sqlite
from stores.lives import live, stream
from stores.sqlite_files import DROP_TRIGGERS, PROJECTIONS, execute, names_in, projections, rows_of, tables_of

ONE_TOO_MANY = """
    CREATE TEMP TABLE one AS SELECT * FROM {table} LIMIT 1;
    UPDATE one SET {key} = 'extra';
    INSERT INTO {table} SELECT * FROM one
"""
STREAMS = [stream(number) for number in range(3)]


async def fill(store: SqliteStore) -> None:
    """Live three lives side by side, so that their entries lie among each other's."""
    await asyncio.gather(*(live(store, each, 23) for each in STREAMS))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    path = tmp_path_factory.mktemp("filled") / "milepost.db"
    path.write_bytes(migrated.read_bytes())

    async def filled() -> None:
        async with open_sqlite(path) as store:
            await fill(store)

    asyncio.run(filled())
    return path


@pytest.fixture
def filled(tmp_path: Path, template: Path) -> Path:
    path = tmp_path / "filled.db"
    path.write_bytes(template.read_bytes())
    return path


def columns_of(path: Path, *, only_nullable: bool) -> list[tuple[str, str]]:
    """List the columns of the projections."""
    return [
        (table, name)
        for table in PROJECTIONS
        for _, name, _, is_not_null, _, _ in rows_of(path, f"PRAGMA table_info({table})")
        if not (only_nullable and is_not_null)
    ]


async def verify(path: Path) -> None:
    async with open_archive(path) as archive:
        await archive.verify()


async def rebuild(path: Path) -> None:
    async with open_archive(path, alone=True) as archive:
        await archive.rebuild()


class TestVerify:
    async def test_tells_what_it_went_through(self, filled: Path) -> None:
        async with open_archive(filled) as archive:
            audit = await archive.verify()

        tables = tables_of(filled)
        assert (audit.entries, audit.streams) == (len(tables.journal), 3)
        assert (audit.runs, audit.dead_letters) == (len(tables.runs), len(tables.dead_letters))
        assert audit.last_recorded_at == tables.journal[-1].entry().recorded_at
        assert audit.runs >= 12
        assert audit.dead_letters >= 50

    async def test_of_an_empty_journal_finds_nothing_wrong(self, path: Path) -> None:
        async with open_archive(path) as archive:
            audit = await archive.verify()

        assert (audit.entries, audit.streams, audit.last_recorded_at) == (0, 0, None)

    @pytest.mark.parametrize(
        "tampering",
        [
            "UPDATE journal SET data = replace(data, 'cursor-', 'corsar-') WHERE seq = 60",
            "UPDATE journal SET data = data || ' ' WHERE seq = 60",
            "UPDATE journal SET data = '{' WHERE seq = 60",
            "UPDATE journal SET hash = upper(hash) WHERE seq = 60",
            "UPDATE journal SET run_id = 'another' WHERE seq = 60",
            "UPDATE journal SET run_id = NULL WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, '.000Z', '.001Z') WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, 'Z', '+00:00') WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, '.000Z', '.000999Z') WHERE seq = 60",
            "UPDATE journal SET recorded_at = 'yesterday' WHERE seq = 60",
            "UPDATE journal SET type = 'batch_lost' WHERE seq = 60",
            "UPDATE journal SET version = version + 1000 WHERE seq = 60",
            "UPDATE journal SET stream = 'messenger:elsewhere' WHERE seq = 60",
            "DELETE FROM journal WHERE seq = 60",
            "DELETE FROM journal WHERE seq = 1",
            "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)",
            "DELETE FROM journal WHERE stream = 'messenger:page-1'",
            "DELETE FROM journal",
            "UPDATE journal SET seq = -seq WHERE seq = 60",
            "REPLACE INTO journal SELECT seq, stream, version, run_id, recorded_at, type, '{}', hash FROM journal",
        ],
    )
    async def test_finds_a_journal_that_was_changed(self, filled: Path, tampering: str) -> None:
        before = rows_of(filled, "SELECT * FROM journal")
        execute(filled, DROP_TRIGGERS)
        execute(filled, tampering)
        assert rows_of(filled, "SELECT * FROM journal") != before

        with pytest.raises(JournalDamaged):
            await verify(filled)

    @pytest.mark.parametrize(
        "tampering",
        [
            "UPDATE {table} SET {column} = 7 WHERE rowid = (SELECT max(rowid) FROM {table})",
            "UPDATE {table} SET {column} = NULL WHERE rowid = (SELECT max(rowid) FROM {table})",
        ],
    )
    async def test_finds_any_column_of_a_projection_that_was_changed(self, filled: Path, tampering: str) -> None:
        checked = 0
        for table, column in columns_of(filled, only_nullable="NULL" in tampering):
            before = projections(filled)
            execute(filled, tampering.format(table=table, column=column))
            if projections(filled) != before:
                checked += 1
                with pytest.raises(JournalDamaged, match="journal rebuild"):
                    await verify(filled)
            await rebuild(filled)
            assert projections(filled) == before
        assert checked > 5

    @pytest.mark.parametrize(
        "tampering",
        [
            "DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})",
            "DELETE FROM {table}",
            ONE_TOO_MANY,
        ],
        ids=["a row is missing", "all are missing", "one too many"],
    )
    @pytest.mark.parametrize(
        ("table", "key"), [("checkpoints", "stream"), ("runs", "run_id"), ("dead_letters", "dead_letter_id")]
    )
    async def test_finds_rows_too_many_or_too_few(self, filled: Path, tampering: str, table: str, key: str) -> None:
        execute(filled, tampering.format(table=table, key=key))

        with pytest.raises(JournalDamaged, match="journal rebuild"):
            await verify(filled)

    async def test_goes_on_beside_a_daemon_that_writes(self, filled: Path) -> None:
        async with open_sqlite(filled) as store, asyncio.TaskGroup() as group:
            writing = group.create_task(fill(store))
            verified = 0
            while not writing.done():
                await verify(filled)
                verified += 1
        assert verified > 1
        await verify(filled)


class TestRebuild:
    @pytest.mark.parametrize(
        "damage",
        [
            "DELETE FROM checkpoints; DELETE FROM runs; DELETE FROM dead_letters",
            "UPDATE checkpoints SET state = '{', version = 0; UPDATE runs SET status = '?', stream = 'x:y'",
            "UPDATE runs SET run_id = 'x' || run_id; UPDATE dead_letters SET dead_letter_id = 'x' || dead_letter_id",
            "UPDATE checkpoints SET stream = 'x' || stream",
            "SELECT 1",
        ],
    )
    async def test_makes_every_projection_again_byte_for_byte(self, filled: Path, damage: str) -> None:
        before = projections(filled)
        execute(filled, damage)

        await rebuild(filled)

        assert projections(filled) == before
        await verify(filled)

    async def test_of_a_damaged_journal_changes_nothing(self, filled: Path) -> None:
        execute(filled, DROP_TRIGGERS)
        execute(filled, "UPDATE journal SET data = data || ' ' WHERE seq = 60; DELETE FROM runs")
        before = projections(filled)

        with pytest.raises(JournalDamaged):
            await rebuild(filled)

        assert projections(filled) == before

    async def test_is_refused_beside_a_daemon(self, filled: Path) -> None:
        async with open_sqlite(filled):
            with pytest.raises(StoreBusy, match="works on the database"):
                await rebuild(filled)

    async def test_is_what_a_start_after_it_goes_on_from(self, filled: Path) -> None:
        execute(filled, "DELETE FROM checkpoints; DELETE FROM runs; DELETE FROM dead_letters")
        await rebuild(filled)

        async with open_sqlite(filled) as store:
            await fill(store)

        await verify(filled)


class TestEntries:
    async def test_are_given_by_seq_with_and_without_a_stream(self, filled: Path) -> None:
        everything = [Placed(row.seq, row.entry()) for row in tables_of(filled).journal]
        async with open_archive(filled) as archive:
            for of in (None, *(each.key for each in STREAMS), "messenger:unknown"):
                mine = [placed for placed in everything if of in (None, placed.entry.stream)]
                for after in (-1, 0, 1, 2, 50, 51, 52, 53, everything[-1].seq - 1, everything[-1].seq, 10**9):
                    for limit in (1, 7, 10_000):
                        expected = [placed for placed in mine if placed.seq > after][:limit]
                        assert await archive.entries(after=after, limit=limit, stream=of) == expected
                for limit in (1, 7, 10_000):
                    assert await archive.latest(limit=limit, stream=of) == mine[-limit:]

    @pytest.mark.parametrize("followed", [None, STREAMS[1].key])
    async def test_are_followed_without_a_gap_while_they_are_written(self, path: Path, followed: str | None) -> None:
        seen: list[Placed] = []
        async with open_sqlite(path) as store, open_archive(path) as archive, asyncio.TaskGroup() as group:
            writing = group.create_task(fill(store))
            is_last_look = False
            while not is_last_look:
                is_last_look = writing.done()
                while found := await archive.entries(after=seen[-1].seq if seen else 0, limit=5, stream=followed):
                    seen.extend(found)

        written = [Placed(row.seq, row.entry()) for row in tables_of(path).journal]
        assert seen == [placed for placed in written if followed in (None, placed.entry.stream)]

    async def test_checkpoints_are_given_by_stream(self, filled: Path) -> None:
        async with open_archive(filled) as archive:
            found = await archive.checkpoints()

        assert [each.stream for each in found] == sorted(each.key for each in STREAMS)
        assert {each.stream: each for each in found} == tables_of(filled).refold()

    async def test_a_checkpoint_that_cannot_be_read_says_how_to_mend_it(self, filled: Path) -> None:
        execute(filled, "UPDATE checkpoints SET state = '{}'")

        async with open_archive(filled) as archive:
            with pytest.raises(JournalDamaged, match="journal rebuild"):
                await archive.checkpoints()


class TestPlaces:
    async def test_a_stream_is_folded_from_the_beginning_of_the_run_that_an_entry_is_in(self, filled: Path) -> None:
        key = STREAMS[0].key
        async with open_archive(filled) as archive:
            whole = Checkpoint(key)
            for placed in await archive.entries(after=0, limit=1000, stream=key):
                within = (await archive.within_runs({key: placed.entry.version}))[key]
                assert within.version == whole.version
                if whole.run is not None and whole.run.ended_at is None:
                    assert within.run is not None
                    assert replace(within.run, mode=None) == replace(whole.run, mode=None)  # which is the sweep's
                whole = evolve(whole, placed.entry)

    async def test_of_many_streams_each_is_folded_by_itself(self, filled: Path) -> None:
        async with open_archive(filled) as archive:
            found = await archive.within_runs({each.key: 5 for each in STREAMS} | {"messenger:nobody": 1})
        assert [found[each.key].version for each in STREAMS] == [4, 4, 4]
        assert found["messenger:nobody"] == Checkpoint("messenger:nobody")

    async def test_the_runs_that_completed_with_errors_are_told(self, filled: Path) -> None:
        async with open_archive(filled) as archive:
            runs = await archive.runs(limit=1000)
            with_errors = {each.run.run_id for each in runs if each.run.status is RunStatus.COMPLETE_WITH_ERRORS}
            assert await archive.completed_with_errors(each.run.run_id for each in runs) == with_errors
        assert 0 < len(with_errors) < len(runs)

    async def test_the_place_of_an_instant_is_found(self, filled: Path) -> None:
        async with open_archive(filled) as archive:
            instants = [each.entry.recorded_at for each in await archive.entries(after=0, limit=1000)]
            for instant in (NOON, NOON + timedelta(days=1), *instants[::10]):
                seq = await archive.seq_before(instant)
                assert seq == 0 or instants[seq - 1] < instant
                assert seq == len(instants) or instants[seq] >= instant


class TestRuns:
    async def test_are_given_a_page_at_a_time_the_newest_first(self, filled: Path) -> None:
        everything = [rows.run(each) for each in rows_of(filled, "SELECT * FROM runs ORDER BY run_id DESC")]
        assert len(everything) > 7
        async with open_archive(filled) as archive:
            for of in (None, *(each.key for each in STREAMS), "messenger:unknown"):
                found: list[RunOf] = []
                while page := await archive.runs(before=found[-1].run.run_id if found else None, limit=7, stream=of):
                    assert len(page) <= 7
                    found.extend(page)
                assert found == [each for each in everything if of in (None, each.stream)]

    async def test_one_that_cannot_be_read_says_how_to_mend_it(self, filled: Path) -> None:
        execute(filled, "UPDATE runs SET status = 'lost'")

        async with open_archive(filled) as archive:
            with pytest.raises(JournalDamaged, match="journal rebuild"):
                await archive.runs(limit=1)


def is_in(letter: DeadLetter, state: LetterState) -> bool:
    return state is LetterState.ALL or (letter.closed_at is None) is (state is LetterState.OPEN)


class TestLetters:
    async def test_are_given_a_page_at_a_time_the_oldest_first(self, filled: Path) -> None:
        everything = sorted(
            tables_of(filled).dead_letters.values(), key=lambda each: (each.opened_at, each.dead_letter_id)
        )
        async with open_archive(filled) as archive:
            for of in (None, *(each.key for each in STREAMS), "messenger:unknown"):
                for state in LetterState:
                    expected = [each for each in everything if of in (None, each.stream) and is_in(each, state)]
                    found: list[DeadLetter] = []
                    while page := await archive.letters(
                        state, stream=of, after=found[-1].dead_letter_id if found else None, limit=7
                    ):
                        assert len(page) <= 7
                        found.extend(page)
                    assert found == expected
        assert 0 < sum(each.closed_at is not None for each in everything) < len(everything)

    async def test_one_is_given_with_its_payload_as_long_as_it_is_open(self, filled: Path) -> None:
        tables = tables_of(filled)
        async with open_archive(filled) as archive:
            for key, letter in tables.dead_letters.items():
                assert await archive.letter(key) == (letter, "{}" if letter.closed_at is None else None)
            assert await archive.letter("unknown") is None

    async def test_one_that_cannot_be_read_says_how_to_mend_it(self, filled: Path) -> None:
        execute(filled, "UPDATE dead_letters SET resolution = 'lost'")

        async with open_archive(filled) as archive:
            with pytest.raises(JournalDamaged, match="journal rebuild"):
                await archive.letters(LetterState.ALL, limit=1)


class TestOpening:
    async def test_a_path_without_a_database_is_refused_and_stays_so(self, tmp_path: Path) -> None:
        with pytest.raises(StoreRefused, match="milepost run"):
            async with open_archive(tmp_path / "milepost.db"):
                pass

        assert names_in(tmp_path) == set()

    async def test_a_database_that_was_never_migrated_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "milepost.db").touch()

        with pytest.raises(StoreRefused, match="older Milepost"):
            async with open_archive(tmp_path / "milepost.db"):
                pass

    async def test_a_reader_cannot_write(self, filled: Path) -> None:
        async with open_archive(filled) as archive:
            with pytest.raises(StoreRefused):
                await archive.rebuild()
