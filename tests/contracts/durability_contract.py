"""What was acknowledged is stored, and complete."""

from collections.abc import Iterable
from random import Random

from milepost.core.events import BatchStored
from milepost.core.model import Stream
from milepost.stores.open import open_reader
from stores.histories import rows_of_batch
from stores.processes import committing, lines, running
from stores.store_dump import StoreDump

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
