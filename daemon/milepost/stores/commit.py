"""What commits do in either database besides writing rows: leave out erased people, move, delete and note rows.

The constants list statements that both databases have, in the order in which they are run.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import remove
from milepost.core.journal import Codec, GapAfter, gaps_after, instant_text, since_removal
from milepost.core.model import Changes, ConversationRow, InteractionEventRow, Stream
from milepost.core.ports import Commit
from milepost.core.records import prepare
from milepost.core.revisions import erased_in
from milepost.stores.reader import Parameters, Session, stream_parameters

# LINKS first: once the pages are linked, a person who was erased on one of them is kept out of this very commit, and is
# erased on the other page if the link is new. Then MOVES, with conversations last: the other rows are found by them.
LINKS = ("drop_reverse_moves", "record_moves", "move_forgotten")
MOVES = ("move_contacts", "drop_moved_contacts", "move_interaction_events", "move_conversations", "drop_notes_of_moved")

OWN = ("turn_own_messages", "clear_own_contact", "drop_own_contact")  # when a contact's id turns out to be our own

# Payloads go first: they are found through the stream's dead letters. The rows of `forgotten` stay, and so does the
# history in the journal.
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
    """Return the parameters of statements that change the stream's rows: its keys, and the version to write."""
    return {**stream_parameters(commit.checkpoint.stream), "version": commit.checkpoint.version}


def gaps_of(commit: Commit) -> list[GapAfter]:
    """Return the gaps that a commit changes, as it leaves them."""
    gaps: dict[str, GapAfter] = {}
    for entry in since_removal(commit.entries):
        gaps |= {each.gap.gap_id: each for each in gaps_after(entry.event)}
    return list(gaps.values())


class Outdated(Exception):
    """Another stream wrote a conversation after the commit was decided: both would count the same rows."""


def conversations_of(changes: Changes) -> set[str]:
    """Return the conversations of which changes have the row or messages."""
    conversation_ids = {row.conversation_id for row in changes.conversations}
    conversation_ids.update([row.conversation_id for row in changes.interaction_events])
    return conversation_ids


def written_of(commit: Commit) -> set[str]:
    """Return the conversations that a commit writes; none if the decision did not look at the stored rows."""
    return set() if commit.known is None else conversations_of(commit.changes)


def demand_known(commit: Commit, written: Iterable[str], states: Iterable[tuple[str, str, str]]) -> None:
    """Raise Outdated unless the conversations of `written_of` still have the page and `synced_at` that it knew."""
    known = commit.known.conversations if commit.known is not None else {}
    rows = ((key, known[key]) for key in written if key in known)
    if {key: (row.page_id, instant_text(row.synced_at)) for key, row in rows} != {
        key: (page_id, synced_at) for key, page_id, synced_at in states
    }:
        raise Outdated


class Forgotten(Struct, frozen=True):
    """How many rows of a person were deleted from each table.

    `elsewhere` lists other pages with a contact of the same id. It is the same person if the account was linked to
    another page before any of its rows moved.
    """

    contacts: int
    conversations: int
    interaction_events: int
    payloads: int
    elsewhere: tuple[str, ...] = ()


class Executed(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement wrote."""
        ...


class Writer(Session, ABC):
    """A session that writes: what commits do besides writing the rows that they bring."""

    @abstractmethod
    async def execute(self, statement: str, parameters: Parameters = ()) -> Executed:
        """Run a named statement without fetching rows."""

    async def keep_others_out(self) -> None:
        """Block other commits until this transaction ends, if the database has several writers."""

    async def keep_webhook_events_out(self) -> None:
        """Block new webhook events until this transaction ends, if the database has several writers."""

    async def link(self, commit: Commit) -> None:
        """Record the pages that a commit moves rows from, and erase people on every linked page once links are new."""
        stream = commit.checkpoint.stream
        of_stream = stream_parameters(stream)
        links_before = await self.fetch("count_links", of_stream)
        await self.move(LINKS, commit)
        if await self.fetch("count_links", of_stream) != links_before:
            pages = self.dialect.keys(await self.linked_pages(stream))
            forgotten = await self.fetch("forgotten_contacts", of_stream | {"pages": pages})
            if forgotten:
                await self.keep_others_out()  # or a commit of the other page might bring them back meanwhile
                await self.erase(stream, [contact_id for (contact_id,) in forgotten])

    async def move(self, statements: Iterable[str], commit: Commit) -> None:
        """Run LINKS or MOVES, which take conversations over from other pages. Called before the batch's rows."""
        at = instant_text(commit.entries[-1].recorded_at)
        moved = commit_parameters(commit) | {"at": at, "moved": self.dialect.keys(commit.changes.moved)}
        for statement in statements:
            await self.execute(statement, moved)

    async def write_notes(self, commit: Commit, changes: Changes) -> None:
        """Update the notes of conversations that a full sweep misses. Called after the batch's rows."""
        stream = commit.checkpoint.stream
        if changes.found:
            await self.execute("drop_found_notes", (stream.key, self.dialect.keys(changes.found)))
        if changes.missed is not None:
            stretch = self.dialect.stretch_parameters(stream, changes.missed)
            await self.execute("drop_notes_of_other_sweeps", (stream.key, stretch["sweep_started_at"]))
            await self.execute("note_missed", stretch)
        if changes.missed_are_deleted_at is not None:
            at = instant_text(changes.missed_are_deleted_at)
            await self.execute("mark_missed_as_deleted", commit_parameters(commit) | {"at": at})
        if changes.missed_are_deleted_at is not None or changes.forgets_missed:
            await self.execute("drop_notes", (stream.key,))

    async def unsent_messages(self, commits: Iterable[Commit]) -> list[str]:
        """Return the messages that webhooks have reported as unsent, if the commits bring payloads.

        Webhooks that come later find the payloads stored.
        """
        streams = {commit.checkpoint.stream.key for commit in commits if commit.changes.payloads}
        found = await self.fetch("unsent_messages", (self.dialect.keys(streams),)) if streams else ()
        return [message_id for (message_id,) in found]

    async def erase(self, stream: Stream, contact_ids: Sequence[str]) -> Forgotten:
        """Erase contacts on the stream's page and on all pages linked to it, and keep them out there."""
        if not all(contact_ids):
            msg = "a contact has an id"
            raise ValueError(msg)
        keys, pages = self.dialect.keys, await self.linked_pages(stream)
        who = stream_parameters(stream) | {"contacts": keys(contact_ids), "pages": keys(pages)}
        await self.keep_webhook_events_out()
        for statement in ("forget_contacts", "forget_conversations", "erase_webhook_events", "erase_reactions"):
            await self.execute(statement, who)
        forgotten = Forgotten(
            contacts=(await self.execute("erase_contacts", who)).rowcount,
            conversations=(await self.execute("erase_conversations", who)).rowcount,
            interaction_events=(await self.execute("erase_interaction_events", who)).rowcount,
            payloads=(await self.execute("erase_payloads", who)).rowcount,
            elsewhere=tuple(page_id for (page_id,) in await self.fetch("contacts_on_other_pages", who)),
        )
        await self.execute("erase_notes", who)
        return forgotten


def payloads_of(commit: Commit, unsent: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the payloads that a commit brings, by dead letter, without the content of `unsent` messages."""
    for each in commit.changes.payloads:
        named = [key for key in unsent if key in each.payload]
        yield each.dead_letter_id, erased_in(each.payload, named) if named else each.payload


def ids_of(changes: Changes) -> tuple[Iterable[str], Iterable[str]]:
    """Return the ids of all conversations and of all contacts in `changes`."""
    of_conversations: tuple[ConversationRow | InteractionEventRow, ...]
    of_conversations = (*changes.conversations, *changes.interaction_events)
    contact_ids = (row.contact_id for row in (*changes.contacts, *of_conversations) if row.contact_id is not None)
    return (row.conversation_id for row in of_conversations), contact_ids


def without_forgotten(changes: Changes, gone: frozenset[str]) -> Changes:
    """Return the changes without the contacts and conversations that were erased while the commit was under way.

    Conversations of an erased contact go as well. A conversation without a known contact counts as that of anyone
    who wrote in it.
    """
    if not gone:
        return changes
    written_in = {row.conversation_id for row in changes.interaction_events if row.contact_id in gone}
    gone |= {
        row.conversation_id
        for row in changes.conversations
        if row.contact_id in gone or (row.contact_id is None and row.conversation_id in written_in)
    }
    return replace(
        changes,
        conversations=tuple(row for row in changes.conversations if row.conversation_id not in gone),
        contacts=tuple(row for row in changes.contacts if row.contact_id not in gone),
        interaction_events=tuple(
            row for row in changes.interaction_events if gone.isdisjoint((row.conversation_id, row.contact_id))
        ),
    )


def removal(checkpoint: Checkpoint, by: str, now: datetime) -> Commit | None:
    """Return the commit that removes a stream, or None if nothing of it is stored. Its entry belongs to no run."""
    record = remove(checkpoint, by)
    return None if record is None else prepare(checkpoint, record, None, now, Codec())
