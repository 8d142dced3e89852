"""Group commit: items that wait to be stored at the same time share a transaction, and so one write to the disk."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from msgspec import Struct

from milepost.core.errors import MilepostError

MAX_GROUP = 64

Item = TypeVar("Item")
Result = TypeVar("Result")

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
