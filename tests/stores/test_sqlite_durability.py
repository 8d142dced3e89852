"""What was acknowledged is there, whenever the process dies and whatever the disk refuses."""

from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from milepost.core.events import BatchStored
from milepost.core.model import Stream
from milepost.stores.archive import open_archive
from stores.lives import rows_of_batch
from stores.processes import command, injecting, lines, outcome, running
from stores.sqlite_files import tables_of

STREAMS = 24


def acknowledged(printed: Iterable[str]) -> dict[str, int]:
    """Give the last version of every stream that was acknowledged."""
    acks = (line.split() for line in printed if line.startswith("ack "))
    return {stream: int(version) for _, stream, version in acks}


async def all_is_whole(path: Path, acks: dict[str, int]) -> None:
    """Check that nothing acknowledged is missing, and that each batch has its rows, and rows their batch."""
    async with open_archive(path) as archive:
        await archive.verify()
        reached = {checkpoint.stream: checkpoint.version for checkpoint in await archive.checkpoints()}
    lost = {stream: version for stream, version in acks.items() if reached.get(stream, 0) < version}
    assert not lost
    tables = tables_of(path)
    assert tables.checkpoints == tables.refold()
    stored = [row for row in tables.journal if isinstance(row.entry().event, BatchStored)]
    batches = [rows_of_batch(Stream.parse(row.stream), row.version - 1) for row in stored]
    assert set(tables.conversations.values()) == {row for batch in batches for row in batch.conversations}
    assert set(tables.contacts.values()) == {row for batch in batches for row in batch.contacts}
    assert set(tables.interaction_events.values()) == {row for batch in batches for row in batch.interaction_events}
    assert set(tables.dead_letters) == {row.dead_letter_id for batch in batches for row in batch.payloads}
    assert set(tables.payloads) == {key for key, letter in tables.dead_letters.items() if letter.closed_at is None}


class TestSigkill:
    @pytest.mark.parametrize("seeds", [range(start, start + 4) for start in range(0, 20, 4)], ids=str)
    async def test_in_the_middle_of_group_commits_loses_nothing_acknowledged(self, path: Path, seeds: range) -> None:
        """Four lives of one database; each goes on where the one before it was killed."""
        acks: dict[str, int] = {}
        for seed in seeds:
            luck = Random(seed)  # noqa: S311  (repeatable)
            with running(command(path, streams=STREAMS, commits=10_000)) as process:
                printed = lines(process, luck.randrange(2, 200))
                process.kill()
                assert process.stdout is not None
                printed += process.stdout.read().splitlines()
            assert printed[0] == "open"
            acks |= acknowledged(printed)
            await all_is_whole(path, acks)
        assert acks


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
        await all_is_whole(path, acknowledged(printed))
