"""The end of an event loop, which cancels every task, those inside a store as well."""

import asyncio

import pytest

from milepost.core.checkpoint import Checkpoint
from milepost.core.ports import Commit
from milepost.stores.group_commit import GroupCommit, GroupResult
from stores.histories import next_commit, stream


async def test_callers_that_wait_for_a_commit_are_cancelled_when_its_write_is() -> None:
    async def write(commits: list[Commit]) -> list[GroupResult]:
        await asyncio.Event().wait()
        raise AssertionError(commits)

    grouping, before = GroupCommit(write), asyncio.all_tasks()
    waiting = [asyncio.ensure_future(grouping.commit(next_commit(Checkpoint(stream(n))))) for n in range(3)]
    while len(asyncio.all_tasks() - before) == len(waiting):  # noqa: ASYNC110  (until it writes)
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - before:
        task.cancel()

    _, pending = await asyncio.wait(waiting, timeout=5)

    assert not pending
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
