"""The store port in memory: the same promises as a database, and a plain way to look inside.

It keeps everything in its stored form (JSON text, instants as text) and decodes it on reading, so that a value that
would not survive a database does not survive here, either.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, DeadLetter, Run
from milepost.core.errors import MilepostError, OutcomeUnknown, VersionConflict
from milepost.core.events import Entry, Resolution, Stage, StreamRemoved
from milepost.core.evolve import evolve
from milepost.core.journal import Codec, check_link, dead_letter_after, gaps_after, instant_text
from milepost.core.model import (
    Changes,
    ContactRow,
    ConversationRow,
    InteractionEventRow,
    Keys,
    Known,
    KnownDeadLetter,
    PageRow,
    RefusedRow,
    Stream,
    Table,
)
from milepost.core.ports import Commit, Committed, DueDeadLetter, OpenGap, Rejected
from milepost.core.position import Gap, Stretch, ThreadSpan, ThreadsSearched, UnopenedThread
from milepost.core.retry import latest_redrive
from milepost.core.revisions import erased_in, read_before, to_look_up, unsent_in
from milepost.core.webhooks import DueFact, WebhookEvent
from milepost.stores import rows
from milepost.stores.commit import Outdated, demand_known, written_of

ContactKey = tuple[str, str, str]
Row = ConversationRow | InteractionEventRow


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
    """A Store whose tables are lists and dicts. It refuses the rows that a test names in `refuses`."""

    def __init__(self) -> None:
        self.journal: list[JournalRow] = []
        self.checkpoints: dict[str, str] = {}
        self.runs: dict[str, Run] = {}
        self.conversations: dict[str, ConversationRow] = {}
        self.pages: dict[tuple[str, str], PageRow] = {}
        self.contacts: dict[ContactKey, ContactRow] = {}
        self.interaction_events: dict[str, InteractionEventRow] = {}
        self.dead_letters: dict[str, DeadLetter] = {}
        self.payloads: dict[str, str] = {}
        self.gaps: dict[str, tuple[str, Gap]] = {}  # with the stream of each
        self.missed: dict[str, tuple[str, datetime]] = {}  # by conversation: the stream, and the sweep that misses it
        self.forgotten: set[tuple[str, str, str]] = set()  # the stream, "contact" or "conversation", and its id
        self.moves: dict[tuple[str, str], datetime] = {}  # of rows, from a stream to another: when
        self.erased_by_moves = Counter[str]()  # rows of people who were erased before their account's move was known
        self.refuses: set[tuple[Table, str]] = set()
        self.facts: dict[str, WebhookEvent] = {}  # about messages, by key, including applied ones
        self.waiting_facts: dict[str, WebhookEvent] = {}
        self._codec = Codec()

    async def load(self, stream: Stream) -> Checkpoint:
        """Return the stream's checkpoint, after checking it against a fold of the whole journal from scratch."""
        refolded = self.refold(stream)
        snapshot = self.checkpoints.get(stream.key)
        if snapshot is None:
            assert refolded == Checkpoint(stream), "there are entries, but no snapshot"
            return refolded
        checkpoint = rows.checkpoint(snapshot)
        assert rows.checkpoint_json(checkpoint) == rows.checkpoint_json(refolded), "the snapshot is not the fold"
        return checkpoint

    async def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""
        stream = keys.stream
        contacts = {
            contact_id: self.contacts[key]
            for contact_id in keys.contacts
            if (key := (stream.platform.value, stream.page_id, contact_id)) in self.contacts
        }
        noted = {key for key, note in self.missed.items() if note == (stream.key, keys.full_sweep_at)}
        span = keys.counts_messages
        counted = self._counted(span) if span is not None else []
        known = Known(
            {key: self.conversations[key] for key in keys.conversations if key in self.conversations},
            contacts,
            frozenset(key for key in keys.interaction_events if key in self.interaction_events),
            self._known_dead_letters(keys),
            frozenset(
                {key for key in keys.conversations if self._is_erased(stream.platform, key)}
                | {key for key in keys.contacts if (stream.key, "contact", key) in self.forgotten}
            ),
            unseen=len(self._unseen(stream, keys.stretch) - noted) if keys.stretch else 0,
            missed=frozenset(noted.intersection(keys.conversations)),
            all_missed=len(noted),
            stored=self._count_stored(stream) if keys.counts_stored else 0,
            stored_messages=len(counted),
            messages=self._known_messages(keys),
            stored_below=sum(row.occurred_at <= span.back_to for row in counted) if span is not None else 0,
            left_behind=self._left_behind(stream, set(keys.conversations).difference(self.conversations)),
        )
        lost = read_before(keys, self.conversations) - self.interaction_events.keys()
        assert known.forgotten or not lost, "other stores take these messages for stored, without looking them up"
        pages = {*known.left_behind.values(), *(row.page_id for row in known.conversations.values())} - {stream.page_id}
        return self._with_elsewhere(known, keys, pages) if pages or keys.locates_contacts else known

    def _left_behind(self, stream: Stream, without_row: set[str]) -> dict[str, str]:
        return {
            event.conversation_id: event.page_id
            for event in (self.interaction_events.values() if without_row else ())
            if event.conversation_id in without_row
            and (event.platform == stream.platform and event.page_id != stream.page_id)
        }

    def _with_elsewhere(self, known: Known, keys: Keys, pages: set[str]) -> Known:
        contact_pages: dict[str, frozenset[str]] = {}
        if keys.locates_contacts and any(previous == keys.stream.key for previous, _ in self.moves):
            for key in keys.contacts:
                later = {Stream.parse(of).page_id for of in self._later(keys.stream)}
                of_key = [row for row in self.conversations.values() if row.contact_id == key]
                contact_pages[key] = frozenset(row.page_id for row in of_key if row.page_id in later)
        pages = pages.union(*contact_pages.values()) - {keys.stream.page_id}
        elsewhere = {
            (row.page_id, row.contact_id): row
            for row in self.contacts.values()
            if row.platform == keys.stream.platform and row.page_id in pages and row.contact_id in keys.contacts
        }
        moved_to = {}
        for (previous, of), moved_at in self.moves.items():
            if previous == keys.stream.key:
                snapshot = self.checkpoints.get(of)
                last_success_at = rows.checkpoint(snapshot).last_success_at if snapshot is not None else None
                moved_to[Stream.parse(of).page_id] = max(moved_at, last_success_at or moved_at)
        owed = tuple(
            gap
            for of, gap in self.gaps.values()
            if gap.conversation_id in keys.conversations
            and of in {f"{keys.stream.platform}:{page_id}" for page_id in pages}
        )
        there = (self.checkpoints.get(f"{keys.stream.platform}:{page_id}") for page_id in pages)
        left_out = (rows.checkpoint(snapshot).left_out for snapshot in there if snapshot is not None)
        return replace(
            known,
            contacts_elsewhere=elsewhere,
            moved_to=moved_to,
            contact_pages=contact_pages,
            owed_elsewhere=owed,
            left_out_elsewhere=tuple(each for each in left_out if each is not None),
        )

    def _later(self, stream: Stream) -> set[str]:
        """Return the stream, and all streams that its rows have moved to in any number of steps."""
        later = {stream.key}
        while more := {of for previous, of in self.moves if previous in later} - later:
            later |= more
        return later

    def _counted(self, span: ThreadSpan) -> list[InteractionEventRow]:
        return [
            row
            for row in self.interaction_events.values()
            if row.conversation_id == span.conversation_id
            and row.occurred_at <= span.newest_at
            and (row.deleted_at is None or row.deleted_at > span.as_of)
        ]

    def _known_messages(self, keys: Keys) -> dict[str, InteractionEventRow]:
        wanted = {each.conversation_id: each for each in to_look_up(keys, self.conversations)}
        return {
            row.event_id: row
            for row in (self.interaction_events.values() if wanted else ())
            if (each := wanted.get(row.conversation_id)) is not None
            and each.oldest_at <= row.occurred_at <= each.newest_at
        }

    def _count_stored(self, stream: Stream) -> int:
        of_stream = (stream.platform.value, stream.page_id, None)
        return sum((row.platform, row.page_id, row.deleted_at) == of_stream for row in self.conversations.values())

    def _known_dead_letters(self, keys: Keys) -> dict[str, KnownDeadLetter]:
        return {
            dead_letter.subject: KnownDeadLetter(
                dead_letter.dead_letter_id,
                dead_letter.fingerprint,
                dead_letter.opened_at,
                dead_letter.closed_at is None,
                self.payloads.get(dead_letter.dead_letter_id) if dead_letter.stage is Stage.STORE else None,
            )
            for dead_letter in sorted(
                self.dead_letters.values(), key=lambda each: (each.opened_at, each.dead_letter_id)
            )
            if dead_letter.stream == keys.stream and dead_letter.subject in keys.subjects
            if dead_letter.closed_at is None or dead_letter.resolution is Resolution.DISCARDED
        }

    def _unseen(self, stream: Stream, stretch: Stretch) -> set[str]:
        """Return the ids of the conversations in a stretch of an inbox that were not seen there."""
        return {
            key
            for key, row in self.conversations.items()
            if (row.platform, row.page_id, row.deleted_at) == (stream.platform.value, stream.page_id, None)
            and (stretch.newer_than is None or stretch.newer_than < row.updated_time)
            and (stretch.older_than is None or row.updated_time < stretch.older_than)
            and key not in stretch.seen
        }

    async def due_dead_letters(self, stream: Stream, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Return open dead letters whose redrive is due, or whose payload was erased; the oldest first."""
        due = [
            each
            for each in await self.find_open_dead_letters(tuple(self.dead_letters))
            if each.dead_letter.stream == stream and (each.payload is None or _is_due(each.dead_letter.redrive_at, now))
        ]
        return tuple(
            sorted(due, key=lambda each: (each.dead_letter.opened_at, each.dead_letter.dead_letter_id))[:limit]
        )

    def add_fact(self, fact: WebhookEvent) -> None:
        """Add a fact about a message, unless it is a repetition or about somebody who was forgotten."""
        if fact.key not in self.facts and (fact.stream.key, "contact", fact.contact_id or "") not in self.forgotten:
            self.facts[fact.key] = self.waiting_facts[fact.key] = fact

    async def due_facts(self, stream: Stream, limit: int) -> tuple[DueFact, ...]:
        """Return up to `limit` facts whose messages are stored, the earliest first."""
        due = [
            DueFact(fact.key, fact.kind, fact.actor, fact.occurred_at, fact.detail, self._is_superseded(fact), row)
            for fact in self.waiting_facts.values()
            if fact.stream == stream
            and (row := self.interaction_events.get(fact.message_id)) is not None
            and (row.platform, row.page_id) == (stream.platform, stream.page_id)
        ]
        return tuple(sorted(due, key=lambda fact: (fact.occurred_at, fact.event_key))[:limit])

    def _is_superseded(self, fact: WebhookEvent) -> bool:
        return any(
            (each.stream, each.kind, each.message_id, each.actor)
            == (fact.stream, fact.kind, fact.message_id, fact.actor)
            and (each.occurred_at, each.key) > (fact.occurred_at, fact.key)
            for each in self.facts.values()
        )

    async def open_gaps(self, stream: Stream, limit: int) -> tuple[OpenGap, ...]:
        """Return up to `limit` open gaps of the stream: those between two sweeps before histories, the newest first."""
        gaps = sorted(
            (gap for of, gap in self.gaps.values() if of == stream.key and not gap.is_at_limit),
            key=lambda gap: (not gap.is_history, gap.newest_at, gap.gap_id),
            reverse=True,
        )
        return tuple(
            OpenGap(
                gap,
                (stream.key, "conversation", gap.conversation_id) in self.forgotten,
                has_moved=self.conversations.get(gap.conversation_id, stream).page_id != stream.page_id,
            )
            for gap in gaps[:limit]
        )

    async def gaps_at_limit(self, stream: Stream, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        """Return up to `limit` histories of the stream that are at their limit and ended later than `later_than`."""
        gaps = sorted(
            (
                gap
                for of, gap in self.gaps.values()
                if of == stream.key and gap.is_at_limit and gap.reached_at > later_than
            ),
            key=lambda gap: gap.reached_at,
            reverse=True,
        )
        return tuple(gaps[:limit])

    async def search_threads(self, stream: Stream, after: datetime | None, limit: int) -> ThreadsSearched:
        """Return the next conversations without a history; those of one `updated_time` are in the same step."""
        page = (stream.platform.value, stream.page_id)
        theirs = [row for row in self.conversations.values() if (row.platform, row.page_id) == page]
        ahead = sorted((row for row in theirs if after is None or row.updated_time > after), key=_by_time)
        until = ahead[limit - 1].updated_time if len(ahead) >= limit else None
        on_record = {gap.conversation_id for of, gap in self.gaps.values() if of == stream.key and gap.is_history}
        return ThreadsSearched(
            tuple(
                thread
                for row in ahead
                if (until is None or row.updated_time <= until)
                and row.deleted_at is None
                and row.conversation_id not in on_record
                and (thread := self._unopened(row)) is not None
            ),
            until,
        )

    def _unopened(self, row: ConversationRow) -> UnopenedThread | None:
        messages = [each for each in self.interaction_events.values() if each.conversation_id == row.conversation_id]
        times = [each.occurred_at for each in messages]
        if not times:
            return None
        counted = [each for each in messages if each.occurred_at.replace(microsecond=0) <= row.updated_time]
        stored = sum(each.deleted_at is None for each in counted)
        newest_at = max((each.occurred_at for each in counted), default=min(times))
        return UnopenedThread(
            row.conversation_id, row.first_synced_at, row.message_count, stored, min(times), newest_at
        )

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Return those of these dead letters that are open."""
        dead_letters = (self.dead_letters[key] for key in dead_letter_ids if key in self.dead_letters)
        return tuple(
            DueDeadLetter(each, self.payloads.get(each.dead_letter_id))
            for each in dead_letters
            if each.closed_at is None
        )

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit whole or not at all. Raises VersionConflict if another writer appended to the stream first."""
        self.refuse_stale(commit)
        refused = tuple(
            RefusedRow(table, key, "the test refuses it")
            for table, key in _names(commit.changes)
            if (table, key) in self.refuses
        )
        if refused or self.is_outdated(commit):
            return Rejected(refused)
        first_seq = len(self.journal) + 1
        self.write_entries(commit)
        self.write_rows(commit)
        return Committed(first_seq, rows_seconds=0.0, events_seconds=0.0)

    async def commit_all(self, commits: Sequence[Commit]) -> list[Committed | Rejected]:
        """Store commits one after the other, up to one that fails."""
        answers: list[Committed | Rejected] = []
        for commit in commits:
            try:
                answers.append(await self.commit(commit))
            except OutcomeUnknown:
                raise
            except MilepostError:
                if not answers:
                    raise
                break
            if isinstance(answers[-1], Rejected):
                break
        return answers

    def is_outdated(self, commit: Commit) -> bool:
        """Whether another stream has written the same conversations since the commit was decided."""
        written = written_of(commit)
        stored = (self.conversations[key] for key in written if key in self.conversations)
        states = [(row.conversation_id, row.page_id, instant_text(row.synced_at)) for row in stored]
        try:
            demand_known(commit, written, states)
        except Outdated:
            return True
        return False

    async def settle(self, commit: Commit) -> Committed | None:
        """Return the commit if it was stored."""
        first = commit.entries[0]
        for seq, row in enumerate(self.journal, start=1):
            if (row.stream, row.version) == (first.stream.key, first.version):
                return Committed(seq, 0.0, 0.0) if row.hash == first.hash else None
        return None

    def refuse_stale(self, commit: Commit) -> None:
        """Raise VersionConflict unless the commit follows the stream's last entry."""
        first = commit.entries[0]
        version = next((row.version for row in reversed(self.journal) if row.stream == first.stream.key), 0)
        if first.version != version + 1:
            raise VersionConflict(f"{first.stream} is at version {version}, not {first.version - 1}")

    def write_entries(self, commit: Commit) -> None:
        """Append the entries, and update the projections."""
        for entry in commit.entries:
            at_text = instant_text(entry.recorded_at)
            columns = (entry.stream.key, entry.version, entry.run_id, at_text, entry.type, entry.data, entry.hash)
            self.journal.append(JournalRow(*columns))
            if isinstance(entry.event, StreamRemoved):
                self._drop(entry.stream)
            dead_letter = dead_letter_after(entry, self.dead_letters.get)
            if dead_letter is not None:
                self.dead_letters[dead_letter.dead_letter_id] = dead_letter
            for after in gaps_after(entry.event):
                if after.is_kept:
                    self.gaps[after.gap.gap_id] = (entry.stream.key, after.gap)
                else:
                    self.gaps.pop(after.gap.gap_id, None)
        self.checkpoints[commit.checkpoint.stream.key] = rows.checkpoint_json(commit.checkpoint)
        if commit.run is not None:
            self.runs[commit.run.run_id] = commit.run

    def _drop(self, stream: Stream) -> None:
        """Drop everything stored of a stream except its journal and the list of erased people."""
        page = (stream.platform.value, stream.page_id)
        for run_id in [row.run_id for row in self.journal if row.stream == stream.key and row.run_id is not None]:
            self.runs.pop(run_id, None)
        for key in [key for key, dead_letter in self.dead_letters.items() if dead_letter.stream == stream]:
            self.payloads.pop(key, None)
            del self.dead_letters[key]
        for key in [key for key, (of, _) in self.gaps.items() if of == stream.key]:
            del self.gaps[key]
        for key in self._noted(stream):
            del self.missed[key]
        self.pages.pop(page, None)
        for contact in [key for key in self.contacts if key[:2] == page]:
            del self.contacts[contact]
        for key in [key for key, row in self.conversations.items() if (row.platform, row.page_id) == page]:
            del self.conversations[key]
        for key in [key for key, event in self.interaction_events.items() if (event.platform, event.page_id) == page]:
            del self.interaction_events[key]

    def write_rows(self, commit: Commit) -> None:
        """Write the rows, the notes of what a full sweep misses and the payloads of dead letters."""
        self._move(commit.checkpoint.stream, commit)
        if commit.changes.own_id is not None:
            self._take_as_ours(commit.checkpoint.stream, commit.changes.own_id)
        self._write_rows(commit.changes)
        self._name(commit.changes.named)
        self._write_notes(commit.checkpoint.stream, commit.changes)
        self._write_payloads(commit)

    def _name(self, named: Iterable[str]) -> None:
        """Set the contact of messages that were stored before their conversation's contact was known."""
        contacts = {key: self.conversations[key].contact_id for key in named if key in self.conversations}
        for key, event in self.interaction_events.items():
            if event.conversation_id in contacts and event.contact_id is None:
                self.interaction_events[key] = replace(event, contact_id=contacts[event.conversation_id])

    def _move(self, stream: Stream, commit: Commit) -> None:
        """Take conversations over from other pages, with their messages and contacts."""
        moved, links_before = set(commit.changes.moved), len(self.moves)
        if not moved:
            return
        stored: list[Row] = [*self.conversations.values(), *self.interaction_events.values()]
        elsewhere = [row for row in stored if row.conversation_id in moved and row.page_id != stream.page_id]
        for previous in {f"{row.platform}:{row.page_id}" for row in elsewhere}:
            self.moves.pop((stream.key, previous), None)
            self.moves[previous, stream.key] = commit.entries[-1].recorded_at
        for previous in [previous for previous, of in self.moves if of == stream.key]:
            self.forgotten |= {(stream.key, kind, key) for of, kind, key in self.forgotten if of == previous}
            for key in self._noted(Stream.parse(previous)):
                if key in moved:
                    del self.missed[key]
        if len(self.moves) != links_before:
            linked = self.linked(stream)
            for key in {key for of, kind, key in self.forgotten if kind == "contact" and of in linked}:
                _, conversations, events, _ = self.forget(stream, key)
                self.erased_by_moves.update(conversations=conversations, events=events)
        theirs = [row for key, row in self.conversations.items() if key in moved and row.page_id != stream.page_id]
        for row in theirs:
            self.conversations[row.conversation_id] = replace(row, page_id=stream.page_id)
        said = [event for event in self.interaction_events.values() if event.conversation_id in moved]
        self._move_contacts(stream, [*theirs, *(event for event in said if event.page_id != stream.page_id)])
        for event in said:
            self.interaction_events[event.event_id] = replace(event, page_id=stream.page_id)

    def _take_as_ours(self, stream: Stream, own_id: str) -> None:
        """Mark the messages of an id as sent by us, and remove the contact with that id."""
        page = (stream.platform.value, stream.page_id)
        senders: dict[str, set[str]] = {}
        for event in self.interaction_events.values():
            if event.contact_id not in (None, own_id):
                senders.setdefault(event.conversation_id, set()).add(event.contact_id or "")
        for event in list(self.interaction_events.values()):
            if (event.platform, event.page_id, event.contact_id) == (*page, own_id):
                row = self.conversations.get(event.conversation_id)
                others = [row.contact_id] if row and row.contact_id not in (None, own_id) else []
                contact_id = next(iter([*others, *sorted(senders.get(event.conversation_id, set()))]), None)
                turned = replace(event, direction="out", contact_id=contact_id)
                self.interaction_events[event.event_id] = turned
        for row in list(self.conversations.values()):
            if (row.platform, row.page_id, row.contact_id) == (*page, own_id):
                self.conversations[row.conversation_id] = replace(row, contact_id=None)
        self.contacts.pop((*page, own_id), None)

    def _move_contacts(self, stream: Stream, theirs: list[Row]) -> None:
        left = {(row.platform, row.page_id, row.contact_id) for row in self.conversations.values()}
        for row in theirs:
            if (contact := self.contacts.get((row.platform, row.page_id, row.contact_id or ""))) is not None:
                here = (row.platform, stream.page_id, contact.contact_id)
                self.contacts.setdefault(here, replace(contact, page_id=stream.page_id))
        for gone in {(row.platform, row.page_id, row.contact_id or "") for row in theirs} - left:
            self.contacts.pop(gone, None)

    def _write_rows(self, changes: Changes) -> None:
        """Write rows: the time of first sight and stored messages stay, and erased people are kept out."""
        if (page := changes.page) is not None:
            stored = self.pages.get((page.platform, page.page_id), page)
            self.pages[page.platform, page.page_id] = replace(
                page,
                name=page.name if page.name is not None else stored.name,
                username=page.username if page.username is not None else stored.username,
                first_seen_at=stored.first_seen_at,
            )
        gone: set[str] = set()
        said = {each.conversation_id for each in changes.interaction_events if self.is_forgotten(each)}
        for conversation in changes.conversations:
            is_theirs = conversation.contact_id is None and conversation.conversation_id in said
            if is_theirs or self.is_forgotten(conversation):
                gone.add(conversation.conversation_id)
                continue
            known = self.conversations.get(conversation.conversation_id, conversation)
            row = replace(conversation, page_id=known.page_id, first_synced_at=known.first_synced_at)
            self.conversations[conversation.conversation_id] = row
        for contact in changes.contacts:
            key = (contact.platform, contact.page_id, contact.contact_id)
            first_seen_at = self.contacts.get(key, contact).first_seen_at
            if (f"{contact.platform}:{contact.page_id}", "contact", contact.contact_id) not in self.forgotten:
                self.contacts[key] = replace(contact, first_seen_at=first_seen_at)
        for event in changes.interaction_events:
            if event.conversation_id not in gone and not self.is_forgotten(event):
                self.interaction_events.setdefault(event.event_id, event)
        self._revise(changes)

    def _revise(self, changes: Changes) -> None:
        for event in changes.revised:
            if event.event_id in self.interaction_events:
                self.interaction_events[event.event_id] = replace(
                    self.interaction_events[event.event_id],
                    kind=event.kind,
                    text=event.text,
                    attachments=event.attachments,
                    edited_at=event.edited_at,
                    deleted_at=event.deleted_at,
                    reactions=event.reactions,
                    referral=event.referral,
                    content_at=event.content_at,
                )
        self.waiting_facts = {key: fact for key, fact in self.waiting_facts.items() if key not in changes.settled}
        unsent = unsent_in(changes)
        for dead_letter_id, payload in self.payloads.items():
            if any(each in payload for each in unsent):
                self.payloads[dead_letter_id] = erased_in(payload, unsent)

    def _write_notes(self, stream: Stream, changes: Changes) -> None:
        for key in changes.found:
            self.missed.pop(key, None)
        if changes.missed is not None:
            sweep = (stream.key, changes.missed.sweep_started_at)
            for key in self._noted(stream):
                if self.missed[key] != sweep:
                    del self.missed[key]
            self.missed |= dict.fromkeys(self._unseen(stream, changes.missed), sweep)
        if changes.missed_are_deleted_at is not None:
            for key in self._noted(stream):
                row = self.conversations[key]
                if row.page_id != stream.page_id:
                    continue
                self.conversations[key] = replace(row, deleted_at=row.deleted_at or changes.missed_are_deleted_at)
        if changes.missed_are_deleted_at is not None or changes.forgets_missed:
            for key in self._noted(stream):
                del self.missed[key]

    def _noted(self, stream: Stream) -> list[str]:
        return [key for key, (of, _) in self.missed.items() if of == stream.key]

    def _write_payloads(self, commit: Commit) -> None:
        """Keep the payloads of open dead letters, unless they are about somebody who was erased."""
        for each in commit.changes.payloads:
            dead_letter = self.dead_letters.get(each.dead_letter_id)
            if not self._is_about_forgotten(
                commit.checkpoint.stream.key, dead_letter.subject if dead_letter else "", each.payload
            ):
                self.payloads[each.dead_letter_id] = each.payload
        for key, dead_letter in self.dead_letters.items():
            if dead_letter.closed_at is not None:
                self.payloads.pop(key, None)

    # --- forgetting a person ---

    def forget(self, stream: Stream, contact_id: str) -> tuple[int, int, int, int]:
        """Erase a contact and keep them out; count their contacts, conversations, interaction events and payloads."""
        before = self._counts()
        streams = self.linked(stream)
        self.forgotten |= {(of, "contact", contact_id) for of in streams}
        said = {
            event.conversation_id
            for event in self.interaction_events.values()
            if (event.platform, event.contact_id) == (stream.platform.value, contact_id)
        }
        theirs = {
            key
            for key, row in self.conversations.items()
            if row.contact_id == contact_id or (row.contact_id is None and key in said)
            if f"{row.platform}:{row.page_id}" in streams
        }
        self.forgotten |= {(of, "conversation", key) for of in streams for key in theirs}
        for key in theirs:
            del self.conversations[key]
            self.missed.pop(key, None)
        for of in streams:
            self.contacts.pop((stream.platform.value, Stream.parse(of).page_id, contact_id), None)
        for event in list(self.interaction_events.values()):
            if f"{event.platform}:{event.page_id}" in streams and (
                event.contact_id == contact_id or self._is_erased(event.platform, event.conversation_id)
            ):
                del self.interaction_events[event.event_id]
        self._drop_facts_of(contact_id, streams)
        for key in [key for key in self.payloads if key in self.dead_letters]:
            dead_letter = self.dead_letters[key]
            kept_out = {each for each in self.forgotten if each[0] == dead_letter.stream.key}
            if dead_letter.stream.key in streams and _is_about(kept_out, dead_letter.subject, self.payloads[key]):
                del self.payloads[key]
        contacts, conversations, events, payloads = map(int.__sub__, before, self._counts())
        return contacts, conversations, events, payloads

    def _drop_facts_of(self, contact_id: str, streams: set[str]) -> None:
        theirs = {key for key, fact in self.facts.items() if fact.contact_id == contact_id}
        for key in [key for key in theirs if self.facts[key].stream.key in streams]:
            del self.facts[key]
            self.waiting_facts.pop(key, None)

    def linked(self, stream: Stream) -> set[str]:
        """Return the stream, and all streams that its rows have moved from or to."""
        links = set(self.moves)
        for event in self.interaction_events.values():
            if (row := self.conversations.get(event.conversation_id)) is not None and row.page_id != event.page_id:
                links.add((f"{event.platform}:{event.page_id}", f"{event.platform}:{row.page_id}"))
        linked = {stream.key}
        while more := {of for link in links if not linked.isdisjoint(link) for of in link} - linked:
            linked |= more
        return linked

    def _is_erased(self, platform: str, conversation_id: str) -> bool:
        """Whether a conversation was erased, on any page."""
        return any(
            (kind, key) == ("conversation", conversation_id) and of.startswith(f"{platform}:")
            for of, kind, key in self.forgotten
        )

    def _counts(self) -> tuple[int, int, int, int]:
        return len(self.contacts), len(self.conversations), len(self.interaction_events), len(self.payloads)

    def is_forgotten(self, row: ConversationRow | InteractionEventRow) -> bool:
        """Whether the row is about somebody who was erased."""
        key = f"{row.platform}:{row.page_id}"
        return self._is_erased(row.platform, row.conversation_id) or (
            (key, "contact", row.contact_id or "") in self.forgotten
        )

    def _is_about_forgotten(self, stream: str, subject: str, payload: str) -> bool:
        platform = stream.partition(":")[0]
        kept_out = {
            (of, kind, key)
            for of, kind, key in self.forgotten
            if of == stream or (kind == "conversation" and of.startswith(f"{platform}:"))
        }
        return _is_about(kept_out, subject, payload)

    def entries(self, stream: Stream) -> list[Entry]:
        """Read the stream's entries back from their stored form."""
        return [self._entry(row) for row in self.journal if row.stream == stream.key]

    def refold(self, stream: Stream) -> Checkpoint:
        """Fold the stream's journal from scratch, checking its hash chain on the way."""
        checkpoint = Checkpoint(stream)
        for entry in self.entries(stream):
            check_link(checkpoint, entry)
            checkpoint = evolve(checkpoint, entry)
        return checkpoint

    def _entry(self, row: JournalRow) -> Entry:
        event = self._codec.decode(row.type, row.data)
        recorded_at = datetime.fromisoformat(row.recorded_at)
        return Entry(
            Stream.parse(row.stream), row.version, row.run_id, recorded_at, row.type, row.data, row.hash, event
        )


def _is_about(kept_out: set[tuple[str, str, str]], subject: str, payload: str) -> bool:
    """Whether a dead letter is about one of these contacts and conversations."""
    for _, kind, key in kept_out:
        whole = rf"(?<![0-9A-Za-z]){re.escape(key)}(?![0-9A-Za-z])"
        if kind == "contact" and (subject == f"contact {key}" or re.search(whole, payload)):
            return True
        if kind == "conversation" and (subject == key or subject.startswith(f"{key}/")):
            return True
    return False


def _names(changes: Changes) -> Iterator[tuple[Table, str]]:
    """Yield the names of the rows that a store may refuse."""
    yield from ((Table.CONVERSATIONS, row.conversation_id) for row in changes.conversations)
    yield from ((Table.CONTACTS, row.contact_id) for row in changes.contacts)
    yield from ((Table.INTERACTION_EVENTS, row.event_id) for row in (*changes.interaction_events, *changes.revised))


def _by_time(row: ConversationRow) -> datetime:
    return row.updated_time


def _is_due(redrive_at: datetime | None, now: datetime) -> bool:
    """Whether the time has come, or is further ahead than any redrive is put off."""
    return redrive_at is not None and (redrive_at <= now or redrive_at > latest_redrive(now))
