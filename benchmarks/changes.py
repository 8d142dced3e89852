"""The change feed: how fast it gives all rows of a large database, with how much memory, and what an idle poll costs.

    python -m benchmarks.changes                      1,000,000 rows in SQLite
    python -m benchmarks.changes --rows 100000        fewer
    python -m benchmarks.changes --postgresql         in a PostgreSQL server that is made for it

Exit code 1: something is slower, or takes more memory, than its target.
"""

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from milepost.core.changes import ChangeReader
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import RunStarted
from milepost.core.journal import Codec
from milepost.core.model import Changes, ContactRow, ConversationRow, InteractionEventRow, Platform, Stream
from milepost.core.ports import Committed
from milepost.core.records import Record, prepare
from milepost.stores.open import open_reader, open_store
from milepost.stores.url import StoreUrl

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from kit.postgres import fresh_database, running

STREAM = Stream(Platform.MESSENGER, "1000000000")
NOW = datetime(2026, 3, 1, tzinfo=UTC)
CONVERSATIONS_PER_COMMIT = 100
MESSAGES = 8  # of each conversation, with which come ten rows
PAGE = 1_000
MIN_ROWS_PER_SECOND = 20_000
MAX_GROWTH_MIB = 32.0  # after the first pages
MAX_POLL_MILLISECONDS = 5.0
POLLS = 200


class Load(Struct, frozen=True):
    """What loading everything took."""

    rows: int
    seconds: float
    growth_mib: float
    poll_milliseconds: float


async def fill(store_url: StoreUrl, rows: int) -> None:
    """Store as many rows, commit by commit."""
    async with open_store(store_url, synchronous="normal") as store:
        checkpoint = Checkpoint(STREAM)
        for number in range(rows // (CONVERSATIONS_PER_COMMIT * (MESSAGES + 2))):
            record = Record((RunStarted(NOW),), _batch(number))
            commit = prepare(checkpoint, record, "run", NOW, Codec())
            if not isinstance(await store.commit(commit), Committed):
                raise SystemExit("a commit was refused")
            checkpoint = commit.checkpoint


def _batch(number: int) -> Changes:
    of, page_id = STREAM.platform.value, STREAM.page_id
    names = [f"{number}_{each}" for each in range(CONVERSATIONS_PER_COMMIT)]
    return Changes(
        tuple(
            ConversationRow(
                f"t_{name}", of, page_id, f"c_{name}", f"/inbox/{name}/", "hello", 8, 0, True, NOW, NOW, NOW
            )
            for name in names
        ),
        tuple(ContactRow(of, page_id, f"c_{name}", "Ada Lovelace", None, NOW, NOW, NOW) for name in names),
        tuple(
            InteractionEventRow(
                f"m_{name}_{each}",
                f"t_{name}",
                of,
                page_id,
                f"c_{name}",
                "in",
                "message",
                "Do you open at eight?",
                None,
                NOW,
            )
            for name in names
            for each in range(MESSAGES)
        ),
    )


async def load(reader: ChangeReader) -> Load:
    """Read everything as the API does, encoding each page; then poll at the end."""
    rows, place, peak_mib = 0, 0, 0.0
    began = time.perf_counter()
    while (page := await reader.read_changes(place, PAGE)).next != place:
        msgspec.json.encode(page)
        rows, place = rows + len(page.changes), page.next
        if rows == 10 * PAGE:
            peak_mib = _peak_mib()
    seconds = time.perf_counter() - began
    growth_mib = _peak_mib() - peak_mib
    began = time.perf_counter()
    for _ in range(POLLS):
        await reader.read_changes(place, PAGE)
    return Load(rows, seconds, growth_mib, (time.perf_counter() - began) / POLLS * 1000)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def database(*, postgresql: bool) -> Iterator[StoreUrl]:
    """Yield an empty database of either kind."""
    if postgresql:
        with running() as server, fresh_database(server, template=None) as made:
            yield made.store_url
    else:
        with TemporaryDirectory() as folder:
            yield StoreUrl(f"sqlite:///{Path(folder) / 'milepost.db'}")


async def measure(store_url: StoreUrl, rows: int) -> Load:
    """Fill a database and load it through the feed."""
    # Memory is measured in this process: filling it takes none of it that is not given back, in batches of one size.
    await fill(store_url, rows)
    async with open_reader(store_url) as reader:
        return await load(reader)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description="Measure the change feed.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--postgresql", action="store_true")
    options = parser.parse_args(arguments)
    with database(postgresql=options.postgresql) as store_url:
        found = asyncio.run(measure(store_url, options.rows))
    speed = found.rows / found.seconds
    print(
        f"{found.rows:,} rows in {found.seconds:.1f} s: {speed:,.0f} rows/s; memory grew by {found.growth_mib:.0f} MiB"
    )
    print(f"a poll at the end takes {found.poll_milliseconds:.2f} ms")
    meets_targets = speed >= MIN_ROWS_PER_SECOND and found.growth_mib <= MAX_GROWTH_MIB
    sys.exit(0 if meets_targets and found.poll_milliseconds <= MAX_POLL_MILLISECONDS else 1)


if __name__ == "__main__":
    main()
