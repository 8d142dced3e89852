"""The processor time of a daemon at its daily work: sweeps that find nothing new, and streams at the pace of the API.

    python -m benchmarks.steady            both, in windows of ten seconds
    python -m benchmarks.steady quiet      50 streams, swept again and again, and nothing changes
    python -m benchmarks.steady paced      first copies of 50 streams at two calls a second each, in batches of 50

The least of the windows counts: other work on the machine only adds to it. Exit code 1: above a target.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from msgspec import Struct

from benchmarks.daemon import daemon
from benchmarks.process import Sections, Server, cpu_seconds, serving
from benchmarks.workload import Workload

STREAMS = 50
BATCH_SIZE = 50
MAX_SWEEP_MS = 1.0  # of the processor, for a sweep that finds nothing new
MAX_PACED_SHARE = 0.25  # of a core
CALLS_PER_SECOND = 2.0  # of a page: the platform's rule
LEAST_PACE = 0.95  # of that: calls are spaced a little further than the rule demands
SETTLING_SECONDS = 4.0

QUIET = Workload(STREAMS, BATCH_SIZE * 2, batch_size=BATCH_SIZE)
QUIET_CONFIG: Sections = {"sync": {"interval": "1s"}}
PACED = Workload(STREAMS, 10_000, batch_size=BATCH_SIZE, latency_seconds=0.05)
PACED_CONFIG: Sections = {"sync": {"concurrency": STREAMS}, "source": {"calls_per_second": CALLS_PER_SECOND}}


class Window(Struct, frozen=True):
    """What a daemon did in a while."""

    seconds: float
    cpu_seconds: float
    requests: int

    @property
    def share(self) -> float:
        """How much of a core it took."""
        return self.cpu_seconds / self.seconds

    @property
    def cpu_ms(self) -> float:
        """How long it computed for each request."""
        return self.cpu_seconds / max(self.requests, 1) * 1e3

    @property
    def pace(self) -> float:
        """How many requests it made a second."""
        return self.requests / self.seconds


async def windows(server: Server, process_id: int, count: int, seconds: float) -> list[Window]:
    """Return what a daemon does in some windows of time, one after the other."""
    found = []
    for _ in range(count):
        began, computed = time.monotonic(), cpu_seconds(process_id)
        await asyncio.to_thread(server.forget)
        await asyncio.sleep(seconds)
        requests = (await asyncio.to_thread(server.served)).requests
        found.append(Window(time.monotonic() - began, cpu_seconds(process_id) - computed, requests))
    return found


async def quiet(count: int, seconds: float) -> bool:
    """Measure sweeps that find nothing new; each is one request. Return whether they meet the target."""
    with serving(QUIET) as server, TemporaryDirectory() as temporary:
        async with daemon(server, QUIET, Path(temporary), QUIET_CONFIG) as at_work:
            await asyncio.sleep(SETTLING_SECONDS)  # in which the first copies are made
            found = await windows(server, at_work.process_id, count, seconds)
    least = min(each.cpu_ms for each in found)
    middle, pace = median(each.cpu_ms for each in found), median(each.pace for each in found)
    print(f"quiet sweeps: {least:.2f} ms of the processor each (median {middle:.2f} ms), {pace:.0f} a second")
    return least <= MAX_SWEEP_MS


async def paced(count: int, seconds: float) -> bool:
    """Measure first copies at the pace of the API; return whether all streams keep it, and meet the target."""
    with serving(PACED) as server, TemporaryDirectory() as temporary:
        async with daemon(server, PACED, Path(temporary), PACED_CONFIG) as at_work:
            await asyncio.sleep(SETTLING_SECONDS)
            found = await windows(server, at_work.process_id, count, seconds)
    least, pace = min(each.share for each in found), median(each.pace for each in found)
    each_ms = min(each.cpu_ms for each in found)
    print(f"paced streams: {least:.3f} of a core at {pace:.0f} batches a second, {each_ms:.2f} ms each")
    return least <= MAX_PACED_SHARE and pace >= LEAST_PACE * STREAMS * CALLS_PER_SECOND


async def measure(what: str, count: int, seconds: float) -> bool:
    """Measure one of the two, or both."""
    meets_targets = True
    if what in {"quiet", "both"}:
        meets_targets &= await quiet(count, seconds)
    if what in {"paced", "both"}:
        meets_targets &= await paced(count, seconds)
    return meets_targets


def main() -> None:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description="Measure what a daemon's daily work takes of the processor.")
    parser.add_argument("what", nargs="?", choices=("quiet", "paced", "both"), default="both")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long a window is")
    options = parser.parse_args()
    sys.exit(0 if asyncio.run(measure(options.what, options.windows, options.seconds)) else 1)


if __name__ == "__main__":
    main()
