"""What an open status page costs: bytes on the wire and the browser's processor time, with 400 streams and a busy feed.

    python -m benchmarks.status_page                     takes about three minutes
    python -m benchmarks.status_page --streams 4 --seconds 30

The streams belong to the simulator, and are swept over and over while messages arrive in all of them. A proxy between
browser and daemon counts every byte in both directions, headers included. Needs Debian's `chromium`. Exit code 1: the
page costs more than the targets.
"""

import argparse
import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import yaml
from msgspec import Struct
from playwright.async_api import Browser, CDPSession, async_playwright

from milepost.simulator.faults import parse_faults
from milepost.simulator.plan import SimulatedPage, WorldPlan
from milepost.simulator.server import SimulatorServer

MAX_CPU_SHARE = 0.20  # of one core
MAX_BYTES_A_MINUTE = 60_000
SETTLED_SECONDS = 40.0  # after which the streams have been read once, and the page has been built
ARRIVALS_PER_MINUTE = 240.0


class Cost(Struct, frozen=True):
    """What a minute costs."""

    cpu_share: float
    bytes_a_minute: float
    requests: int


class CountingProxy:
    """Passes connections on to a port, and counts their bytes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.bytes = self.requests = 0

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on."""
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.bytes += len(data)
                self.requests += len(re.findall(rb"^(?:GET|POST|HEAD) /", data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


def pages(streams: int) -> tuple[SimulatedPage, ...]:
    """Return that many pages of one stream each."""
    return tuple(
        SimulatedPage(id=f"6155000000000{n:04}", name=f"Shop {n}", token=f"EAAB{n:06}", platforms=("messenger",))
        for n in range(streams)
    )


@asynccontextmanager
async def daemon(simulator: SimulatorServer, folder: Path) -> AsyncIterator[str]:
    """Run the daemon on the simulator's pages during the block, and yield its URL."""
    settings = {
        "source": {"kind": "facebook", "base_url": simulator.base_url, "calls_per_second": 0},
        "sync": {"interval": "30s", "batch_size": 10},
        "http": {"listen": "127.0.0.1:0"},
        "pages": [
            {"id": page.id, "name": page.name, "access_token": page.token, "platforms": list(page.platforms)}
            for page in simulator.pages
        ],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "milepost", "run", cwd=folder, stderr=log, stdout=log
        )
    try:
        yield await _url(folder / "log")
    finally:
        process.kill()
        await process.wait()


async def _url(log: Path) -> str:
    """Wait until the daemon logs its URL, and return it."""
    while True:
        if (found := re.search(r"http=(http\S+)", await asyncio.to_thread(log.read_text))) is not None:
            return found[1]
        await asyncio.sleep(0.05)


async def cpu_seconds(session: CDPSession) -> float:
    """Return the processor time of all processes of the browser so far."""
    found = await session.send("SystemInfo.getProcessInfo")
    return float(sum(process["cpuTime"] for process in found["processInfo"]))


async def watch(browser: Browser, url: str, seconds: float) -> Cost:
    """Open the page, and measure it once it has settled."""
    proxy = CountingProxy(urlsplit(url).port or 0)
    server = await asyncio.start_server(proxy.connect, "127.0.0.1", 0)
    page = await browser.new_page(viewport={"width": 1280, "height": 800})
    await page.goto(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await asyncio.sleep(SETTLED_SECONDS)
    session = await browser.new_browser_cdp_session()
    cpu, sent, requests = await cpu_seconds(session), proxy.bytes, proxy.requests
    await asyncio.sleep(seconds)
    spent = await cpu_seconds(session) - cpu
    print(f"chips: {' '.join((await page.locator('#groups').inner_text()).split())}")
    print(f"events in the feed: {await page.locator('#feed li').count()}")
    return Cost(spent / seconds, (proxy.bytes - sent) * 60 / seconds, proxy.requests - requests)


async def measure(streams: int, seconds: float) -> Cost:
    """Measure the page while that many streams are busy."""
    plan = WorldPlan(seed=1, pages=pages(streams), conversations=30, arrivals_per_minute=ARRIVALS_PER_MINUTE)
    with TemporaryDirectory() as temporary:
        async with (
            SimulatorServer(plan, clock=lambda: datetime.now(UTC), faults=parse_faults("calm", 1)) as simulator,
            daemon(simulator, Path(temporary)) as url,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            return await watch(browser, url, seconds)


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    cost = asyncio.run(measure(options.streams, options.seconds))
    print(f"{options.streams} streams: {cost.bytes_a_minute / 1000:.1f} kB a minute in {cost.requests} requests,")
    print(f"{100 * cost.cpu_share:.1f} % of one core in all processes of the browser")
    return 0 if cost.cpu_share <= MAX_CPU_SHARE and cost.bytes_a_minute <= MAX_BYTES_A_MINUTE else 1


if __name__ == "__main__":
    sys.exit(main())
