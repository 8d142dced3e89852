"""What a daemon reports about itself: at `/readyz`, `/api/daemon` and `/metrics`, and in `milepost status`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from kit.binary import PATIENCE_SECONDS, Running, milepost, started
from kit.exposition import families
from kit.installation import Installation
from kit.ports import unused_port
from milepost.engine.clock import SystemClock

Json = dict[str, Any]
ASK_AGAIN_SECONDS = 0.1


class Face:
    """A running daemon and its answers."""

    def __init__(self, installation: Installation, running: Running, session: aiohttp.ClientSession) -> None:
        self.installation = installation
        self.running = running
        self.session = session

    @property
    def url(self) -> str:
        """The address of the status page."""
        return str(self.session._base_url)

    async def readyz(self) -> tuple[int, str]:
        """Return the status and the reason."""
        async with self.session.get("/readyz") as response:
            body = await response.text()
            return response.status, body if response.status == 200 else (await response.json())["detail"]

    async def daemon(self) -> Json:
        """Return the status of the daemon as a whole."""
        async with self.session.get("/api/daemon") as response:
            assert response.status == 200, await response.text()
            found: Json = await response.json()
            return found

    async def issues(self) -> dict[str, Json]:
        """Return the issues by kind, the most serious first."""
        return {issue["kind"]: issue for issue in (await self.daemon())["issues"]}

    async def streams(self) -> dict[str, Json]:
        """Return the status of every stream by its key."""
        async with self.session.get("/api/streams") as response:
            return {each["stream"]: each for each in (await response.json())["streams"]}

    async def metric(self, name: str) -> float | None:
        """Return the value of a metric without labels; None if there is none."""
        async with self.session.get("/metrics") as response:
            exposed = families(await response.read())
        return next((sample.value for each in exposed for sample in each.samples if sample.name == name), None)

    async def status(self) -> str:
        """Return the output of `milepost status`."""
        ended = await milepost(self.installation.folder, "status")
        assert ended.code == 0, ended
        return ended.stdout

    async def until_states(self, *wanted: str) -> None:
        """Wait until the streams are in these states and in no other."""
        clock = SystemClock()
        ends = clock.steady() + PATIENCE_SECONDS
        while (states := {stream["state"] for stream in (await self.streams()).values()}) != set(wanted):
            assert clock.steady() < ends, (states, self.running.said)
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def until_wrong(self, kind: str, is_wrong: bool = True) -> None:
        """Wait until there is an issue of this kind, or none any more."""
        await self.until(lambda issues: (kind in issues) is is_wrong)

    async def until(self, condition: Callable[[dict[str, Json]], bool]) -> None:
        """Wait until a condition on the issues holds."""
        clock = SystemClock()
        ends = clock.steady() + PATIENCE_SECONDS
        while not condition(issues := await self.issues()):
            assert clock.steady() < ends, (issues, self.running.said)
            await asyncio.sleep(ASK_AGAIN_SECONDS)


@asynccontextmanager
async def facing(installation: Installation) -> AsyncIterator[Face]:
    """Run the daemon of an installation configured with `listening`, and wait until it answers."""
    async with (
        started(installation.folder, "run") as running,
        aiohttp.ClientSession(await running.url()) as session,
    ):
        yield Face(installation, running, session)


def listening() -> dict[str, str]:
    """Return an `http` section with a fixed address, at which `milepost status` finds the daemon, too."""
    return {"listen": f"127.0.0.1:{unused_port()}"}
