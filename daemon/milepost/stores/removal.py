"""Removing a stream, whatever the database: what is counted of it, and what is deleted together with its entry."""

from datetime import datetime
from typing import Any

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import remove
from milepost.core.journal import Codec
from milepost.core.model import Stream
from milepost.core.ports import Commit
from milepost.core.records import prepare

# Statements of either database, in order: the dead letters tell which payloads are the stream's. Who was forgotten
# stays so, and the journal keeps its history.
DELETIONS = (
    "remove_stream_payloads",
    "remove_stream_dead_letters",
    "remove_stream_runs",
    "remove_stream_notes",
    "remove_stream_contacts",
    "remove_stream_conversations",
    "remove_stream_interaction_events",
)


class StreamRows(Struct, frozen=True):
    """How much is stored of a stream."""

    contacts: int
    conversations: int
    interaction_events: int
    open_dead_letters: int


def names_of(stream: Stream) -> dict[str, Any]:
    """Return the parameters by which statements find the rows of a stream."""
    return {"stream": stream.key, "platform": stream.platform.value, "page_id": stream.page_id}


def removal(checkpoint: Checkpoint, by: str, now: datetime) -> Commit | None:
    """Return the commit that removes a stream; None where nothing is stored of it. Its entry belongs to no run."""
    record = remove(checkpoint, by)
    return None if record is None else prepare(checkpoint, record, None, now, Codec())
