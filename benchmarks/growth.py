"""How long a batch takes on PostgreSQL from the first row to the millionth, in tables that nobody analyses.

    python -m benchmarks.growth                    1,000,000 conversations of one stream, about three minutes
    python -m benchmarks.growth --size 100000      fewer
    python -m benchmarks.growth --oldest           on the oldest PostgreSQL that is supported
    python -m benchmarks.growth --quick            a fiftieth of the size, without judging

The server is a temporary one from tests/kit, durable and as it is installed, but without autovacuum. Each line is a
tenth of the copy. Exit code 1: in the last tenth, a batch took the server more of its processor than the target allows,
compared with the second, when everything had started. Elapsed time is not judged: other work on the machine counts.
"""

import argparse
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

from msgspec import Struct

from benchmarks.process import milepost_into, run, serving
from benchmarks.workload import Workload

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from kit.postgres import Release, fresh_database, running
from kit.postgres import Server as PostgresServer

SIZE = 1_000_000
QUICK_SHARE = 50
TENTHS = 10
MOST_OF_EARLY_BATCHES = 1.3
AS_INSTALLED = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB", "max_wal_size": "1GB"}
SAMPLE_SECONDS = 0.1
RECORDED = """
SELECT extract(epoch FROM recorded_at)::float8 FROM milepost.journal WHERE type = 'batch_stored' ORDER BY seq
"""


class Sample(Struct, frozen=True):
    """What the server had computed at an instant."""

    at: float
    seconds: float


def computed(server: PostgresServer) -> float:
    """Return the processor time of the server's processes, those included that have ended."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    ticks = sum(_ticks(str(server.pid), 13))
    for pid in children:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            ticks += sum(_ticks(pid, 11))
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: str, field: int) -> tuple[int, int]:
    """Return a process's user and system time: at field 11 its own, at 13 that of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[field]), int(fields[field + 1])


@contextmanager
def sampling(server: PostgresServer) -> Iterator[list[Sample]]:
    """Sample the server's processor time during the block."""
    samples: list[Sample] = []
    is_over = Event()

    def sample() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            samples.append(Sample(time.time(), computed(server)))

    thread = Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()


def server_milliseconds(recorded: Sequence[float], samples: Sequence[Sample], batch_size: int) -> Iterator[float]:
    """Print what a batch took in each tenth of the copy, and yield how long the server computed for it."""
    print("| conversations | ms a batch | ms of the server's processor |\n|---|---|---|")
    share = len(recorded) // TENTHS
    for first in range(0, share * TENTHS, share):
        began, ended = recorded[first], recorded[min(first + share, len(recorded) - 1)]
        early, late = (samples[min(bisect_left(samples, at, key=_at), len(samples) - 1)] for at in (began, ended))
        elapsed, server = (1000 * each / share for each in (ended - began, late.seconds - early.seconds))
        print(f"| {(first + share) * batch_size:,} | {elapsed:.1f} | {server:.1f} |")
        yield server


def _at(sample: Sample) -> float:
    return sample.at


def main() -> None:
    """Copy an inbox, print the table and judge the last tenth."""
    parser = argparse.ArgumentParser(description="Show whether batches take longer as PostgreSQL's tables grow.")
    parser.add_argument("--size", type=int, default=SIZE, help="conversations")
    parser.add_argument("--oldest", action="store_true", help="on the oldest PostgreSQL that is supported")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the size, without judging")
    options = parser.parse_args()
    workload = Workload(1, options.size // QUICK_SHARE if options.quick else options.size)
    release: Release = "oldest" if options.oldest else "newest"
    with running(release, **AS_INSTALLED) as postgres, serving(workload) as server, TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with fresh_database(postgres, template=None) as database, sampling(postgres) as samples:
            store = {"url": database.url, "password": database.password}
            finished = run(milepost_into(store, server, workload, directory, "sync"), directory)
            recorded = [at for (at,) in database.sql(RECORDED)]
    taken = list(server_milliseconds(recorded, samples, workload.batch_size))
    ratio = taken[-1] / max(taken[1], 0.001)
    print(f"\n{workload.total:,} conversations in {finished.seconds:.0f} s, {finished.peak_mib:.0f} MiB at most")
    print(f"The last batches take {ratio:.2f} times as long as early ones (target: at most {MOST_OF_EARLY_BATCHES})")
    sys.exit(0 if options.quick or ratio <= MOST_OF_EARLY_BATCHES else 1)


if __name__ == "__main__":
    main()
