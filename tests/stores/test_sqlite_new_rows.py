"""Rows of which none is known are inserted without an upsert; after a conflict, with one."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.builders import STREAM
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Changes, Known
from milepost.core.ports import Commit, Committed
from milepost.stores.reader import Parameters
from milepost.stores.sqlite.commit import ALL_NEW, UPSERTS, SqliteWriter
from milepost.stores.sqlite.store import SqliteStore, open_sqlite
from stores.histories import commit_after, contact_row, conversation_row, stream

OTHER = stream(2)
INSERTS = [f"{each}{ALL_NEW}" for each in UPSERTS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "milepost.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with open_sqlite(path) as store:
        yield store


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the statements that write contacts and conversations, as they are run."""
    run, write_all = list[str](), SqliteWriter._write_all

    def noting(writer: SqliteWriter, statement: str, columns: Iterator[Parameters]) -> None:
        run.extend({statement} & {*UPSERTS, *INSERTS})
        write_all(writer, statement, columns)

    monkeypatch.setattr(SqliteWriter, "_write_all", noting)
    return run


def decided(known: Known, changes: Changes, after: Checkpoint | None = None) -> Commit:
    """Return a commit that was decided on what was known."""
    return replace(commit_after(after or Checkpoint(STREAM), changes=changes), known=known)


def stored(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


async def test_rows_are_inserted_if_none_is_known_and_upserted_otherwise(
    path: Path, store: SqliteStore, written: list[str]
) -> None:
    first = decided(Known(), Changes((conversation_row("t_1"),), (contact_row("c_1"),)))
    assert isinstance(await store.commit(first), Committed)
    assert written == INSERTS
    written.clear()

    known = Known({"t_1": conversation_row("t_1")}, {"c_1": contact_row("c_1")})
    changes = Changes(
        (conversation_row("t_1", snippet="later"), conversation_row("t_2")),
        (contact_row("c_1", name="Grace"), contact_row("c_2")),
    )
    assert isinstance(await store.commit(decided(known, changes, first.checkpoint)), Committed)
    assert written == list(UPSERTS)
    assert stored(path, "SELECT contact_id, name, version FROM contacts ORDER BY 1") == [
        ("c_1", "Grace", 2),
        ("c_2", "Ada", 2),
    ]


async def test_rows_are_upserted_if_the_decision_did_not_look_at_the_stored_ones(
    store: SqliteStore, written: list[str]
) -> None:
    commit = commit_after(Checkpoint(STREAM), changes=Changes((conversation_row("t_1"),), (contact_row("c_1"),)))
    assert isinstance(await store.commit(commit), Committed)
    assert written == list(UPSERTS)


async def test_a_contact_that_is_stored_without_being_known_is_updated(
    path: Path, store: SqliteStore, written: list[str]
) -> None:
    first = decided(Known(), Changes(contacts=(contact_row("c_1"),)))
    await store.commit(first)
    written.clear()

    again = decided(Known(), Changes(contacts=(contact_row("c_1", name="Grace"),)), first.checkpoint)
    assert isinstance(await store.commit(again), Committed)

    assert written == [INSERTS[0], UPSERTS[0]]
    assert stored(path, "SELECT name, version FROM contacts") == [("Grace", 2)]


async def test_a_contact_of_another_page_is_not_taken_for_new(store: SqliteStore, written: list[str]) -> None:
    """Its thread is listed by this page, too, and was met there first."""
    there = contact_row("c_1", of=OTHER)
    await store.commit(replace(commit_after(Checkpoint(OTHER), changes=Changes(contacts=(there,))), known=Known()))
    written.clear()

    known = Known(contacts_elsewhere={(OTHER.page_id, "c_1"): there})
    ours = Changes(contacts=(replace(there, name="Grace"),))
    assert isinstance(await store.commit(decided(known, ours)), Committed)

    assert written == [UPSERTS[0]]
