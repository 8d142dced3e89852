"""What a commit does in either database: which rows move or go before it, what it was decided on, and who is left out.

Constants name statements of either database, in the order in which they are run.
"""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import remove
from milepost.core.gaps import GapAfter, gaps_after
from milepost.core.journal import Codec, instant_text, since_removal
from milepost.core.model import Changes, ConversationRow, InteractionEventRow, Stream
from milepost.core.ports import Commit
from milepost.core.records import prepare
from milepost.stores.sql import stream_parameters

# First the pages are linked, so that whoever was erased on one of them is kept out of this very commit, and erased on
# the other where that is new; then the rows move, the conversations, by which the others are found, at the end.
LINKS = ("drop_reverse_moves", "record_moves", "move_forgotten")
MOVES = ("move_contacts", "drop_moved_contacts", "move_interaction_events", "move_conversations", "drop_notes_of_moved")

OWN = ("turn_own_messages", "clear_own_contact", "drop_own_contact")  # of an id that turns out to be ours

# A stream's payloads are found through its dead letters. The list of the forgotten stays, and the journal keeps its
# history.
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


def commit_parameters(commit: Commit) -> dict[str, object]:
    """Return the parameters of statements that change rows of the stream: how to find them, and the version to name."""
    return {**stream_parameters(commit.checkpoint.stream), "version": commit.checkpoint.version}


def move_parameters(commit: Commit) -> dict[str, object]:
    """Return the parameters of LINKS and MOVES, but for the list of what is moved."""
    return commit_parameters(commit) | {"at": instant_text(commit.entries[-1].recorded_at)}


def gaps_of(commit: Commit) -> list[GapAfter]:
    """Return the gaps that a commit is about, as they are after it."""
    gaps: dict[str, GapAfter] = {}
    for entry in since_removal(commit.entries):
        gaps |= {each.gap.gap_id: each for each in gaps_after(entry.event)}
    return list(gaps.values())


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


# --- erasing a person, and removing a stream --------------------------------------------------------------------------


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
