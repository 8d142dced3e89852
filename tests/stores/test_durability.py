"""What was acknowledged is stored, and complete."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from kit.needs import long_only
from kit.postgres import Database, on_both_releases
from kit.power_cut import Disk, recorded, recording
from milepost.core.events import BatchStored
from milepost.core.model import Stream
from milepost.stores.open import open_reader, open_store
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import rows_of_batch
from stores.processes import command, committing, injecting, lines, outcome, running
from stores.store_dump import PostgresDump, SqliteDump, StoreDump

STREAMS = 24


def acknowledged(printed: Iterable[str]) -> dict[str, int]:
    """Return the last version of every stream that was acknowledged."""
    acks = (line.split() for line in printed if line.startswith("ack "))
    return {stream: int(version) for _, stream, version in acks}


async def lost(kept: StoreDump, acks: dict[str, int]) -> dict[str, int]:
    """Return what was acknowledged and is missing: the last version of each stream that lacks it."""
    async with open_reader(kept.store_url) as journal_reader:
        reached = {checkpoint.stream.key: checkpoint.version for checkpoint in await journal_reader.checkpoints()}
    return {stream: version for stream, version in acks.items() if reached.get(stream, 0) < version}


async def all_is_whole(kept: StoreDump, acks: dict[str, int]) -> None:
    """Check that nothing acknowledged is missing, and that each batch has its rows, and rows their batch."""
    async with open_reader(kept.store_url) as journal_reader:
        await journal_reader.verify()
    assert await lost(kept, acks) == {}
    tables = kept.tables()
    assert tables.checkpoints == tables.refold()
    stored = [row for row in tables.journal if isinstance(row.entry().event, BatchStored)]
    batches = [rows_of_batch(Stream.parse(row.stream), row.version - 1) for row in stored]
    assert set(tables.conversations.values()) == {row for batch in batches for row in batch.conversations}
    assert set(tables.contacts.values()) == {row for batch in batches for row in batch.contacts}
    assert set(tables.interaction_events.values()) == {row for batch in batches for row in batch.interaction_events}
    assert set(tables.dead_letters) == {row.dead_letter_id for batch in batches for row in batch.payloads}
    assert set(tables.payloads) == {
        key for key, dead_letter in tables.dead_letters.items() if dead_letter.closed_at is None
    }


async def kills_lose_nothing_acknowledged(kept: StoreDump, seeds: Iterable[int]) -> None:
    """Run several processes on one database, each after the one before was killed."""
    acks: dict[str, int] = {}
    for seed in seeds:
        jitter = Random(seed)  # noqa: S311  (repeatable)
        with running(committing(kept.store_url.url, streams=STREAMS, commits=10_000)) as process:
            printed = lines(process, jitter.randrange(2, 200))
            process.kill()
            assert process.stdout is not None
            printed += process.stdout.read().splitlines()
        assert printed[0] == "open"
        acks |= acknowledged(printed)
        await all_is_whole(kept, acks)
    assert acks


# --- SQLite, whenever the process dies and whatever the disk refuses --------------------------------------------------


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


# --- PostgreSQL, whenever the process or the server dies --------------------------------------------------------------


COMMITS = 120  # so many that some are still to come when the server ends, however fast they are


@on_both_releases
@pytest.mark.parametrize("seeds", [range(1), *long_only(range(1, 6))], ids=str)
async def test_a_process_killed_in_the_middle_of_group_commits_loses_nothing_acknowledged(
    database: Database, seeds: range
) -> None:
    await kills_lose_nothing_acknowledged(PostgresDump(database), seeds)


@on_both_releases
@pytest.mark.parametrize("way", ["killed", "fast", *long_only("immediate", "sessions ended")])
async def test_a_server_killed_in_the_middle_of_group_commits_loses_nothing_acknowledged(
    database: Database, way: str
) -> None:
    """The process continues with each commit once its outcome is settled."""
    server = database.server
    with running(committing(database.url, streams=STREAMS, commits=COMMITS)) as process:
        printed = lines(process, 50)
        if way == "killed":
            server.kill()
        elif way == "sessions ended":
            database.terminate_backends()
        else:
            server.stop("fast" if way == "fast" else "immediate")
        assert process.poll() is None, "it happened too late to prove anything"
        if not server.is_running:
            server.start()
        printed += (await asyncio.to_thread(process.communicate))[0].splitlines()

    assert printed[-1] == "done", printed[-5:]
    acks = acknowledged(printed)
    assert len(acks) == STREAMS
    assert sum(line.startswith("ack ") for line in printed) == STREAMS * COMMITS
    await all_is_whole(PostgresDump(database), acks)
