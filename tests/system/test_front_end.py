"""The server side of the front end in docs/nextjs-supabase.md: it adds the token, and shows users their streams."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from playwright._impl._driver import compute_driver_executable

from kit.binary import started
from kit.event_source import EventSource
from kit.fork_server import ENVIRONMENT
from kit.installation import Installation
from kit.loopback import nowhere
from kit.needs import demand
from kit.simulated import BAKERY, BICYCLES, STREAMS, frozen_world
from kit.supabase import RECIPE

SERVER = Path(__file__).parents[1] / "kit" / "next_server.mjs"
SUPABASE = {"NEXT_PUBLIC_SUPABASE_URL": "https://supabase.example", "NEXT_PUBLIC_SUPABASE_ANON_KEY": "public"}
START_SECONDS = 60


@asynccontextmanager
async def route_handlers(environment: Mapping[str, str]) -> AsyncIterator[str]:
    """Serve the route handlers during the block, and yield their base URL."""
    demand("node", "nodejs")  # for its libraries, which Playwright's own Node.js needs
    node, _ = compute_driver_executable()
    process = await asyncio.create_subprocess_exec(
        node, str(SERVER), str(RECIPE), env={**ENVIRONMENT, **SUPABASE, **environment}, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        assert line, "the route handlers cannot be loaded"
        yield line.decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


TOKEN = "a-token-of-some-length"
BAKERYS = [f"messenger:{BAKERY.id}", f"instagram:{BAKERY.id}"]
BICYCLE = f"messenger:{BICYCLES.id}"
EVENTS, SYNC = "/api/milepost/events", "/api/milepost/sync"


@asynccontextmanager
async def front_end(
    installation: Installation, *, token: str = TOKEN
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Yield a browser without a user, at the front end of a daemon that has synced everything, and the daemon's URL."""
    async with frozen_world(20) as simulator:
        installation.configure_for(simulator, http={"listen": "127.0.0.1:0", "token": TOKEN})
        await installation.sync_until_complete()
        async with started(installation.folder, "run") as daemon:
            url = await daemon.url()
            async with (
                route_handlers({"MILEPOST_URL": url, "MILEPOST_TOKEN": token}) as base,
                aiohttp.ClientSession(base) as session,
            ):
                yield session, url


def user(*streams: str) -> dict[str, str]:
    return {"Cookie": f"streams={'.'.join(streams)}"}


async def first_events(
    session: aiohttp.ClientSession, number: int, headers: Mapping[str, str], *query: tuple[str, str]
) -> list[tuple[int, dict[str, Any]]]:
    """Return the first events, with their ids."""
    async with session.get(EVENTS, params=list(query), headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        assert "no-transform" in response.headers["Cache-Control"]
        source = EventSource(response, "")
        await source.opening()
        return [(int(each.id), each.told) for each in await source.events(number)]


async def test_a_user_follows_the_events_of_their_streams_and_no_others(installation: Installation) -> None:
    async with front_end(installation) as (session, _):
        everything = installation.rows("SELECT seq, stream FROM journal ORDER BY seq")
        theirs = [seq for seq, stream in everything if stream in BAKERYS]
        asked = [seq for seq, stream in everything if stream == BAKERYS[1]]
        from_the_start = {**user(*BAKERYS), "Last-Event-ID": "0"}

        seen = await first_events(session, len(theirs), from_the_start)
        resumed = await first_events(session, 3, {**user(*BAKERYS), "Last-Event-ID": str(theirs[1])})
        chosen = await first_events(session, len(asked), from_the_start, ("stream", BAKERYS[1]), ("stream", BICYCLE))
        latest = await first_events(session, 1, user(BICYCLE), ("last", "1"))

    assert [seq for seq, _ in seen] == theirs
    assert {told["stream"] for _, told in seen} == set(BAKERYS)
    assert [seq for seq, _ in resumed] == theirs[2:5]
    assert [seq for seq, _ in chosen] == asked
    assert latest[0][1]["stream"] == BICYCLE


async def test_who_has_not_signed_in_or_has_no_page_follows_nothing(installation: Installation) -> None:
    async with front_end(installation) as (session, _):
        async with session.get(EVENTS) as response:
            assert (response.status, response.content_type) == (401, "application/problem+json")
        async with session.get(EVENTS, headers=user()) as response:  # for an EventSource: do not come back
            assert response.status == 204
        async with session.get(EVENTS, params={"stream": BICYCLE}, headers=user(*BAKERYS)) as response:
            assert response.status == 204
        async with session.post(SYNC, json={"stream": BICYCLE}) as response:
            assert response.status == 401


async def test_a_user_syncs_their_streams_and_no_others(installation: Installation) -> None:
    async with front_end(installation) as (session, _):
        for body in ({"stream": BICYCLE}, {"stream": "messenger:1"}, {}, None):
            what = {"data": json.dumps(body), "headers": {**user(*BAKERYS), "Content-Type": "application/json"}}
            async with session.post(SYNC, **what) as response:  # type: ignore[arg-type]
                assert response.status == 404
        whole = {"stream": BAKERYS[0], "full": True}
        async with session.post(SYNC, json=whole, headers=user(*BAKERYS)) as response:
            assert response.status == 200, await response.text()
            assert (await response.json())["outcome"] == "done"
        async with session.post(SYNC, data="stream=1", headers=user(*BAKERYS)) as response:
            assert response.status == 415
        async with session.get(SYNC, headers=user(*BAKERYS)) as response:
            assert response.status == 405

    requested = installation.rows("SELECT stream, data FROM journal WHERE type = 'sync_requested'")
    assert [(stream, msgspec.json.decode(data)["full"]) for stream, data in requested] == [(BAKERYS[0], True)]


async def test_a_wrong_token_and_a_daemon_that_is_away_are_not_the_fault_of_the_user(
    installation: Installation,
) -> None:
    async with (
        front_end(installation, token="another-token-of-some-length") as (session, _),
        session.get(EVENTS, headers=user(*STREAMS)) as response,
    ):
        assert response.status == 502
        assert "MILEPOST_TOKEN" in (await response.json())["detail"]
    async with (
        route_handlers({"MILEPOST_URL": nowhere()}) as base,
        aiohttp.ClientSession(base) as session,
        session.get(EVENTS, headers=user(*STREAMS)) as response,
    ):
        assert response.status == 503
