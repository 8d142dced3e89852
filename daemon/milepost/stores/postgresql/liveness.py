"""Checks that a server still answers during operations that may take long: migrations, audits, erasures.

A statement that runs for minutes looks the same as one on a frozen server, or behind a network that drops everything.
So new connections are tried meanwhile: if the server does not answer those either, it is taken for dead.
"""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psycopg
from psycopg.rows import TupleRow

from milepost.core.errors import StoreAway
from milepost.stores.url import StoreUrl

EVERY_SECONDS = 15.0
ANSWER_SECONDS = 10.0
SILENT_TRIES = 2  # a single one may fail while the server is merely busy

AnyConnection = psycopg.AsyncConnection[TupleRow] | psycopg.Connection[TupleRow]


@asynccontextmanager
async def while_answering(store_url: StoreUrl, connection: AnyConnection) -> AsyncIterator[None]:
    """Break the connection and raise StoreAway if the server stops answering during the block."""
    watching = asyncio.create_task(_silence_of(store_url), name=f"liveness of {store_url.name}")
    watching.add_done_callback(lambda task: None if task.cancelled() else hang_up(connection))
    try:
        yield
    except (psycopg.Error, StoreAway) as error:
        if not watching.done():
            raise
        raise _silent(store_url) from error
    finally:
        watching.cancel()
        await asyncio.wait({watching})


@contextmanager
def while_answering_a_thread(store_url: StoreUrl, connection: psycopg.Connection[TupleRow]) -> Iterator[None]:
    """Do the same for a thread without an event loop, by means of another thread that has one."""
    watcher = _Watcher(store_url, connection)
    watcher.start()
    try:
        yield
    except (psycopg.Error, StoreAway) as error:
        if not watcher.was_silent:
            raise
        raise _silent(store_url) from error
    finally:
        watcher.stop()


class _Watcher(threading.Thread):
    """Breaks a connection if the server stops answering, until this is stopped."""

    def __init__(self, store_url: StoreUrl, connection: AnyConnection) -> None:
        super().__init__(name=f"liveness of {store_url.name}", daemon=True)
        self.was_silent = False
        self._store_url = store_url
        self._connection = connection
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()

    def run(self) -> None:
        """Watch the server in this thread."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._watch())

    def stop(self) -> None:
        """Stop watching. Called from another thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self.join()

    async def _watch(self) -> None:
        stopping = asyncio.ensure_future(self._stopping.wait())
        silence = asyncio.ensure_future(_silence_of(self._store_url))
        done, pending = await asyncio.wait({stopping, silence}, return_when=asyncio.FIRST_COMPLETED)
        if silence in done:
            self.was_silent = True
            hang_up(self._connection)
            await self._stopping.wait()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _silent(store_url: StoreUrl) -> StoreAway:
    return StoreAway(
        f"the database {store_url.name} does not answer: the server accepts connections, or packets, but says nothing",
        hint="check whether the server is suspended or out of memory, and the network in between",
    )


@contextmanager
def answering_within(seconds: float, connection: AnyConnection) -> Iterator[None]:
    """Break the connection if the block takes longer: whoever waits for the server gets an error."""
    hanging_up = asyncio.get_running_loop().call_later(seconds, hang_up, connection)
    try:
        yield
    finally:
        hanging_up.cancel()


def hang_up(connection: AnyConnection) -> None:
    """Break a connection, whichever thread is waiting for it."""
    if not connection.closed:
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


async def _silence_of(store_url: StoreUrl) -> None:
    """Return once the server has not answered several new connections in a row."""
    silent = 0
    while silent < SILENT_TRIES:
        await asyncio.sleep(EVERY_SECONDS if silent == 0 else 0)
        silent = silent + 1 if await _is_silent(store_url) else 0


async def _is_silent(store_url: StoreUrl) -> bool:
    """Return whether the server does not answer. An error is an answer: it may be restarting or out of connections."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            connection = await psycopg.AsyncConnection.connect(
                store_url.url, autocommit=True, **store_url.connect_kwargs()
            )
        with answering_within(ANSWER_SECONDS, connection):
            async with connection:
                await connection.execute("SELECT 1")  # a pooler accepts connections while its server is frozen
    except (psycopg.Error, OSError):  # TimeoutError is an OSError
        return loop.time() - began >= ANSWER_SECONDS
    return False
