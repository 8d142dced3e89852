"""Rows that turn out to be of somebody else, in either database: of another page, or of ourselves."""

from milepost.core.journal import instant_text
from milepost.core.model import Known, Stream
from milepost.core.ports import Commit
from milepost.stores.sql import stream_parameters

# Statements of either database, in this order. First the pages are linked, so that whoever was erased on one of them is
# kept out of this very commit; then the rows move, the conversations, by which the others are found, at the end.
LINKS = ("drop_reverse_moves", "record_moves", "move_forgotten")
MOVES = (
    "move_contacts",
    "drop_moved_contacts",
    "move_interaction_events",
    "move_conversations",
    "drop_notes_of_moved",
)


OWN = ("turn_own_messages", "clear_own_contact", "drop_own_contact")  # likewise, of an id that is ours


def move_parameters(commit: Commit) -> dict[str, str]:
    """Return the parameters of these statements, but for the list of what is moved."""
    return stream_parameters(commit.checkpoint.stream) | {"at": instant_text(commit.entries[-1].recorded_at)}


def pages_elsewhere(known: Known, stream: Stream) -> tuple[str, ...]:
    """Return the other pages under which conversations that a stream has read stand."""
    return tuple({row.page_id for row in known.conversations.values() if row.page_id != stream.page_id})
