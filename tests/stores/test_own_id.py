"""An id that turns out to be ours and had been taken for a contact, or a contact that gets known."""

from msgspec.structs import replace

from kit.builders import STREAM
from milepost.core.model import Changes, Platform, Stream
from milepost.stores.open import open_store
from stores.histories import commit_after, contact_row, conversation_row, event_row
from stores.store_dump import StoreDump

OTHER = Stream(Platform.MESSENGER, "9")
ADA_S = replace(event_row("m_1", conversation_id="t_1"), contact_id="ada")
OURS = replace(event_row("m_2", conversation_id="t_1"), contact_id="us")
ALONE = replace(event_row("m_3", conversation_id="t_2"), contact_id="us")
TO_BOB = replace(event_row("m_4", conversation_id="t_3"), contact_id="us")
WRONG = Changes(
    tuple(conversation_row(f"t_{n}", contact_id=contact_id) for n, contact_id in ((1, "us"), (2, "us"), (3, "bob"))),
    (contact_row("us"), contact_row("bob")),
    (ADA_S, OURS, ALONE, TO_BOB),
)
ELSEWHERE = Changes(
    (conversation_row("t_9", of=OTHER, contact_id="us"),),
    (contact_row("us", of=OTHER),),
    (replace(event_row("m_9", of=OTHER, conversation_id="t_9"), contact_id="us"),),
)


class TestOwnId:
    async def test_messages_get_the_contact_of_their_conversation_once_that_is_known(self, kept: StoreDump) -> None:
        """A list may leave the participants of a thread out for a while."""
        nobody_s = replace(event_row("m_2"), contact_id=None, direction="out")
        new = replace(event_row("m_3"), contact_id="ada")
        without = Changes((conversation_row(contact_id=None),), (), (ADA_S, nobody_s))
        async with open_store(kept.store_url) as store:
            first = commit_after(await store.load(STREAM), changes=without)
            await store.commit(first)
            named = Changes((conversation_row(contact_id="ada"),), (contact_row("ada"),), (new,), named=("t_1",))
            await store.commit(commit_after(first.checkpoint, changes=named))

        events = kept.tables().interaction_events
        assert {key: row.contact_id for key, row in events.items()} == {"m_1": "ada", "m_2": "ada", "m_3": "ada"}

    async def test_rows_that_were_written_without_knowing_the_id_are_corrected(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(STREAM), changes=WRONG))

            await store.commit(commit_after(await store.load(STREAM), changes=Changes(own_id="us")))

        tables = kept.tables()
        assert {key: row.contact_id for key, row in tables.conversations.items()} == {
            "t_1": None,
            "t_2": None,
            "t_3": "bob",
        }
        assert [row.contact_id for row in tables.contacts.values()] == ["bob"]
        assert {key: (row.direction, row.contact_id) for key, row in tables.interaction_events.items()} == {
            "m_1": ("in", "ada"),
            "m_2": ("out", "ada"),
            "m_3": ("out", None),
            "m_4": ("out", "bob"),
        }

    async def test_the_rows_of_other_pages_stay_as_they_are(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(OTHER), changes=ELSEWHERE))
            before = kept.tables()

            await store.commit(commit_after(await store.load(STREAM), changes=Changes(own_id="us")))

        after = kept.tables()
        assert after.conversations == before.conversations
        assert after.contacts == before.contacts
        assert after.interaction_events == before.interaction_events
