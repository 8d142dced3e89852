"""The line between a store and its PostgreSQL, which breaks when a test wants it to."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from enum import Enum

from kit.postgres import ROLE, Database
from milepost.stores.url import StoreUrl

COMMIT = b"COMMIT\0"  # the statement, as the client sends it, and the server's word that it is done
READ_BYTES = 2**16


class Cut(Enum):
    """Where the line breaks at a COMMIT."""

    BEFORE = "the server never hears of it"
    AFTER = "the server has committed, and its answer is lost"
    MEANWHILE = "the server has heard it, and nobody waits for its answer"
    SILENCE = "nobody hears of anything any more, and no connection is closed"


class Line:
    """A proxy of the server, on the loopback interface."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._talks: set[asyncio.Task[None]] = set()
        self._is_open = asyncio.Event()
        self._is_open.set()
        self.port = 0
        self.clients = 0  # that were taken so far
        self._cuts: Iterator[Cut | None] = iter(())
        self.cuts = Counter[Cut]()  # those that were made

    @property
    def store_url(self) -> StoreUrl:
        """What a store opens that is to talk over it."""
        return StoreUrl(f"postgresql://{ROLE}@127.0.0.1:{self.port}/{self._database.name}", self._database.password)

    def cut_next_commit(self, cut: Cut) -> None:
        """Let the connection break that commits next."""
        self.cut_commits((cut,))

    def cut_commits(self, cuts: Iterable[Cut | None]) -> None:
        """Let the connections break that commit from now on, where it is not None."""
        self._cuts = iter(cuts)

    def fall_silent(self) -> None:
        """Let nothing through any more, either way, while every connection stays."""
        self._is_open.clear()

    def speak_again(self) -> None:
        """Let through what was held back, and what comes."""
        self._is_open.set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a client."""
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
        is_lost = asyncio.Event()  # whatever the server answers from now on
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
        while asked := await from_client.read(READ_BYTES):
            cut = next(self._cuts, None) if COMMIT in asked else None
            if cut is not None:
                self.cuts[cut] += 1
            if cut is Cut.SILENCE:
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
    """Lay a line to the database during the block."""
    line = Line(database)
    server = await asyncio.start_server(line.accept, "127.0.0.1", 0)
    async with server:
        line.port = server.sockets[0].getsockname()[1]
        try:
            yield line
        finally:  # or the server waits for its connections for ever (from Python 3.12 on)
            server.close()
            await line.hang_up()
