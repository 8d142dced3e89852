"""One to four workers on one PostgreSQL, with 100 ms of API latency.

    python -m benchmarks.scale_out             64 streams of 400 conversations, one, two and four workers
    python -m benchmarks.scale_out --quick     a fifth of the size, without judging

The workers are cold `milepost run` processes with 8 concurrent streams each, so that one worker is bound by the API's
latency, not by a processor: the benchmark measures what more workers add. The server's commits are durable.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.process import Server, milepost_into, serving
from benchmarks.workload import Workload

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from kit.postgres import Database, fresh_database, running

DURABLE = {"fsync": "on", "full_page_writes": "on"}
WORKERS = (1, 2, 4)
CHANGED = {"sync": {"concurrency": 8}}
TARGET = 2.0  # speedup of four workers, with two processors for workers, server and PostgreSQL
PATIENCE_SECONDS = 600.0


@contextmanager
def working(number: int, server: Server, workload: Workload, database: Database) -> Iterator[None]:
    """Run that many workers during the block."""
    store = {"url": database.url, "password": database.password}
    with TemporaryDirectory() as temporary:
        processes = []
        for index in range(number):
            directory = Path(temporary) / str(index)
            directory.mkdir()
            command = milepost_into(store, server, workload, directory, "run", changed=CHANGED)
            with (directory / "output.txt").open("wb") as output:
                processes.append(subprocess.Popen(command, cwd=directory, stdout=output, stderr=output))
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def seconds_of(number: int, server: Server, workload: Workload, database: Database) -> float:
    """Return how long that many workers take, from the first batch to the last stream's completion."""
    began_at: float | None = None
    with working(number, server, workload, database):
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends_at:
            stored = database.sql("SELECT to_regclass('milepost.checkpoints') IS NOT NULL")
            if stored == [(True,)]:
                ((begun, complete),) = database.sql("SELECT count(*), count(last_full_sweep_at) FROM checkpoints")
                began_at = time.monotonic() if begun and began_at is None else began_at
                if complete == workload.streams and began_at is not None:
                    return time.monotonic() - began_at
            time.sleep(0.05)
    raise SystemExit(f"{number} workers did not finish within {PATIENCE_SECONDS:g} s")


def main() -> None:
    """Time each number of workers, print the table and judge the last."""
    parser = argparse.ArgumentParser(description="Measure how throughput grows with workers.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the size, without judging")
    options = parser.parse_args()
    workload = Workload(64, 80 if options.quick else 400, batch_size=20, latency_seconds=0.1)
    print("| workers | s | conversations/s | speedup |\n|---|---|---|---|", flush=True)
    ratio, first = 0.0, 0.0
    with running("newest", **DURABLE) as postgres, serving(workload) as server:
        for number in WORKERS:
            with fresh_database(postgres, template=None) as database:
                seconds = seconds_of(number, server, workload, database)
            first = first or seconds
            ratio = first / seconds
            print(f"| {number} | {seconds:.1f} | {workload.total / seconds:,.0f} | {ratio:.2f} |", flush=True)
    sys.exit(0 if options.quick or ratio >= TARGET else 1)


if __name__ == "__main__":
    main()
