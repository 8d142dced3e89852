"""The webhook events in a SQLite database."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from milepost.core.journal import instant_text
from milepost.core.webhooks import WebhookEvent
from milepost.stores.rows import json_list
from milepost.stores.sql import Parameters
from milepost.stores.sqlite.connection import Database, transaction, with_pragma
from milepost.stores.sqlite.queries import at_once
from milepost.stores.webhooks import Steps, StoredWebhooks, event_columns

T = TypeVar("T")


class SqliteWebhookInbox(StoredWebhooks):
    """A WebhookInbox (see core/webhooks.py), over the connection of the store."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, json_list)
        self._database = database

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""
        sql, received = self._database.sql["add_webhook_event"], instant_text(now)
        offered = [{**event_columns(event), "stream": event.stream.key, "now": received} for event in events]

        def add(connection: sqlite3.Connection) -> frozenset[str]:
            # Even with `synchronous: normal`: Meta does not send a webhook again.
            with with_pragma(connection, "synchronous", "FULL"), transaction(connection):
                return frozenset(
                    event.key
                    for event, columns in zip(events, offered, strict=True)
                    if connection.execute(sql, columns).rowcount > 0
                )

        return await self._database.write(add)

    async def _write(self, steps: Steps[T]) -> T:
        """Run the steps in one transaction, and so with one wait for the disk."""

        def write(connection: sqlite3.Connection) -> T:
            async def fetch(statement: str, parameters: Parameters = ()) -> list[Any]:
                return connection.execute(self._database.sql[statement], parameters).fetchall()

            with transaction(connection):
                return at_once(steps(fetch))

        return await self._database.write(write)

    async def _write_together(self, steps: Steps[T]) -> T:
        return await self._write(steps)
