"""Group commit: what waits at the same time to be stored shares a transaction, and so its write to the disk."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from milepost.core.errors import MilepostError
from milepost.core.ports import Committed, Rejected

MAX_GROUP = 32

GroupResult = Committed | Rejected | MilepostError
"""The outcome of one commit of a group; an error is for its caller alone."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Write = Callable[[list[Item]], Awaitable[Sequence[Result | MilepostError]]]


class _Waiting(Struct, Generic[Item, Result], eq=False):
    """An item, and the result that its caller waits for."""

    item: Item
    result: asyncio.Future[Result]


class GroupCommit(Generic[Item, Result]):
    """Passes items to `write`, as many together as are waiting, `max_group` at most; one group at a time."""

    def __init__(self, write: Write[Item, Result], max_group: int = MAX_GROUP) -> None:
        self._write = write
        self._max_group = max_group
        self._waiting: list[_Waiting[Item, Result]] = []
        self._lock = asyncio.Lock()

    async def commit(self, item: Item) -> Result:
        """Store an item durably and whole or not at all, together with those that wait at the same time.

        Whoever gets the lock takes everything that waits into one transaction; the others find their result ready when
        they get it. So nobody waits to be joined, and many streams share one write to the disk.
        """
        mine: _Waiting[Item, Result] = _Waiting(item, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            async with self._lock:
                if not mine.result.done():
                    group, self._waiting = self._waiting[: self._max_group], self._waiting[self._max_group :]
                    await self._commit_group(group)
        finally:  # also when cancelled: nothing is stored after its caller is gone
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not mine.result.done():
                await asyncio.wait([mine.result])
        return mine.result.result()

    async def _commit_group(self, group: list[_Waiting[Item, Result]]) -> None:
        """Commit a group and set its results. A cancellation waits for the end: the others depend on this task."""
        committing = asyncio.ensure_future(self._write([each.item for each in group]))
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
        results: Sequence[Result | BaseException] = [failure] * len(group) if failure else committing.result()
        for each, result in zip(group, results, strict=True):
            if isinstance(result, BaseException):
                each.result.set_exception(result)
                each.result.exception()  # marks it as retrieved, should its caller be gone
            else:
                each.result.set_result(result)
        if cancelled is not None:
            raise cancelled
