"""Whether a database takes writes: from its latest commit, or from a small write."""

import pytest

from milepost.core.errors import MilepostError, RowsRejected, StoreAway, StoreRefused
from milepost.stores.store import DISTRUSTED_SECONDS, TRUSTED_SECONDS, LastWrite

FULL = StoreAway("the disk is full", hint="make room")


class Disk:
    """A disk with a clock: what a write of it meets, and how many small ones were tried."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.problem: MilepostError | None = None
        self.probes = 0
        self.last_write = LastWrite(self.probe, lambda: self.seconds)

    async def probe(self) -> None:
        self.probes += 1
        await self.write()

    async def write(self) -> str:
        if self.problem is not None:
            raise self.problem
        return "stored"

    async def commit(self) -> str:
        return await self.last_write.watch(self.write())

    async def fail(self, problem: MilepostError) -> None:
        self.problem = problem
        with pytest.raises(type(problem)):
            await self.commit()


@pytest.fixture
def disk() -> Disk:
    return Disk()


async def test_a_first_question_makes_a_trial_write(disk: Disk) -> None:
    await disk.last_write.demand()
    assert disk.probes == 1


async def test_no_trial_write_is_made_for_a_while_after_a_commit_or_a_trial(disk: Disk) -> None:
    assert await disk.commit() == "stored"
    await disk.last_write.demand()
    assert disk.probes == 0
    for probes in (1, 2):
        disk.seconds += TRUSTED_SECONDS
        await disk.last_write.demand()
        await disk.last_write.demand()
        assert disk.probes == probes


@pytest.mark.parametrize("problem", [FULL, StoreRefused("read-only")])
async def test_a_failed_commit_is_the_answer_without_a_trial_write(disk: Disk, problem: MilepostError) -> None:
    await disk.commit()
    await disk.fail(problem)
    disk.problem = None
    with pytest.raises(type(problem), match=problem.message) as raised:
        await disk.last_write.demand()
    assert (disk.probes, raised.value.hint) == (0, problem.hint)


async def test_a_commit_that_succeeds_ends_the_effect_of_a_failed_one(disk: Disk) -> None:
    await disk.fail(FULL)
    disk.problem = None
    await disk.commit()
    await disk.last_write.demand()
    assert disk.probes == 0


async def test_a_trial_write_is_made_after_a_while_without_commits(disk: Disk) -> None:
    await disk.fail(FULL)
    disk.seconds += DISTRUSTED_SECONDS
    with pytest.raises(StoreAway, match="full"):
        await disk.last_write.demand()
    disk.problem = None
    await disk.last_write.demand()
    await disk.last_write.demand()
    assert disk.probes == 2


async def test_rows_that_are_rejected_are_no_fault_of_the_disk(disk: Disk) -> None:
    await disk.commit()
    await disk.fail(RowsRejected("a row is too long"))
    disk.problem = FULL
    await disk.last_write.demand()
    assert disk.probes == 0
