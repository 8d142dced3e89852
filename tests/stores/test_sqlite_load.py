"""The checkpoint of a stream is read from the database unless the store has it from the stream's latest commit."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import VersionConflict
from milepost.core.events import SyncRequested
from milepost.core.model import Changes, Stream
from milepost.core.ports import Commit, Committed, Rejected, Store
from milepost.stores.reader import Session, load_statements
from milepost.stores.sqlite.commit import SqliteWriter
from milepost.stores.sqlite.connection import transaction
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import commit_after, conversation_row, next_commit, stream
from stores.sqlite_files import raw

REFUSED = replace(conversation_row(), conversation_id="t\0")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """Return the streams whose checkpoints are read from the database."""
    streams: list[Stream] = []
    load = Session.load

    async def spy(session: Session, stream: Stream) -> Checkpoint:
        streams.append(stream)
        return await load(session, stream)

    monkeypatch.setattr(Session, "load", spy)
    return streams


async def advance(store: Store, of: Stream = STREAM) -> Commit:
    commit = next_commit(await store.load(of))
    assert isinstance(await store.commit(commit), Committed)
    return commit


async def test_a_checkpoint_is_read_once_and_then_that_of_the_latest_commit(path: Path, read: list[Stream]) -> None:
    async with open_sqlite(path) as store:
        for _ in range(10):
            committed = await advance(store)
            assert await store.load(STREAM) is committed.checkpoint
        assert read == [STREAM]
        await store.load(stream(2))
        assert read == [STREAM, stream(2)]


async def test_the_next_process_reads_the_checkpoint_of_the_latest_commit(path: Path) -> None:
    streams = [STREAM, *map(stream, range(2))]
    for _ in range(2):
        async with open_sqlite(path) as store:
            for _ in range(5):
                await asyncio.gather(*(advance(store, each) for each in streams))
            known = [await store.load(each) for each in streams]
        async with open_sqlite(path) as store:
            assert [await store.load(each) for each in streams] == known


async def test_successive_commits_leave_the_checkpoint_of_the_last_one(path: Path) -> None:
    async with open_sqlite(path) as store:
        first = next_commit(await store.load(STREAM))
        second = next_commit(first.checkpoint)
        refused = replace(next_commit(second.checkpoint), changes=Changes((REFUSED,)))
        assert [type(each) for each in await store.commit_all([first, second, refused])] == [
            Committed,
            Committed,
            Rejected,
        ]
        assert await store.load(STREAM) == second.checkpoint


async def test_a_refusal_leaves_the_checkpoint_before_it(path: Path, read: list[Stream]) -> None:
    async with open_sqlite(path) as store:
        before = await advance(store)
        refused = commit_after(before.checkpoint, changes=Changes((REFUSED,)))
        assert isinstance(await store.commit(refused), Rejected)
        assert await store.load(STREAM) == before.checkpoint
        assert read == [STREAM, STREAM]


async def test_entries_of_another_writer_are_read_after_the_conflict(path: Path) -> None:
    async with open_sqlite(path) as store:
        ours = await advance(store)
        theirs = commit_after(ours.checkpoint, SyncRequested("somebody", full=False), now=NOON)
        with raw(path) as connection, transaction(connection):
            SqliteWriter(load_statements("sqlite"), connection).write([theirs], 1)

        with pytest.raises(VersionConflict):
            await store.commit(next_commit(ours.checkpoint))
        assert await store.load(STREAM) == theirs.checkpoint
        await advance(store)


async def test_the_stored_checkpoint_is_read_after_a_cancelled_commit(path: Path) -> None:
    async with open_sqlite(path) as store:
        before = await advance(store)
        committing = asyncio.create_task(store.commit(next_commit(before.checkpoint)))
        await asyncio.sleep(0)
        committing.cancel()
        await asyncio.wait([committing])
        known = await store.load(STREAM)
    async with open_sqlite(path) as store:
        assert await store.load(STREAM) == known
