"""A proxy between a store and its PostgreSQL that breaks connections on demand."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from enum import Enum

from kit.postgres import ROLE, Database
from milepost.stores.url import StoreUrl

COMMIT = b"COMMIT\0"  # the statement that the client sends, and the tag with which the server confirms it
ANNOUNCED = re.compile(rb"milepost_[0-9a-f]{16}")  # the channel on which a commit that writes is announced
READ_BYTES = 2**16


class Cut(Enum):
    """Where a connection breaks at a COMMIT."""

    BEFORE = "the server never receives it"
    AFTER = "the server has committed, and its answer is lost"
    MEANWHILE = "the server has received it, and nobody waits for its answer"
    SILENCE = "nothing is received any more, and no connection is closed"


class Line:
    """The proxy, on the loopback interface."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._talks: set[asyncio.Task[None]] = set()
        self._is_open = asyncio.Event()
        self._is_open.set()
        self.port = 0
        self.clients = 0  # accepted so far
        self._silent_at: bytes | None = None
        self._cuts: Iterator[Cut | None] = iter(())
        self.cuts = Counter[Cut]()  # made so far

    @property
    def store_url(self) -> StoreUrl:
        """The URL of the database through the proxy."""
        return StoreUrl(f"postgresql://{ROLE}@127.0.0.1:{self.port}/{self._database.name}", self._database.password)

    def cut_next_commit(self, cut: Cut) -> None:
        """Break the connection that commits next."""
        self.cut_commits((cut,))

    def cut_commits(self, cuts: Iterable[Cut | None]) -> None:
        """Break the connections that commit what they wrote from now on, one cut each; None lets one pass."""
        self._cuts = iter(cuts)

    def fall_silent(self) -> None:
        """Hold back all data in both directions while every connection stays open."""
        self._is_open.clear()

    def fall_silent_at(self, asked: bytes) -> None:
        """Fall silent as soon as a client sends these bytes."""
        self._silent_at = asked

    def speak_again(self) -> None:
        """Pass on the data that was held back, and all later data."""
        self._is_open.set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accept a client."""
        self.clients += 1
        self._talks.add(asyncio.ensure_future(self._talk(reader, writer)))

    async def hang_up(self) -> None:
        """Break every connection."""
        talks, self._talks = self._talks, set()
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    async def _talk(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        ends = [to_client]
        is_lost = asyncio.Event()  # set: the server's answers are dropped from now on
        try:
            with suppress(ConnectionError):
                from_server, to_server = await asyncio.open_connection("127.0.0.1", self._database.server.port)
                ends.append(to_server)
                await asyncio.gather(
                    self._ask(from_client, to_client, to_server, is_lost),
                    self._answer(from_server, to_client, is_lost),
                )
        finally:
            for end in ends:
                end.transport.abort()

    async def _ask(
        self,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        to_server: asyncio.StreamWriter,
        is_lost: asyncio.Event,
    ) -> None:
        has_written = False
        while asked := await from_client.read(READ_BYTES):
            has_written = has_written or ANNOUNCED.search(asked) is not None
            cut = next(self._cuts, None) if has_written and COMMIT in asked else None
            has_written = has_written and COMMIT not in asked
            if cut is not None:
                self.cuts[cut] += 1
            if cut is Cut.SILENCE or (self._silent_at is not None and self._silent_at in asked):
                self.fall_silent()
            await self._is_open.wait()
            if cut is Cut.BEFORE:
                raise ConnectionAbortedError
            if cut in (Cut.AFTER, Cut.MEANWHILE):
                is_lost.set()
            to_server.write(asked)
            await to_server.drain()
            if cut is Cut.MEANWHILE:
                to_client.transport.abort()
        if not is_lost.is_set():
            to_server.close()

    async def _answer(
        self, from_server: asyncio.StreamReader, to_client: asyncio.StreamWriter, is_lost: asyncio.Event
    ) -> None:
        while answered := await from_server.read(READ_BYTES):
            await self._is_open.wait()
            if is_lost.is_set():
                if COMMIT in answered:
                    raise ConnectionAbortedError
                continue
            to_client.write(answered)
            await to_client.drain()
        to_client.close()


@asynccontextmanager
async def breakable_line(database: Database) -> AsyncIterator[Line]:
    """Run a proxy to the database during the block."""
    line = Line(database)
    server = await asyncio.start_server(line.accept, "127.0.0.1", 0)
    async with server:
        line.port = server.sockets[0].getsockname()[1]
        try:
            yield line
        finally:  # otherwise the server waits for its connections forever (from Python 3.12 on)
            server.close()
            await line.hang_up()
