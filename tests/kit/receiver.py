"""A receiver of deliveries that verifies what it gets, applies it to tables of its own, and misbehaves on demand."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks.webhooks import Webhook

NEW, OLD = (f"whsec_{b64encode(word * 8).decode()}" for word in (b"new-", b"old-"))

Rows = dict[tuple[str, ...], dict[str, Any]]
Misbehaviour = Callable[[int], str | int]


class Receiver:
    """Applies changes by their keys, as the documentation asks of consumers: `tables` are rows by kind and key.

    `misbehave` gives the fate of a request by its number: an HTTP status; `hang`; `reset`, before it is applied; or
    `lose`, applied with its answer lost. `requests` are the requests' ids, and `seqs` those of all changes, in order.
    """

    def __init__(self, misbehave: Misbehaviour = lambda _: 204, secret: str = NEW) -> None:
        self.misbehave = misbehave
        self.secret = secret
        self.url = ""
        self.tables: dict[str, Rows] = {"contact": {}, "conversation": {}, "message": {}}
        self.requests: list[str] = []
        self.seqs: list[int] = []
        self.sizes: list[int] = []
        self.arrived = asyncio.Event()
        self.released = asyncio.Event()

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator["Receiver"]:
        """Serve during the block."""
        application = web.Application(client_max_size=4 * 2**20)
        application.router.add_post("/hooks", self._receive)
        server = TestServer(application, host="127.0.0.1", port=port or None)
        await server.start_server()
        self.url = str(server.make_url("/hooks"))
        try:
            yield self
        finally:
            self.released.set()
            await server.close()

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        message = Webhook(self.secret).verify(body, dict(request.headers))
        assert request.content_type == "application/json"
        assert message["type"] == "milepost.changes"
        number = len(self.requests)
        self.requests.append(request.headers["webhook-id"])
        self.arrived.set()
        outcome = self.misbehave(number)
        if outcome == "hang":
            await self.released.wait()
        if outcome in ("hang", "reset"):
            return _torn(request)
        if outcome == "lose" or (isinstance(outcome, int) and outcome < 300):
            self._apply(msgspec.json.decode(body)["data"]["changes"])
        if outcome == "lose":
            return _torn(request)
        assert isinstance(outcome, int)
        return web.Response(status=outcome)

    def _apply(self, changes: list[dict[str, Any]]) -> None:
        self.sizes.append(len(changes))
        for change in changes:
            self.seqs.append(change["seq"])
            rows, key = self.tables[change["kind"]], tuple(change["key"].values())
            if change["op"] == "delete":
                rows.pop(key, None)
            else:
                rows[key] = change["row"]


def _torn(request: web.Request) -> web.StreamResponse:
    """Reset the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
