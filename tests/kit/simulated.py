"""A small simulated world of three streams, the requests it received, and a client for any simulated world."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp

from milepost.simulator.faults import parse_faults
from milepost.simulator.plan import Platform, SimulatedPage, WorldPlan
from milepost.simulator.server import SimulatorServer
from milepost.simulator.world import TrueConversation

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
BAKERY = SimulatedPage(
    id="61550000000000001", name="Corner Bakery", token="EAABakery0token", instagram_account_id="17841400000000001"
)
BICYCLES = SimulatedPage(id="61550000000000002", name="Fahrrad Müller", token="EAABicycles", platforms=("messenger",))
Json = dict[str, Any]
"""A response of the API, undecoded."""

STREAMS = (f"messenger:{BAKERY.id}", f"instagram:{BAKERY.id}", f"messenger:{BICYCLES.id}")


def right_now() -> datetime:
    """Return the real time, for worlds whose clock must agree with this machine's: a difference is an issue itself."""
    return datetime.now(UTC)


def frozen_world(
    conversations: int,
    faults: str = "calm",
    *,
    pages: tuple[SimulatedPage, ...] = (BAKERY, BICYCLES),
    seed: int = 1,
    app_secret: str = "",
    clock: Callable[[], datetime] = lambda: NOW,
) -> SimulatorServer:
    """Return a simulator of a world without arrivals, where it is noon until a test moves the clock."""
    plan = WorldPlan(seed=seed, pages=pages, conversations=conversations, arrivals_per_minute=0)
    return SimulatorServer(plan, clock=clock, faults=parse_faults(faults, seed), app_secret=app_secret)


def taken_cursors(simulator: SimulatorServer) -> dict[str, list[str | None]]:
    """Return and clear the requested cursors by stream; None is the head."""
    cursors = defaultdict[str, list[str | None]](list)
    for request in simulator.requests.last:
        cursors[f"{request.platform}:{request.owner}"].append(request.after)
    simulator.requests.last.clear()
    return cursors


class Clock:
    """A world's clock, which stands still until a test moves it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Client:
    """A client of one simulator, as one of its pages; it controls the world's clock."""

    def __init__(self, server: SimulatorServer, session: aiohttp.ClientSession, clock: "Clock") -> None:
        self.server = server
        self.session = session
        self.clock = clock
        self.page: SimulatedPage = server.pages[0]

    async def get(self, path: str, token: str | None = None, **query: str) -> tuple[aiohttp.ClientResponse, Json]:
        headers = {"Authorization": f"Bearer {self.page.token if token is None else token}"}
        async with self.session.get(f"{self.server.base_url}/{path}", params=query, headers=headers) as response:
            return response, json.loads(await response.read())

    async def code(self, path: str, token: str | None = None, **query: str) -> int | None:
        """Send a request, and return the error's code, or None."""
        _, body = await self.get(path, token, **query)
        return int(body["error"]["code"]) if "error" in body else None

    async def act(self, action: str, **arguments: object) -> Any:  # noqa: ANN401  JSON of any shape
        """Call an action over HTTP, and return its result."""
        async with self.session.post(f"{self.server.base_url}/simulator/{action}", json=arguments) as response:
            body = await response.json()
            assert response.status == 200, body
            return body["result"]

    async def conversations(self, **query: str) -> Json:
        _, body = await self.get(f"v26.0/{self.page.id}/conversations", **query)
        return body

    async def walk(self, **query: str) -> list[Json]:
        rows: list[Json] = []
        after: dict[str, str] = {}
        while True:
            body = await self.conversations(**query, **after)
            rows += body["data"]
            if "next" not in body.get("paging", {}):
                return rows
            assert body["paging"]["cursors"]["after"] != after.get("after")
            after = {"after": body["paging"]["cursors"]["after"]}

    def truth(self, platform: Platform = "messenger") -> tuple[TrueConversation, ...]:
        return self.server.world.truth(self.page.id, platform, self.clock())


@asynccontextmanager
async def frozen_client(conversations: int = 30, faults: str = "calm", seed: int = 1) -> AsyncIterator[Client]:
    """Serve a frozen world; yields a client that calls as the bakery."""
    clock = Clock()
    async with (
        frozen_world(conversations, faults, seed=seed, clock=clock) as server,
        aiohttp.ClientSession() as session,
    ):
        yield Client(server, session, clock)
