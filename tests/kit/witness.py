"""What must hold after every commit, whatever happened: the project's invariants, told against the true inbox."""

from collections import Counter
from datetime import datetime

import msgspec

from kit.builders import STREAM, total
from kit.memory_store import MemoryStore
from kit.world import Thread, World, told
from milepost.core.chain import check
from milepost.core.checkpoint import Checkpoint, Run, Sweep, evolve
from milepost.core.events import Phase, RunStatus, Tally
from milepost.core.merge import dead_letter_id, difference
from milepost.core.model import Batch, Changes, Known, Unreadable
from milepost.core.plan import Slice
from milepost.core.ports import Commit, Fetched


class Witness:
    """Watches a simulation; every method that does not like what it sees raises AssertionError."""

    def __init__(self, world: World, store: MemoryStore) -> None:
        self.world = world
        self.store = store
        self.seen: Counter[str] = Counter()
        self.refolded = Checkpoint(STREAM.key)
        self._walk_read_at: dict[datetime, datetime] = {}
        self._sweep_being_read: datetime | None = None
        self._entries_before_run = 0
        self._is_undisturbed = False

    # --- while it works ---

    def run_begins(self, checkpoint: Checkpoint, work: Slice) -> None:
        self._entries_before_run = len(self.store.journal)
        self._is_undisturbed = checkpoint.sweep is None
        sweep = checkpoint.sweep
        if sweep is not None and work.wants_full and sweep.walk_until is not None:
            self.seen["a full sweep forced over an open incremental one"] += 1

    def disturbed(self, what: str) -> None:
        self.seen[what] += 1
        self._is_undisturbed = False

    def batch_fetched(self, sweep: Sweep | None, fetched: Fetched, sent_at: datetime) -> None:
        """Remember when each sweep's walk last read: what moves after that may be left to the next sweep."""
        self._sweep_being_read = sweep.walk_started_at if sweep is not None else fetched.asked_at
        if sweep is None or sweep.position.phase is Phase.WALK:
            self._walk_read_at[self._sweep_being_read] = sent_at
        else:
            self.seen["a catch-up scan read a batch"] += 1

    def batch_is_safe(self, batch: Batch, known: Known) -> None:
        """Nothing passes unseen: what a batch offered is stored or a dead letter by the time the sweep moves on."""
        again = difference(STREAM, batch, known, self.world.now)
        assert not again.changes.interaction_events, "a message that was offered is not stored"
        assert not again.dead_letters, "an unreadable item was passed without a dead letter"
        for each in batch.conversations:
            stored = self.store.conversations.get(each.conversation_id)
            assert stored is not None, f"{each.conversation_id} was offered and is not stored"
            assert stored.updated_time >= each.updated_time, f"{each.conversation_id} is stored older than offered"

    # --- at a commit ---

    def about_to_commit(self, changes: Changes) -> None:
        """Nothing is overwritten by something older, nothing is written twice."""
        for row in changes.conversations:
            stored = self.store.conversations.get(row.conversation_id)
            assert stored is None or row.updated_time >= stored.updated_time, f"{row.conversation_id} becomes older"
        events = [row.event_id for row in changes.interaction_events]
        assert len(set(events)) == len(events), "an interaction event twice in one commit"
        assert self.store.interaction_events.keys().isdisjoint(events), "an interaction event is written again"
        letters = [row.dead_letter_id for row in changes.payloads]
        assert len(set(letters)) == len(letters), "a dead letter twice in one commit"
        assert self.store.payloads.keys().isdisjoint(letters), "a dead letter is opened again"

    def committed(self, commit: Commit) -> None:
        """The journal is whole, and the checkpoint is its fold."""
        versions = [row.version for row in self.store.journal]
        assert versions == list(range(1, len(versions) + 1)), "the versions of the stream have gaps or doubles"
        fresh = self.store.entries(STREAM.key)[self.refolded.version :]
        for entry in fresh:
            check(self.refolded, entry)
            self.refolded = evolve(self.refolded, entry)
        after = commit.checkpoint
        assert msgspec.json.encode(after) == msgspec.json.encode(self.refolded), "the checkpoint is not the fold"
        assert after.unrecorded == Tally(), "a stored checkpoint is ahead of its journal"
        assert after.sweep_is_recorded, "a stored checkpoint has a sweep that is not in its journal"
        self._counts_agree(after)
        self._watermark_is_safe(after)
        if commit.run is not None and commit.run.status in (RunStatus.COMPLETE, RunStatus.COMPLETE_WITH_ERRORS):
            self._sweep_completed(commit.run)

    def _counts_agree(self, after: Checkpoint) -> None:
        assert after.total == total(run.tally for run in self.store.runs.values()), "the runs do not add up"
        counted = (after.total.inserted, after.total.interaction_events, after.total.dead_lettered)
        stored = (len(self.store.conversations), len(self.store.interaction_events), len(self.store.payloads))
        assert counted == stored, "the journal does not count what the tables hold"
        assert after.open_dead_letters == len(self.store.dead_letters) == len(self.store.payloads)

    def _watermark_is_safe(self, after: Checkpoint) -> None:
        if after.watermark is None:
            return
        for thread in self.world.threads.values():
            if thread.updated_time < after.watermark:
                assert self._is_safe(thread), f"the watermark passed {thread.thread_id}, which is not stored"

    def _sweep_completed(self, run: Run) -> None:
        self.seen["a sweep completed"] += 1
        assert self._sweep_being_read is not None, "a sweep completed that read nothing"
        walk_read_at = self._walk_read_at[self._sweep_being_read]
        for thread in self.world.threads.values():
            if thread.moved_at <= walk_read_at:
                assert self._is_safe(thread), f"{thread.thread_id} moved during the walk and was missed"
        if self._is_undisturbed and not run.tally.has_changes:
            self.seen["a quiet sweep"] += 1
            if run.tally.batches > 1:
                self.seen["a quiet sweep of several batches"] += 1
            assert len(self.store.journal) - self._entries_before_run == 1, "a quiet sweep wrote more than one entry"

    def _is_safe(self, thread: Thread) -> bool:
        if thread.is_readable:
            stored = self.store.conversations.get(thread.thread_id)
            return stored is not None and stored.updated_time >= thread.updated_time
        return dead_letter_id(STREAM, Unreadable(thread.thread_id, "", "")) in self.store.dead_letters

    # --- at the end ---

    def everything_is_safe(self) -> None:
        for thread in self.world.threads.values():
            assert self._is_safe(thread), f"{thread.thread_id} is neither stored nor a dead letter"

    def tables_equal_inbox(self, messages: int) -> None:
        """Every readable thread is stored in its newest state, and nothing else is stored."""
        assert self.store.conversations.keys() <= self.world.threads.keys()
        for thread in self.world.threads.values():
            if not thread.is_readable:
                continue
            true = told(thread, messages)
            stored = self.store.conversations[thread.thread_id]
            assert stored.updated_time == true.updated_time
            assert (stored.snippet, stored.message_count) == (true.snippet, true.message_count)
            assert {event.event_id for event in true.interactions} <= self.store.interaction_events.keys()
        for key, row in self.store.interaction_events.items():
            assert key in {event.event_id for event in self.world.threads[row.conversation_id].messages}
