"""What the inbox of webhook events must do in any database.

A subclass is named Test… and has the fixture `kept`: an empty database of this program's schema.
"""

from datetime import datetime, timedelta

from msgspec.structs import replace

from kit.builders import NOON, STREAM, at
from milepost.core.events import RunStarted
from milepost.core.model import Changes, Platform, Stream
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.stores.open import OpenStore, forget, open_store, remove
from milepost.stores.webhooks import LATER_SECONDS, SOON_SECONDS
from stores.histories import commit_after, event_row
from stores.store_dump import StoreDump

OTHER = Stream(Platform.INSTAGRAM, "1234567890")


def written(
    message_id: str, of: Stream = STREAM, contact_id: str | None = "ada", occurred_at: datetime = NOON
) -> WebhookEvent:
    return WebhookEvent(of, WebhookKind.MESSAGE, message_id, contact_id, occurred_at)


async def keep(store: OpenStore, *message_ids: str) -> None:
    """Store messages, as a sweep does."""
    rows = tuple(replace(event_row(message_id), contact_id="ada") for message_id in message_ids)
    changes = Changes(interaction_events=rows)
    await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))


def waiting(kept: StoreDump) -> list[str]:
    """Return the messages of the events that are not worked off."""
    query = "SELECT message_id FROM webhook_events WHERE due_at IS NOT NULL ORDER BY message_id"
    return [message_id for (message_id,) in kept.rows(query)]


class WebhooksContract:
    async def test_an_event_is_new_once(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            first, again = written("m_1"), written("m_1", contact_id=None, occurred_at=at(1))
            assert await store.webhooks.add([first, written("m_2"), first], NOON) == {first.key, written("m_2").key}
            assert await store.webhooks.add([again, written("m_3")], at(1)) == {written("m_3").key}
            assert await store.webhooks.add([], NOON) == frozenset()
        assert waiting(kept) == ["m_1", "m_2", "m_3"]

    async def test_streams_are_claimed_once_however_many_events_they_have(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            events = [written(f"m_{number}", of) for number in range(200) for of in (STREAM, OTHER)]
            await store.webhooks.add(events, NOON)
            assert await store.webhooks.claim(NOON) == (OTHER, STREAM)
            assert await store.webhooks.claim(at(1)) == ()

    async def test_an_event_is_due_twice_more_and_then_waits_for_a_regular_sweep(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.webhooks.add([written("m_1")], NOON)
            now, due = NOON, []
            while now < at(3600):
                due += [(now - NOON).total_seconds()] * len(await store.webhooks.claim(now))
                now += timedelta(seconds=1)
        assert due == [0, SOON_SECONDS, SOON_SECONDS + LATER_SECONDS]
        assert waiting(kept) == ["m_1"]

    async def test_events_whose_message_is_stored_are_worked_off(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            await store.webhooks.add([written("m_1")], NOON)
            assert await store.webhooks.claim(NOON) == (), "it came by a sweep before"
            await store.webhooks.add([written("m_2"), written("m_3")], NOON)
            assert await store.webhooks.claim(NOON) == (STREAM,)
            await keep(store, "m_2")
            assert await store.webhooks.claim(at(SOON_SECONDS)) == (STREAM,), "m_3 is still missing"
            assert waiting(kept) == ["m_3"]
            assert await store.webhooks.add([written("m_2")], at(60)) == frozenset(), "a late repetition is none"

    async def test_a_revision_of_a_stored_message_is_claimed_once(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            edits = [
                WebhookEvent(STREAM, WebhookKind.REVISION, message_id, "ada", NOON, which)
                for message_id, which in (("m_1", "1"), ("m_1", "2"), ("m_2", "1"))
            ]
            assert len(await store.webhooks.add(edits, NOON)) == 3
            assert await store.webhooks.claim(NOON) == (STREAM,)
            assert await store.webhooks.claim(at(3600)) == ()
        assert waiting(kept) == []

    async def test_messages_that_an_event_announced_are_known(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            await store.webhooks.add([written("m_1"), written("m_2")], NOON)
            await store.webhooks.claim(NOON)
            assert await store.webhooks.told(("m_0", "m_1", "m_2", "")) == {"m_1", "m_2"}
            assert await store.webhooks.told(()) == frozenset()

    async def test_old_events_and_too_many_are_deleted_and_those_that_waited_are_counted(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_0", "m_2")
            for number in range(6):
                await store.webhooks.add([written(f"m_{number}")], at(number))
            await store.webhooks.claim(at(10))
            assert await store.webhooks.trim(at(2), 100) == 1, "m_0 was worked off"
            assert await store.webhooks.trim(at(2), 100) == 0
            assert await store.webhooks.trim(at(2), 2) == 1, "m_2 was worked off"
        assert waiting(kept) == ["m_4", "m_5"]

    async def test_events_of_a_person_are_erased_with_them_and_no_new_ones_are_kept(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            nameless = written("m_1", contact_id=None)
            await store.webhooks.add([nameless, written("m_2"), written("m_3", contact_id="bob")], NOON)
            await store.webhooks.add([written("m_4", OTHER)], NOON)

            await forget(kept.store_url, STREAM, "ada")

            assert kept.rows("SELECT message_id FROM webhook_events ORDER BY 1") == [("m_3",), ("m_4",)]
            assert await store.webhooks.add([written("m_5"), written("m_6", contact_id="bob")], NOON) == {
                written("m_6").key
            }

    async def test_events_of_a_stream_are_removed_with_it(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "m_1")
            await store.webhooks.add([written("m_2"), written("m_3", OTHER)], NOON)
        await remove(kept.store_url, STREAM, "somebody", NOON)
        assert kept.rows("SELECT message_id FROM webhook_events") == [("m_3",)]
