"""A store in either database: what the daemon asks of the whole of it, and the way of a commit through it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import ClassVar, TypeVar

from msgspec import Struct

from milepost.core.deliveries import DeliveryPlaces
from milepost.core.errors import MilepostError, RowsRejected, StoreAway, StoreLost, StoreRefused, VersionConflict
from milepost.core.events import BatchStored, SweepCompleted
from milepost.core.model import Changes, DataSource, Keys, Known, RefusedRow, Stream
from milepost.core.ports import Commit, Committed, DueDeadLetter, Rejected
from milepost.core.webhooks import WebhookInbox
from milepost.stores.commit import Outdated
from milepost.stores.group_commit import GroupCommit
from milepost.stores.reader import Dialect, Session
from milepost.stores.sql import Fetch

T = TypeVar("T")

NOTHING = Changes()

TRUSTED_SECONDS = 30.0  # after a write that succeeded, none is made to find out
# After one that failed, unless another one has succeeded: a small one may still fit where a batch does not. Longer
# than the longest wait between two attempts, by default.
DISTRUSTED_SECONDS = 60.0

GroupResult = Committed | Rejected | MilepostError
"""The outcome of one commit of a group; an error is for its caller alone."""


class Refusals(Struct, frozen=True):
    """How a database, its driver and we refuse a commit, why, and what to do where another writer was first."""

    errors: tuple[type[Exception], ...]
    reason_of: Callable[[Exception], str]
    conflict_hint: str


class OpenStore(Session, ABC):
    """A Store (see core/ports.py), and what the daemon asks of the whole of it.

    `write` runs a statement in a transaction of its own, and `name` is that of the database in messages. `unrecorded`
    is the source of the rows that is recorded before the first commit that brings something. Not at the start: a
    mistyped address brings nothing, and can be corrected.
    """

    refusals: ClassVar[Refusals]
    name: object
    write: Fetch
    webhooks: WebhookInbox
    deliveries: DeliveryPlaces

    def __init__(self, fetch: Fetch, dialect: Dialect) -> None:
        super().__init__(fetch, dialect)
        self.unrecorded: DataSource | None = None
        self._group_commit = GroupCommit[Commit, Committed | Rejected](self._write_group)
        self._last_write = LastWrite(self.write_nothing)

    @abstractmethod
    async def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""

    @abstractmethod
    async def watch(self) -> StoreLost:
        """Wait until a file of the database is deleted or replaced, and return the error; for ever with a server."""

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Return those of these dead letters that are open."""
        found = await self.dead_letters_with_payloads(dead_letter_ids)
        return tuple(due for due in found if due.dead_letter.closed_at is None)

    async def takes_writes(self) -> None:
        """Raise StoreAway or StoreRefused if nothing can be written."""
        await self._last_write.demand()

    async def write_nothing(self) -> None:
        """Commit something that changes no row."""
        await self.write("demand_writable")
        await self.write("write_nothing")

    # --- where the rows come from ---

    async def record_source(self, source: DataSource) -> None:
        """Record where the rows come from. Raises StoreRefused if another source is on record, of whoever was first."""
        await self.write("record_source", (source.kind, source.base_url))
        recorded = await self.source()
        if recorded is not None:
            demand_same(self.name, recorded, source)

    async def replace_source(self, source: DataSource) -> None:
        """Record where the rows come from, whatever was on record."""
        await self.write("replace_source", (source.kind, source.base_url))

    # --- commits ---

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably and whole or not at all, together with those that wait at the same time."""
        (result,) = await self.commit_all((commit,))
        return result

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[Committed | Rejected]:
        """Store commits that follow one another together, or those before one that is refused."""
        for commit in commits:
            if self.unrecorded is not None and _brings_something(commit):
                await self.record_source(self.unrecorded)
                self.unrecorded = None
        return await self._last_write.watch(self._group_commit.commit_all(commits))

    async def settle(self, commit: Commit) -> Committed | None:
        """Return whether a commit of unknown outcome was stored; None if it was not, and will not be."""
        first = commit.entries[0]
        stored = await self._settled_entry(first.stream, first.version)
        return Committed(stored[0], 0.0, 0.0) if stored and stored[1] == first.hash else None

    async def _settled_entry(self, stream: Stream, version: int) -> tuple[int, str] | None:
        """Return the seq and the hash of an entry once no transaction is under way that may write it."""
        return await self.entry_at(stream, version)

    async def _write_group(self, commits: list[Commit]) -> Sequence[GroupResult]:
        """Write a group together or, if a row of one is refused, each by itself, so that it harms no other.

        Savepoints would do the same in one transaction, and cost SQLite a third of the time: it keeps a copy of every
        page that is changed after one.
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
        except MilepostError as error:  # for this one's caller: others of the group may be stored already
            return error
        return result

    async def _refusal(self, commit: Commit, error: Exception) -> GroupResult:
        """Return what became of a commit that was refused by itself."""
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

        With `trusts_known`, a row that is new as far as its commit knows may be refused if it is stored.
        """

    @abstractmethod
    async def _has_moved_on(self, stream: Stream, version: int, error: Exception) -> bool:
        """Return whether a version was refused because it does not follow the stream's latest."""

    @abstractmethod
    async def _refused_rows(self, changes: Changes) -> tuple[RefusedRow, ...]:
        """Return the rows that the database refuses. Nothing is stored."""


def demand_same(name: object, recorded: DataSource, wanted: DataSource) -> None:
    """Raise StoreRefused if the database of this name works for another source than the wanted one."""
    if recorded != wanted:
        raise StoreRefused(
            f"the database {name} works for another source: it holds what came from {recorded},"
            f" and the configuration names {wanted}",
            hint="give store.url another database; or keep this one: remove what is not to stay with"
            " `milepost streams remove`, then let it change over with `milepost store adopt`",
        )


def _brings_something(commit: Commit) -> bool:
    """Return whether it holds rows or moves a checkpoint: a sweep of an empty inbox sets a watermark, too."""
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

    async def watch(self, writing: Awaitable[T]) -> T:
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
