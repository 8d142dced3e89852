"""The project's invariants, which must hold after every commit, checked against the true inboxes."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter

from kit.builders import total
from kit.final_invariants import FinalInvariants
from kit.observations import has_doubt
from milepost.core.checkpoint import Checkpoint, Run, Sweep
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
from milepost.core.journal import check_link, dead_letter_after
from milepost.core.model import Changes, Stream
from milepost.core.plan import RunBudget
from milepost.core.ports import Commit, Fetched, MessagesFetched, MessagesOutcome, Outcome, Refused
from milepost.core.position import GapEnding, MessagesFailed, MessagesRead, Mode, Phase, Position
from milepost.core.problems import Remedy, Scope, rule_for
from milepost.core.records import Decision, Record
from milepost.core.revisions import is_reported_unsent
from milepost.core.webhooks import FactsApplied
from milepost.stores import rows

RIVAL = "another process"  # its name in the journal, and the prefix of its run ids
HARMLESS = (RunStarted, SweepStarted, BatchStored, RateLimited, RunEnded, StoreReturned)
page_of = attrgetter("platform", "page_id")
MAX_VAIN_CALLS = 60  # in a row: more than three attempts at every step of the reduced requests take


@dataclass(frozen=True)
class Reading:
    """A batch that a run read, and the sweep that was open then, if any."""

    stream: Stream
    sweep: Sweep | None
    fetched: Fetched
    sent_at: datetime
    budget: RunBudget


def is_refused(decision: Decision) -> bool:
    """Whether a decision took an answer for a refusal in disguise, so that nothing was read."""
    return isinstance(decision, Record) and not isinstance(decision.events[-1], BatchStored | SweepCompleted)


MAX_CALL = timedelta(seconds=35)  # the longest time from sending a request, in whole seconds, to its answer


class Invariants(FinalInvariants):
    """Checks a simulation as it runs. The methods raise AssertionError if an invariant is violated."""

    # --- while it runs ---

    def calls(self, stream: Stream, now: datetime) -> None:
        """No call is made during a rate limit, and calls do not repeat without end."""
        for other, observed in self.observed.items():
            for scope, until in observed.held_until.items():
                if concerns(scope, other, stream):
                    assert now >= until, f"a call of {stream.key} during the rate limit of {other.key}"
        self.observed[stream].vain_calls += 1
        assert self.observed[stream].vain_calls <= MAX_VAIN_CALLS, "calls without end that bring nothing"

    def batch_fetched(self, reading: Reading) -> None:
        """Remember when each sweep's walk last read: threads that move later may be left to the next sweep."""
        observed, sweep = self.observed[reading.stream], reading.sweep
        observed.vain_calls = 0
        observed.sweep_being_read = (sweep.mode, sweep.walk_started_at) if sweep else (None, reading.fetched.asked_at)
        position = sweep.position if sweep is not None else Position()
        if position.phase is not Phase.HEAD and position.cursor is None:
            observed.head_read_at[observed.sweep_being_read] = reading.sent_at
        if position.phase is Phase.WALK:
            observed.walk_read_at[observed.sweep_being_read] = reading.sent_at
        elif position.phase is Phase.HEAD:
            self.seen["a resumed run read the head first"] += 1
        else:
            self.seen["a catch-up scan read a batch"] += 1
            self.seen["a catch-up scan was repeated"] += position.scan.number > 1 and position.cursor is None

    def batch_is_safe(self, reading: Reading, after: Checkpoint) -> None:
        """Nothing is lost: everything in a batch is stored or a dead letter by the time the sweep moves on."""
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
            is_newer = stored is None or row.updated_time >= stored.updated_time
            is_in_future = stored is not None and stored.updated_time > self.world.now - self.behind  # by our clock
            assert is_newer or is_in_future, f"{row.conversation_id} becomes older"
        events = [row.event_id for row in changes.interaction_events]
        assert len(set(events)) == len(events), "an interaction event twice in one commit"
        again = self.store.interaction_events.keys() & set(events)
        is_of_backlog = any(isinstance(entry.event, MessagesRead) for entry in commit.entries)
        assert not again or (stream in self.linked and is_of_backlog), "an interaction event is written again"
        self._written_before = len(again)  # older messages that both pages read: stored once, but counted by both
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
        if commit.changes.settled:
            self.disturbed(stream, "a fact was applied" if commit.changes.revised else "a fact was no news")
        if commit.changes.missed or commit.changes.found:
            self.disturbed(stream, "a full sweep noted what it missed")
        for event in (entry.event for entry in fresh):
            if isinstance(event, MessagesRead | MessagesFailed):
                self.disturbed(stream, f"the backlog was read: {event.ending}")
        self._dead_letters_agree(stream, after)
        self._note_direction(stream, commit.changes)
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
        """Note the outcome, and check the invariants of every answer."""
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

    def decided(
        self,
        outcome: Outcome | MessagesFetched | None,
        events: tuple[Event, ...],
        *,
        is_as_before: bool = False,
    ) -> None:
        """A limit costs no retry and no dead letter.

        It may be taken for a refusal of what was requested right after the positions could be read, or where a redrive
        `is_as_before`: refused like its dead letter.
        """
        if not isinstance(outcome, Refused) or rule_for(outcome.problem, has_cursor=False).remedy is not Remedy.WAIT:
            return
        if is_as_before or (outcome.check is not None and outcome.check.problem is None):
            self.seen["a limit was taken for a refusal of what was requested"] += 1
            return
        assert all(isinstance(event, HARMLESS) for event in events), f"a limit was taken for a failure: {events}"

    def _run_is_alone(self, stream: Stream, entry: Entry, before: Checkpoint) -> None:
        """A stream has one run at a time, and a run that has ended records nothing more."""
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
        elif isinstance(event, FactsApplied):
            observed.redrive_tally += Tally(edited=event.edited, unsent=event.unsent)
        is_rival_s = (entry.run_id or "").startswith(RIVAL)
        if isinstance(event, RateLimited) and not is_rival_s:  # the rival's limits are not known here
            observed.held_until = {event.scope: event.until}
        if isinstance(event, BatchStored | SweepCompleted) and is_rival_s:  # a batch was read: the limit is over
            observed.held_until = {}
        if dead_letter is not None:
            observed.dead_letters[dead_letter.dead_letter_id] = dead_letter

    def _is_guilty(self, stream: Stream, opened: DeadLetterOpened) -> None:
        """No thread that could be read all the time becomes a dead letter, whatever else failed.

        Older messages may become one without a fault of their own: after an outage of several runs, or if their cursors
        always die.
        """
        thread = self._thread(stream, opened.subject.partition("/")[0])
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
        """Only a completed full sweep marks threads as deleted, and only those that were gone while it read the inbox.

        They were gone, at the latest, when it last began at the head, however often they moved.
        """
        marked = self.deleted(stream) - deleted_before
        completed = [entry.event for entry in fresh if isinstance(entry.event, SweepCompleted)]
        assert len(marked) == sum(event.tally.deleted for event in completed), "deletions are not counted"
        observed, threads = self.observed[stream], self.world.inboxes[stream].threads
        for key in marked:
            self.seen["a thread was marked as deleted"] += 1
            thread = threads.get(key)
            assert observed.sweep_being_read is not None
            is_there = thread is not None and thread.listed_since <= observed.head_read_at[observed.sweep_being_read]
            assert not is_there, f"{key} is there and was marked as deleted"

    def others_are_left_alone(self, stream: Stream, deleted_before: frozenset[str]) -> None:
        """A page marks no thread as deleted that is stored under another page."""
        assert self.deleted_of_linked(stream) <= deleted_before, "a thread of another page was marked as deleted"

    def _watermark_is_safe(self, stream: Stream, after: Checkpoint) -> None:
        """Everything older than the watermark is stored, except within the overlap if a clock is wrong."""
        if after.watermark is None or has_doubt(after) or not self.world.is_ordered:
            return
        for thread in self.world.inboxes[stream].threads.values():
            if thread.updated_time < after.watermark - self.doubt:
                assert self._is_safe(stream, thread), f"the watermark passed {thread.thread_id}, which is not stored"

    def _sweep_completed(self, stream: Stream, after: Checkpoint, run: Run) -> None:
        observed = self.observed[stream]
        self.seen["a sweep completed"] += 1
        assert observed.sweep_being_read is not None, "a sweep completed that read nothing"
        walk_read_at = observed.walk_read_at[observed.sweep_being_read]
        is_in_doubt = has_doubt(after) or not self.world.is_ordered
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

    def forgot(self, stream: Stream, thread_id: str, conversations: int, events: int) -> None:
        self.seen["a person was forgotten"] += 1
        self.observed[stream].erased.update(conversations=conversations, events=events)
        for linked in self._group(stream):
            self.observed[linked].erased["payloads"] += 1
        if not self.store.linked(stream) >= {linked.key for linked in self._group(stream)}:
            self.seen["a person was forgotten before it was known whose account moved"] += 1
        self.nothing_is_left_of_the_forgotten()
        self.observed[stream].given_up_at.pop(thread_id, None)

    def _revisions_are_true(self, stream: Stream, changes: Changes) -> None:
        """Only unsent messages are marked as unsent, and only edited ones as edited."""
        for row in changes.revised:
            of_group = (self._thread(each, row.conversation_id) for each in self._group(stream))
            thread = next(each for each in of_group if each is not None)
            stored = self.store.interaction_events.get(row.event_id)
            if stored is not None and is_reported_unsent(stored):
                assert row.deleted_at is not None, f"{row.event_id} was unsent, and is there again"
            if row.deleted_at is not None:
                self.seen["a message was unsent"] += 1
                assert row.event_id in thread.unsent, f"{row.event_id} is there and was taken for unsent"
                assert (row.text, row.attachments) == (None, None), f"{row.event_id} was unsent and has its text"
            else:
                self.seen["a message was edited"] += 1
                if stored is not None and len(row.text or "") < len(stored.text or ""):
                    # A message counts as read when its request was sent, but has all edits up to the answer.
                    assert row.content_at is not None
                    assert stored.content_at is not None
                    later_by = row.content_at - stored.content_at
                    is_in_doubt = bool(changes.settled) and timedelta() <= later_by <= MAX_CALL
                    assert is_in_doubt, f"{row.event_id} became older"
                (message,) = (each for each in thread.messages if each.event_id == row.event_id)
                assert (message.text or "").startswith(row.text or " "), f"{row.event_id} never had that text"


def concerns(scope: Scope, owner: Stream, stream: Stream) -> bool:
    match scope:
        case Scope.APP:
            return True
        case Scope.PAGE:
            return owner.page_id == stream.page_id
        case Scope.STREAM:
            return owner == stream
