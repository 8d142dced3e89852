"""Connections speak UTF-8, whatever a role, a database or the environment sets for clients."""

import asyncio
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from psycopg.errors import UntranslatableCharacter

from kit.builders import STREAM
from kit.needs import long_only
from kit.pgbouncer import needs_pgbouncer, pooled
from kit.postgres import ROLE, Database, Server, fresh_database
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Changes, Keys
from milepost.core.ports import Committed
from milepost.stores.copy import CopyJob
from milepost.stores.open import copy_store, forget, has_database, is_at_work, open_reader, open_store
from milepost.stores.postgresql.encoding import columns_text
from milepost.stores.postgresql.reader import listening
from milepost.stores.url import StoreUrl
from stores.histories import commit_after, contact_row, conversation_row, event_row

NAME = "Łucja 👩‍👩‍👧 愛 ع"
ROWS = Changes(
    (conversation_row("t_1", snippet=NAME),), (contact_row("c_1", name=NAME),), (event_row("m_1", text=NAME),)
)
# Settings that other programs may need for the database, the role or the machine.
SETTINGS = {
    "latin for a database": ("ALTER DATABASE {database} SET client_encoding = 'LATIN1'", ""),
    "latin for a role": ("ALTER ROLE {role} IN DATABASE {database} SET client_encoding = 'LATIN1'", ""),
    "none for a database": ("ALTER DATABASE {database} SET client_encoding = 'SQL_ASCII'", ""),
    "japanese in the environment": ("", "EUC_JP"),
    "two bytes in the environment, latin for a database": (
        "ALTER DATABASE {database} SET client_encoding = 'LATIN9'",
        "WIN1251",
    ),
}
LATIN, JAPANESE = "latin for a database", "japanese in the environment"
OTHERS = [each for each in SETTINGS if each not in (LATIN, JAPANESE)]


@pytest.fixture(params=[LATIN, JAPANESE, *long_only(*OTHERS)])
def foreign(request: pytest.FixtureRequest, postgres: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Yield an empty database, not yet migrated, whose clients get another encoding unless they ask for one."""
    statement, environment = SETTINGS[request.param]
    with fresh_database(postgres, template=None) as database:
        if statement:
            postgres.sql(statement.format(database=database.name, role=ROLE))
        if environment:
            monkeypatch.setenv("PGCLIENTENCODING", environment)
        yield database
        monkeypatch.delenv("PGCLIENTENCODING", raising=False)


async def store_and_read(store_url: StoreUrl) -> None:
    async with open_store(store_url) as store:
        assert isinstance(await store.commit(commit_after(Checkpoint(STREAM), changes=ROWS)), Committed)
        known = await store.known(Keys(STREAM, ("t_1",), ("c_1",), ("m_1",)))
    assert known.contacts["c_1"].name == known.conversations["t_1"].snippet == NAME


async def test_every_text_is_stored_as_it_is(foreign: Database) -> None:
    await store_and_read(foreign.store_url)

    async with open_reader(foreign.store_url) as journal_reader:
        await journal_reader.verify()
    assert await has_database(foreign.store_url)
    assert not await is_at_work(foreign.store_url)
    assert (await forget(foreign.store_url, STREAM, "c_1")).interaction_events == 1


async def test_a_copy_has_every_text(foreign: Database, tmp_path: Path) -> None:
    file = StoreUrl(f"sqlite:///{tmp_path / 'source.db'}")
    await store_and_read(file)

    await copy_store(CopyJob(file, foreign.store_url), lambda _: None)
    await copy_store(CopyJob(foreign.store_url, StoreUrl(f"sqlite:///{tmp_path / 'back.db'}")), lambda _: None)


async def test_a_listening_connection_hears_of_commits(foreign: Database) -> None:
    heard = asyncio.Event()
    async with open_store(foreign.store_url) as store, listening(foreign.store_url, heard.set):
        async with asyncio.timeout(30):
            await heard.wait()  # it listens
            heard.clear()
            await store.commit(commit_after(Checkpoint(STREAM), changes=ROWS))
            await heard.wait()


def test_an_array_has_every_text_as_it_is(database: Database) -> None:
    """Arrays are converted from JSON, which escapes other characters, and in another way."""
    parts = ("\\", '"', "\n", "n", "u0041", "\x1f", "{", ",", "\N{PARTY POPPER}")
    rows = tuple(contact_row("".join(each), name=None) for each in product(parts, repeat=3))
    rows += tuple(contact_row(each, name=each) for each in ("", " ", "null", "NULL", "\x7f"))

    text = columns_text(rows)

    found = database.sql("SELECT * FROM unnest(%s::text[], %s::text[])", text["contact_id"], text["name"])
    assert found == [(row.contact_id, row.name) for row in rows]
    with pytest.raises(UntranslatableCharacter):
        columns_text([contact_row("a\\\0")])


async def test_an_array_of_the_oldest_kind_has_null_as_well(database: Database) -> None:
    """`array_nulls` may be off for programs from before PostgreSQL 8.2."""
    database.sql(f"ALTER DATABASE {database.name} SET array_nulls = off")
    changes = Changes((conversation_row("t_1", contact_id=None, snippet=None),), (contact_row("c_1", name=None),))
    async with open_store(database.store_url) as store:
        assert isinstance(await store.commit(commit_after(Checkpoint(STREAM), changes=changes)), Committed)

    assert database.sql("SELECT contact_id, snippet FROM conversations") == [(None, None)]


@needs_pgbouncer
async def test_every_text_is_stored_through_a_pooler(foreign: Database) -> None:
    with pooled(foreign, pool_size=2) as pooler:
        await store_and_read(pooler.store_url)


async def test_every_text_is_stored_whatever_options_the_environment_has(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PgBouncer refuses them altogether."""
    monkeypatch.setenv("PGOPTIONS", "-c client_encoding=LATIN1 -c datestyle=German")
    with fresh_database(postgres, template=None) as database:
        await store_and_read(database.store_url)


async def test_dates_and_strings_written_in_another_way_make_no_difference(postgres: Server) -> None:
    """ALTER DATABASE is also used for how values look to other programs."""
    with fresh_database(postgres, template=None) as database:
        for setting in (
            "datestyle = 'SQL, DMY'",
            "intervalstyle = 'sql_standard'",
            "bytea_output = 'escape'",
            "timezone = 'Asia/Kolkata'",
            "standard_conforming_strings = off",
            "default_transaction_isolation = 'serializable'",
            "extra_float_digits = -5",
            "xmloption = 'document'",
        ):
            postgres.sql(f"ALTER DATABASE {database.name} SET {setting}")
        await store_and_read(database.store_url)
        async with open_reader(database.store_url) as journal_reader:
            await journal_reader.verify()
            assert [entry.entry.recorded_at for entry in await journal_reader.latest(limit=1)]
