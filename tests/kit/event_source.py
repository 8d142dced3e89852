"""A client of server-sent events that reads them as a browser does (WHATWG HTML, "Server-sent events")."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Heard:
    """An event: its id, "" if it has none, and its data."""

    id: str
    data: str

    @property
    def told(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.data)
        return message


class EventSource:
    """The events of one connection. `last_event_id` is where a browser would resume."""

    def __init__(self, response: aiohttp.ClientResponse, last_event_id: str) -> None:
        self.response = response
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self.comments = 0

    async def events(self, number: int | None = None) -> list[Heard]:
        """Read that many events; without a number, all until the connection ends."""
        heard: list[Heard] = []
        while number is None or len(heard) < number:
            block = await self._block()
            if block is None:
                assert number is None, f"the connection has ended after {len(heard)} of {number} events"
                break
            if "data" in block:
                heard.append(Heard(block.get("id", ""), block["data"]))
        return heard

    async def some_events(self) -> list[Heard]:
        """Read up to the next event; empty if the connection has ended."""
        while (block := await self._block()) is not None:
            if "data" in block:
                return [Heard(block.get("id", ""), block["data"])]
        return []

    async def heartbeat(self) -> None:
        """Read until a heartbeat; no event may come first."""
        before = self.comments
        while self.comments == before:
            block = await self._block()
            assert block is not None, "the connection has ended"
            assert "data" not in block, block

    async def opening(self) -> None:
        """Read what precedes the first event."""
        block = await self._block()
        assert block is not None
        assert "data" not in block

    async def _block(self) -> dict[str, str] | None:
        """Read up to the next empty line; None at the end of the connection."""
        fields: dict[str, str] = {}
        while line := (await self.response.content.readline()).decode().removesuffix("\n"):
            name, _, value = line.partition(": ")
            if not name or line.startswith(":"):
                self.comments += 1
                continue
            assert name in {"id", "data", "retry"}, line
            assert name not in fields, "one line for each field"
            fields[name] = value
        if self.response.content.at_eof() and not fields:
            return None
        self.last_event_id = fields.get("id", self.last_event_id)
        self.retry = int(fields["retry"]) if "retry" in fields else self.retry
        return fields


@asynccontextmanager
async def listening(
    url: str, *query: tuple[str, str], last_event_id: str = "", path: str = "/api/events"
) -> AsyncIterator[EventSource]:
    """Listen during the block, with the opening already read."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=1024, headers=headers) as session,
        session.get(url + path, params=list(query)) as response,
    ):
        assert response.status == 200, await response.text()
        source = EventSource(response, last_event_id)
        await source.opening()
        yield source
