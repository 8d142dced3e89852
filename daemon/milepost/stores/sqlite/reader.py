"""Reading the SQLite journal from beside the daemon: follow it, check it, rebuild its projections, write it out."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.errors import MilepostError
from milepost.core.journal import Codec, RunOf
from milepost.core.model import Stream
from milepost.stores import rows
from milepost.stores.audit import Audit
from milepost.stores.reader import DeadLetterState, StoredEntry
from milepost.stores.removal import StreamRows
from milepost.stores.sql import load_statements
from milepost.stores.sqlite import backup, ledger
from milepost.stores.sqlite.connection import Database, connect, real_path
from milepost.stores.sqlite.identity import OpenFiles
from milepost.stores.sqlite.lock import lock_database
from milepost.stores.sqlite.migrate import demand_current
from milepost.stores.sqlite.permissions import make_private
from milepost.stores.sqlite.queries import (
    AFTER_ALL,
    checkpoints,
    count_rows,
    dead_letters_with_payloads,
    seq_before,
    within_runs,
)


@asynccontextmanager
async def open_sqlite_reader(path: Path, *, alone: bool = False) -> AsyncIterator["SqliteReader"]:
    """Open the database at `path` for reading; `alone` also for rebuilding, which no daemon may work beside.

    Raises StoreRefused if there is no database of this program's schema, StoreBusy if `alone` and a daemon holds it.
    """
    path = real_path(path)
    await asyncio.to_thread(demand_current, path)
    if alone:
        with lock_database(path) as lock:
            await asyncio.to_thread(make_private, path)
            async with connect(path, {"synchronous": "FULL"}, files=OpenFiles(path, lock)) as database:
                yield SqliteReader(database, Codec())
    else:
        async with connect(path, {"query_only": 1}) as database:
            yield SqliteReader(database, Codec())


class SqliteReader:
    """An Archive (see stores/reader.py) of a SQLite database. Made by `open_sqlite_reader`."""

    def __init__(self, database: Database, codec: Codec) -> None:
        self._database = database
        self._codec = codec
        self._sql = load_statements("sqlite")

    async def checkpoints(self) -> list[Checkpoint]:
        """Give where every stream stands, ordered by stream."""
        return await self._database.run(partial(checkpoints, self._sql))

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Give up to `limit` entries with a seq greater than `after`, oldest first."""
        if stream is None:
            return await self._read("entries_after", (after, limit))
        return await self._read("stream_entries_after", {"stream": stream, "after": after, "limit": limit})

    async def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Give the newest `limit` entries, oldest first."""
        if stream is None:
            return (await self._read("latest_entries", (limit,)))[::-1]
        return (await self._read("latest_stream_entries", (stream, limit)))[::-1]

    async def within_runs(self, versions: Mapping[str, int]) -> dict[str, Checkpoint]:
        """Give where each stream stood before an entry, by its version, as far as the latest run until then tells."""
        return await self._database.run(partial(within_runs, self._sql, self._codec, versions))

    async def completed_with_errors(self, run_ids: Iterable[str]) -> frozenset[str]:
        """Give those of these runs that completed a sweep with dead letters on the way."""
        asked = (rows.json_list(run_ids),)

        def read(connection: sqlite3.Connection) -> frozenset[str]:
            return frozenset(run_id for (run_id,) in connection.execute(self._sql["completed_with_errors"], asked))

        return await self._database.run(read)

    async def seq_before(self, instant: datetime) -> int:
        """Give the seq of the last entry that was recorded before an instant; 0 where there is none."""
        return await self._database.run(partial(seq_before, self._sql, instant))

    async def runs(self, *, before: str | None = None, limit: int, stream: str | None = None) -> list[RunOf]:
        """Give up to `limit` runs, the newest first, from the one that precedes the run `before`."""
        asked = {"stream": stream, "before": AFTER_ALL if before is None else before, "limit": limit}
        query = self._sql["runs_before" if stream is None else "stream_runs_before"]
        return await self._database.run(lambda connection: list(map(rows.run, connection.execute(query, asked))))

    async def dead_letters(
        self, state: DeadLetterState, *, stream: str | None = None, after: str | None = None, limit: int
    ) -> list[DeadLetter]:
        """Give up to `limit` dead letters, the oldest first, from the one that follows the letter `after`."""
        asked = {
            "open": state is not DeadLetterState.CLOSED,
            "closed": state is not DeadLetterState.OPEN,
            "stream": stream,
            "after": after or "",
            "limit": limit,
        }
        query = self._sql["dead_letters_after" if stream is None else "stream_dead_letters_after"]
        return await self._database.run(
            lambda connection: list(map(rows.dead_letter, connection.execute(query, asked)))
        )

    async def dead_letter(self, dead_letter_id: str) -> tuple[DeadLetter, str | None] | None:
        """Give a dead letter and its payload, which is gone once it is closed or the person it is about was erased."""
        found = await self._database.run(partial(dead_letters_with_payloads, self._sql, (dead_letter_id,)))
        return (found[0].dead_letter, found[0].payload) if found else None

    async def count_rows(self, stream: Stream) -> StreamRows:
        """Count what is stored of a stream."""
        return await self._database.run(partial(count_rows, self._sql, stream))

    async def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        return await self._audited(ledger.verify)

    async def verify_whole(self) -> Audit:
        """Verify, and read every page beside. Raises JournalDamaged, or MilepostError where a page is damaged."""
        await self._database.run(backup.demand_whole)
        return await self.verify()

    async def copy_to(self, target: Path, tell: Callable[[int, int], None]) -> None:
        """Copy the database as it is now into the file `target`; see `backup.copy`."""
        is_given_up = threading.Event()

        def step(copied: int, pages: int) -> None:
            if is_given_up.is_set():
                raise MilepostError("the copy was given up")
            tell(copied, pages)

        try:
            await self._database.run(partial(backup.copy, target=target, tell=step))
        except asyncio.CancelledError:
            is_given_up.set()  # or the thread would go on to the end of the database
            raise

    async def rebuild(self) -> Audit:
        """Drop the projections and make them again from the journal, in one transaction. Raises JournalDamaged."""
        return await self._audited(ledger.rebuild)

    async def _audited(self, work: Callable[[dict[str, str], Codec, sqlite3.Connection], Audit]) -> Audit:
        try:
            return await self._database.write(partial(work, self._sql, self._codec))
        except asyncio.CancelledError:
            await self._database.interrupt()  # or the thread would go on to the end of the journal
            raise

    async def _read(self, query: str, parameters: tuple[Any, ...] | dict[str, Any]) -> list[StoredEntry]:
        def read(connection: sqlite3.Connection) -> list[StoredEntry]:
            found = connection.execute(self._sql[query], parameters)
            return [StoredEntry(columns[0], rows.entry(columns, self._codec)) for columns in found]

        return await self._database.run(read)
