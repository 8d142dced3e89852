"""Prometheus and promtool, if installed; Debian's package is `prometheus`."""

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from kit.needs import needs
from kit.ports import unused_port

SHIPPED = Path(__file__).parents[2] / "monitoring" / "prometheus"
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.05
# One processor and rare garbage collections save a third of the work.
THRIFTY = {"PATH": os.defpath, "GOMAXPROCS": "1", "GOGC": "400"}
NOT_OF_THE_TEST = {"MilepostDiskNearlyFull", "MilepostApiClockWrong", "MilepostTokenExpiring"}

needs_prometheus = needs("promtool", "prometheus")  # one package has both


def promtool(*arguments: str | Path, stdin: bytes = b"") -> None:
    """Run promtool, which must not complain."""
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, env=THRIFTY, capture_output=True, timeout=180, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout.decode()}\n{done.stderr.decode()}"


class Prometheus:
    """A Prometheus that scrapes one daemon, and evaluates the shipped rules, four times a second."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, what: str, **query: str) -> Any:  # noqa: ANN401  JSON of any shape
        """Query its API, and return the data of the response."""
        async with self._session.get(f"/api/v1/{what}", params=query) as answer:
            body = await answer.json()
        assert body["status"] == "success", f"{what} {query}: {body}"
        return body["data"]

    async def firing(self) -> set[tuple[str, str]]:
        """Return the firing alerts with their streams.

        Leaves out alerts about the disk, which depend on this machine, and those about a world frozen in the past.
        """
        alerts = [alert["labels"] for alert in (await self.ask("alerts"))["alerts"] if alert["state"] == "firing"]
        firing = {(labels["alertname"], labels.get("stream", "")) for labels in alerts}
        return {(name, stream) for name, stream in firing if name not in NOT_OF_THE_TEST}

    async def fires(self, *expected: tuple[str, str]) -> None:
        """Wait until these alerts fire, and no others."""
        firing = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (firing := await self.firing()) != set(expected):  # noqa: ASYNC110  (another process)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(f"expected {set(expected)} to fire, but found {firing}") from None

    async def knows(self, expression: str) -> list[Any]:
        """Wait until the expression has a result, as it has not while a busy daemon answers too late, and return it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := (await self.ask("query", query=expression))["result"]):  # noqa: ASYNC110  (likewise)
                await asyncio.sleep(POLL_SECONDS)
        return list(found)

    async def errors_of_rules(self) -> dict[str, str]:
        """Return the rules whose evaluation fails, with the reason."""
        rules = [rule for group in (await self.ask("rules"))["groups"] for rule in group["rules"]]
        return {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] == "err"}


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """Run Prometheus with the shipped configuration, sped up, scraping `target` (host and port) during the block."""
    for path in SHIPPED.glob("*.yml"):
        (folder / path.name).write_text(hurried(path.read_text()).replace("127.0.0.1:9464", target))
    port = unused_port()
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            await _ready(session)
            yield Prometheus(session)
    finally:
        process.kill()
        await process.wait()


def hurried(rules: str) -> str:
    """Shorten the rules' durations and ranges, a minute to a tenth of a second.

    Thresholds stay, even those in seconds. Scrapes and evaluations happen four times a second instead of every 15 s.
    """

    def milliseconds(duration: re.Match[str]) -> str:
        minutes = int(duration["number"]) * (60 if duration["unit"] == "h" else 1)
        return f"{duration['before']}{minutes * 100}ms"

    rules = re.sub(r"(?P<before>\bfor: |\[|offset )(?P<number>\d+)(?P<unit>[mh])", milliseconds, rules)
    return rules.replace("_interval: 15s", "_interval: 250ms")


async def _ready(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(aiohttp.ClientConnectionError):
                async with session.get("/-/ready") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(POLL_SECONDS)
