"""Rows that are new as far as is known are inserted without looking for conflicts; after a conflict, with that."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from kit.builders import STREAM
from kit.postgres import Database, on_both_releases
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Changes, Known
from milepost.core.ports import Commit, Committed
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.postgresql.encoding import CONTACTS, CONVERSATIONS, INTERACTION_EVENTS
from milepost.stores.postgresql.store import PostgresqlStore, open_postgresql
from milepost.stores.reader import Parameters
from stores.histories import commit_after, contact_row, conversation_row, event_row, stream

OTHER = stream(2)
TABLES = (CONTACTS, CONVERSATIONS, INTERACTION_EVENTS)

pytestmark = on_both_releases


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresqlStore]:
    async with open_postgresql(database.store_url) as store:
        yield store


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each statement that writes rows was executed."""
    counted, execute = Counter[str](), PostgresqlWriter.execute
    names = {name for table in TABLES for name in (table.insert, table.upsert)}

    async def counting(writer: PostgresqlWriter, statement: str, parameters: Parameters = ()) -> object:
        counted.update({statement} & names)
        return await execute(writer, statement, parameters)

    monkeypatch.setattr(PostgresqlWriter, "execute", counting)
    return counted


def decided(known: Known, changes: Changes, after: Checkpoint | None = None) -> Commit:
    """Return a commit that was decided on what was known."""
    return replace(commit_after(after or Checkpoint(STREAM), changes=changes), known=known)


async def test_new_rows_are_inserted_and_known_ones_updated(
    database: Database, store: PostgresqlStore, written: Counter[str]
) -> None:
    first = decided(Known(), Changes((conversation_row("t_1"),), (contact_row("c_1"),), (event_row("m_1"),)))
    assert isinstance(await store.commit(first), Committed)
    assert written == dict.fromkeys((table.insert for table in TABLES), 1)
    written.clear()

    known = Known({"t_1": conversation_row("t_1")}, {"c_1": contact_row("c_1")}, frozenset({"m_1"}))
    changes = Changes(
        (conversation_row("t_1", snippet="later"), conversation_row("t_2")),
        (contact_row("c_1", name="Grace"), contact_row("c_2")),
        (event_row("m_2"),),
    )
    assert isinstance(await store.commit(decided(known, changes, first.checkpoint)), Committed)

    assert written == {
        CONTACTS.insert: 1,
        CONTACTS.upsert: 1,
        CONVERSATIONS.insert: 1,
        CONVERSATIONS.upsert: 1,
        INTERACTION_EVENTS.insert: 1,
    }
    assert database.sql("SELECT contact_id, name, version FROM contacts ORDER BY 1") == [
        ("c_1", "Grace", 2),
        ("c_2", "Ada", 2),
    ]
    assert database.sql("SELECT conversation_id, snippet FROM conversations ORDER BY 1") == [
        ("t_1", "later"),
        ("t_2", "hello"),
    ]
    assert database.sql("SELECT event_id, version FROM contact_interaction_events ORDER BY 1") == [
        ("m_1", 1),
        ("m_2", 2),
    ]


async def test_a_message_that_another_stream_has_stored_since_the_lookup_stays_as_it_is(
    database: Database, store: PostgresqlStore
) -> None:
    """If two of our pages write to each other, each has the message in a conversation of its own."""
    theirs = Changes((conversation_row("t_2", of=OTHER),), (), (event_row("m_1", of=OTHER, conversation_id="t_2"),))
    await store.commit(replace(commit_after(Checkpoint(OTHER), changes=theirs), known=Known()))

    ours = Changes((conversation_row("t_1"),), (contact_row("c_1"),), (event_row("m_1"), event_row("m_2")))
    assert isinstance(await store.commit(decided(Known(), ours)), Committed)

    found = database.sql("SELECT event_id, conversation_id FROM contact_interaction_events ORDER BY 1")
    assert found == [("m_1", "t_2"), ("m_2", "t_1")]


async def test_a_contact_that_is_stored_without_being_known_is_updated(
    database: Database, store: PostgresqlStore
) -> None:
    first = decided(Known(), Changes(contacts=(contact_row("c_1"),)))
    await store.commit(first)

    again = decided(Known(), Changes(contacts=(contact_row("c_1", name="Grace"),)), first.checkpoint)
    assert isinstance(await store.commit(again), Committed)

    assert database.sql("SELECT name, version FROM contacts") == [("Grace", 2)]


async def test_a_contact_of_another_page_is_not_taken_for_new(store: PostgresqlStore, written: Counter[str]) -> None:
    """Its thread is listed by this page, too, and was met there first."""
    there = contact_row("c_1", of=OTHER)
    await store.commit(replace(commit_after(Checkpoint(OTHER), changes=Changes(contacts=(there,))), known=Known()))
    written.clear()

    known = Known(contacts_elsewhere={(OTHER.page_id, "c_1"): there})
    ours = Changes(contacts=(replace(there, name="Grace"),))
    assert isinstance(await store.commit(decided(known, ours)), Committed)

    assert written == {CONTACTS.upsert: 1}


async def test_a_message_that_comes_twice_is_written_once(
    database: Database, store: PostgresqlStore, written: Counter[str]
) -> None:
    """The list may have it on two pages, or in two conversations."""
    said = event_row("m_1")
    changes = Changes((conversation_row("t_1"),), (), (said, replace(said, text="again")))

    assert isinstance(await store.commit(decided(Known(), changes)), Committed)

    assert database.sql("SELECT text FROM contact_interaction_events") == [("hello",)]
    assert written[INTERACTION_EVENTS.insert] == 1
    assert written[INTERACTION_EVENTS.upsert] == 0
