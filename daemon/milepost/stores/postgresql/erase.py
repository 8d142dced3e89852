"""Erases a person from PostgreSQL, or removes a stream. Nobody who was erased comes back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from milepost.core.model import Changes, Stream
from milepost.stores.commit import Forgotten, removal
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.postgresql.encoding import Prepared
from milepost.stores.postgresql.migrate import open_current
from milepost.stores.reader import StreamRows
from milepost.stores.url import StoreUrl


async def forget_in_postgresql(store_url: StoreUrl, stream: Stream, contact_id: str) -> Forgotten:
    """Erase a contact of a page, with their conversations, messages and dead letters' payloads, and keep them out.

    It covers rows written under other pages, too: an account that moves to another page takes its people along.

    Works beside running workers, whose commits wait meanwhile. A contact that is not stored is kept out as well. A dead
    letter's entries in the journal stay; a worker closes it. The server overwrites erased rows when it vacuums the
    tables. Until then they remain there, and longer in its write-ahead log, replicas and backups.

    Raises StoreRefused if the database has no schema of this program's version, StoreAway if it does not answer.
    """
    async with _writer(store_url) as writer:
        await writer.keep_others_out()
        return await writer.erase(stream, contact_id)


async def remove_from_postgresql(store_url: StoreUrl, stream: Stream, by: str, now: datetime) -> StreamRows | None:
    """Remove a stream with all its rows and return how many there were, or None if nothing of it is stored.

    Works beside workers: those of other streams go on, and a worker of this stream finds at its next commit that the
    stream has moved on. The entry and the deletions are one transaction. The server overwrites deleted rows when it
    vacuums the tables.

    Raises StoreRefused if the database has no schema of this program's version, StoreAway if it does not answer.
    """
    async with _writer(store_url) as writer:
        await writer.execute("lock_streams", {"streams": [stream.key]})  # nobody writes to it until this is committed
        commit = removal(await writer.load(stream), by, now)
        if commit is None:
            return None
        rows = await writer.count_rows(stream)
        await writer.write([Prepared(commit, Changes(), (), ())], 1)
    return rows


@asynccontextmanager
async def _writer(store_url: StoreUrl) -> AsyncIterator[PostgresqlWriter]:
    """Open the database for one transaction, which may take a long time."""
    async with open_current(store_url) as database, database.long_transaction() as connection:
        yield PostgresqlWriter(database, connection)
