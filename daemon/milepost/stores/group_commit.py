"""Group commit: commits that wait at the same time share a transaction, and so its write to the disk."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from milepost.core.errors import MilepostError
from milepost.core.ports import Commit, Committed, Rejected

MAX_GROUP = 32

GroupResult = Committed | Rejected | MilepostError
"""The outcome of one commit of a group; an error is for its caller alone."""

Write = Callable[[list[Commit]], Awaitable[Sequence[GroupResult]]]


class _Waiting(Struct, eq=False):
    """A commit, and the result that its caller waits for."""

    commit: Commit
    result: asyncio.Future[Committed | Rejected]


class GroupCommit:
    """Passes commits to `write`, as many together as are waiting; one group at a time."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[_Waiting] = []
        self._lock = asyncio.Lock()

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably and whole or not at all, together with those that wait at the same time.

        Whoever gets the lock takes everything that waits into one transaction; the others find their result ready when
        they get it. So nobody waits to be joined, and many streams share one write to the disk.
        """
        mine = _Waiting(commit, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            async with self._lock:
                if not mine.result.done():
                    group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                    await self._commit_group(group)
        finally:  # also when cancelled: nothing is stored after its caller is gone
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not mine.result.done():
                await asyncio.wait([mine.result])
        return mine.result.result()

    async def _commit_group(self, group: list[_Waiting]) -> None:
        """Commit a group and set its results. A cancellation waits for the end: the others depend on this task."""
        committing = asyncio.ensure_future(self._write([each.commit for each in group]))
        cancelled: asyncio.CancelledError | None = None
        while not committing.done():
            try:
                await asyncio.wait([committing])
            except asyncio.CancelledError as cancellation:
                cancelled = cancellation
        if committing.cancelled():  # by the event loop, which cancels every task when it ends
            for each in group:
                each.result.cancel()
            raise asyncio.CancelledError
        failure = committing.exception()
        results: Sequence[GroupResult | BaseException] = [failure] * len(group) if failure else committing.result()
        for each, result in zip(group, results, strict=True):
            if isinstance(result, BaseException):
                each.result.set_exception(result)
                each.result.exception()  # marks it as retrieved, should its caller be gone
            else:
                each.result.set_result(result)
        if cancelled is not None:
            raise cancelled
