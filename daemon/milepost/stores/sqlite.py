"""The SQLite store: journal, rows and projections in one file, committed together.

One connection, in a thread of its own: a second one for reading would lose its whole page cache at each commit of the
first. Commits that wait at the same time share a transaction, and so its write to the disk.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal

import structlog
from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, fold
from milepost.core.codec import Codec
from milepost.core.errors import MilepostError, RowsRejected, VersionConflict
from milepost.core.model import InteractionEventRow, Keys, Known
from milepost.core.ports import Commit, Committed
from milepost.core.project import dead_letters
from milepost.stores import rows
from milepost.stores.database import Database, connect, real_path
from milepost.stores.exclusive import exclusive
from milepost.stores.migrate import migrate
from milepost.stores.queries import load

# Pages of WAL between two checkpoints: rewriting scattered pages into the file is what bounds the speed of inserts,
# and a larger WAL rewrites each of them less often. 16,000 pages are 64 MB.
WAL_PAGES = 16_000
CACHE_KIB = 32 * 1024
MAX_GROUP = 32

# How SQLite and its module say that they will not take a row.
REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError)


class _Waiting(Struct, eq=False):
    """A commit and the answer that its caller waits for."""

    commit: Commit
    answer: asyncio.Future[Committed]


_Answer = Committed | MilepostError


def _refusal(commit: Commit, error: Exception) -> MilepostError:
    stream, version = commit.checkpoint.stream, commit.entries[0].version
    if "the next version of a stream follows its latest" in str(error):  # journal_refuses_gaps, of 0001_journal.sql
        return VersionConflict(
            f"{stream} has moved on: another writer has appended version {version}",
            hint="run one Milepost for each stream",
        )
    return RowsRejected(f"the database will not take a row of {stream}: {error}", hint="please report this")


@asynccontextmanager
async def open_sqlite(
    path: Path, *, synchronous: Literal["full", "normal"] = "full", events_chunk_size: int = 500
) -> AsyncIterator["SqliteStore"]:
    """Open the database at `path` for this process alone, bring it to this program's schema, and close it in the end.

    Raises StoreBusy, StoreRefused or StoreAway.
    """
    pragmas: dict[str, str | int] = {
        "journal_mode": "WAL",
        "synchronous": synchronous.upper(),
        "wal_autocheckpoint": WAL_PAGES,
        "journal_size_limit": WAL_PAGES * 4096,
        "cache_size": -CACHE_KIB,
    }
    path = real_path(path)
    with exclusive(path):
        applied = await asyncio.to_thread(migrate, path)
        if applied:
            structlog.get_logger("milepost").info(
                "database migrated", path=str(path), applied=", ".join(sorted(applied))
            )
        async with connect(path, pragmas) as database:
            await database.run(_demand_writable)
            yield SqliteStore(database, Codec(), events_chunk_size)


def _demand_writable(connection: sqlite3.Connection) -> None:
    """Find out at the start, not at the first commit, that the file may only be read."""
    connection.execute("BEGIN IMMEDIATE")  # where the file may only be read, this begins to read, and says nothing
    try:
        connection.execute("UPDATE checkpoints SET version = version WHERE false")
    finally:
        connection.execute("ROLLBACK")


class SqliteStore:
    """A Store (see core/ports.py) in a SQLite database. Made by `open_sqlite`."""

    def __init__(self, database: Database, codec: Codec, events_chunk_size: int) -> None:
        self._database = database
        self._codec = codec
        self._events_chunk_size = events_chunk_size
        self._sql = load("sqlite")
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()

    async def recall(self, stream: str) -> Checkpoint:
        """Give the stream's checkpoint: its snapshot, and the entries since."""
        return await self._database.run(partial(self._recall, stream))

    async def known(self, keys: Keys) -> Known:
        """Give what is stored already under the keys."""
        return await self._database.run(partial(self._known, keys))

    async def answers(self) -> None:
        """Ask the database for anything. Raises StoreAway or StoreRefused if it does not answer."""
        await self._database.run(lambda connection: connection.execute(self._sql["answers"]).fetchone())

    async def commit(self, commit: Commit) -> Committed:
        """Store a commit durably and whole, together with those that wait at the same time.

        Whoever gets the turn takes everything that waits into one transaction; the others find their answer ready when
        their turn comes. So nobody waits for company, and many streams share one write to the disk.
        """
        mine = _Waiting(commit, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            async with self._turn:
                if not mine.answer.done():
                    group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                    await self._commit_group(group)
        finally:  # also when cancelled: nothing is stored later, behind the back of a caller that is gone
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not mine.answer.done():
                await asyncio.wait([mine.answer])
        return mine.answer.result()

    async def _commit_group(self, group: list[_Waiting]) -> None:
        """Commit and answer a group. A cancellation waits for the end: it is this task that the others depend on."""
        work = partial(self._transaction, [each.commit for each in group])
        committing = asyncio.ensure_future(self._database.run(work))
        cancelled: asyncio.CancelledError | None = None
        while not committing.done():
            try:
                await asyncio.wait([committing])
            except asyncio.CancelledError as cancellation:
                cancelled = cancellation
        failure = committing.exception()
        answers: Sequence[_Answer | BaseException] = [failure] * len(group) if failure else committing.result()
        for each, answer in zip(group, answers, strict=True):
            if isinstance(answer, BaseException):
                each.answer.set_exception(answer)
                each.answer.exception()  # counts as retrieved, should its caller be gone
            else:
                each.answer.set_result(answer)
        if cancelled is not None:
            raise cancelled

    # --- in the connection's thread ---

    def _transaction(self, commits: list[Commit], connection: sqlite3.Connection) -> list[_Answer]:
        """Write a group together; where a row of one is refused, each by itself, so that it harms no other.

        Savepoints would do the same in one transaction, and cost a third of the time: SQLite keeps a copy of every page
        that is changed after one.
        """
        try:
            return self._written(commits, connection)
        except REFUSALS:
            return [self._alone(commit, connection) for commit in commits]

    def _alone(self, commit: Commit, connection: sqlite3.Connection) -> _Answer:
        try:
            (answer,) = self._written([commit], connection)
        except REFUSALS as error:
            return _refusal(commit, error)
        return answer

    def _written(self, commits: list[Commit], connection: sqlite3.Connection) -> list[_Answer]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            answers: list[_Answer] = [self._write(connection, commit) for commit in commits]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # some failures have rolled back already
                connection.execute("ROLLBACK")
            raise
        return answers

    def _write(self, connection: sqlite3.Connection, commit: Commit) -> Committed:
        began = perf_counter()
        sql, changes, checkpoint = self._sql, commit.changes, commit.checkpoint
        cursor = connection.cursor()
        for entry in commit.entries:
            cursor.execute(sql["insert_entry"], rows.entry_tuple(entry))
        last_seq = cursor.lastrowid or 0
        cursor.executemany(sql["upsert_conversation"], map(rows.conversation_tuple, changes.conversations))
        cursor.executemany(sql["upsert_contact"], map(rows.contact_tuple, changes.contacts))
        cursor.executemany(sql["upsert_payload"], ((each.dead_letter_id, each.payload) for each in changes.payloads))
        cursor.executemany(sql["upsert_dead_letter"], map(rows.dead_letter_tuple, dead_letters(commit.entries)))
        cursor.execute(sql["upsert_checkpoint"], rows.checkpoint_tuple(checkpoint))
        if commit.run is not None:
            cursor.execute(sql["upsert_run"], rows.run_tuple(checkpoint.stream, commit.run))
        rows_done = perf_counter()
        self._write_events(cursor, changes.interaction_events)
        events_done = perf_counter()
        return Committed(last_seq - len(commit.entries) + 1, rows_done - began, events_done - rows_done)

    def _write_events(self, cursor: sqlite3.Cursor, events: tuple[InteractionEventRow, ...]) -> None:
        for start in range(0, len(events), self._events_chunk_size):
            chunk = events[start : start + self._events_chunk_size]
            cursor.executemany(self._sql["insert_interaction_event"], map(rows.interaction_event_tuple, chunk))

    def _recall(self, stream: str, connection: sqlite3.Connection) -> Checkpoint:
        stored = connection.execute(self._sql["checkpoint"], (stream,)).fetchone()
        checkpoint = rows.checkpoint(stored[0]) if stored else Checkpoint(stream)
        tail = connection.execute(self._sql["entries_since"], (stream, checkpoint.version))
        return fold((rows.entry(columns, self._codec) for columns in tail), checkpoint)

    def _known(self, keys: Keys, connection: sqlite3.Connection) -> Known:
        sql, ask = self._sql, connection.execute
        stream = keys.stream
        conversations = map(
            rows.conversation_row, ask(sql["known_conversations"], (rows.json_list(keys.conversations),))
        )
        contacts = map(
            rows.contact_row,
            ask(sql["known_contacts"], (stream.platform.value, stream.page_id, rows.json_list(keys.contacts))),
        )
        events = ask(sql["known_interaction_events"], (rows.json_list(keys.interaction_events),))
        letters = ask(sql["known_dead_letters"], (rows.json_list(keys.dead_letters),)) if keys.dead_letters else ()
        return Known(
            {row.conversation_id: row for row in conversations},
            {row.contact_id: row for row in contacts},
            frozenset(event_id for (event_id,) in events),
            frozenset(letter_id for (letter_id,) in letters),
        )
