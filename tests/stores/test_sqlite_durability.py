"""What was acknowledged is stored, whenever the process dies and whatever the disk refuses."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from contracts.durability_contract import acknowledged, all_is_whole, kills_lose_nothing_acknowledged, lost
from kit.needs import long_only
from kit.power_cut import Disk, recorded, recording
from milepost.stores.open import open_store
from milepost.stores.sqlite.store import open_sqlite
from stores.processes import command, injecting, outcome
from stores.store_dump import SqliteDump


class TestSigkill:
    @pytest.mark.parametrize("seeds", [range(2), *long_only(range(2, 20))], ids=str)
    async def test_a_kill_in_the_middle_of_group_commits_loses_nothing_acknowledged(
        self, path: Path, seeds: range
    ) -> None:
        await kills_lose_nothing_acknowledged(SqliteDump(path), seeds)


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
    async def test_a_failing_disk_is_an_absence_that_loses_nothing(self, path: Path, fault: str) -> None:
        printed = outcome([*injecting(fault), *command(path, streams=4, commits=12)])

        assert printed[-1] == "done"
        assert sum(line.startswith("away ") for line in printed) >= 4
        assert sum(line.startswith("ack ") for line in printed) == 4 * 12
        await all_is_whole(SqliteDump(path), acknowledged(printed))


class TestPowerCut:
    """Every cut is made in the record of one process, which began in an empty directory and ended normally."""

    STREAMS, COMMITS = 3, 6

    def cuts(
        self, tmp_path: Path, synchronous: str, jitter: Random | None = None
    ) -> Iterator[tuple[SqliteDump, dict[str, int]]]:
        """Yield what a cut at each acknowledgement and sync leaves, with the versions acknowledged by then."""
        directory, record = tmp_path / "before", tmp_path / "record"
        directory.mkdir()
        path, option = directory / "milepost.db", f"--synchronous={synchronous}"
        life = command(path, option, streams=self.STREAMS, commits=self.COMMITS)
        assert outcome([*recording(record), *life])[-1] == "done"

        disk, printed = Disk(directory), list[str]()
        for number, call in enumerate(recorded(record)):
            disk.follow(call)
            if call.is_printed:
                printed += call.data.decode().splitlines()
            if printed and (call.is_printed or call.is_sync):
                after = tmp_path / f"after-{number}"
                disk.cut(after, jitter)
                yield SqliteDump(after / "milepost.db"), acknowledged(printed)

    @pytest.mark.parametrize(
        "seed", [None, 1, *long_only(2)], ids=["nothing unsynced is kept", "some is", "some other is"]
    )
    async def test_a_power_cut_loses_nothing_acknowledged(self, tmp_path: Path, seed: int | None) -> None:
        jitter = None if seed is None else Random(seed)  # noqa: S311  (repeatable)
        acks: dict[str, int] = {}
        for kept, acks in self.cuts(tmp_path, "full", jitter):
            async with open_store(kept.store_url):  # as the next start does
                pass
            await all_is_whole(kept, acks)
        assert len(acks) == self.STREAMS

    async def test_a_power_cut_with_synchronous_normal_takes_the_last_commits_and_leaves_the_rest_whole(
        self, tmp_path: Path
    ) -> None:
        """This also shows that a cut does take what was not synced."""
        losses = 0
        for kept, acks in self.cuts(tmp_path, "normal"):
            async with open_store(kept.store_url):
                pass
            await all_is_whole(kept, {})
            losses += bool(await lost(kept, acks))
        assert losses >= self.STREAMS * self.COMMITS

    @pytest.mark.parametrize(("synchronous", "level"), [("full", 2), ("normal", 1)])
    async def test_the_connection_is_configured_for_power_cuts(
        self, path: Path, synchronous: Literal["full", "normal"], level: int
    ) -> None:
        """The setting that the other tests prove, for machines without strace."""
        async with open_sqlite(path, synchronous=synchronous) as store:
            found = await store._database.run(lambda connection: connection.execute("PRAGMA synchronous").fetchone())
        assert found == (level,)
