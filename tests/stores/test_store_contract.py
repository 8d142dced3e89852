"""Each store keeps the contract of a Store."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.database_contract import DatabaseContract
from contracts.remedies_contract import Forget, RemediesContract
from contracts.store_contract import JournalRow, Look, Refuse, StoreContract, Tables
from kit.builders import NOON, STREAM
from kit.memory_store import MemoryStore
from kit.postgres import Database, on_both_releases
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import DeadLetterOpened, Stage
from milepost.core.model import Changes, Keys, KnownDeadLetter, Stream, Table
from milepost.core.ports import Committed, Rejected, Store
from milepost.stores import rows
from milepost.stores.open import open_reader
from stores.histories import commit_after, contact_row, conversation_row, event_row
from stores.store_dump import PostgresDump, SqliteDump, StoreDump


@on_both_releases
class TestPostgresqlStore(DatabaseContract):
    takes_nul = False

    @pytest.fixture
    def kept(self, database: Database) -> StoreDump:
        return PostgresDump(database)

    async def test_a_row_with_a_nul_in_any_text_is_refused(self, store: Store) -> None:
        good = Changes((conversation_row("t_1"),), (contact_row("c_1"),), (event_row("m_1"),))
        conversations = [replace(conversation_row(f"t_{each}"), **{each: "a\0b"}) for each in ("link", "snippet")]
        contacts = [replace(contact_row(f"c_{each}"), **{each: "\0"}) for each in ("name", "username")]
        events = [replace(event_row(f"m_{each}"), **{each: "a\0"}) for each in ("text", "kind", "contact_id")]
        mixed = Changes(
            (*conversations, *good.conversations),
            (*good.contacts, *contacts),
            (*events, *good.interaction_events),
        )

        answer = await store.commit(commit_after(Checkpoint(STREAM), changes=mixed))

        assert isinstance(answer, Rejected)
        assert {row.key for row in answer.rows} == {
            *(row.conversation_id for row in conversations),
            *(row.contact_id for row in contacts),
            *(row.event_id for row in events),
        }
        assert all("NUL" in row.reason for row in answer.rows)
        assert isinstance(await store.commit(commit_after(Checkpoint(STREAM), changes=good)), Committed)

    async def test_the_texts_of_a_dead_letter_are_stored_without_nul(self, store: Store, database: Database) -> None:
        """The journal keeps it as it was; a projection holds U+FFFD instead, and is still the journal's fold."""
        dead_letter = DeadLetterOpened("d_1", Stage.STORE, "t\0bad", "text: a NUL: \0", NOON, "f_1")
        await store.commit(commit_after(Checkpoint(STREAM), dead_letter))

        known = await store.known(Keys(STREAM, subjects=("t\0bad",)))
        assert known.dead_letters == {"t\0bad": KnownDeadLetter("d_1", "f_1", NOON, is_open=True)}
        async with open_reader(database.store_url) as journal_reader:
            assert (await journal_reader.verify()).dead_letters == 1
            assert (await journal_reader.rebuild()).dead_letters == 1
            await journal_reader.verify()


# --- SQLite -----------------------------------------------------------------------------------------------------------


class TestSqliteStore(DatabaseContract):
    @pytest.fixture
    def kept(self, path: Path) -> StoreDump:
        return SqliteDump(path)


# --- the in-memory store of the engine's tests ------------------------------------------------------------------------


class TestMemoryStore(StoreContract, RemediesContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def look(self, store: MemoryStore) -> Look:
        async def look() -> Tables:
            return Tables(
                tuple(
                    JournalRow(seq, row.stream, row.version, row.run_id, row.recorded_at, row.type, row.data, row.hash)
                    for seq, row in enumerate(store.journal, 1)
                ),
                {key: rows.checkpoint(state) for key, state in store.checkpoints.items()},
                dict(store.runs),
                dict(store.conversations),
                dict(store.contacts),
                dict(store.interaction_events),
                dict(store.dead_letters),
                dict(store.payloads),
                dict(store.pages),
            )

        return look

    @pytest.fixture
    def refuse(self, store: MemoryStore) -> Refuse:
        def refuse(table: Table, key: str) -> None:
            store.refuses.add((table, key))

        return refuse

    @pytest.fixture
    def forget(self, store: MemoryStore) -> Forget:
        async def forget(stream: Stream, contact_id: str) -> tuple[int, int, int, int]:
            return store.forget(stream, contact_id)

        return forget
