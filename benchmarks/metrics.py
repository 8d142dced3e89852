"""The cost of a scrape: how long /metrics takes with 1,000 streams, and how long it delays everything else.

    python -m benchmarks.metrics                 takes about a minute
    python -m benchmarks.metrics --streams 100

/healthz is requested in a loop meanwhile: it answers as soon as the event loop is free, which is when a batch would
continue, too. Exit code 1: something takes longer than its target.
"""

import argparse
import asyncio
import re
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp
from msgspec import Struct

from benchmarks.daemon import daemon
from benchmarks.process import Server, serving
from benchmarks.workload import Workload

SCRAPES = 50
PAUSE_SECONDS = 0.1
MAX_SCRAPE_SECONDS = 0.2
MAX_STALL_SECONDS = 0.1
PATIENCE_SECONDS = 300.0


class Cost(Struct, frozen=True):
    """The durations of scrapes, and of requests to /healthz during a scrape and without one."""

    series: int
    kilobytes: float
    scrapes: list[float]
    beside: list[float]
    without: list[float]


class Client:
    """Sends requests to the daemon, and times them."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, path: str, encoding: str = "gzip") -> tuple[float, bytes]:
        """Return how long the response took, and its body, compressed as Prometheus requests it."""
        began = time.perf_counter()
        async with self._session.get(path, headers={"Accept-Encoding": encoding}) as answer:
            body = await answer.read()
        return time.perf_counter() - began, body

    async def series(self) -> list[bytes]:
        """Return all series with their values."""
        _, exposed = await self.ask("/metrics", "identity")
        return [line for line in exposed.splitlines() if not line.startswith(b"#")]

    async def measure(self) -> Cost:
        """Scrape and wait in turn, and request /healthz all the while."""
        scrapes, beside, without = list[float](), list[float](), list[float]()
        for _ in range(SCRAPES):
            scrape = asyncio.create_task(self.ask("/metrics"))
            while not scrape.done():
                beside.append((await self.ask("/healthz"))[0])
            scrapes.append(scrape.result()[0])
            until = time.perf_counter() + PAUSE_SECONDS
            while time.perf_counter() < until:
                without.append((await self.ask("/healthz"))[0])
        _, compressed = await self.ask("/metrics")
        return Cost(len(await self.series()), len(compressed) / 1000, scrapes, beside, without)


async def run(server: Server, workload: Workload, directory: Path) -> Cost:
    """Let a daemon copy the workload, then measure."""
    async with (
        daemon(server, workload, directory) as at_work,
        aiohttp.ClientSession(at_work.url, auto_decompress=False) as session,
    ):
        client, complete = Client(session), re.compile(rb'state="complete".* 1\.0')
        async with asyncio.timeout(PATIENCE_SECONDS):
            # Another process makes it true.
            while sum(map(bool, map(complete.search, await client.series()))) < workload.streams:  # noqa: ASYNC110
                await asyncio.sleep(1.0)
        return await client.measure()


def main() -> None:
    """Print the table and judge it."""
    parser = argparse.ArgumentParser(description="Measure the cost of a metrics scrape.")
    parser.add_argument("--streams", type=int, default=1000)
    workload = Workload(parser.parse_args().streams, 100)
    with serving(workload) as server, TemporaryDirectory() as temporary:
        cost = asyncio.run(run(server, workload, Path(temporary)))
    print(f"{workload.streams:,} streams, {cost.series:,} series, {cost.kilobytes:,.0f} kB compressed\n")
    print("| | median | maximum |\n|---|---|---|")
    rows = {"/metrics": cost.scrapes, "/healthz meanwhile": cost.beside, "/healthz alone": cost.without}
    for name, seconds in rows.items():
        print(f"| {name} | {median(seconds) * 1000:.1f} ms | {max(seconds) * 1000:.1f} ms |")
    sys.exit(0 if max(cost.scrapes) <= MAX_SCRAPE_SECONDS and max(cost.beside) <= MAX_STALL_SECONDS else 1)


if __name__ == "__main__":
    main()
