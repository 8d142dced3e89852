"""Reading the PostgreSQL journal from beside the workers: follow it, check it, rebuild its projections."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

import psycopg
from psycopg.rows import TupleRow

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.evolve import fold
from milepost.core.journal import Codec, RunOf, instant_text
from milepost.core.model import Stream
from milepost.stores import rows
from milepost.stores.audit import Audit
from milepost.stores.postgresql import ledger
from milepost.stores.postgresql.connection import Database, connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.encoding import askable
from milepost.stores.postgresql.errors import errors_of
from milepost.stores.postgresql.migrate import demand_current
from milepost.stores.postgresql.queries import dead_letters_with_payloads
from milepost.stores.reader import DeadLetterState, StoredEntry
from milepost.stores.removal import StreamRows, names_of
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl

AFTER_ALL_RUNS = "~"

Audited = Callable[[Mapping[str, str], Codec, psycopg.Connection[TupleRow], str], Audit]


@asynccontextmanager
async def open_postgresql_reader(store_url: StoreUrl) -> AsyncIterator["PostgresqlReader"]:
    """Open the database for reading. Raises StoreRefused if there is no schema of this program's, or StoreAway."""
    dsn = dsn_of(store_url)
    await demand_current(dsn)
    async with connected(dsn, load_statements("postgresql")) as database:
        await database.demand_finished()
        yield PostgresqlReader(database, Codec())


class PostgresqlReader:
    """An Archive (see stores/reader.py) of a PostgreSQL database. Made by `open_postgresql_reader`."""

    def __init__(self, database: Database, codec: Codec) -> None:
        self._database = database
        self._codec = codec

    async def checkpoints(self) -> list[Checkpoint]:
        """Give where every stream stands, ordered by stream."""
        return [rows.checkpoint(state) for (state,) in await self._database.rows("checkpoints")]

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Give up to `limit` entries with a seq greater than `after`, oldest first."""
        query = "entries_after" if stream is None else "stream_entries_after"
        return await self._placed(query, {"stream": stream, "after": after, "limit": limit})

    async def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Give the newest `limit` entries, oldest first."""
        query = "latest_entries" if stream is None else "latest_stream_entries"
        return (await self._placed(query, {"stream": stream, "limit": limit}))[::-1]

    async def within_runs(self, versions: Mapping[str, int]) -> dict[str, Checkpoint]:
        """Give where each stream stood before an entry, by its version, as far as the latest run until then tells."""
        stood: dict[str, Checkpoint] = {}
        for stream, version in versions.items():
            placed = await self._placed("entries_of_run_before", {"stream": stream, "version": version})
            stood[stream] = fold((each.entry for each in placed), Checkpoint(stream))
        return stood

    async def completed_with_errors(self, run_ids: Iterable[str]) -> frozenset[str]:
        """Give those of these runs that completed a sweep with dead letters on the way."""
        found = await self._database.rows("completed_with_errors", (askable(run_ids),))
        return frozenset(run_id for (run_id,) in found)

    async def seq_before(self, instant: datetime) -> int:
        """Give the seq of the last entry that was recorded before an instant; 0 where there is none.

        Streams that commit together may differ by a moment, and a clock that was set back by more: then it is one of
        the places where the instant was passed.
        """
        text = instant_text(instant)
        async with self._database.transaction() as connection:
            sql = self._database.sql
            (last,) = await (await connection.execute(sql["last_seq"])).fetchone() or (0,)
            low, high = 0, int(last)  # the place is in between: all up to `low` are before, none after `high` is
            while low < high:
                middle = (low + high + 1) // 2
                (at,) = await (await connection.execute(sql["recorded_at"], (middle,))).fetchone() or ("",)
                low, high = (middle, high) if at < text else (low, middle - 1)
        return low

    async def runs(self, *, before: str | None = None, limit: int, stream: str | None = None) -> list[RunOf]:
        """Give up to `limit` runs, the newest first, from the one that precedes the run `before`."""
        query = "runs_before" if stream is None else "stream_runs_before"
        asked = {"stream": stream, "before": AFTER_ALL_RUNS if before is None else before, "limit": limit}
        return [rows.run(columns) for columns in await self._database.rows(query, asked)]

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
        query = "dead_letters_after" if stream is None else "stream_dead_letters_after"
        return [rows.dead_letter(columns[:-1]) for columns in await self._database.rows(query, asked)]

    async def dead_letter(self, dead_letter_id: str) -> tuple[DeadLetter, str | None] | None:
        """Give a dead letter and its payload, which is gone once it is closed or the person it is about was erased."""
        found = await dead_letters_with_payloads(self._database, (dead_letter_id,))
        return (found[0].dead_letter, found[0].payload) if found else None

    async def count_rows(self, stream: Stream) -> StreamRows:
        """Count what is stored of a stream."""
        (counts,) = await self._database.rows("count_stream_rows", names_of(stream))
        return StreamRows(*counts)

    async def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        return await self._audited(ledger.verify)

    async def rebuild(self) -> Audit:
        """Drop the projections and make them again from the journal, in one transaction. Raises JournalDamaged."""
        return await self._audited(ledger.rebuild)

    async def _audited(self, work: Audited) -> Audit:
        """Work in a thread, which ends with its connection where nobody waits for it any more."""
        dsn, sql = self._database.dsn, self._database.sql
        with errors_of(dsn.name):
            connection = await asyncio.to_thread(psycopg.connect, dsn.conninfo, **dsn.connect_kwargs())

        def audited() -> Audit:
            with errors_of(dsn.name), connection:
                return work(sql, self._codec, connection, dsn.schema)

        try:
            return await asyncio.to_thread(audited)
        except asyncio.CancelledError:
            connection.cancel_safe()
            raise

    async def _placed(self, query: str, asked: Mapping[str, object]) -> list[StoredEntry]:
        found = await self._database.rows(query, asked)
        return [StoredEntry(columns[0], rows.entry(columns, self._codec)) for columns in found]
