"""A store skips lookups whose result it knows, and makes all others."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM
from milepost.core.model import Changes, Keys, Known, Stream
from milepost.core.ports import Committed, Rejected, Store
from milepost.core.position import Reading
from milepost.stores.reader import Parameters
from milepost.stores.sqlite.queries import SqliteSession
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import commit_after, contact_row, conversation_row, event_row
from stores.sqlite_files import execute

LOOK_UPS = {
    "known_conversations",
    "known_contacts",
    "known_interaction_events",
    "left_behind",
    "conversation_states",
}


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the statements about ids that are run."""
    names: list[str] = []
    ask = SqliteSession.ask

    def spy(self: SqliteSession, statement: str, parameters: Parameters = ()) -> object:
        if statement in LOOK_UPS:
            names.append(statement)
        return ask(self, statement, parameters)

    monkeypatch.setattr(SqliteSession, "ask", spy)
    return names


def rows(number: int) -> Changes:
    return Changes(
        (conversation_row(f"t_{number}", contact_id=f"c_{number}"),),
        (contact_row(f"c_{number}"),),
        (event_row(f"m_{number}", conversation_id=f"t_{number}"),),
    )


def keys(number: int) -> Keys:
    return Keys(STREAM, (f"t_{number}",), (f"c_{number}",), (f"m_{number}",))


async def copy(store: Store, number: int, known: Known | None = None) -> Committed | Rejected:
    """Commit rows that were decided on `known`, by default on what is known now."""
    known = known or await store.known(keys(number))
    return await store.commit(replace(commit_after(await store.load(STREAM), changes=rows(number)), known=known))


def by_hand(path: Path) -> None:
    """Store a conversation over another connection."""
    columns = "platform, page_id, updated_time, first_synced_at, synced_at"
    execute(path, f"INSERT INTO conversations (conversation_id, {columns}) SELECT 't_2', {columns} FROM conversations")


async def test_a_first_copy_looks_nothing_up(path: Path, looked_up: list[str]) -> None:
    async with open_sqlite(path) as store:
        for number in range(20):
            assert await store.known(keys(number)) == Known()
            assert isinstance(await copy(store, number), Committed)

    assert looked_up == []


async def test_rows_of_a_first_copy_are_found(path: Path) -> None:
    async with open_sqlite(path) as store:
        for number in range(20):
            await copy(store, number)

        for number in range(20):
            known = await store.known(keys(number))
            assert known.conversations.keys() == {f"t_{number}"}
            assert known.contacts.keys() == {f"c_{number}"}
            assert known.interaction_events == {f"m_{number}"}


async def test_messages_without_a_row_of_their_conversation_are_found(path: Path) -> None:
    """This happens if the row was refused and the account is now linked to another page."""
    before = Stream(STREAM.platform, "another")
    async with open_sqlite(path) as store:
        message = event_row("m_1", of=before, conversation_id="t_1")
        await store.commit(commit_after(await store.load(before), changes=Changes(interaction_events=(message,))))

        assert (await store.known(Keys(STREAM, ("t_1",)))).left_behind == {"t_1": "another"}


async def test_rows_that_were_stored_before_the_start_are_looked_up(path: Path, looked_up: list[str]) -> None:
    async with open_sqlite(path) as store:
        await copy(store, 1)
    async with open_sqlite(path) as store:
        assert (await store.known(keys(1))).conversations.keys() == {"t_1"}
        assert (await store.known(keys(2))) == Known()

    assert set(looked_up) == LOOK_UPS - {"conversation_states"}


async def test_messages_that_came_with_their_conversation_before_are_not_looked_up(
    path: Path, looked_up: list[str]
) -> None:
    row = replace(conversation_row("t_1"), messages_fingerprint="abc")
    async with open_sqlite(path) as store:
        await store.commit(commit_after(await store.load(STREAM), changes=Changes((row,), (), (event_row("m_1"),))))

    async with open_sqlite(path) as store:
        same = Reading("t_1", NOON, NOON, "abc", ("m_1",), row.updated_time)
        asked = Keys(STREAM, ("t_1",), interaction_events=("m_1",), readings=(same,))
        assert (await store.known(asked)).interaction_events == {"m_1"}
        assert "known_interaction_events" not in looked_up

        other = replace(same, fingerprint="abcd", event_ids=("m_1", "m_2"))
        asked = replace(asked, interaction_events=("m_1", "m_2"), readings=(other,))
        assert (await store.known(asked)).interaction_events == {"m_1"}
        assert "known_interaction_events" in looked_up


async def test_rows_of_another_writer_are_looked_up(path: Path) -> None:
    async with open_sqlite(path) as store:
        await copy(store, 1)
        by_hand(path)

        assert (await store.known(keys(2))).conversations.keys() == {"t_2"}


async def test_a_commit_that_was_decided_before_somebody_else_wrote_is_rejected(path: Path) -> None:
    async with open_sqlite(path) as store:
        await copy(store, 1)
        known = await store.known(keys(2))
        by_hand(path)

        assert await copy(store, 2, known) == Rejected(())
