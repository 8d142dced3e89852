"""The webhook events in a PostgreSQL database, which every worker takes and any may process."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from milepost.core.journal import instant_text
from milepost.core.model import Stream
from milepost.core.revisions import erased_in
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.stores.postgresql.connection import Database
from milepost.stores.postgresql.encoding import json_rows, searchable
from milepost.stores.webhooks import by_stream, claim_parameters, count_expired, event_columns, only_stream, streams_of


class PostgresqlWebhookInbox:
    """A WebhookInbox (see core/webhooks.py), over the connections of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""
        latest = {event.key: event_columns(event) for event in events}  # a statement may add a key once
        rows = {"rows": json_rows(list(latest.values())), "now": instant_text(now)}
        return frozenset(key for (key,) in await self._database.rows("add_webhook_events", rows, lock="await_erasures"))

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        """Return the streams that have to be read because of events that are due."""
        await self._database.rows("settle_webhook_events")
        claimed = await self._database.rows("claim_webhook_events", claim_parameters(now))
        if not claimed:
            return ()
        keys = {key for (key,) in claimed}
        return streams_of(keys.union(*await self._database.read("moved_streams", (searchable(keys),))))

    async def streams_with_facts(self) -> tuple[Stream, ...]:
        """Return the streams that have facts about messages that are stored."""
        await self._erase_unsent()
        await self._database.rows("attach_facts")
        await self._database.rows("follow_moves")
        return streams_of(stream for (stream,) in await self._database.rows("streams_with_facts"))

    async def _erase_unsent(self) -> None:
        """Erase what is kept of unsent messages elsewhere than in their rows, which need not be there yet."""
        async with self._database.transaction() as connection:
            ask = partial(self._database.rows_on, connection)
            for stream, message_ids in by_stream(await ask("take_unsent")).items():
                await ask("erase_edits", (searchable(message_ids),))
                about = {"stream": stream, "event_ids": searchable(message_ids)}
                for dead_letter_id, payload in await ask("payloads_about", about):
                    erased = {"dead_letter_id": dead_letter_id, "payload": erased_in(payload, message_ids)}
                    await ask("rewrite_payload", erased)

    async def announced(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        """Return those of these messages that an event has announced, processed or not."""
        found = await self._database.rows("told_messages", (searchable(message_ids),))
        return frozenset(message_id for (message_id,) in found)

    async def instagram_stream(self, message_ids: tuple[str, ...], contact_ids: tuple[str, ...]) -> Stream | None:
        """Return the Instagram stream of which any of these messages or contacts are stored."""
        named = {"message_ids": searchable(message_ids), "contact_ids": searchable(contact_ids)}
        return only_stream(await self._database.rows("instagram_streams", named))

    async def trim(self, received_before: datetime, max_events: int) -> Counter[WebhookKind]:
        """Delete events that are older, and the oldest of too many; count those that were not processed."""
        old = await self._database.rows("delete_old_webhook_events", {"received_before": instant_text(received_before)})
        beyond = await self._database.rows("delete_webhook_events_beyond", {"max_events": max_events})
        return count_expired((kind, due_at) for kind, due_at in (*old, *beyond))
