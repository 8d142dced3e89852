"""What callers of a group commit get when a task is cancelled or a write fails."""

import asyncio

import pytest

from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import VersionConflict
from milepost.core.ports import Commit
from milepost.stores.store import GroupCommit, GroupResult
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

    _, pending = await asyncio.wait(waiting, timeout=60)

    assert not pending
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]


async def test_items_that_are_cancelled_before_their_turn_are_never_written() -> None:
    written: list[int] = []
    go_on = asyncio.Event()

    async def write(items: list[int]) -> list[int]:
        written.extend(items)
        await go_on.wait()
        return items

    grouping = GroupCommit(write)
    first = asyncio.ensure_future(grouping.commit(1))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(grouping.commit_all((2, 3)))
    third = asyncio.ensure_future(grouping.commit_all((4, 5)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    go_on.set()

    assert (await first, await third) == (1, [4, 5])
    assert second.cancelled()
    assert written == [1, 4, 5]


async def test_items_of_one_caller_stay_together_in_their_order() -> None:
    groups: list[list[int]] = []

    async def write(items: list[int]) -> list[int]:
        groups.append(items)
        await asyncio.sleep(0)
        return items

    grouping = GroupCommit(write, max_group=3)

    assert await asyncio.gather(*(grouping.commit_all(range(start, start + 4)) for start in (0, 10))) == [
        [0, 1, 2, 3],
        [10, 11, 12, 13],
    ]
    assert groups == [[0, 1, 2, 3], [10, 11, 12, 13]]


async def test_an_error_ends_the_results_of_those_that_came_together() -> None:
    async def write(items: list[int]) -> list[int | VersionConflict]:
        return [VersionConflict("no") if item == 2 else item for item in items]

    grouping = GroupCommit(write)

    assert await grouping.commit_all((0, 1, 2, 3)) == [0, 1]
    with pytest.raises(VersionConflict):
        await grouping.commit_all((2, 3))
