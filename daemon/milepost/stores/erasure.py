"""Erasing a person and removing a stream, in either database: what is counted, deleted, and left out of commits."""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import remove
from milepost.core.journal import Codec
from milepost.core.model import Changes, ConversationRow, InteractionEventRow, Stream
from milepost.core.ports import Commit
from milepost.core.records import prepare
from milepost.stores.sql import stream_parameters

# Statements of either database, in this order: a stream's payloads are found through its dead letters. The list of the
# forgotten stays, and the journal keeps its history.
DELETIONS = (
    "remove_stream_payloads",
    "remove_stream_dead_letters",
    "remove_stream_runs",
    "remove_stream_gaps",
    "remove_stream_notes",
    "remove_stream_webhook_events",
    "remove_stream_page",
    "remove_stream_contacts",
    "remove_stream_conversations",
    "remove_stream_interaction_events",
)


class Forgotten(Struct, frozen=True):
    """How many rows of a person were deleted from each table.

    `elsewhere` are the other pages under which somebody has their id: the same person, if an account was linked to
    another page before any of its rows moved.
    """

    contacts: int
    conversations: int
    interaction_events: int
    payloads: int
    elsewhere: tuple[str, ...] = ()


class StreamRows(Struct, frozen=True):
    """How many rows a stream has in each table."""

    contacts: int
    conversations: int
    interaction_events: int
    open_dead_letters: int


def contact_parameters(stream: Stream, contact_id: str) -> dict[str, str]:
    """Return the parameters of the statements that erase a contact."""
    if not contact_id:
        msg = "a contact has an id"
        raise ValueError(msg)
    return stream_parameters(stream) | {"contact_id": contact_id}


def ids_of(changes: Changes) -> tuple[Iterable[str], Iterable[str]]:
    """Return the ids of all conversations and of all contacts that rows belong to."""
    of_conversations: tuple[ConversationRow | InteractionEventRow, ...]
    of_conversations = (*changes.conversations, *changes.interaction_events)
    contact_ids = (row.contact_id for row in (*changes.contacts, *of_conversations) if row.contact_id is not None)
    return (row.conversation_id for row in of_conversations), contact_ids


def without_forgotten(changes: Changes, gone: frozenset[str]) -> Changes:
    """Leave out the rows of the contacts and conversations in `gone`, and of such contacts' conversations.

    They were erased while the commit was under way.
    """
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


def removal(checkpoint: Checkpoint, by: str, now: datetime) -> Commit | None:
    """Return the commit that removes a stream; None where nothing is stored of it. Its entry belongs to no run."""
    record = remove(checkpoint, by)
    return None if record is None else prepare(checkpoint, record, None, now, Codec())
