"""A store in either database: what the daemon needs of it as a whole, and how a commit is written."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import ClassVar, Generic, TypeVar

from msgspec import Struct

from milepost.core.changes import DeliveryPlaces
from milepost.core.errors import MilepostError, RowsRejected, StoreAway, StoreLost, StoreRefused, VersionConflict
from milepost.core.events import BatchStored, SweepCompleted
from milepost.core.model import Changes, DataSource, Keys, Known, RefusedRow, Stream
from milepost.core.ports import Commit, Committed, DueDeadLetter, Rejected
from milepost.core.webhooks import WebhookInbox
from milepost.stores.commit import Outdated
from milepost.stores.reader import Dialect, Fetch, Session

Item = TypeVar("Item")
Result = TypeVar("Result")

NOTHING = Changes()

TRUSTED_SECONDS = 30.0  # after a successful write, `takes_writes` makes no trial write
# After a failed write, `takes_writes` fails for so long without a trial write, unless another write has succeeded: a
# trial is small, and may still fit where a batch does not. By default, this exceeds the longest wait between attempts.
DISTRUSTED_SECONDS = 60.0

GroupResult = Committed | Rejected | MilepostError
"""The outcome of one commit of a group; an error is for its caller alone."""


class Refusals(Struct, frozen=True):
    """How a commit is refused: by which errors, for what reason, and the hint for a version conflict."""

    errors: tuple[type[Exception], ...]
    reason_of: Callable[[Exception], str]
    conflict_hint: str


class OpenStore(Session, ABC):
    """A Store (see core/ports.py), and what the daemon needs of it as a whole.

    `write` runs a statement in a transaction of its own, and `name` is the database's name in messages. `unrecorded`
    is the source of the rows until it is recorded, just before the first commit that brings something. It is not
    recorded at the start, so that a mistyped address, which brings nothing, can be corrected.
    """

    refusals: ClassVar[Refusals]
    name: object
    write: Fetch
    webhooks: WebhookInbox
    deliveries: DeliveryPlaces

    def __init__(self, fetch: Fetch, dialect: Dialect) -> None:
        super().__init__(fetch, dialect)
        self.unrecorded: DataSource | None = None
        self._recording = asyncio.Lock()
        self._group_commit = GroupCommit[Commit, Committed | Rejected](self._write_group)
        self._last_write = LastWrite(self.write_nothing)

    @abstractmethod
    async def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""

    @abstractmethod
    async def watch(self) -> StoreLost:
        """Wait until a file of the database is deleted or replaced, and return the error; forever with a server."""

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Return those of these dead letters that are open."""
        found = await self.dead_letters_with_payloads(dead_letter_ids)
        return tuple(due for due in found if due.dead_letter.closed_at is None)

    async def takes_writes(self) -> None:
        """Raise StoreAway or StoreRefused if the database takes no writes."""
        await self._last_write.demand()

    async def write_nothing(self) -> None:
        """Make a commit that changes no row."""
        await self.write("demand_writable")
        await self.write("write_nothing")

    # --- where the rows come from ---

    async def record_source(self, source: DataSource) -> None:
        """Record where the rows come from. Raises StoreRefused if another source was recorded first."""
        await self.write("record_source", (source.kind, source.base_url))
        recorded = await self.source()
        if recorded is not None:
            demand_same(self.name, recorded, source)

    async def replace_source(self, source: DataSource) -> None:
        """Record where the rows come from, whatever was on record."""
        await self.write("replace_source", (source.kind, source.base_url))

    # --- commits ---

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably, whole or not at all, together with others that are waiting."""
        (result,) = await self.commit_all((commit,))
        return result

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[Committed | Rejected]:
        """Store successive commits together; if one is refused, only those before it are stored."""
        if self.unrecorded is not None and any(map(_brings_something, commits)):
            async with self._recording:  # streams that begin together record it once
                if self.unrecorded is not None:
                    await self.record_source(self.unrecorded)
                    self.unrecorded = None
        return await self._last_write.watch(self._group_commit.commit_all(commits))

    async def settle(self, commit: Commit) -> Committed | None:
        """Return the result of a commit of unknown outcome, or None if it was not stored and never will be."""
        first = commit.entries[0]
        stored = await self._settled_entry(first.stream, first.version)
        return Committed(stored[0], 0.0, 0.0) if stored and stored[1] == first.hash else None

    async def _settled_entry(self, stream: Stream, version: int) -> tuple[int, str] | None:
        """Return the seq and the hash of an entry, once no transaction under way may still write it."""
        return await self.entry_at(stream, version)

    async def _write_group(self, commits: list[Commit]) -> Sequence[GroupResult]:
        """Write a group together or, if a row is refused, each commit by itself, so that it harms no other.

        Savepoints would do the same in one transaction, but cost SQLite a third of its time: it copies every page that
        is changed after one.
        """
        try:
            return await self._write_together(commits, trusts_known=True)
        except self.refusals.errors:
            results: list[GroupResult] = []
            for commit in commits:
                late = _not_following(commit, zip(commits, results, strict=False))
                results.append(late or await self._write_alone(commit))
            return results

    async def _write_alone(self, commit: Commit) -> GroupResult:
        try:
            (result,) = await self._write_together([commit], trusts_known=False)
        except self.refusals.errors as error:
            return await self._refusal(commit, error)
        except MilepostError as error:  # for this caller only: others of the group may already be stored
            return error
        return result

    async def _refusal(self, commit: Commit, error: Exception) -> GroupResult:
        """Return the outcome of a commit that was refused when written by itself."""
        stream, version = commit.checkpoint.stream, commit.entries[0].version
        try:
            if await self._has_moved_on(stream, version, error):
                return VersionConflict(
                    f"{stream} has moved on: another writer has appended version {version}",
                    hint=self.refusals.conflict_hint,
                )
            if isinstance(error, Outdated):
                return Rejected(())
            refused = await self._refused_rows(commit.changes)
        except MilepostError as away:
            return away
        if refused:
            return Rejected(refused)
        reason = self.refusals.reason_of(error)
        return RowsRejected(f"the database refuses version {version} of {stream}: {reason}", hint="please report this")

    @abstractmethod
    async def _write_together(self, commits: list[Commit], *, trusts_known: bool) -> Sequence[Committed]:
        """Write commits in one transaction. Raises one of `refusals`.

        With `trusts_known`, a row that its commit takes for new may be refused because it is already stored.
        """

    @abstractmethod
    async def _has_moved_on(self, stream: Stream, version: int, error: Exception) -> bool:
        """Return whether a commit was refused because its version does not follow the stream's latest."""

    @abstractmethod
    async def _refused_rows(self, changes: Changes) -> tuple[RefusedRow, ...]:
        """Return the rows that the database refuses, without storing any."""


def demand_same(name: object, recorded: DataSource, wanted: DataSource) -> None:
    """Raise StoreRefused if the database of this name belongs to another source than the wanted one."""
    if recorded != wanted:
        raise StoreRefused(
            f"the database {name} belongs to another source: it holds what came from {recorded},"
            f" and the configuration names {wanted}",
            hint="set store.url to another database; or keep this one: remove the streams that should not stay with"
            " `milepost streams remove`, then switch it with `milepost store adopt`",
        )


def _brings_something(commit: Commit) -> bool:
    """Return whether a commit holds rows or moves the checkpoint: even a sweep of an empty inbox sets a watermark."""
    moves = any(isinstance(entry.event, BatchStored | SweepCompleted) for entry in commit.entries)
    return moves or commit.changes != NOTHING


def _not_following(commit: Commit, before: Iterable[tuple[Commit, GroupResult]]) -> VersionConflict | None:
    """Return the error of a commit if what it follows was `before` it in its group, and is not stored.

    The version alone does not tell: another writer may have appended an entry in its place.
    """
    stream, version = commit.checkpoint.stream, commit.entries[0].version
    for each, result in before:
        is_earlier = each.checkpoint.stream == stream and each.entries[0].version < version
        if is_earlier and not isinstance(result, Committed):
            return VersionConflict(f"{stream} is not at version {version - 1}", hint="the stream continues from there")
    return None


class LastWrite:
    """Remembers how the latest write ended: a database that answers reads may take no writes.

    Its disk may be full, or it is a replica. `probe` makes a small write, to find out where that is not known from a
    commit; `steady` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        steady: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        self._probe = probe
        self._steady = steady
        self._succeeded_at = float("-inf")
        self._failure: MilepostError | None = None
        self._failed_at = float("-inf")

    async def watch(self, writing: Awaitable[Result]) -> Result:
        """Wait for a write, and remember how it ended."""
        try:
            result = await writing
        except (StoreAway, StoreRefused) as error:
            self._failure, self._failed_at = error, self._steady()
            raise
        self._failure, self._succeeded_at = None, self._steady()
        return result

    async def demand(self) -> None:
        """Raise StoreAway or StoreRefused if the database takes no writes."""
        now = self._steady()
        if self._failure is not None and now - self._failed_at < DISTRUSTED_SECONDS:
            raise type(self._failure)(self._failure.message, hint=self._failure.hint)
        if self._failure is not None or now - self._succeeded_at >= TRUSTED_SECONDS:
            await self._probe()
            self._failure, self._succeeded_at = None, now


# --- group commit -----------------------------------------------------------------------------------------------------

# Items that wait to be stored at the same time share a transaction, and so one write to the disk.

MAX_GROUP = 64

Write = Callable[[list[Item]], Awaitable[Sequence[Result | MilepostError]]]


class _Waiting(Struct, Generic[Item, Result], eq=False):
    """Items of one caller, in order, and the results that it waits for."""

    items: Sequence[Item]
    results: asyncio.Future[Sequence[Result | MilepostError]]


class GroupCommit(Generic[Item, Result]):
    """Passes waiting items to `write` in groups of about `max_group` at most, one group at a time."""

    def __init__(self, write: Write[Item, Result], max_group: int = MAX_GROUP) -> None:
        self._write = write
        self._max_group = max_group
        self._waiting: list[_Waiting[Item, Result]] = []
        self._lock = asyncio.Lock()

    async def commit(self, item: Item) -> Result:
        """Store an item durably, whole or not at all, together with others that are waiting.

        The caller that gets the lock stores everything that waits in one transaction; the others find their results
        ready when they get the lock. So no caller is delayed to fill a group, and many streams share one disk write.
        """
        (result,) = await self.commit_all((item,))
        return result

    async def commit_all(self, items: Sequence[Item]) -> list[Result]:
        """Store items in one group, as `commit` does each. Returns the results up to the first error, if there is one.

        Raises the error of the first item.
        """
        mine: _Waiting[Item, Result] = _Waiting(items, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            async with self._lock:
                if not mine.results.done():
                    await self._commit_group(self._take_group())
        finally:  # also when cancelled: an item must not be stored after its caller is gone
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not mine.results.done():
                await asyncio.wait([mine.results])
        results: list[Result] = []
        for each in mine.results.result():
            if not isinstance(each, MilepostError):
                results.append(each)
            elif results:
                break
            else:
                raise each
        return results

    def _take_group(self) -> list[_Waiting[Item, Result]]:
        """Take the waiting callers, oldest first, up to the size of a group; a caller's items stay together."""
        size = 0
        for count, each in enumerate(self._waiting):
            size += len(each.items)
            if count and size > self._max_group:
                break
        else:
            count = len(self._waiting)
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _commit_group(self, group: list[_Waiting[Item, Result]]) -> None:
        """Commit a group and set its results. Cancellation waits until then, as other callers depend on this task."""
        committing = asyncio.ensure_future(self._write([item for each in group for item in each.items]))
        cancelled: asyncio.CancelledError | None = None
        while not committing.done():
            try:
                await asyncio.wait([committing])
            except asyncio.CancelledError as cancellation:
                cancelled = cancellation
        if committing.cancelled():  # by the event loop, which cancels every task when it ends
            for each in group:
                each.results.cancel()
            raise asyncio.CancelledError
        if failure := committing.exception():
            for each in group:
                each.results.set_exception(failure)
                each.results.exception()  # marks it as retrieved, should its caller be gone
        else:
            results = iter(committing.result())
            for each in group:
                each.results.set_result(list(islice(results, len(each.items))))
        if cancelled is not None:
            raise cancelled
