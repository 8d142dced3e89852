"""Which rows of a commit PostgreSQL will not take: found by halves, and nothing of them is stored."""

from collections.abc import Sequence
from typing import Any

from milepost.core.model import Changes, RefusedRow, Table
from milepost.stores.postgresql.commit import json_rows
from milepost.stores.postgresql.connection import Connection, Database
from milepost.stores.postgresql.errors import REFUSALS, reason_of


async def refused_rows(database: Database, changes: Changes) -> tuple[RefusedRow, ...]:
    """Find the rows at fault. Raises StoreAway or StoreRefused."""
    refused: list[RefusedRow] = []
    async with database.transaction() as connection:
        for table, statement, key, offered in (
            (Table.CONVERSATIONS, "upsert_conversations", "conversation_id", changes.conversations),
            (Table.CONTACTS, "upsert_contacts", "contact_id", changes.contacts),
            (Table.INTERACTION_EVENTS, "insert_interaction_events", "event_id", changes.interaction_events),
        ):
            found = await _at_fault(connection, database.sql[statement], offered)
            refused += (RefusedRow(table, getattr(row, key), reason) for row, reason in found)
        await connection.rollback()
    return tuple(refused)


async def _at_fault(connection: Connection, statement: str, offered: Sequence[Any]) -> list[tuple[Any, str]]:
    """Try all, or else each half; what is tried is undone."""
    if not offered:
        return []
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(statement, {"rows": json_rows(offered)})
    except REFUSALS as error:
        if len(offered) == 1:
            return [(offered[0], reason_of(error))]
        middle = len(offered) // 2
        return [
            *await _at_fault(connection, statement, offered[:middle]),
            *await _at_fault(connection, statement, offered[middle:]),
        ]
    return []
