"""What a simulation was observed to do, and which threads are safe by it: stored, owed, dead letters, or given up."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import msgspec
from msgspec.structs import replace

from kit.fake_inbox import Thread, World, as_listed
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.dead_letters import is_of_older
from milepost.core.doubts import WITHOUT_PROGRESS
from milepost.core.events import Event, Stage, Tally
from milepost.core.message_reading import gap_in
from milepost.core.model import Changes, Conversation, ConversationRow, Interaction, Stream
from milepost.core.position import Gap, HistoriesLeftOut, MessagesMissed, MessagesOwed, MessagesRead, Missed, Mode
from milepost.core.problems import Scope
from milepost.core.walk import EPOCH

SweepKey = tuple[Mode | None, datetime]  # its mode, and when its walk started; None before its first batch is settled
NEVER = datetime.min.replace(tzinfo=UTC)
EVER = datetime.max.replace(tzinfo=UTC)


class Observed:
    """What was observed of one stream."""

    def __init__(self, stream: Stream) -> None:
        self.refolded = Checkpoint(stream)
        self.dead_letters: dict[str, DeadLetter] = {}
        self.redrive_tally = Tally()
        self.erased = Counter[str]()
        self.walk_read_at: dict[SweepKey, datetime] = {}
        self.head_read_at: dict[SweepKey, datetime] = {}  # when its walk or its latest scan began
        self.sweep_being_read: SweepKey | None = None
        self.version_before_run = 0
        self.is_undisturbed = False
        self.vain_calls = 0
        self.given_up_at: dict[str, datetime] = {}  # by thread
        self.given_up_events: set[str] = set()
        self.first_messages: dict[str, int | None] = {}  # by thread: the oldest message when it was first read
        self.given_up_older: set[str] = set()  # messages that existed when their dead letter was discarded
        self.held_until: dict[Scope, datetime] = {}
        self.stored_once: set[str] = set()  # conversations, even if deleted since
        self.named: set[str] = set()  # conversations of which a row or a message was written
        self.run_ids: set[str] = set()
        self.ended_runs: set[str] = set()
        self.histories: set[str] = set()  # by gap
        self.opened: set[str] = set()  # threads whose histories were on record
        self.missed: dict[str, list[Missed]] = {}  # by thread


class Observations:
    """What was observed of every stream of a simulation."""

    def __init__(self, world: World, store: MemoryStore, messages: int) -> None:
        self.world = world
        self.store = store
        self.messages = messages
        self.seen: Counter[str] = Counter()
        self.doubt = timedelta()
        self.behind = timedelta()  # by how much our clock is behind
        self.observed: dict[Stream, Observed] = {}
        self._journal_read = 0
        self._written_before = 0
        self.linked: tuple[Stream, ...] = ()  # the pages that an account was linked to, the last one at the end
        self.is_reversed = False  # the tables say that the account was linked to the page before
        self.stayed_behind: set[str] = set()  # conversations whose contact may remain under the previous page

    def watch(self, stream: Stream) -> None:
        self.observed[stream] = Observed(stream)

    def link(self, stream: Stream, another: Stream) -> None:
        """Expect the rows of a stream to follow the page that reads them."""
        self.watch(another)
        before, now = self.observed[stream], self.observed[another]
        now.first_messages, now.given_up_older = before.first_messages, before.given_up_older
        now.missed = before.missed
        self.linked = (stream, another)
        for linked in self.linked:
            self.disturbed(linked, "an account was linked to another page")

    def _group(self, stream: Stream) -> tuple[Stream, ...]:
        """Return the streams among which rows of this one may move."""
        return self.linked if stream in self.linked else (stream,)

    def loaded(self, stream: Stream, checkpoint: Checkpoint) -> None:
        """Expect a run to begin at this checkpoint."""
        observed, run = self.observed[stream], checkpoint.run
        observed.version_before_run = checkpoint.version
        observed.is_undisturbed = checkpoint.sweep is None and (run is None or run.ended_at is not None)
        observed.vain_calls = 0

    def disturbed(self, stream: Stream, what: str) -> None:
        self.seen[what] += 1
        self.observed[stream].is_undisturbed = False

    # --- what has happened ---

    def _note_messages(self, stream: Stream, event: Event) -> None:
        observed = self.observed[stream]
        match event:
            case MessagesOwed(gaps=gaps, left_out=left_out):
                self.seen["messages were owed"] += bool(gaps)
                self.seen["histories were left out of the record"] += left_out is not None and left_out.search is None
                self.seen["histories that were left out were owed"] += bool(gaps) and _is_of_search(left_out)
                observed.opened |= {gap.conversation_id for gap in gaps if gap.is_history}
                for gap in gaps if any(each.is_history for each in gaps) else ():
                    is_again = gap.gap_id in observed.histories
                    self.seen[f"a history was {'owed further back' if is_again else 'owed'}"] += 1
                    observed.histories.add(gap.gap_id)
            case MessagesMissed(missed=missed):
                for each in missed:
                    self.seen[f"messages were missed: {each.reason}"] += 1
                    observed.missed.setdefault(each.conversation_id, []).append(each)
            case MessagesRead():  # in the background of a run that may find nothing itself
                observed.is_undisturbed = False
            case _:
                pass

    def _note_direction(self, stream: Stream, changes: Changes) -> None:
        """Note whether the previous page takes over rows from the later one.

        A batch that it read before the account was linked again may be settled after the other page has stored the same
        threads. If it had none of them before, nothing shows which page is the later one, and rows under the page that
        writes last stay there as long as that works.
        """
        if stream in self.linked[:1]:
            self.is_reversed |= any(key not in self.observed[stream].stored_once for key in changes.moved)
        elif stream in self.linked and changes.moved:
            self.is_reversed = False

    @property
    def taken_back(self) -> set[str]:
        return {row.conversation_id for row in self._rows(self.linked[0])} if self.is_reversed else set()

    def _count_forgotten(self, stream: Stream, changes: Changes) -> None:
        """Count rows that were decided before their person was erased, and for that reason were not stored."""
        observed, store = self.observed[stream], self.store
        for row in changes.conversations:
            is_new = all(row.conversation_id not in self.observed[each].stored_once for each in self._group(stream))
            if is_new and store.is_forgotten(row):
                observed.erased["conversations"] += 1
            observed.stored_once.add(row.conversation_id)
        observed.named |= {row.conversation_id for row in changes.conversations}
        observed.named |= {row.conversation_id for row in changes.interaction_events}
        lost = [row for row in changes.interaction_events if row.event_id not in store.interaction_events]
        observed.erased["events"] += sum(
            store.is_forgotten(row) or row.conversation_id in self._forgotten_in(changes) for row in lost
        )

    def _forgotten_in(self, changes: Changes) -> set[str]:
        return {row.conversation_id for row in changes.conversations if self.store.is_forgotten(row)}

    def _note_first_messages(self, stream: Stream, changes: Changes) -> None:
        """Note the oldest message that came with each thread when it was first stored: older ones are its history."""
        observed = self.observed[stream]
        for row in changes.conversations:
            thread = self._thread(stream, row.conversation_id)
            if row.conversation_id in observed.first_messages or thread is None:
                continue
            stored = [each.event_id in self.store.interaction_events for each in thread.messages]
            while stored and not stored[-1]:
                stored.pop()
            came_with_it = len(list(takewhile(bool, reversed(stored))))  # an earlier row may have been refused
            observed.first_messages[row.conversation_id] = len(stored) - came_with_it if came_with_it else None

    def _gives_up(self, stream: Stream, dead_letter: DeadLetter) -> None:
        """Note that a dead letter is discarded: a thread is given up in its present state, a message forever.

        If it was never stored, it is a new one when it is read again, with a history of its own unless one is recorded.
        """
        payload = self.store.payloads.get(dead_letter.dead_letter_id)
        if dead_letter.stage is Stage.EVENTS and payload is not None:
            rows = msgspec.json.decode(payload, type=Changes).interaction_events
            self.observed[stream].given_up_events |= {row.event_id for row in rows}
            return
        thread_id = dead_letter.subject.partition("/")[0]
        self.observed[stream].given_up_at[thread_id] = self.world.now
        if thread_id not in self.store.conversations and not self._gaps_of(stream, thread_id):
            self.observed[stream].opened.discard(thread_id)
        thread = self._thread(stream, thread_id)
        if thread is not None and dead_letter.stage is Stage.FETCH:
            self.observed[stream].given_up_older |= {each.event_id for each in thread.messages}

    def _gives_up_older(self, stream: Stream, gap: Gap) -> None:
        """Note that messages are given up because their thread is gone: it may return, or belong to another page."""
        threads = [self._thread(of, gap.conversation_id) for of in self._group(stream)]
        thread = next((each for each in threads if each is not None), None)
        others = {of.key for of in self.linked[-1:] if stream != of and stream in self.linked}
        if any(of in others and each.conversation_id == gap.conversation_id for of, each in self.store.gaps.values()):
            return  # the account's new page has taken over the gap
        if thread is not None:
            self.observed[stream].given_up_older |= {each.event_id for each in thread.messages}

    # --- what is safe ---

    def _is_safe(self, stream: Stream, thread: Thread) -> bool:
        """Whether a thread is stored in its newest state with its messages, or is a dead letter, or was given up."""
        if self._is_excused(stream, thread.thread_id):
            return True
        subjects = {subject for of in self._group(stream) for subject in self._open_subjects(of)}
        if thread.thread_id in subjects:
            return True
        if self._stored_at(stream, thread.thread_id) < thread.updated_time:
            return False
        if f"{thread.thread_id}/messages" in subjects:
            return True
        missing = self._missing(stream, thread)
        return not missing or are_covered(self._owed_of(stream, thread.thread_id), thread, missing)

    def _missing(self, stream: Stream, thread: Thread) -> list[Interaction]:
        """Return the missing messages: of those that the list shows, of the history, and of those that came since.

        A thread that came without messages owes only what came since, and one that moved here owes no history.
        """
        listed = as_listed(thread, self.messages, self.world.habits.window)
        first = self.observed[stream].first_messages.get(thread.thread_id)
        if thread.unsent:  # older messages are listed in their place, and did not move the thread
            came = -len(listed.interactions) if first is None else first
            known = {each.event_id for each in thread.messages[came:]}
            listed = replace(listed, interactions=tuple(each for each in listed.interactions if each.event_id in known))
        gaps = self._gaps_of(stream, thread.thread_id)
        is_open = thread.thread_id in self.observed[stream].opened
        limits = (gap.history_to for gap in gaps if gap.history_to is not None and is_open)
        limit = max(limits, default=self._left_out_to(stream, thread))
        has_history = first is not None and stream not in self.linked
        history = [each for each in thread.messages[:first] if has_history and each.occurred_at > limit]
        since = [] if first is None else thread.messages[first:]
        older = self._missing_events(stream, replace(listed, interactions=(*history, *since)))
        missing = self._missing_events(stream, listed)
        if not older and not missing:
            return []
        readable = self._readable(stream, thread)
        missing |= (older & readable) - self.observed[stream].given_up_older
        if thread.unsent:
            missing &= readable
        return [each for each in thread.messages if each.event_id in missing]

    def _left_out_to(self, stream: Stream, thread: Thread) -> datetime:
        """Return how far back a history that was never recorded must reach; EPOCH if it was recorded, or need not.

        A search takes a history for whole by the number of messages: wrongly, if as many were unsent and are stored as
        they were.
        """
        observed = self.observed[stream]
        left_out = observed.refolded.left_out
        if left_out is None or thread.thread_id in observed.opened:
            return EPOCH
        return EVER if thread.unsent and left_out.searched_to is not None else left_out.reach_to

    def _readable(self, stream: Stream, thread: Thread) -> set[str]:
        """Return the ids of the existing messages, except those beyond the window that are recorded as withheld.

        If messages were unsent, the API's count does not prove that something is missing.
        """
        window, missed = self.world.habits.window, self.observed[stream].missed.get(thread.thread_id, ())
        there = thread.there[-window:] if thread.unsent else thread.there  # all of them if there is no window
        return {
            each.event_id
            for each in there
            if not any(
                (of.from_at is None or of.from_at <= each.occurred_at) and each.occurred_at <= of.until_at
                for of in missed
            )
        }

    def _owed_of(self, stream: Stream, thread_id: str) -> list[Gap]:
        """Return the open gaps of a thread, from the backlog and from dead letters."""
        return [gap for gap in self._gaps_of(stream, thread_id) if not gap.is_at_limit]

    def _gaps_of(self, stream: Stream, thread_id: str) -> list[Gap]:
        """Return all recorded gaps of a thread, from the backlog and from dead letters."""
        payloads = (
            self.store.payloads.get(each.dead_letter_id)
            for each in self._open_dead_letters(stream)
            if is_of_older(each.subject)
        )
        gaps = [gap for _, gap in self.store.gaps.values()] + [gap_in(each) for each in payloads if each is not None]
        return [gap for gap in gaps if gap.conversation_id == thread_id]

    def _is_excused(self, stream: Stream, thread_id: str, as_of: datetime | None = None) -> bool:
        """Whether the thread's person was erased, or an operator discarded it as it is, or as it was at `as_of`."""
        inbox, given_up_at = self.world.inboxes[stream], self.observed[stream].given_up_at.get(thread_id)
        if self._is_forgotten(stream, f"c_{thread_id}"):
            return True
        thread = inbox.threads.get(thread_id)
        if given_up_at is None or thread is None:
            return given_up_at is not None
        return thread.moved_at <= given_up_at or (as_of is not None and thread.moved_at > as_of)

    def _is_forgotten(self, stream: Stream, contact_id: str) -> bool:
        return any((each.key, "contact", contact_id) in self.store.forgotten for each in self._group(stream))

    def _stored_at(self, stream: Stream, thread_id: str) -> datetime:
        """Return the time of a thread's stored state, or of the state kept in the dead letter about its row."""
        stored = self.store.conversations.get(thread_id)
        times = [NEVER] if stored is None else [stored.updated_time]
        for dead_letter in self._open_dead_letters(stream):
            if dead_letter.subject == f"{thread_id}/row" and dead_letter.dead_letter_id in self.store.payloads:
                rows = msgspec.json.decode(self.store.payloads[dead_letter.dead_letter_id], type=Changes).conversations
                times += [row.updated_time for row in rows]
        return max(times)

    def _open_subjects(self, stream: Stream) -> set[str]:
        return {dead_letter.subject for dead_letter in self._open_dead_letters(stream)}

    def _open_dead_letters(self, stream: Stream) -> list[DeadLetter]:
        return [
            dead_letter for dead_letter in self.observed[stream].dead_letters.values() if dead_letter.closed_at is None
        ]

    def _missing_events(self, stream: Stream, read: Conversation) -> set[str]:
        events = {event.event_id for event in read.interactions} - self.observed[stream].given_up_events
        missing = events.difference(self.store.interaction_events)  # `-` would iterate over everything stored
        return missing and missing - self._events_in_dead_letters(read.conversation_id)

    def _events_in_dead_letters(self, thread_id: str) -> set[str]:
        prefix = f"{thread_id}/events/"
        payloads = [
            self.store.payloads[key]
            for key, dead_letter in self.store.dead_letters.items()
            if dead_letter.subject.startswith(prefix) and key in self.store.payloads
        ]
        rows = (msgspec.json.decode(payload, type=Changes).interaction_events for payload in payloads)
        return {event.event_id for chunk in rows for event in chunk}

    # --- existing threads ---

    def _thread(self, stream: Stream, thread_id: str) -> Thread | None:
        inbox = self.world.inboxes[stream]
        return inbox.threads.get(thread_id) or inbox.gone.get(thread_id)

    def _rows(self, stream: Stream) -> list[ConversationRow]:
        of_stream = (stream.platform.value, stream.page_id)
        return [row for row in self.store.conversations.values() if (row.platform, row.page_id) == of_stream]

    def rows_alive(self, stream: Stream) -> list[ConversationRow]:
        return [row for row in self._rows(stream) if row.deleted_at is None]

    def deleted(self, stream: Stream) -> frozenset[str]:
        return frozenset(row.conversation_id for row in self._rows(stream) if row.deleted_at is not None)

    def deleted_of_linked(self, stream: Stream) -> frozenset[str]:
        return frozenset().union(*(self.deleted(each) for each in self._group(stream) if each != stream))


def _is_of_search(left_out: HistoriesLeftOut | None) -> bool:
    return left_out is not None and (left_out.search is not None or left_out.seconds is None)


def are_covered(gaps: list[Gap], thread: Thread, messages: list[Interaction]) -> bool:
    """Whether the gaps still cover all these messages: each is older than what was read, or behind the cursor."""
    places = {each.event_id: place for place, each in enumerate(thread.messages)}
    reached_at = max((gap.reached_at for gap in gaps), default=NEVER)
    cursors = (gap.cursor.partition("/")[0] if gap.cursor is not None else None for gap in gaps)
    below = max((len(places) if cursor is None else places[cursor] for cursor in cursors), default=0)
    return all(each.occurred_at <= reached_at or places[each.event_id] < below for each in messages)


def has_doubt(checkpoint: Checkpoint) -> bool:
    """Whether the end of a walk was only assumed, so that unknown threads may lie behind it."""
    return checkpoint.doubt is not None and checkpoint.doubt.problem.kind in WITHOUT_PROGRESS
