"""Removing a stream from any database."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.store_contract import Tables
from kit.binary import started, until
from kit.builders import NOON, at
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreBusy, StoreRefused, VersionConflict
from milepost.core.model import Changes, Stream
from milepost.core.position import Stretch
from milepost.stores.open import forget, open_reader, open_store, remove
from milepost.stores.reader import StreamRows
from milepost.stores.sqlite.store import open_sqlite
from milepost.stores.url import StoreUrl
from stores.histories import commit_after, contact_row, conversation_row, event_row, life, live, next_commit, stream
from stores.sqlite_files import execute, names_in
from stores.store_dump import IN_POSTGRESQL, IN_SQLITE, PostgresDump, SqliteDump, StoreDump

GONE, OTHER = stream(1), stream(2)
BY = "a test"


async def two_lives(kept: StoreDump) -> tuple[Checkpoint, Checkpoint]:
    """Commit two streams' lives so far: an open run, dead letters open and closed, and missed conversations."""
    async with open_store(kept.store_url) as store:
        checkpoints = []
        for each in (GONE, OTHER):
            checkpoint = await live(store, each, 23)
            missing = Changes(missed=Stretch(NOON, None, None, ()))
            following = commit_after(checkpoint, changes=missing, now=at(checkpoint.version), run_id=f"{each.key}-open")
            await store.commit(following)
            checkpoints.append(following.checkpoint)
    gone, other = checkpoints
    return gone, other


def of(tables: Tables, one: Stream) -> Tables:
    """Return a stream's rows in the tables beside the journal."""
    page = (one.platform.value, one.page_id)
    run_ids = {row.run_id for row in tables.journal if row.stream == one.key}
    dead_letters = {key: dead_letter for key, dead_letter in tables.dead_letters.items() if dead_letter.stream == one}
    return Tables(
        (),
        {key: each for key, each in tables.checkpoints.items() if key == one.key},
        {key: run for key, run in tables.runs.items() if key in run_ids},
        {key: row for key, row in tables.conversations.items() if (row.platform, row.page_id) == page},
        {key: row for key, row in tables.contacts.items() if key[:2] == page},
        {key: row for key, row in tables.interaction_events.items() if (row.platform, row.page_id) == page},
        dead_letters,
        {key: payload for key, payload in tables.payloads.items() if key in dead_letters},
        {key: row for key, row in tables.pages.items() if key == page},
    )


async def rebuilt_equal(kept: StoreDump) -> None:
    """Check that the projections equal their fold, and that a rebuild restores them byte for byte."""
    before = kept.projections()
    async with open_reader(kept.store_url, alone=True) as journal_reader:
        verified = await journal_reader.verify()
        assert await journal_reader.rebuild() == verified
    assert kept.projections() == before


class TestRemoval:
    async def test_a_removal_deletes_all_of_the_stream_and_nothing_of_another(self, kept: StoreDump) -> None:
        gone, _ = await two_lives(kept)
        before = kept.tables()
        theirs = of(before, GONE)

        removed = await remove(kept.store_url, GONE, BY, at(1_000))

        assert removed == StreamRows(
            len(theirs.contacts), len(theirs.conversations), len(theirs.interaction_events), gone.open_dead_letters
        )
        after = kept.tables()
        beginning = after.checkpoints[GONE.key]
        assert of(after, GONE) == Tables(checkpoints={GONE.key: beginning})
        assert beginning == Checkpoint(GONE, gone.version + 1, beginning.hash, at(1_000), removed_at=at(1_000))
        assert of(after, OTHER) == of(before, OTHER)
        assert kept.rows("SELECT DISTINCT stream FROM missed_conversations") == [(OTHER.key,)]

    async def test_a_removal_keeps_the_history_and_adds_who_asked(self, kept: StoreDump) -> None:
        gone, _ = await two_lives(kept)
        before = kept.tables().journal

        await remove(kept.store_url, GONE, BY, NOON)

        *history, entry = kept.tables().journal
        assert tuple(history) == before
        assert (entry.stream, entry.version, entry.run_id) == (GONE.key, gone.version + 1, None)
        assert (entry.type, entry.data) == ("stream_removed", '{"by":"a test"}')

    async def test_a_rebuild_after_a_removal_changes_nothing(self, kept: StoreDump) -> None:
        await two_lives(kept)
        await remove(kept.store_url, GONE, BY, NOON)
        await rebuilt_equal(kept)

        async with open_store(kept.store_url) as store:
            checkpoint = await live(store, GONE, 9)
        await rebuilt_equal(kept)
        assert kept.tables().checkpoints[GONE.key] == checkpoint

        await remove(kept.store_url, GONE, BY, NOON)
        await remove(kept.store_url, OTHER, BY, NOON)
        await rebuilt_equal(kept)
        tables = kept.tables()
        assert tables == Tables(tables.journal, tables.checkpoints)

    async def test_a_removed_stream_that_is_worked_again_starts_over(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            commits = list(life(GONE, 9))
            for each in commits:
                await store.commit(each)
        first = of(kept.tables(), GONE)
        await remove(kept.store_url, GONE, BY, NOON)

        async with open_store(kept.store_url) as store:
            checkpoint = await store.load(GONE)
            for each in commits:
                again = commit_after(
                    checkpoint,
                    *(entry.event for entry in each.entries),
                    changes=each.changes,
                    run_id=each.entries[0].run_id or "",
                    now=each.entries[0].recorded_at,
                )
                await store.commit(again)
                checkpoint = again.checkpoint

        last = of(kept.tables(), GONE)
        assert replace(last, checkpoints={}) == replace(first, checkpoints={})
        assert (checkpoint.total, checkpoint.sweep, checkpoint.open_dead_letters) == (
            commits[-1].checkpoint.total,
            commits[-1].checkpoint.sweep,
            commits[-1].checkpoint.open_dead_letters,
        )

    async def test_a_forgotten_person_stays_forgotten_after_a_removal(self, kept: StoreDump) -> None:
        people = ("ada", "bob")
        rows = Changes(
            tuple(conversation_row(f"t_{each}", of=GONE, contact_id=each) for each in people),
            tuple(contact_row(each, of=GONE) for each in people),
            tuple(event_row(f"m_{each}", of=GONE, conversation_id=f"t_{each}") for each in people),
        )
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(Checkpoint(GONE), changes=rows))
        await forget(kept.store_url, GONE, "ada")
        await remove(kept.store_url, GONE, BY, NOON)

        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(GONE), changes=rows))

        tables = kept.tables()
        assert set(tables.conversations) == {"t_bob"}
        assert {contact_id for _, _, contact_id in tables.contacts} == {"bob"}
        assert set(tables.interaction_events) == {"m_bob"}

    async def test_a_removal_is_complete_or_does_nothing(self, kept: StoreDump) -> None:
        await two_lives(kept)
        kept.refuse_deletes("contact_interaction_events")
        before = kept.tables()

        with pytest.raises(Exception, match="not this one"):
            await remove(kept.store_url, GONE, BY, NOON)

        assert kept.tables() == before

    async def test_removing_an_unknown_stream_changes_nothing(self, kept: StoreDump) -> None:
        await two_lives(kept)
        await remove(kept.store_url, GONE, BY, NOON)
        before = kept.tables()

        assert await remove(kept.store_url, GONE, BY, NOON) is None
        assert await remove(kept.store_url, stream(3), BY, NOON) is None

        assert kept.tables() == before

    async def test_the_rows_of_a_stream_are_counted_before_its_removal(self, kept: StoreDump) -> None:
        await two_lives(kept)
        async with open_reader(kept.store_url) as journal_reader:
            counted = await journal_reader.count_rows(GONE)
            assert counted.conversations > 0
            assert await journal_reader.count_rows(stream(3)) == StreamRows(0, 0, 0, 0)
        assert await remove(kept.store_url, GONE, BY, NOON) == counted
        async with open_reader(kept.store_url) as journal_reader:
            assert await journal_reader.count_rows(GONE) == StreamRows(0, 0, 0, 0)


# --- SQLite -----------------------------------------------------------------------------------------------------------


SECRET = "Wq7-zebra"
# Deleting the first message never ends.
ENDLESS = """
    CREATE TRIGGER endless BEFORE DELETE ON contact_interaction_events BEGIN
        SELECT count(*) FROM (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n);
    END
"""


def on_disk(folder: Path) -> bytes:
    """Return the bytes of the database, its WAL and its lock."""
    return b"".join(each.read_bytes() for each in folder.iterdir())


def is_written(path: Path) -> bool:
    """Return whether a transaction that writes is under way."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorname.startswith("SQLITE_BUSY")
        connection.execute("ROLLBACK")
        return False


async def test_a_removal_leaves_no_word_of_the_stream_on_the_disk(path: Path) -> None:
    async with open_sqlite(path) as store:
        said = Changes(interaction_events=tuple(event_row(f"m_{n}", of=GONE, text=SECRET * 50) for n in range(30)))
        await store.commit(commit_after(Checkpoint(GONE), changes=said))
    assert on_disk(path.parent).count(SECRET.encode()) > 1_000

    await remove(StoreUrl(f"sqlite:///{path}"), GONE, BY, NOON)

    assert SECRET.encode() not in on_disk(path.parent)


@IN_SQLITE
async def test_a_removal_beside_a_daemon_is_refused(kept: SqliteDump) -> None:
    await two_lives(kept)
    before = kept.tables()
    async with open_sqlite(kept.path):
        with pytest.raises(StoreBusy, match="another Milepost"):
            await remove(kept.store_url, GONE, BY, NOON)
    assert kept.tables() == before


@IN_SQLITE
async def test_a_kill_in_the_middle_of_a_removal_leaves_the_stream_whole_and_a_second_attempt_removes_it(
    kept: SqliteDump,
) -> None:
    await two_lives(kept)
    kept.execute(ENDLESS)
    before = kept.tables()
    (kept.path.parent / "config.yaml").write_text(f"store: {{url: 'sqlite:///{kept.path}'}}\n")
    async with started(kept.path.parent, "streams", "remove", GONE.key, "--yes") as removing:
        await until(lambda: removing.has_ended or is_written(kept.path))
        assert not removing.has_ended, "it ended without having written"
        await removing.kill()

    assert kept.tables() == before
    execute(kept.path, "DROP TRIGGER endless")
    assert await remove(kept.store_url, GONE, BY, NOON) is not None
    await rebuilt_equal(kept)


async def test_a_removal_without_a_database_is_refused_and_creates_none(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="there is no database"):
        await remove(StoreUrl(f"sqlite:///{tmp_path / 'milepost.db'}"), GONE, BY, NOON)
    assert names_in(tmp_path) == set()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@IN_POSTGRESQL
async def test_a_worker_of_the_removed_stream_writes_nothing_more_of_it(kept: PostgresDump) -> None:
    before, _ = await two_lives(kept)
    async with open_store(kept.store_url) as store:
        in_hand = next_commit(before)

        await remove(kept.store_url, GONE, BY, NOON)

        with pytest.raises(VersionConflict):
            await store.commit(in_hand)
        assert {each.page_id for each in kept.tables().conversations.values()} == {OTHER.page_id}


@IN_POSTGRESQL
async def test_other_streams_continue_while_rows_are_deleted(kept: PostgresDump) -> None:
    """The removal waits for a lock on one of its rows, and holds its own meanwhile."""
    await two_lives(kept)
    async with open_store(kept.store_url) as store:
        with kept.database.connect() as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM contact_interaction_events WHERE page_id = 'page-1' FOR UPDATE")
            removing = asyncio.create_task(remove(kept.store_url, GONE, BY, NOON))
            await until(lambda: kept.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))

            version = (await live(store, OTHER, 5)).version

            assert not removing.done()
            reader.execute("ROLLBACK")
        assert await removing is not None
    assert kept.tables().checkpoints[OTHER.key].version == version
