"""The webhook events in a PostgreSQL database: every worker adds them, and any may process them."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from milepost.core.journal import instant_text
from milepost.core.webhooks import WebhookEvent
from milepost.stores.postgresql.connection import Database
from milepost.stores.postgresql.encoding import json_rows, searchable
from milepost.stores.webhooks import Steps, StoredWebhooks, event_columns

T = TypeVar("T")


class PostgresqlWebhookInbox(StoredWebhooks):
    """A WebhookInbox (see core/webhooks.py), over the connections of the store."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, searchable)
        self._database = database

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""
        latest = {event.key: event_columns(event) for event in events}  # a statement may add a key only once
        rows = {"rows": json_rows(list(latest.values())), "now": instant_text(now)}
        return frozenset(key for (key,) in await self._database.rows("add_webhook_events", rows, lock="await_erasures"))

    async def _write(self, steps: Steps[T]) -> T:
        """Run the steps, each in a transaction and a round trip of its own."""
        return await steps(self._database.rows)

    async def _write_together(self, steps: Steps[T]) -> T:
        async with self._database.transaction() as connection:
            return await steps(partial(self._database.rows_on, connection))
