"""What was acknowledged is there, whenever the process dies and whatever the disk refuses."""

from pathlib import Path

import pytest

from contracts.durability_contract import acknowledged, all_is_whole, kills_lose_nothing_acknowledged
from stores.kept import SqliteKept
from stores.processes import command, injecting, outcome


class TestSigkill:
    @pytest.mark.parametrize("seeds", [range(start, start + 4) for start in range(0, 20, 4)], ids=str)
    async def test_in_the_middle_of_group_commits_loses_nothing_acknowledged(self, path: Path, seeds: range) -> None:
        await kills_lose_nothing_acknowledged(SqliteKept(path), seeds)


class TestFailingDisk:
    @pytest.mark.parametrize(
        "fault",
        [
            "fdatasync:error=EIO:when=3..5",
            "fdatasync:error=EIO:when=2+3",
            "pwrite64:error=EIO:when=30..40",
            "pwrite64:error=ENOSPC:when=25..300",
        ],
    )
    async def test_is_an_absence_that_loses_nothing(self, path: Path, fault: str) -> None:
        printed = outcome([*injecting(fault), *command(path, streams=4, commits=12)])

        assert printed[-1] == "done"
        assert sum(line.startswith("away ") for line in printed) >= 4
        assert sum(line.startswith("ack ") for line in printed) == 4 * 12
        await all_is_whole(SqliteKept(path), acknowledged(printed))
