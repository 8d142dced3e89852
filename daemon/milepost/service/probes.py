"""The endpoints for machines: liveness, readiness and metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from milepost.core.errors import MilepostError
from milepost.service.metrics.collect import CONTENT_TYPE

MAX_STORE_SECONDS = 2.0  # probes of orchestrators seldom wait longer


def probes(
    ping_store: Callable[[], Awaitable[None]], stalled: Callable[[], str | None]
) -> Sequence[web.AbstractRouteDef]:
    """Return the routes /healthz, which answers as long as the process lives, and /readyz.

    Args:
        ping_store: checks that the store answers and accepts writes; raises MilepostError if not.
        stalled: returns why nothing has made progress for too long; None if all is well.
    """
    store = SharedPing(ping_store)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        try:
            await store.demand(MAX_STORE_SECONDS)
        except TimeoutError as error:
            text = f"the store did not answer within {MAX_STORE_SECONDS:g} s"
            raise web.HTTPServiceUnavailable(text=text) from error
        except MilepostError as error:
            raise web.HTTPServiceUnavailable(text=error.message) from error
        if (reason := stalled()) is not None:
            raise web.HTTPServiceUnavailable(text=reason)
        return web.Response(text="ready\n")

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


class SharedPing:
    """One ping at a time, whose result all callers share: otherwise pings would pile up on a database that hangs."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._pinging: asyncio.Future[None] | None = None

    async def demand(self, max_seconds: float) -> None:
        """Raise what the ping raises, or TimeoutError if it takes longer; the ping itself is not cancelled.

        Cancelling it could hang as well.
        """
        pinging = self._pinging
        if pinging is None or pinging.done():
            pinging = self._pinging = asyncio.ensure_future(self._ping())
            pinging.add_done_callback(lambda done: done.cancelled() or done.exception())  # marks it as retrieved
        await asyncio.wait([pinging], timeout=max_seconds)
        if not pinging.done():
            raise TimeoutError
        pinging.result()


def exposition(expose: Callable[[], bytes]) -> Sequence[web.AbstractRouteDef]:
    """Return the route /metrics, which answers with what `expose` returns."""
    one_at_a_time = asyncio.Lock()  # each exposition takes memory and time

    async def metrics(_: web.Request) -> web.Response:
        async with one_at_a_time:
            # In a thread, because it makes file system calls, and takes 20 ms with a thousand streams.
            body = await asyncio.to_thread(expose)
        response = web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
        response.enable_compression()
        return response

    return [web.get("/metrics", metrics)]
