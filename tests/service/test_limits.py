"""Limits on requests, and how the rest is refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from milepost.service import limits
from milepost.service.http import serve
from milepost.service.probes import probes

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def thing(_: web.Request) -> web.Response:
    return web.Response(text="there\n")


async def well() -> None:
    return None


@asynccontextmanager
async def client(token: str = "") -> AsyncIterator[aiohttp.ClientSession]:
    routes = [web.get("/", thing), web.get("/thing", thing), *probes(well, lambda: None)]
    async with serve("127.0.0.1", 0, routes, token=token) as url, aiohttp.ClientSession(url) as session:
        yield session


async def statuses(session: aiohttp.ClientSession, path: str, times: int, **headers: str) -> list[int]:
    found = []
    for _ in range(times):
        async with session.get(path, headers=headers) as response:
            found.append(response.status)
    return found


@pytest.fixture
def a_few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Allow five requests, and then one in ten minutes."""
    monkeypatch.setattr(limits, "MAX_REQUESTS", 5)
    monkeypatch.setattr(limits, "IN_SECONDS", 3_000.0)
    return 5


async def test_requests_beyond_the_limit_are_told_when_to_retry(a_few: int) -> None:
    async with client() as session:
        assert await statuses(session, "/thing", a_few) == [200] * a_few
        async with session.get("/thing") as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "600"
            assert response.content_type == "application/problem+json"
            assert (await response.json())["detail"] == "too many requests: try again in 600 s"


async def test_health_is_never_limited(a_few: int) -> None:
    async with client() as session:
        assert await statuses(session, "/healthz", 2 * a_few) == [200] * 2 * a_few
        assert await statuses(session, "/thing", a_few) == [200] * a_few


async def test_clients_without_access_take_nothing_from_those_with_it(a_few: int) -> None:
    async with client(TOKEN) as session:
        assert await statuses(session, "/", a_few + 1) == [*[200] * a_few, 429]
        assert await statuses(session, "/thing", 3) == [401] * 3
        assert await statuses(session, "/thing", a_few + 1, **BEARER) == [*[200] * a_few, 429]


async def test_two_hundred_pages_that_poll_are_not_refused() -> None:
    """Each asks for five things when it opens, and for one every two seconds later on."""
    async with client() as session:
        answered = await asyncio.gather(*(statuses(session, "/thing", 5) for _ in range(200)))
    assert {status for each in answered for status in each} == {200}
    assert limits.MAX_REQUESTS / limits.IN_SECONDS >= 200 / 2
