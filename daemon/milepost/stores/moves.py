"""Rows that follow their account to another page, in either database."""

from milepost.core.model import Known, Stream

# Statements of either database, in this order: the conversations, by which the others find their rows, move last.
MOVES = (
    "drop_reverse_moves",
    "record_moves",
    "move_forgotten",
    "move_contacts",
    "drop_moved_contacts",
    "move_interaction_events",
    "move_conversations",
    "drop_notes_of_moved",
)


def pages_elsewhere(known: Known, stream: Stream) -> tuple[str, ...]:
    """Return the other pages under which conversations that a stream has read stand."""
    return tuple({row.page_id for row in known.conversations.values() if row.page_id != stream.page_id})
