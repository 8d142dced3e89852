"""What must hold after every commit, whatever happened: the project's invariants, checked against the true inboxes."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from operator import attrgetter

import msgspec
from msgspec.structs import replace

from kit.builders import removals, total
from kit.fake_inbox import Inbox, Thread, World, as_listed
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import Checkpoint, DeadLetter, Run, Sweep
from milepost.core.dead_letters import is_of_older
from milepost.core.doubts import KINDS as DOUBTS
from milepost.core.doubts import WITHOUT_PROGRESS
from milepost.core.events import (
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Entry,
    Event,
    RateLimited,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStarted,
    Stage,
    StoreReturned,
    StreamPaused,
    StreamResumed,
    SweepCompleted,
    SweepStarted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.evolve import evolve
from milepost.core.gaps import Gap, GapEnding, MessagesFailed, MessagesMissed, MessagesOwed, MessagesRead, Missed
from milepost.core.journal import GapOf, RunOf, check_link, dead_letter_after, project
from milepost.core.message_reading import gap_in
from milepost.core.model import Changes, Conversation, ConversationRow, Interaction, InteractionEventRow, Scope, Stream
from milepost.core.plan import EPOCH, RunBudget
from milepost.core.ports import Commit, Fetched, MessagesFetched, MessagesOutcome, Outcome, Refused
from milepost.core.position import Mode, Phase
from milepost.core.records import Decision, Record
from milepost.core.remedies import Remedy, rule_for
from milepost.stores import rows

RIVAL = "another process"  # as the journal names it, and as its run ids begin
HARMLESS = (RunStarted, SweepStarted, BatchStored, RateLimited, RunEnded, StoreReturned)
SweepKey = tuple[Mode | None, datetime]  # its mode, and when its walk started; None before its first batch is settled
NEVER = datetime.min.replace(tzinfo=UTC)
page_of = attrgetter("platform", "page_id")
MAX_VAIN_CALLS = 60  # in a row: the retries of three attempts on every rung of the ladder, and more


class Observed:
    """What was observed of one stream."""

    def __init__(self, stream: Stream) -> None:
        self.refolded = Checkpoint(stream)
        self.dead_letters: dict[str, DeadLetter] = {}
        self.redrive_tally = Tally()
        self.erased = Counter[str]()
        self.walk_read_at: dict[SweepKey, datetime] = {}
        self.sweep_being_read: SweepKey | None = None
        self.version_before_run = 0
        self.is_undisturbed = False
        self.vain_calls = 0
        self.given_up_at: dict[str, datetime] = {}  # by thread
        self.given_up_events: set[str] = set()
        self.first_messages: dict[str, int | None] = {}  # by thread: the oldest one that came when it was met
        self.given_up_older: set[str] = set()  # messages that were there when their dead letter was discarded
        self.held_until: dict[Scope, datetime] = {}
        self.stored_once: set[str] = set()  # conversations, whatever became of them since
        self.named: set[str] = set()  # conversations of which a row or a message was written
        self.run_ids: set[str] = set()
        self.ended_runs: set[str] = set()
        self.histories: set[str] = set()  # by gap
        self.missed: dict[str, list[Missed]] = {}  # by thread


@dataclass(frozen=True)
class Reading:
    """A batch that a run read, as part of a sweep that was open or None."""

    stream: Stream
    sweep: Sweep | None
    fetched: Fetched
    sent_at: datetime
    budget: RunBudget


def is_refused(decision: Decision) -> bool:
    """Whether a decision on an answer took it for a refusal in disguise, which reads nothing."""
    return isinstance(decision, Record) and not isinstance(decision.events[-1], BatchStored | SweepCompleted)


class Invariants:
    """Checks a simulation as it runs. Its methods raise AssertionError where an invariant does not hold."""

    def __init__(self, world: World, store: MemoryStore, messages: int) -> None:
        self.world = world
        self.store = store
        self.messages = messages
        self.seen: Counter[str] = Counter()
        self.doubt = timedelta()
        self.observed: dict[Stream, Observed] = {}
        self._journal_read = 0
        self._written_before = 0
        self.linked: tuple[Stream, ...] = ()  # the pages that an account was linked to, the last one at the end
        self.taken_back: set[str] = set()  # conversations that both of them met at once
        self.stayed_behind: set[str] = set()  # conversations whose contact was excused under the page before

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

    # --- while it works ---

    def loaded(self, stream: Stream, checkpoint: Checkpoint) -> None:
        """Expect a run to begin at this checkpoint."""
        observed, run = self.observed[stream], checkpoint.run
        observed.version_before_run = checkpoint.version
        observed.is_undisturbed = checkpoint.sweep is None and (run is None or run.ended_at is not None)
        observed.vain_calls = 0

    def disturbed(self, stream: Stream, what: str) -> None:
        self.seen[what] += 1
        self.observed[stream].is_undisturbed = False

    def calls(self, stream: Stream, now: datetime) -> None:
        """No call is made during a rate limit, and calls do not go round in circles."""
        for other, observed in self.observed.items():
            for scope, until in observed.held_until.items():
                if concerns(scope, other, stream):
                    assert now >= until, f"a call of {stream.key} during the rate limit of {other.key}"
        self.observed[stream].vain_calls += 1
        assert self.observed[stream].vain_calls <= MAX_VAIN_CALLS, "calls without end that bring nothing"

    def batch_fetched(self, reading: Reading) -> None:
        """Remember when each sweep's walk last read: what moves after that may be left to the next sweep."""
        observed, sweep = self.observed[reading.stream], reading.sweep
        observed.vain_calls = 0
        observed.sweep_being_read = (sweep.mode, sweep.walk_started_at) if sweep else (None, reading.fetched.asked_at)
        if sweep is None or sweep.position.phase is Phase.WALK:
            observed.walk_read_at[observed.sweep_being_read] = reading.sent_at
        elif sweep.position.phase is Phase.HEAD:
            self.seen["a resumed run read the head first"] += 1
        else:
            self.seen["a catch-up scan read a batch"] += 1

    def batch_is_safe(self, reading: Reading, after: Checkpoint) -> None:
        """Nothing passes unseen: what a batch offered is stored or a dead letter by the time the sweep moves on."""
        stream, batch, sent_at = reading.stream, reading.fetched.batch, reading.sent_at
        subjects = [item.subject for item in batch.unreadable]
        for each in batch.conversations:
            stored = self.store.conversations.get(each.conversation_id)
            if stored is None or stored.updated_time < each.updated_time:
                subjects.append(each.conversation_id)
                continue
            missing = self._missing_events(stream, each)
            is_excused = self._is_excused(stream, each.conversation_id, sent_at)
            assert not missing or is_excused, f"{missing} offered and not stored"
        for subject in subjects:
            has_letter = self._open_subjects(stream) & {subject, f"{subject}/row"}
            assert has_letter or self._is_excused(stream, subject, sent_at), f"{subject} was offered and is not stored"
        run = self.store.runs.get(reading.budget.run_id)
        read = (run.tally.batches if run else 0) + after.unrecorded.batches
        assert read <= reading.budget.max_batches, "more batches than the run may read"

    # --- at a commit ---

    def about_to_commit(self, stream: Stream, commit: Commit) -> None:
        """Nothing is overwritten by something older, nothing is written twice."""
        changes = commit.changes
        for event in (entry.event for entry in commit.entries):
            if isinstance(event, DeadLetterClosed) and event.resolution is Resolution.DISCARDED:
                self._gives_up(stream, self.store.dead_letters[event.dead_letter_id])
        for row in changes.conversations:
            stored = self.store.conversations.get(row.conversation_id)
            assert stored is None or row.updated_time >= stored.updated_time, f"{row.conversation_id} becomes older"
        events = [row.event_id for row in changes.interaction_events]
        assert len(set(events)) == len(events), "an interaction event twice in one commit"
        again = self.store.interaction_events.keys() & set(events)
        is_of_backlog = any(isinstance(entry.event, MessagesRead) for entry in commit.entries)
        assert not again or (stream in self.linked and is_of_backlog), "an interaction event is written again"
        self._written_before = len(again)  # older ones that the other page read as well: kept once, counted by both
        self._revisions_are_true(stream, changes)
        dead_letters = [row.dead_letter_id for row in changes.payloads]
        assert len(set(dead_letters)) == len(dead_letters), "a dead letter twice in one commit"

    def committed(self, stream: Stream, commit: Commit, deleted_before: frozenset[str]) -> None:
        """The journal is whole, and the checkpoint and the dead letters are its fold."""
        observed = self.observed[stream]
        fresh = [self.store._entry(row) for row in self.store.journal[self._journal_read :]]
        self._journal_read = len(self.store.journal)
        for entry in fresh:
            assert entry.stream == stream, "an entry that no commit brought"
            assert entry.version == observed.refolded.version + 1, "the versions of the stream have gaps or doubles"
            check_link(observed.refolded, entry)
            self._run_is_alone(stream, entry, observed.refolded)
            self._note_what_happened(stream, entry, observed.refolded)
            observed.refolded = evolve(observed.refolded, entry)
            self._entry_is_sound(stream, entry)
        after = commit.checkpoint
        assert rows.checkpoint_json(after) == rows.checkpoint_json(observed.refolded), "the checkpoint is not the fold"
        assert after.unrecorded == Tally(), "a stored checkpoint is ahead of its journal"
        assert after.sweep_is_recorded, "a stored checkpoint has a sweep that is not in its journal"
        if commit.changes.missed or commit.changes.found:
            self.disturbed(stream, "a full sweep noted what it missed")
        for event in (entry.event for entry in fresh):
            if isinstance(event, MessagesRead | MessagesFailed):
                self.disturbed(stream, f"the backlog was read: {event.ending}")
        self._dead_letters_agree(stream, after)
        self._note_taken_back(stream, commit.changes)
        observed.erased["events"] += self._written_before
        self._count_forgotten(stream, commit.changes)
        self._counts_agree(stream, after)
        self._note_first_messages(stream, commit.changes)
        gaps = [gap for of, gap in self.store.gaps.values() if of == stream.key and not gap.is_at_limit]
        histories = after.history.left if after.history is not None else 0
        assert after.backlog == len(gaps), "the journal does not count the backlog"
        assert histories == sum(gap.is_history for gap in gaps), "the journal does not count the histories"
        self._deletions_are_true(stream, fresh, deleted_before)
        self._watermark_is_safe(stream, after)
        if any(isinstance(entry.event, SweepCompleted) for entry in fresh):
            assert commit.run is not None
            self._sweep_completed(stream, after, commit.run)

    def messages_decided(self, outcome: MessagesOutcome, events: tuple[Event, ...]) -> None:
        """Note how it went, and check what holds for every answer."""
        self.decided(outcome, events)
        for event in events:
            match event:
                case MessagesRead(ending=None):
                    self.seen["older messages were read"] += 1
                case MessagesFailed(gap=gap, ending=None) if gap.resets and gap.cursor is None:
                    self.seen["older messages are read from the newest on"] += 1
                case MessagesFailed(ending=None):
                    self.seen["older messages could not be read"] += 1
                case MessagesRead(ending=ending) | MessagesFailed(ending=ending):
                    self.seen[f"a gap ended: {ending}"] += 1
                case _:
                    pass

    def decided(self, outcome: Outcome | MessagesFetched | None, events: tuple[Event, ...]) -> None:
        """A limit costs no retry and no dead letter."""
        if not isinstance(outcome, Refused) or rule_for(outcome.problem, has_cursor=False).remedy is not Remedy.WAIT:
            return
        assert all(isinstance(event, HARMLESS) for event in events), f"a limit was taken for a failure: {events}"

    def _run_is_alone(self, stream: Stream, entry: Entry, before: Checkpoint) -> None:
        """A stream has one run at a time, and a run that has ended goes no further."""
        observed, open_run = self.observed[stream], before.run
        if not isinstance(entry.event, RunStarted | SweepStarted | BatchStored | SweepCompleted | RunEnded):
            return
        assert entry.run_id is not None
        assert entry.run_id not in observed.ended_runs, "a run goes on that has ended"
        is_other = open_run is not None and open_run.ended_at is None and open_run.run_id != entry.run_id
        assert not is_other, "two runs of a stream at once"
        observed.run_ids.add(entry.run_id)
        if isinstance(entry.event, SweepCompleted | RunEnded):
            observed.ended_runs.add(entry.run_id)

    def _note_what_happened(self, stream: Stream, entry: Entry, before: Checkpoint) -> None:
        run = before.run
        match entry.event:
            case RunEnded(reason=reason):
                self.disturbed(stream, f"a run ended: {reason}")
            case SweepStarted(mode=Mode.FULL) if before.sweep is not None and before.sweep.walk_until is not None:
                self.seen["a full sweep forced over an open incremental one"] += 1
            case CursorLost(problem=problem) if problem.kind in WITHOUT_PROGRESS:
                self.disturbed(stream, f"a walk started over: {problem.kind}")
            case StoreReturned():
                self.disturbed(stream, "the store was away")
            case MessagesRead() | MessagesFailed() if before.sweep is not None:
                self.disturbed(stream, "older messages were read during a sweep")
            case StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked():
                self.disturbed(stream, f"a command: {entry.type}")
                if run is not None and run.ended_at is None:
                    self.seen["a command between two batches"] += 1
            case DeadLetterClosed(by=by, resolution=Resolution.DISCARDED) if by:
                self.disturbed(stream, "an operator discarded a dead letter")
            case DeadLetterClosed(by=by) | RedriveFailed(by=by) if by:
                self.disturbed(stream, "an operator redrove a dead letter")
            case _:
                pass

    def _entry_is_sound(self, stream: Stream, entry: Entry) -> None:
        observed, event = self.observed[stream], entry.event
        self._note_messages(stream, event)
        if isinstance(event, MessagesFailed) and event.ending is GapEnding.GONE:
            self._gives_up_older(stream, event.gap)
        dead_letter = dead_letter_after(entry, observed.dead_letters.get)
        if isinstance(event, DeadLetterOpened):
            self.seen[f"a dead letter of {event.stage}"] += 1
            assert event.dead_letter_id not in observed.dead_letters, "a dead letter is opened again"
            is_open = any(each.subject == event.subject for each in self._open_dead_letters(stream))
            assert not is_open, f"a second open dead letter about {event.subject}"
            self._is_guilty(stream, event)
        if isinstance(event, DeadLetterClosed):
            assert observed.dead_letters[event.dead_letter_id].closed_at is None, "a dead letter is closed twice"
            self.disturbed(stream, f"a dead letter was {event.resolution}")
        if isinstance(event, DeadLetterClosed | RedriveFailed):
            observed.redrive_tally += event.tally
        is_rival_s = (entry.run_id or "").startswith(RIVAL)
        if isinstance(event, RateLimited) and not is_rival_s:  # its limits are not known here
            observed.held_until = {event.scope: event.until}
        if isinstance(event, BatchStored | SweepCompleted) and is_rival_s:  # it has read a batch: the limit is over
            observed.held_until = {}
        if dead_letter is not None:
            observed.dead_letters[dead_letter.dead_letter_id] = dead_letter

    def _note_messages(self, stream: Stream, event: Event) -> None:
        observed = self.observed[stream]
        match event:
            case MessagesOwed(gaps=gaps):
                self.seen["messages were owed"] += 1
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

    def _is_guilty(self, stream: Stream, opened: DeadLetterOpened) -> None:
        """No thread becomes a dead letter that could be read all the time, whatever else failed.

        Older messages may: an outage of several runs is no fault of theirs, nor are cursors that always die.
        """
        inbox, thread_id = self.world.inboxes[stream], opened.subject.partition("/")[0]
        thread = inbox.threads.get(thread_id) or inbox.gone.get(thread_id)
        if opened.stage is not Stage.FETCH or thread is None or is_of_older(opened.subject):
            return
        self.seen["a thread was given up"] += 1
        assert thread.was_ever_sick, f"{opened.subject} can be read and was given up"

    def _dead_letters_agree(self, stream: Stream, after: Checkpoint) -> None:
        dead_letters = self.observed[stream].dead_letters
        stored = {key: each for key, each in self.store.dead_letters.items() if each.stream == stream}
        assert dead_letters == stored, "the dead letters are not their fold"
        open_now = {key for key, dead_letter in dead_letters.items() if dead_letter.closed_at is None}
        assert after.open_dead_letters == len(open_now), "the journal does not count the open dead letters"
        with_payload = dead_letters.keys() & self.store.payloads.keys()
        assert with_payload <= open_now, "a closed dead letter has a payload"
        if not self.observed[stream].erased["payloads"]:
            assert with_payload == open_now, "an open dead letter has no payload"

    def _count_forgotten(self, stream: Stream, changes: Changes) -> None:
        """Count what was decided on before its person was forgotten, and not stored for it."""
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

    def _note_taken_back(self, stream: Stream, changes: Changes) -> None:
        """Note what the page before takes over from the one after it.

        A batch that it read before the account was linked anew is settled after the other page has stored the same
        threads. If it had none of them before, nothing tells which page is the later one.
        """
        if stream in self.linked[:1]:
            self.taken_back |= {key for key in changes.moved if key not in self.observed[stream].stored_once}
        elif stream in self.linked:
            self.taken_back -= set(changes.moved)

    def _counts_agree(self, stream: Stream, after: Checkpoint) -> None:
        observed = self.observed[stream]
        runs = [self.store.runs[key] for key in self.store.runs.keys() & observed.run_ids]
        assert after.total == total(run.tally for run in runs) + observed.redrive_tally, "the runs do not add up"
        group = [(each, self.observed[each]) for each in self._group(stream)]
        pages = {(each.platform.value, each.page_id) for each, _ in group}
        rows = sum(map(Counter(map(page_of, self.store.conversations.values())).__getitem__, pages))
        events = sum(map(Counter(map(page_of, self.store.interaction_events.values())).__getitem__, pages))
        totals = total(each.refolded.total for _, each in group)
        counted = (totals.inserted, totals.interaction_events, after.total.dead_lettered)
        by_moves = self.store.erased_by_moves if stream in self.linked else Counter[str]()
        stored = (
            rows + sum(each.erased["conversations"] for _, each in group) + by_moves["conversations"],
            events + sum(each.erased["events"] for _, each in group) + by_moves["events"],
            len(observed.dead_letters),
        )
        assert counted == stored, "the journal does not count what the tables hold"

    def _deletions_are_true(self, stream: Stream, fresh: list[Entry], deleted_before: frozenset[str]) -> None:
        """Only a completed full sweep marks what is gone, and only what was gone while it walked."""
        marked = self.deleted(stream) - deleted_before
        completed = [entry.event for entry in fresh if isinstance(entry.event, SweepCompleted)]
        assert len(marked) == sum(event.tally.deleted for event in completed), "deletions are not counted"
        observed, threads = self.observed[stream], self.world.inboxes[stream].threads
        for key in marked:
            self.seen["a thread was marked as deleted"] += 1
            thread = threads.get(key)
            assert observed.sweep_being_read is not None
            is_there = thread is not None and thread.moved_at <= observed.walk_read_at[observed.sweep_being_read]
            assert not is_there, f"{key} is there and was marked as deleted"

    def deleted(self, stream: Stream) -> frozenset[str]:
        return frozenset(row.conversation_id for row in self._rows(stream) if row.deleted_at is not None)

    def deleted_of_linked(self, stream: Stream) -> frozenset[str]:
        return frozenset().union(*(self.deleted(each) for each in self._group(stream) if each != stream))

    def others_are_left_alone(self, stream: Stream, deleted_before: frozenset[str]) -> None:
        """A page marks nothing as deleted that stands under another."""
        assert self.deleted_of_linked(stream) <= deleted_before, "a thread of another page was marked as deleted"

    def _is_forgotten(self, stream: Stream, contact_id: str) -> bool:
        return any((each.key, "contact", contact_id) in self.store.forgotten for each in self._group(stream))

    def _watermark_is_safe(self, stream: Stream, after: Checkpoint) -> None:
        """What is older than the watermark is stored; less the overlap, where nobody has a clock that is right."""
        if after.watermark is None or _is_in_doubt(after) or not self.world.is_ordered:
            return
        for thread in self.world.inboxes[stream].threads.values():
            if thread.updated_time < after.watermark - self.doubt:
                assert self._is_safe(stream, thread), f"the watermark passed {thread.thread_id}, which is not stored"

    def _sweep_completed(self, stream: Stream, after: Checkpoint, run: Run) -> None:
        observed = self.observed[stream]
        self.seen["a sweep completed"] += 1
        assert observed.sweep_being_read is not None, "a sweep completed that read nothing"
        walk_read_at = observed.walk_read_at[observed.sweep_being_read]
        is_in_doubt = _is_in_doubt(after) or not self.world.is_ordered
        if run.problem is not None and run.problem.kind in DOUBTS:
            self.seen[f"a sweep completed in doubt: {run.problem.kind}"] += 1
            is_in_doubt = True
        for thread in self.world.inboxes[stream].threads.values() if not is_in_doubt else ():
            if thread.moved_at <= walk_read_at:
                assert self._is_safe(stream, thread), f"{thread.thread_id} moved during the walk and was missed"
        if observed.is_undisturbed and not run.tally.has_changes:
            self.seen["a quiet sweep"] += 1
            if run.tally.batches > 1:
                self.seen["a quiet sweep of several batches"] += 1
            assert after.version - observed.version_before_run == 1, "a quiet sweep wrote more than one entry"

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

    def _note_first_messages(self, stream: Stream, changes: Changes) -> None:
        """Note the oldest message that came with each thread when it was stored first: what is older is its history."""
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

    def _missing(self, stream: Stream, thread: Thread) -> list[Interaction]:
        """Return the messages that are not stored: of those that the list shows, of the history, and of those since.

        Of a thread that came without messages, no others are owed, nor is the history of one that moved here.
        """
        listed = as_listed(thread, self.messages, self.world.habits.window)
        first = self.observed[stream].first_messages.get(thread.thread_id)
        if thread.unsent:  # older ones have come in their place, and moved nothing
            came = -len(listed.interactions) if first is None else first
            known = {each.event_id for each in thread.messages[came:]}
            listed = replace(listed, interactions=tuple(each for each in listed.interactions if each.event_id in known))
        gaps = self._gaps_of(stream, thread.thread_id)
        limit = max((gap.history_to for gap in gaps if gap.history_to is not None), default=EPOCH)
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

    def _readable(self, stream: Stream, thread: Thread) -> set[str]:
        """Name the messages that are there, but for those that are on record as withheld, as beyond the window.

        What was unsent makes the API's count no proof that something is missing.
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
        """Return what is owed of a thread, by the backlog or by dead letters."""
        return [gap for gap in self._gaps_of(stream, thread_id) if not gap.is_at_limit]

    def _gaps_of(self, stream: Stream, thread_id: str) -> list[Gap]:
        """Return what is on record of a thread's older messages, in the backlog or in dead letters."""
        payloads = (
            self.store.payloads.get(each.dead_letter_id)
            for each in self._open_dead_letters(stream)
            if is_of_older(each.subject)
        )
        gaps = [gap for _, gap in self.store.gaps.values()] + [gap_in(each) for each in payloads if each is not None]
        return [gap for gap in gaps if gap.conversation_id == thread_id]

    def _is_excused(self, stream: Stream, thread_id: str, as_of: datetime | None = None) -> bool:
        """Whether its person had it erased, or an operator discarded it as it is, or as it was when it was read."""
        inbox, given_up_at = self.world.inboxes[stream], self.observed[stream].given_up_at.get(thread_id)
        if self._is_forgotten(stream, f"c_{thread_id}"):
            return True
        thread = inbox.threads.get(thread_id)
        if given_up_at is None or thread is None:
            return given_up_at is not None
        return thread.moved_at <= given_up_at or (as_of is not None and thread.moved_at > as_of)

    def _stored_at(self, stream: Stream, thread_id: str) -> datetime:
        """Return the time of the state that is stored, or kept in the dead letter about its row."""
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
        missing = events.difference(self.store.interaction_events)  # `-` would go through all that is stored
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

    def _rows(self, stream: Stream) -> list[ConversationRow]:
        of_stream = (stream.platform.value, stream.page_id)
        return [row for row in self.store.conversations.values() if (row.platform, row.page_id) == of_stream]

    def rows_alive(self, stream: Stream) -> list[ConversationRow]:
        return [row for row in self._rows(stream) if row.deleted_at is None]

    def forgot(self, stream: Stream, thread_id: str, conversations: int, events: int) -> None:
        self.seen["a person was forgotten"] += 1
        self.observed[stream].erased.update(conversations=conversations, events=events)
        for linked in self._group(stream):
            self.observed[linked].erased["payloads"] += 1
        if not self.store.linked(stream) >= {linked.key for linked in self._group(stream)}:
            self.seen["a person was forgotten before it was known whose account moved"] += 1
        self.nothing_is_left_of_the_forgotten()
        self.observed[stream].given_up_at.pop(thread_id, None)

    def _gives_up(self, stream: Stream, dead_letter: DeadLetter) -> None:
        """Note that a dead letter is discarded: a thread is given up as it is now, a message for ever."""
        payload = self.store.payloads.get(dead_letter.dead_letter_id)
        if dead_letter.stage is Stage.EVENTS and payload is not None:
            rows = msgspec.json.decode(payload, type=Changes).interaction_events
            self.observed[stream].given_up_events |= {row.event_id for row in rows}
            return
        self.observed[stream].given_up_at[dead_letter.subject.partition("/")[0]] = self.world.now
        thread = self._thread(stream, dead_letter.subject.partition("/")[0])
        if thread is not None and dead_letter.stage is Stage.FETCH:
            self.observed[stream].given_up_older |= {each.event_id for each in thread.messages}

    def _gives_up_older(self, stream: Stream, gap: Gap) -> None:
        """Note that messages are given up because their thread is gone: it may come back, or be of another page."""
        threads = [self._thread(of, gap.conversation_id) for of in self._group(stream)]
        thread = next((each for each in threads if each is not None), None)
        others = {of.key for of in self.linked[-1:] if stream != of and stream in self.linked}
        if any(of in others and each.conversation_id == gap.conversation_id for of, each in self.store.gaps.values()):
            return  # the page that the account was linked to has taken over what is owed
        if thread is not None:
            self.observed[stream].given_up_older |= {each.event_id for each in thread.messages}

    def _thread(self, stream: Stream, thread_id: str) -> Thread | None:
        inbox = self.world.inboxes[stream]
        return inbox.threads.get(thread_id) or inbox.gone.get(thread_id)

    # --- at the end ---

    def everything_is_safe(self) -> None:
        for stream, inbox in self.world.inboxes.items():
            is_in_doubt = _is_in_doubt(self.observed[stream].refolded) or not self.world.is_ordered
            for thread in inbox.threads.values() if not is_in_doubt else ():
                assert self._is_safe(stream, thread), f"{thread.thread_id} is neither stored nor a dead letter"

    def projections_are_the_fold(self) -> None:
        """Every projection can be dropped and rebuilt equal from the journal alone."""
        entries = [self.store._entry(row) for row in self.store.journal]
        rebuilt = list(project(entries, removals(entries)))
        dead_letters = {each.dead_letter_id: each for each in rebuilt if isinstance(each, DeadLetter)}
        runs = {each.run.run_id: each.run for each in rebuilt if isinstance(each, RunOf)}
        snapshots = {each.stream.key: rows.checkpoint_json(each) for each in rebuilt if isinstance(each, Checkpoint)}
        assert dead_letters == self.store.dead_letters, "the dead letters are not their fold"
        assert runs == self.store.runs, "the runs are not their fold"
        assert snapshots == self.store.checkpoints, "the checkpoints are not their fold"
        gaps = {each.gap.gap_id: (each.stream.key, each.gap) for each in rebuilt if isinstance(each, GapOf)}
        assert gaps == self.store.gaps, "the backlog is not its fold"

    def histories_reach_back(self, stream: Stream, limit: datetime) -> None:
        """No history ends later than the limit, after a full sweep with that limit."""
        gaps = [gap for of, gap in self.store.gaps.values() if of == stream.key and gap.is_at_limit]
        assert all(gap.reached_at <= limit for gap in gaps), "a history ends before the limit"

    def nothing_is_left_of_the_forgotten(self) -> None:
        """Of an account that has moved, as soon as a row says so: on all of its pages."""
        gone = {(of, key) for of, kind, key in self.store.forgotten if kind == "contact"}
        kept = {
            *((f"{row.platform}:{row.page_id}", row.contact_id) for row in self.store.conversations.values()),
            *((f"{row.platform}:{row.page_id}", row.contact_id) for row in self.store.interaction_events.values()),
            *((f"{platform}:{page_id}", contact_id) for platform, page_id, contact_id in self.store.contacts),
        }
        linked = {stream: self.store.linked(Stream.parse(stream)) for stream, _ in gone}
        everywhere = {(of, key) for stream, key in gone for of in linked[stream]}
        assert everywhere.isdisjoint(kept), "somebody was forgotten and is stored"
        held = {
            (dead_letter.stream, key)
            for dead_letter in self.store.dead_letters.values()
            for _, key in gone
            if key in self.store.payloads.get(dead_letter.dead_letter_id, "")
        }
        assert everywhere.isdisjoint(held), "somebody was forgotten and is kept in a dead letter"

    def tables_equal_inboxes(self) -> None:
        """Every thread is stored in its newest state, what is gone is marked, and nothing else is stored."""
        self.nothing_is_left_of_the_forgotten()
        for stream, inbox in self.world.inboxes.items():
            self._table_equals_inbox(stream, inbox)
        for dead_letter in self.store.dead_letters.values():
            thread_id = dead_letter.subject.removeprefix("contact c_").partition("/")[0]
            is_here = thread_id in self.world.inboxes[dead_letter.stream].threads
            assert dead_letter.closed_at is not None or not is_here, (
                f"{dead_letter.subject} can be read and is a dead letter still"
            )

    def _messages_are_as_they_are(self, thread: Thread, true: Conversation) -> None:
        """What the list shows has its text, and what was unsent in between has none."""
        stored = self.store.interaction_events
        for each in true.interactions:
            assert stored[each.event_id].text == each.text, f"{each.event_id} was edited, and is as it was"
        is_whole = len(true.interactions) >= self.messages or not true.has_older
        missing = [stored[key] for key in thread.unsent & stored.keys() if _is_in(true, stored[key])]
        if is_whole and len(missing) <= len(true.interactions):
            assert all(row.deleted_at is not None for row in missing), "what was unsent has its text still"

    def _revisions_are_true(self, stream: Stream, changes: Changes) -> None:
        """Only what was unsent is taken for unsent, and only what was edited for edited."""
        for row in changes.revised:
            of_group = (self._thread(each, row.conversation_id) for each in self._group(stream))
            thread = next(each for each in of_group if each is not None)
            if row.deleted_at is not None:
                self.seen["a message was unsent"] += 1
                assert row.event_id in thread.unsent, f"{row.event_id} is there and was taken for unsent"
                assert (row.text, row.attachments) == (None, None), f"{row.event_id} was unsent and has its text"
            else:
                self.seen["a message was edited"] += 1
                (message,) = (each for each in thread.messages if each.event_id == row.event_id)
                assert (message.text or "").startswith(row.text or " "), f"{row.event_id} never had that text"

    def _table_equals_inbox(self, stream: Stream, inbox: Inbox) -> None:
        rows = self._rows_expected_of(stream)
        strange = rows.keys() - inbox.threads.keys() - inbox.gone.keys()
        assert not strange, f"{strange} stand under {stream.key}, which does not have them"
        for thread in inbox.threads.values():
            if self._is_forgotten(stream, thread.contact_id):
                assert thread.thread_id not in self.store.conversations, f"{thread.contact_id} was forgotten"
                continue
            true, stored = as_listed(thread, self.messages, self.world.habits.window), rows[thread.thread_id]
            assert stored.deleted_at is None, f"{thread.thread_id} is there and marked as deleted"
            assert stored.updated_time == true.updated_time
            assert (stored.snippet, stored.message_count) == (true.snippet, true.message_count)
            assert {event.event_id for event in true.interactions} <= self.store.interaction_events.keys()
            self._messages_are_as_they_are(thread, true)
            lost = {each.event_id for each in self._missing(stream, thread)}
            assert not lost, f"{lost} were never stored"
        for platform, page_id, contact_id in self.store.contacts:
            if (platform, page_id) == (stream.platform.value, stream.page_id):
                is_here = contact_id.removeprefix("c_") in inbox.threads.keys() | inbox.gone.keys()
                assert is_here or self._is_stranded(stream, contact_id.removeprefix("c_")), (
                    f"{contact_id} stands under {stream.key}, which does not have their thread"
                )
        gone = rows.keys() & inbox.gone.keys() - self.taken_back
        for key in gone if inbox.threads else ():  # an empty inbox is not believed
            assert rows[key].deleted_at is not None, f"{key} is gone and not marked as deleted"
        for key, row in self.store.interaction_events.items():
            if row.conversation_id in rows:
                thread = inbox.threads.get(row.conversation_id) or inbox.gone[row.conversation_id]
                assert key in {event.event_id for event in thread.messages}
                assert row.page_id == rows[row.conversation_id].page_id, f"{key} did not follow its thread"

    def _rows_expected_of(self, stream: Stream) -> dict[str, ConversationRow]:
        """Return the rows of a stream, where an account has moved those of the page after that the one before keeps."""
        rows = {row.conversation_id: row for of in self._group(stream) for row in self._rows(of)}
        return {
            key: row
            for key, row in rows.items()
            if (stream == self.linked[-1] if key in self.taken_back else row.page_id == stream.page_id)
        }

    def _is_stranded(self, stream: Stream, thread_id: str) -> bool:
        """Whether a contact may stand under the page before, whose threads have moved.

        Known, and left as it is: the store refused the row of the thread, and there was no message. When the thread is
        read under the other page, nothing tells that its contact stands under this one.
        """
        is_before = stream in self.linked[:-1]
        is_stranded = is_before and (thread_id in self.taken_back or thread_id not in self.observed[stream].named)
        self.stayed_behind |= {thread_id} if is_stranded else set()
        return is_stranded


def _is_in(read: Conversation, row: InteractionEventRow) -> bool:
    times = [each.occurred_at for each in read.interactions]
    return bool(times) and min(times) < row.occurred_at < max(times)


def are_covered(gaps: list[Gap], thread: Thread, messages: list[Interaction]) -> bool:
    """Whether messages are still to be read by what gaps owe: each is below what was read, or below the cursor."""
    places = {each.event_id: place for place, each in enumerate(thread.messages)}
    reached_at = max((gap.reached_at for gap in gaps), default=NEVER)
    cursors = (gap.cursor.partition("/")[0] if gap.cursor is not None else None for gap in gaps)
    below = max((len(places) if cursor is None else places[cursor] for cursor in cursors), default=0)
    return all(each.occurred_at <= reached_at or places[each.event_id] < below for each in messages)


def _is_in_doubt(checkpoint: Checkpoint) -> bool:
    """Whether the end of a walk was assumed, and nothing is known of what may lie behind it."""
    return checkpoint.doubt is not None and checkpoint.doubt.problem.kind in WITHOUT_PROGRESS


def concerns(scope: Scope, owner: Stream, stream: Stream) -> bool:
    match scope:
        case Scope.APP:
            return True
        case Scope.PAGE:
            return owner.page_id == stream.page_id
        case Scope.STREAM:
            return owner == stream
