"""The store port in memory: the same promises as a database, and a plain way to look inside.

What is written is kept in its stored form (JSON text, instants as text) and decoded again when it is read, so that
whatever does not survive a database does not survive here.
"""

from datetime import datetime

import msgspec
from msgspec.structs import replace

from milepost.core.chain import check, instant_text
from milepost.core.checkpoint import Checkpoint, DeadLetter, Run, evolve
from milepost.core.codec import Codec
from milepost.core.errors import VersionConflict
from milepost.core.events import DeadLetterOpened, Entry
from milepost.core.model import Changes, ContactRow, ConversationRow, InteractionEventRow, Keys, Known
from milepost.core.ports import Commit, Committed

ContactKey = tuple[str, str, str]


class JournalRow(msgspec.Struct, frozen=True):
    """A row of the journal as a database holds it; its `seq` is its place in the list, counted from 1."""

    stream: str
    version: int
    run_id: str | None
    recorded_at: str
    type: str
    data: str
    hash: str


class MemoryStore:
    """A Store whose tables are lists and dicts."""

    def __init__(self) -> None:
        self.journal: list[JournalRow] = []
        self.checkpoints: dict[str, bytes] = {}
        self.runs: dict[str, Run] = {}
        self.conversations: dict[str, ConversationRow] = {}
        self.contacts: dict[ContactKey, ContactRow] = {}
        self.interaction_events: dict[str, InteractionEventRow] = {}
        self.dead_letters: dict[str, DeadLetter] = {}
        self.payloads: dict[str, str] = {}
        self._codec = Codec()

    async def recall(self, stream: str) -> Checkpoint:
        """Give the stream's checkpoint, after checking it against a fold of the whole journal from scratch."""
        refolded = self.refold(stream)
        snapshot = self.checkpoints.get(stream)
        if snapshot is None:
            assert refolded == Checkpoint(stream), "there are entries, but no snapshot"
            return refolded
        checkpoint = msgspec.json.decode(snapshot, type=Checkpoint)
        assert msgspec.json.encode(checkpoint) == msgspec.json.encode(refolded), "the snapshot is not the fold"
        return checkpoint

    async def known(self, keys: Keys) -> Known:
        """Give what is stored already under the keys."""
        stream = keys.stream
        contacts = {
            contact_id: self.contacts[key]
            for contact_id in keys.contacts
            if (key := (stream.platform.value, stream.page_id, contact_id)) in self.contacts
        }
        return Known(
            {key: self.conversations[key] for key in keys.conversations if key in self.conversations},
            contacts,
            frozenset(key for key in keys.interaction_events if key in self.interaction_events),
            frozenset(key for key in keys.dead_letters if key in self.dead_letters),
        )

    async def commit(self, commit: Commit) -> Committed:
        """Store it whole. Raises VersionConflict if another writer appended to the stream first."""
        self.refuse_stale(commit)
        first_seq = len(self.journal) + 1
        self.write_entries(commit)
        self.write_rows(commit.changes)
        return Committed(first_seq, rows_seconds=0.0, events_seconds=0.0)

    def refuse_stale(self, commit: Commit) -> None:
        """Raise VersionConflict unless the commit follows the stream's last entry."""
        first = commit.entries[0]
        version = max((row.version for row in self.journal if row.stream == first.stream), default=0)
        if first.version != version + 1:
            raise VersionConflict(f"{first.stream} is at version {version}, not {first.version - 1}")

    def write_entries(self, commit: Commit) -> None:
        """Append the entries, and bring the projections after them."""
        for entry in commit.entries:
            at_text = instant_text(entry.recorded_at)
            columns = (entry.stream, entry.version, entry.run_id, at_text, entry.type, entry.data, entry.hash)
            self.journal.append(JournalRow(*columns))
            match entry.event:
                case DeadLetterOpened(dead_letter_id=key, stage=stage, subject=subject, reason=reason):
                    self.dead_letters[key] = DeadLetter(key, entry.stream, stage, subject, reason, entry.recorded_at)
                case _:
                    pass
        self.checkpoints[commit.checkpoint.stream] = msgspec.json.encode(commit.checkpoint)
        if commit.run is not None:
            self.runs[commit.run.run_id] = commit.run

    def write_rows(self, changes: Changes) -> None:
        """Write the rows, but keep when they were first seen, and interaction events as they are."""
        for conversation in changes.conversations:
            known = self.conversations.get(conversation.conversation_id, conversation)
            row = replace(conversation, first_synced_at=known.first_synced_at)
            self.conversations[conversation.conversation_id] = row
        for contact in changes.contacts:
            key = (contact.platform, contact.page_id, contact.contact_id)
            first_seen_at = self.contacts.get(key, contact).first_seen_at
            self.contacts[key] = replace(contact, first_seen_at=first_seen_at)
        for event in changes.interaction_events:
            self.interaction_events.setdefault(event.event_id, event)
        for payload in changes.payloads:
            self.payloads.setdefault(payload.dead_letter_id, payload.payload)

    def entries(self, stream: str) -> list[Entry]:
        """Read the stream's entries back from their stored form."""
        return [self._entry(row) for row in self.journal if row.stream == stream]

    def refold(self, stream: str) -> Checkpoint:
        """Fold the stream's journal from scratch, checking its hash chain on the way."""
        checkpoint = Checkpoint(stream)
        for entry in self.entries(stream):
            check(checkpoint, entry)
            checkpoint = evolve(checkpoint, entry)
        return checkpoint

    def _entry(self, row: JournalRow) -> Entry:
        event = self._codec.decode(row.type, row.data)
        recorded_at = datetime.fromisoformat(row.recorded_at)
        return Entry(row.stream, row.version, row.run_id, recorded_at, row.type, row.data, row.hash, event)
