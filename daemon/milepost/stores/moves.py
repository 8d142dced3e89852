"""Rows that turn out to be of somebody else, in either database: of another page, or of ourselves."""

from collections.abc import Iterable

from milepost.core.journal import instant_text
from milepost.core.model import Known, Stream
from milepost.core.ports import Commit
from milepost.stores.sql import stream_parameters

# Statements of either database, in this order. First the pages are linked, so that whoever was erased on one of them is
# kept out of this very commit, and erased on the other where that is new; then the rows move, the conversations, by
# which the others are found, at the end.
LINKS = ("drop_reverse_moves", "record_moves", "move_forgotten")
MOVES = (
    "move_contacts",
    "drop_moved_contacts",
    "move_interaction_events",
    "move_conversations",
    "drop_notes_of_moved",
)


OWN = ("turn_own_messages", "clear_own_contact", "drop_own_contact")  # likewise, of an id that is ours


def commit_parameters(commit: Commit) -> dict[str, object]:
    """Return the parameters of statements that change rows of the stream: how to find them, and the version to name."""
    return {**stream_parameters(commit.checkpoint.stream), "version": commit.checkpoint.version}


def move_parameters(commit: Commit) -> dict[str, object]:
    """Return the parameters of these statements, but for the list of what is moved."""
    return commit_parameters(commit) | {"at": instant_text(commit.entries[-1].recorded_at)}


class Outdated(Exception):
    """Another stream has written of a conversation since a commit was decided on: both would count the same rows."""


def written_of(commit: Commit) -> tuple[str, ...]:
    """Return the conversations of which a commit writes; none if it was not decided on what is stored."""
    if commit.known is None:
        return ()
    of_events = {row.conversation_id for row in commit.changes.interaction_events}
    return tuple(of_events.union(row.conversation_id for row in commit.changes.conversations))


def demand_known(commit: Commit, written: Iterable[str], states: Iterable[tuple[str, str, str]]) -> None:
    """Raise Outdated if what a commit has `written_of` is no longer as it knew it: by id, page and `synced_at`."""
    known = commit.known.conversations if commit.known is not None else {}
    rows = ((key, known[key]) for key in written if key in known)
    if {key: (row.page_id, instant_text(row.synced_at)) for key, row in rows} != {
        key: (page_id, synced_at) for key, page_id, synced_at in states
    }:
        raise Outdated


def pages_elsewhere(known: Known, stream: Stream) -> frozenset[str]:
    """Return the other pages under which conversations that a stream has read stand, or their messages."""
    pages = {*known.left_behind.values(), *(row.page_id for row in known.conversations.values())}
    return frozenset(pages - {stream.page_id})


def pages_by_contact(found: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Return the pages of each contact, from pairs of both."""
    pages: dict[str, set[str]] = {}
    for contact_id, page_id in found:
        pages.setdefault(contact_id, set()).add(page_id)
    return {contact_id: frozenset(of) for contact_id, of in pages.items()}
