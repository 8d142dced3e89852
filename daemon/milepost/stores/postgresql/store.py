"""The PostgreSQL store: journal, rows and projections in one database, committed together, by any number of workers.

Nothing of a session is relied on: every transaction brings its settings and its locks, so that the store works through
a pooler as well. Who writes of a stream is told apart by the journal's key alone; the locks only keep order.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import psycopg

from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError, OutcomeUnknown, RowsRejected, StoreAway, StoreLost, VersionConflict
from milepost.core.journal import Codec
from milepost.core.model import DataSource, Keys, Known
from milepost.core.ports import Commit, Committed, DueDeadLetter, Rejected
from milepost.stores import rows
from milepost.stores.group_commit import GroupAnswer, GroupCommit
from milepost.stores.postgresql import queries as queries_module
from milepost.stores.postgresql.commit import prepare, write
from milepost.stores.postgresql.connection import Database, connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.errors import REFUSALS, is_broken, is_contention, is_of_statement, reason_of, translated
from milepost.stores.postgresql.migrate import migrate
from milepost.stores.postgresql.refusals import refused_rows
from milepost.stores.provenance import Provenance
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl

MAX_CONTENTIONS = 5
JOURNAL_KEYS = {"journal_stream_version_key", "journal_pkey"}  # of 0001_journal.sql


@asynccontextmanager
async def open_postgresql(store_url: StoreUrl, *, events_chunk_size: int = 500) -> AsyncIterator["PostgresqlStore"]:
    """Open the database, bring it to this program's schema, and close it in the end; others may work on it as well.

    Raises BadConfiguration, StoreRefused or StoreAway.
    """
    dsn = dsn_of(store_url)
    await migrate(dsn)
    async with connected(dsn, load_statements("postgresql")) as database:
        await database.demand_finished()
        await database.rows("demand_writable")
        yield PostgresqlStore(database, Codec(), events_chunk_size)


class PostgresqlStore:
    """A Store (see core/ports.py) in a PostgreSQL database. Made by `open_postgresql`."""

    def __init__(self, database: Database, codec: Codec, events_chunk_size: int) -> None:
        self.database = database
        self._codec = codec
        self._events_chunk_size = events_chunk_size
        self._grouping = GroupCommit(self._write_group)
        self.provenance = Provenance(self, database.dsn.name)

    async def load(self, stream: str) -> Checkpoint:
        """Give the stream's checkpoint: its snapshot, and the entries since."""
        return await queries_module.load(self.database.rows, self._codec, stream)

    async def checkpoints(self) -> list[Checkpoint]:
        """Give where every stream stands that was ever worked, configured or not; ordered by stream."""
        return [rows.checkpoint(state) for (state,) in await self.database.rows("checkpoints")]

    async def known(self, keys: Keys) -> Known:
        """Give what is stored already under the keys."""
        return await queries_module.known(self.database, keys)

    async def due_dead_letters(self, stream: str, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Give open dead letters whose redrive is due, or whose payload was erased; the oldest first."""
        return await queries_module.due_dead_letters(self.database, stream, now, limit)

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Give those of these dead letters that are open."""
        found = await queries_module.dead_letters_with_payloads(self.database, dead_letter_ids)
        return tuple(due for due in found if due.dead_letter.closed_at is None)

    async def answers(self) -> None:
        """Ask the database for anything. Raises StoreAway or StoreRefused if it does not answer."""
        await self.database.rows("answers")

    async def source(self) -> DataSource | None:
        """Return where the rows come from; None where that is not on record yet."""
        found = await self.database.rows("source")
        return DataSource(*found[0]) if found else None

    async def record_source(self, source: DataSource) -> None:
        """Record where the rows come from, unless that is on record."""
        await self.database.rows("record_source", (source.kind, source.base_url))

    async def replace_source(self, source: DataSource) -> None:
        """Record where the rows come from, whatever was on record."""
        await self.database.rows("replace_source", (source.kind, source.base_url))

    async def conversations_after(self, conversation_id: str, limit: int) -> list[tuple[str, str, str]]:
        """Return the id, platform and page of up to `limit` conversations whose ids follow, in the order of the ids."""
        found = await self.database.rows("conversations_after", (conversation_id, limit))
        return [(id_, platform, page_id) for id_, platform, page_id in found]

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably and whole, together with those that wait at the same time, or nothing of it."""
        await self.provenance.before(commit)
        return await self._grouping.commit(commit)

    async def watch(self) -> StoreLost:
        """Wait for ever: a server keeps the files, and says itself when they are gone."""
        never: asyncio.Future[StoreLost] = asyncio.get_running_loop().create_future()
        return await never

    async def settle(self, commit: Commit) -> Committed | None:
        """Say whether a commit was stored whose outcome nobody knows; None where it was not, and will not be.

        Its transaction may not have ended yet: it held the stream's lock, which is waited for.
        """
        first = commit.entries[0]
        async with self.database.transaction() as connection:
            await connection.execute(self.database.sql["lock_streams"], {"streams": [first.stream]})
            cursor = await connection.execute(self.database.sql["entry_at"], (first.stream, first.version))
            stored = await cursor.fetchone()
        return Committed(stored[0], 0.0, 0.0) if stored and stored[1] == first.hash else None

    async def _write_group(self, commits: list[Commit]) -> Sequence[GroupAnswer]:
        """Write a group together; where a row of one is refused, each by itself, so that it harms no other."""
        try:
            return await self._written(commits)
        except REFUSALS:
            return [await self._alone(commit) for commit in commits]

    async def _alone(self, commit: Commit) -> GroupAnswer:
        try:
            (answer,) = await self._written([commit])
        except REFUSALS as error:
            return await self._refusal(commit, error)
        except MilepostError as error:  # the answer to this one: others of the group may be stored already
            return error
        return answer

    async def _refusal(self, commit: Commit, error: Exception) -> GroupAnswer:
        stream, version = commit.checkpoint.stream, commit.entries[0].version
        is_late = isinstance(error, psycopg.errors.UniqueViolation) and error.diag.constraint_name in JOURNAL_KEYS
        try:
            if is_late or await self.database.rows("entry_at", (stream, version)):
                return VersionConflict(
                    f"{stream} has moved on: another writer has appended version {version}",
                    hint="it goes on from there",
                )
            refused = await refused_rows(self.database, commit.changes)
        except MilepostError as away:
            return away
        if refused:
            return Rejected(refused)
        return RowsRejected(
            f"the database will not take version {version} of {stream}: {reason_of(error)}", hint="please report this"
        )

    async def _written(self, commits: list[Commit]) -> list[Committed]:
        """Write a group in one transaction, again where it and another one stood in each other's way."""
        for _ in range(MAX_CONTENTIONS - 1):
            try:
                return await self._attempt(commits)
            except StoreAway as away:
                if not is_contention(away):
                    raise
        return await self._attempt(commits)

    async def _attempt(self, commits: list[Commit]) -> list[Committed]:
        async with self.database.connection() as connection:
            group = await prepare(self.database, connection, commits)
            try:
                return await write(self.database, connection, group, self._events_chunk_size)
            except psycopg.Error as error:
                if is_of_statement(error) and not is_broken(connection):
                    raise
                away = translated(error, self.database.dsn.name)
                raise OutcomeUnknown(
                    f"{away.message}, in the middle of a commit", hint="it is settled when the database answers"
                ) from error
