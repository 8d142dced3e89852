"""Group commit: commits that wait at the same time share a transaction, and so its write to the disk."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from milepost.core.errors import MilepostError
from milepost.core.ports import Commit, Committed, Rejected

MAX_GROUP = 32

GroupAnswer = Committed | Rejected | MilepostError
"""What became of one commit of a group; an error is for its caller alone."""

Write = Callable[[list[Commit]], Awaitable[Sequence[GroupAnswer]]]


class _Waiting(Struct, eq=False):
    """A commit and the answer that its caller waits for."""

    commit: Commit
    answer: asyncio.Future[Committed | Rejected]


class GroupCommit:
    """Hands commits to `write`, as many together as wait; one group at a time."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably and whole, together with those that wait at the same time, or nothing of it.

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
        committing = asyncio.ensure_future(self._write([each.commit for each in group]))
        cancelled: asyncio.CancelledError | None = None
        while not committing.done():
            try:
                await asyncio.wait([committing])
            except asyncio.CancelledError as cancellation:
                cancelled = cancellation
        if committing.cancelled():  # by the event loop, which ends, and cancels every task
            for each in group:
                each.answer.cancel()
            raise asyncio.CancelledError
        failure = committing.exception()
        answers: Sequence[GroupAnswer | BaseException] = [failure] * len(group) if failure else committing.result()
        for each, answer in zip(group, answers, strict=True):
            if isinstance(answer, BaseException):
                each.answer.set_exception(answer)
                each.answer.exception()  # counts as retrieved, should its caller be gone
            else:
                each.answer.set_result(answer)
        if cancelled is not None:
            raise cancelled
