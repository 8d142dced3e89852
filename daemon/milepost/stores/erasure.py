"""Forgetting a person, whatever the database: what is told of it, and what a commit leaves out because of it."""

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.model import Changes


class Forgotten(Struct, frozen=True):
    """How many rows of a person were removed from each table."""

    contacts: int
    conversations: int
    interaction_events: int
    payloads: int


def remembered(changes: Changes, gone: frozenset[str]) -> Changes:
    """Leave out the rows of the contacts and conversations that are `gone`, and of such a contact's conversations."""
    if not gone:
        return changes
    gone |= {row.conversation_id for row in changes.conversations if row.contact_id in gone}
    return replace(
        changes,
        conversations=tuple(row for row in changes.conversations if row.conversation_id not in gone),
        contacts=tuple(row for row in changes.contacts if row.contact_id not in gone),
        interaction_events=tuple(
            row for row in changes.interaction_events if gone.isdisjoint((row.conversation_id, row.contact_id))
        ),
    )
