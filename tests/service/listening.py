"""Routes on a real listener, and a client of it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from milepost.service.http import NOBODY_ELSE, Allowed, serve
from milepost.service.limits import WrongTokens

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def listening(
    routes: Iterable[web.AbstractRouteDef],
    *,
    host: str = "127.0.0.1",
    token: str = "",
    allowed: Allowed = NOBODY_ELSE,
    wrong_tokens: WrongTokens | None = None,
    cookie_jar: aiohttp.CookieJar | None = None,
) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve routes during the block, and yield a client."""
    async with (
        serve(host, 0, routes, token=token, wrong_tokens=wrong_tokens, allowed=allowed) as url,
        aiohttp.ClientSession(url, cookie_jar=cookie_jar) as session,
    ):
        yield session


async def thing(_: web.Request) -> web.Response:
    """Answer with something."""
    return web.Response(text="there\n")


async def well() -> None:
    """Answer a ping of the store."""
