"""Operations that may take long also end if the server freezes, with an error that names the server."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from tempfile import TemporaryDirectory

import msgspec
import psycopg
import pytest

from kit.binary import until
from kit.builders import NOON, STREAM
from kit.flaky_proxy import breakable_line
from kit.postgres import Database
from milepost.core.errors import StoreAway
from milepost.stores.copy import CopyJob
from milepost.stores.open import copy_store, forget, has_database, is_at_work, open_reader, open_store, remove
from milepost.stores.postgresql import liveness, reader
from milepost.stores.postgresql.liveness import while_answering
from milepost.stores.postgresql.reader import listening
from milepost.stores.url import StoreUrl
from stores.histories import live


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(reader, "ANSWER_SECONDS", 0.3)


async def audited(function: str, store_url: StoreUrl) -> None:
    async with open_reader(store_url) as journal_reader:
        await getattr(journal_reader, function)()


async def opened(store_url: StoreUrl) -> None:
    async with open_store(store_url):
        pass


async def copied(store_url: StoreUrl, *, there: bool) -> None:
    with TemporaryDirectory() as folder:
        file = StoreUrl(f"sqlite:///{folder}/a.db")
        async with open_store(file) as store:
            await live(store, STREAM, 2)
        if there:
            await copy_store(CopyJob(file, msgspec.structs.replace(store_url, schema="another")), lambda _: None)
        else:
            await copy_store(CopyJob(store_url, StoreUrl(f"sqlite:///{folder}/b.db")), lambda _: None)


# What is done, and at which statement of it the server freezes.
WORK: dict[str, tuple[Callable[[StoreUrl], Awaitable[object]], bytes]] = {
    "has_schema": (has_database, b"to_regclass"),
    "migrate": (opened, b" migrations"),
    "migrate, at its first question": (opened, b"server_encoding"),
    "forget": (lambda url: forget(url, STREAM, "c_1"), b"INSERT INTO forgotten"),
    "remove": (lambda url: remove(url, STREAM, "somebody", NOON), b"hashtextextended"),
    "verify": (partial(audited, "verify"), b"DECLARE"),
    "rebuild": (partial(audited, "rebuild"), b"DELETE FROM"),
    "copy there": (partial(copied, there=True), b"COPY "),
    "copy there, before the first row": (partial(copied, there=True), b"pg_try_advisory_xact_lock"),
    "copy from there": (partial(copied, there=False), b"DECLARE"),
    "whether anybody works on it": (is_at_work, b"set_config"),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("work", WORK)
async def test_a_server_that_freezes_meanwhile_is_away(database: Database, work: str) -> None:
    async with open_store(database.store_url) as store:
        await live(store, STREAM, 2)
    function, statement = WORK[work]
    async with breakable_line(database) as line:
        line.fall_silent_at(statement)
        async with asyncio.timeout(60):
            with pytest.raises(StoreAway) as raised:
                await function(line.store_url)
        line.speak_again()
    assert f"127.0.0.1:{line.port}/{database.name} does not answer" in raised.value.message
    assert raised.value.hint
    assert database.password not in str(raised.value)


@pytest.mark.parametrize("limit", [-1, 1])
async def test_a_server_that_lives_may_take_its_time(
    database: Database, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """A server that has no connection left counts as alive: its refusal is an answer."""
    monkeypatch.setattr(liveness, "EVERY_SECONDS", 0.05)
    database.server.sql(f"ALTER DATABASE {database.name} CONNECTION LIMIT {limit}")
    store_url = database.store_url
    connection = await psycopg.AsyncConnection.connect(store_url.url, **store_url.connect_kwargs())
    async with while_answering(store_url, connection), connection:
        slow = await connection.execute("SELECT pg_sleep(2), 'done'")
        assert await slow.fetchone() == ("", "done")


@pytest.mark.usefixtures("impatient")
async def test_whoever_listens_to_a_frozen_server_hears_again_when_it_is_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "RECONNECT_SECONDS", 0.01)
    heard = asyncio.Event()
    async with breakable_line(database) as line:
        line.fall_silent_at(b"LISTEN")
        async with listening(line.store_url, heard.set), asyncio.timeout(60):
            await until(lambda: line.clients > 1)  # it gave the first connection up
            line.speak_again()
            line.fall_silent_at(b"nothing that is asked")
            await heard.wait()
