"""The webhook events in a SQLite database."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from milepost.core.journal import instant_text
from milepost.core.model import Stream
from milepost.core.revisions import erased_in
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.stores.rows import json_list
from milepost.stores.sqlite.connection import Database, transaction, with_pragma
from milepost.stores.webhooks import by_stream, claim_parameters, count_expired, event_columns, only_stream, streams_of


class SqliteWebhookInbox:
    """A WebhookInbox (see core/webhooks.py), over the connection of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = database.sql

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""

        def add(connection: sqlite3.Connection) -> frozenset[str]:
            # Also with `synchronous: normal`: webhooks do not come again.
            with with_pragma(connection, "synchronous", "FULL"), transaction(connection):
                return frozenset(event.key for event in events if self._add(connection, event, now))

        return await self._database.write(add)

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        """Return the streams that have to be read because of events that are due."""

        def claim(connection: sqlite3.Connection) -> tuple[Stream, ...]:
            with transaction(connection):
                connection.execute(self._sql["settle_webhook_events"])
                claimed = connection.execute(self._sql["claim_webhook_events"], claim_parameters(now)).fetchall()
            keys = {key for (key,) in claimed}
            return streams_of(keys.union(*connection.execute(self._sql["moved_streams"], (json_list(keys),))))

        return await self._database.write(claim)

    async def streams_with_facts(self) -> tuple[Stream, ...]:
        """Return the streams that have facts about messages that are stored."""

        def find(connection: sqlite3.Connection) -> tuple[Stream, ...]:
            with transaction(connection):
                self._erase_unsent(connection)
                connection.execute(self._sql["attach_facts"])
                connection.execute(self._sql["follow_moves"])
                found = connection.execute(self._sql["streams_with_facts"]).fetchall()
            return streams_of(stream for (stream,) in found)

        return await self._database.write(find)

    async def announced(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        """Return those of these messages that an event has announced, processed or not."""
        found = await self._database.read("told_messages", (json_list(message_ids),))
        return frozenset(message_id for (message_id,) in found)

    async def instagram_stream(self, message_ids: tuple[str, ...], contact_ids: tuple[str, ...]) -> Stream | None:
        """Return the Instagram stream of which any of these messages or contacts are stored."""
        named = {"message_ids": json_list(message_ids), "contact_ids": json_list(contact_ids)}

        def find(connection: sqlite3.Connection) -> Stream | None:
            return only_stream(connection.execute(self._sql["instagram_streams"], named))

        return await self._database.run(find)

    async def trim(self, received_before: datetime, max_events: int) -> Counter[WebhookKind]:
        """Delete events that are older, and the oldest of too many; count those that were not processed."""
        limits = {"received_before": instant_text(received_before), "max_events": max_events}

        def trim(connection: sqlite3.Connection) -> Counter[WebhookKind]:
            with transaction(connection):
                old = connection.execute(self._sql["delete_old_webhook_events"], limits).fetchall()
                beyond = connection.execute(self._sql["delete_webhook_events_beyond"], limits).fetchall()
            return count_expired((*old, *beyond))

        return await self._database.write(trim)

    def _erase_unsent(self, connection: sqlite3.Connection) -> None:
        """Erase what is kept of unsent messages elsewhere than in their rows, which need not be there yet."""
        for stream, message_ids in by_stream(connection.execute(self._sql["take_unsent"]).fetchall()).items():
            wanted = json_list(message_ids)
            connection.execute(self._sql["erase_edits"], (wanted,))
            about = {"stream": stream, "event_ids": wanted}
            for dead_letter_id, payload in connection.execute(self._sql["payloads_about"], about).fetchall():
                erased = {"dead_letter_id": dead_letter_id, "payload": erased_in(payload, message_ids)}
                connection.execute(self._sql["rewrite_payload"], erased)

    def _add(self, connection: sqlite3.Connection, event: WebhookEvent, now: datetime) -> bool:
        columns = {**event_columns(event), "stream": event.stream.key, "now": instant_text(now)}
        return connection.execute(self._sql["add_webhook_event"], columns).rowcount > 0
