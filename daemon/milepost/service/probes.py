"""What machines ask: whether the process lives, whether it does its work, and its metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from milepost.core.errors import MilepostError
from milepost.service.metrics.collect import CONTENT_TYPE

MAX_ANSWER_SECONDS = 2.0  # for the store; the probes of orchestrators seldom wait longer


def probes(
    store_answers: Callable[[], Awaitable[None]],
    stalled: Callable[[], str | None],
    *,
    max_answer_seconds: float = MAX_ANSWER_SECONDS,
) -> Sequence[web.AbstractRouteDef]:
    """Give the routes /healthz, which answers as long as the process lives, and /readyz.

    Args:
        store_answers: asks the store for anything; returning is the answer, a MilepostError the lack of one.
        stalled: why nothing has moved for longer than it should; None where all is well.
        max_answer_seconds: how long the store may take.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(max_answer_seconds):
                await store_answers()
        except TimeoutError as error:
            text = f"the store did not answer within {max_answer_seconds:g} s"
            raise web.HTTPServiceUnavailable(text=text) from error
        except MilepostError as error:
            raise web.HTTPServiceUnavailable(text=error.message) from error
        if (reason := stalled()) is not None:
            raise web.HTTPServiceUnavailable(text=reason)
        return web.Response(text="ready\n")

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


def exposition(expose: Callable[[], bytes]) -> Sequence[web.AbstractRouteDef]:
    """Give the route /metrics, which answers what `expose` writes."""
    turn = asyncio.Lock()  # each writing takes memory and time: one after the other

    async def metrics(_: web.Request) -> web.Response:
        async with turn:
            # In a thread: it asks the file system, and with a thousand streams takes 20 ms.
            body = await asyncio.to_thread(expose)
        response = web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
        response.enable_compression()
        return response

    return [web.get("/metrics", metrics)]
