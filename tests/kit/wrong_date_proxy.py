"""A proxy to a Graph API that changes the Date of its responses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from kit.loopback import serving

PASSED_ON = ("Content-Type", "facebook-api-version")


@asynccontextmanager
async def dated(base_url: str, date: str) -> AsyncIterator[str]:
    """Pass on the responses of the API at `base_url` with this Date; yields the base URL."""
    async with aiohttp.ClientSession() as session:

        async def answer(request: web.Request) -> web.Response:
            token = {"Authorization": request.headers.get("Authorization", "")}
            async with session.get(f"{base_url}{request.path_qs}", headers=token) as answered:
                passed_on = {name: answered.headers[name] for name in PASSED_ON if name in answered.headers}
                body = await answered.read()
                return web.Response(status=answered.status, body=body, headers={**passed_on, "Date": date})

        async with serving(answer) as url:
            yield url
