"""The PostgreSQL store: journal, rows and projections in one database, committed together, by any number of workers.

It relies on nothing of a server's session: every transaction brings its settings and its locks, so that the store works
through a pooler as well. Ownership is never trusted: the journal's key decides each commit; the locks only keep order.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
from psycopg.rows import TupleRow

from milepost.core.errors import MilepostError, OutcomeUnknown, RowsRejected, StoreAway, StoreLost, VersionConflict
from milepost.core.journal import Codec
from milepost.core.ports import Commit, Committed, DueDeadLetter, Rejected
from milepost.stores.group_commit import GroupCommit, GroupResult, not_following
from milepost.stores.last_write import LastWrite
from milepost.stores.moves import Outdated
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.postgresql.connection import Database, connected
from milepost.stores.postgresql.deliveries import PostgresqlDeliveryPlaces
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.errors import REFUSALS, is_contention, is_of_statement, reason_of, translated
from milepost.stores.postgresql.group import with_inserts
from milepost.stores.postgresql.migrate import migrate
from milepost.stores.postgresql.queries import PostgresqlSession
from milepost.stores.postgresql.webhooks import PostgresqlWebhookInbox
from milepost.stores.provenance import Provenance
from milepost.stores.sql import Parameters, load_statements
from milepost.stores.url import StoreUrl

MAX_ATTEMPTS = 5
JOURNAL_KEYS = {"journal_stream_version_key", "journal_pkey"}  # of 0001_journal.sql


@asynccontextmanager
async def open_postgresql(store_url: StoreUrl, *, events_chunk_size: int = 500) -> AsyncIterator["PostgresqlStore"]:
    """Open the database, migrate it, and close it at the end of the block; others may work on it as well.

    Raises BadConfiguration, StoreRefused or StoreAway.
    """
    dsn = dsn_of(store_url)
    await migrate(dsn)
    parts = ("statements", "webhooks", "deliveries")
    statements = {name: text for part in parts for name, text in load_statements("postgresql", part).items()}
    async with connected(dsn, with_inserts(statements)) as database:
        await database.demand_finished()
        await database.rows("demand_writable")
        yield PostgresqlStore(database, Codec(), events_chunk_size)


class PostgresqlStore(PostgresqlSession):
    """The Store (see core/ports.py) in a PostgreSQL database. Made by `open_postgresql`."""

    def __init__(self, database: Database, codec: Codec, events_chunk_size: int) -> None:
        super().__init__(database.read, codec)
        self.database = database
        self._events_chunk_size = events_chunk_size
        self._group_commit = GroupCommit[Commit, Committed | Rejected](self._write_group)
        self.webhooks = PostgresqlWebhookInbox(database)
        self.deliveries = PostgresqlDeliveryPlaces(database)
        self.provenance = Provenance(self, database.dsn.name)
        self._last_write = LastWrite(self.write_nothing)

    async def _look_up(self, *asked: tuple[str, Parameters]) -> list[list[TupleRow]]:
        return await self.database.read_together(*asked, is_lookup=True)

    async def _write(self, statement: str, parameters: Parameters = ()) -> None:
        await self.database.rows(statement, parameters)

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Return those of these dead letters that are open."""
        found = await self.dead_letters_with_payloads(dead_letter_ids)
        return tuple(due for due in found if due.dead_letter.closed_at is None)

    async def takes_writes(self) -> None:
        """Raise StoreAway or StoreRefused if nothing can be written."""
        await self._last_write.demand()

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably and whole or not at all, together with those that wait at the same time."""
        (result,) = await self.commit_all((commit,))
        return result

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[Committed | Rejected]:
        """Store commits that follow one another together, or those before one that is refused."""
        for commit in commits:
            await self.provenance.before(commit)
        return await self._last_write.watch(self._group_commit.commit_all(commits))

    async def settle(self, commit: Commit) -> Committed | None:
        """Return whether a commit of unknown outcome was stored; None if it was not, and will not be.

        Its transaction may not have ended yet: it holds the stream's lock, which is waited for.
        """
        first = commit.entries[0]
        async with self.database.transaction() as connection:
            writer = PostgresqlWriter(self.database, self.codec, connection)
            await writer.execute("lock_streams", {"streams": [first.stream.key]})
            stored = await writer.entry_at(first.stream, first.version)
        return Committed(stored[0], 0.0, 0.0) if stored and stored[1] == first.hash else None

    async def watch(self) -> StoreLost:
        """Wait for ever: a server keeps the files, and reports itself that they are gone."""
        never: asyncio.Future[StoreLost] = asyncio.get_running_loop().create_future()
        return await never

    async def _write_group(self, commits: list[Commit]) -> Sequence[GroupResult]:
        """Write a group together or, if a row of one is refused or is not new, each by itself: it harms no other."""
        try:
            return await self._write_together(commits, trusts_known=True)
        except (*REFUSALS, Outdated):
            results: list[GroupResult] = []
            for commit in commits:
                late = not_following(commit, zip(commits, results, strict=False))
                results.append(late or await self._write_alone(commit))
            return results

    async def _write_alone(self, commit: Commit) -> GroupResult:
        try:
            (result,) = await self._write_together([commit])
        except (*REFUSALS, Outdated) as error:
            return await self._refusal(commit, error)
        except MilepostError as error:  # for this one's caller: others of the group may be stored already
            return error
        return result

    async def _refusal(self, commit: Commit, error: Exception) -> GroupResult:
        stream, version = commit.checkpoint.stream, commit.entries[0].version
        is_late = isinstance(error, psycopg.errors.UniqueViolation) and error.diag.constraint_name in JOURNAL_KEYS
        try:
            if is_late or await self.entry_at(stream, version):
                return VersionConflict(
                    f"{stream} has moved on: another writer has appended version {version}",
                    hint="the stream continues from there",
                )
            if isinstance(error, Outdated):
                return Rejected(())
            async with self.database.transaction() as connection:
                refused = await PostgresqlWriter(self.database, self.codec, connection).refused_rows(commit.changes)
        except MilepostError as away:
            return away
        if refused:
            return Rejected(refused)
        return RowsRejected(
            f"the database refuses version {version} of {stream}: {reason_of(error)}", hint="please report this"
        )

    async def _write_together(self, commits: list[Commit], *, trusts_known: bool = False) -> list[Committed]:
        """Write a group in one transaction, again after a deadlock or the like with another one."""
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._attempt(commits, trusts_known=trusts_known)
            except StoreAway as away:
                if not is_contention(away):
                    raise
        return await self._attempt(commits, trusts_known=trusts_known)

    async def _attempt(self, commits: list[Commit], *, trusts_known: bool) -> list[Committed]:
        async with self.database.connection() as connection, AsyncExitStack() as pipelined:
            writer = PostgresqlWriter(self.database, self.codec, connection, pipelined, trusts_known=trusts_known)
            group = await writer.prepare(commits)
            try:
                return await writer.write(group, self._events_chunk_size)
            except psycopg.Error as error:
                if is_of_statement(error) and not connection.closed:
                    raise
                away = translated(error, self.database.dsn.name)
                raise OutcomeUnknown(
                    f"{away.message}, in the middle of a commit", hint="it is settled when the database answers"
                ) from error
