"""The journal's table is append-only, whoever tries otherwise."""

import psycopg
import pytest

from kit.postgres import Database, on_both_releases
from milepost.stores.postgresql.store import open_postgresql
from stores.histories import live, stream

ENTRIES = "SELECT * FROM journal ORDER BY seq"
COPIED = "INSERT INTO journal (seq, stream, version, run_id, recorded_at, type, data, hash) SELECT {seq}, stream, "
COPIED += "{version}, run_id, recorded_at, type, data, hash FROM journal WHERE seq = 2"
NEXT_SEQ, NEXT_VERSION = "(SELECT max(seq) + 1 FROM journal)", "(SELECT max(version) + 1 FROM journal)"

pytestmark = on_both_releases


@pytest.fixture
async def journal(database: Database) -> Database:
    async with open_postgresql(database.store_url) as store:
        await live(store, stream(1), 5)
    return database


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET data = '{}' WHERE seq = 2",
        "UPDATE journal SET hash = hash",
        "DELETE FROM journal WHERE seq = 2",
        "DELETE FROM journal",
        "TRUNCATE journal",
        "TRUNCATE journal CASCADE",
        "MERGE INTO journal USING (SELECT 2 AS seq) AS old ON journal.seq = old.seq WHEN MATCHED THEN DELETE",
    ],
)
def test_entries_cannot_be_changed_or_deleted(journal: Database, statement: str) -> None:
    before = journal.sql(ENTRIES)

    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        journal.sql(statement)

    assert journal.sql(ENTRIES) == before


@pytest.mark.parametrize("version", ["version", "1", "version + 1000", "NULL", "-1"])
def test_every_version_but_the_next_is_refused(journal: Database, version: str) -> None:
    before = journal.sql(ENTRIES)

    with pytest.raises(psycopg.IntegrityError):
        journal.sql(COPIED.format(seq=NEXT_SEQ, version=version))

    assert journal.sql(ENTRIES) == before


@pytest.mark.parametrize("seq", ["1", "max(seq)", "max(seq) + 2", "0", "-1", "NULL"])
def test_every_seq_but_the_next_is_refused(journal: Database, seq: str) -> None:
    """A gap would make every follower of the journal wait, and a seq before the end would go unseen."""
    before = journal.sql(ENTRIES)

    with pytest.raises(psycopg.IntegrityError):
        journal.sql(COPIED.format(seq=f"(SELECT {seq} FROM journal)" if "max" in seq else seq, version=NEXT_VERSION))

    assert journal.sql(ENTRIES) == before


def test_the_next_entry_is_accepted(journal: Database) -> None:
    before = journal.sql(ENTRIES)

    journal.sql(COPIED.format(seq=NEXT_SEQ, version=NEXT_VERSION))

    assert len(journal.sql(ENTRIES)) == len(before) + 1


async def test_the_journal_tells_a_streams_state_even_if_its_checkpoint_is_gone(journal: Database) -> None:
    async with open_postgresql(journal.store_url) as store:
        before = await store.load(stream(1))
    journal.sql("DELETE FROM checkpoints")

    async with open_postgresql(journal.store_url) as store:
        assert before.version > 0
        assert await store.load(stream(1)) == before
