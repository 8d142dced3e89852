"""Forgetting a person: all that is theirs goes, and nothing of it comes back. The journal never named them."""

import asyncio
import sqlite3
from contextlib import suppress
from functools import partial
from pathlib import Path

from milepost.core.errors import StoreAway
from milepost.core.model import Stream
from milepost.stores.erasure import Forgotten
from milepost.stores.sql import load_statements
from milepost.stores.sqlite.connection import connect, real_path, transaction
from milepost.stores.sqlite.migrate import demand_current

# A large commit or a checkpoint of the daemon may hold the database for seconds.
TIMEOUT_SECONDS = 30.0
CHECKPOINT_TIMEOUT_MILLISECONDS = 2_000


async def forget_in_sqlite(path: Path, stream: Stream, contact_id: str) -> Forgotten:
    """Erase a contact of a page, with their conversations, messages and dead letters' payloads, and keep them out.

    Works beside a running daemon, which waits as long as the events are read through once. A contact that is not stored
    is kept out, too. Of a dead letter the journal's part stays; the daemon closes it.

    What was erased is overwritten in the database and, unless a reader holds it, the WAL is emptied. Backups, snapshots
    of the file system and what the disk itself has moved elsewhere still hold it.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """
    if not contact_id:
        msg = "a contact has an id"
        raise ValueError(msg)
    path = real_path(path)
    await asyncio.to_thread(demand_current, path)
    async with connect(path, {"secure_delete": "ON"}, timeout_seconds=TIMEOUT_SECONDS) as database:
        forgotten = await database.write(partial(_forget, load_statements("sqlite"), stream, contact_id))
        with suppress(StoreAway):
            await database.run(empty_wal)
    return forgotten


def _forget(sql: dict[str, str], stream: Stream, contact_id: str, connection: sqlite3.Connection) -> Forgotten:
    who = {
        "stream": stream.key,
        "platform": stream.platform.value,
        "page_id": stream.page_id,
        "contact_id": contact_id,
    }

    def removed(statement: str) -> int:
        return connection.execute(sql[statement], who).rowcount

    with transaction(connection):
        connection.execute(sql["forget_contact"], who)
        connection.execute(sql["forget_conversations"], who)
        forgotten = Forgotten(
            contacts=removed("erase_contact"),
            conversations=removed("erase_conversations"),
            interaction_events=removed("erase_interaction_events"),
            payloads=removed("erase_payloads"),
        )
        connection.execute(sql["erase_notes"], who)
    return forgotten


def empty_wal(connection: sqlite3.Connection) -> None:
    """Leave nothing in the WAL of what was overwritten in the database, unless a reader holds it."""
    connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MILLISECONDS}")  # writers wait while it waits
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
