"""What erasing a person must do in any database, beside a daemon that works on it.

The fixture `kept` is an empty database of this program's schema. See tests/stores/test_contracts.py.
"""

import asyncio

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM
from milepost.core.events import DeadLetterOpened, RunStarted, Stage
from milepost.core.model import Changes, DeadLetterPayload
from milepost.core.ports import Store
from milepost.stores.commit import Forgotten
from milepost.stores.open import forget, open_reader, open_store
from stores.histories import commit_after, contact_row, conversation_row, event_row, page_row
from stores.store_dump import StoreDump

SECRET = "Wq7-zebra"  # what only she wrote
GONE = Forgotten(contacts=1, conversations=1, interaction_events=30, payloads=1)


def rows_of(person: str, words: str) -> Changes:
    """Return rows large enough to lie on many pages."""
    thread = f"t_{person}"
    events = (event_row(f"m_{person}_{n}", conversation_id=thread, text=words * 50) for n in range(30))
    return Changes(
        (conversation_row(thread, contact_id=person, snippet=words),),
        (contact_row(person, name=words),),
        tuple(events),
        (DeadLetterPayload(f"d_{person}", f'{{"id": "t_x", "from": "{person}", "snippet": "{words}"}}'),),
    )


async def keep(store: Store, person: str, words: str) -> None:
    dead_letter = DeadLetterOpened(f"d_{person}", Stage.FETCH, f"t_x_{person}", "id: expected str")
    await store.commit(commit_after(await store.load(STREAM), dead_letter, changes=rows_of(person, words)))


class ErasureContract:
    async def test_an_erasure_beside_a_daemon_leaves_a_journal_that_verifies(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "ada", SECRET)

            assert await forget(kept.store_url, STREAM, "ada") == GONE

            async with open_reader(kept.store_url) as journal_reader:
                await journal_reader.verify()

    async def test_a_daemon_at_work_brings_nothing_back(self, kept: StoreDump) -> None:
        forgotten = asyncio.Event()

        async def write_again_and_again(store: Store) -> None:
            written_since = 0
            while written_since < 20:
                written_since += forgotten.is_set()
                await keep(store, "ada", SECRET)

        async with open_store(kept.store_url) as store, asyncio.TaskGroup() as group:
            group.create_task(write_again_and_again(store))
            await asyncio.sleep(0)
            await forget(kept.store_url, STREAM, "ada")
            forgotten.set()

        tables = kept.tables()
        assert (tables.conversations, tables.contacts, tables.interaction_events, tables.payloads) == ({}, {}, {}, {})
        assert tables.checkpoints == tables.refold()

    async def test_an_erasure_is_complete_or_does_nothing(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "ada", SECRET)
        kept.refuse_deletes("dead_letter_payloads")
        before = kept.tables()

        with pytest.raises(Exception, match="not this one"):
            await forget(kept.store_url, STREAM, "ada")

        assert kept.tables() == before
        async with open_store(kept.store_url) as store:
            checkpoint = await store.load(STREAM)
            await store.commit(commit_after(checkpoint, RunStarted(NOON), changes=rows_of("ada", "x")))
        assert [row.name for row in kept.tables().contacts.values()] == ["x"]

    async def test_a_conversation_whose_contact_is_withheld_goes_with_whoever_wrote_in_it(
        self, kept: StoreDump
    ) -> None:
        said = replace(event_row("m_1", text=SECRET), contact_id="ada")
        changes = Changes((conversation_row(contact_id=None, snippet=SECRET),), interaction_events=(said,))
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))

            assert (await forget(kept.store_url, STREAM, "ada")).conversations == 1

            await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))
        assert (kept.tables().conversations, kept.tables().interaction_events) == ({}, {})

    async def test_the_page_of_an_erased_person_stays(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(STREAM), changes=Changes(page=page_row())))

        await forget(kept.store_url, STREAM, "ada")

        assert [row.name for row in kept.tables().pages.values()] == ["Corner Bakery"]

    async def test_a_contact_without_an_id_is_refused(self, kept: StoreDump) -> None:
        with pytest.raises(ValueError, match="has an id"):
            await forget(kept.store_url, STREAM, "")
