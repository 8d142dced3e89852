"""One stream's life in one process: the loop that the shell has, without its tasks, its network and its database."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

import msgspec
from msgspec.structs import replace

from kit.builders import CODEC
from kit.fake_inbox import whole_second
from kit.simulation_setting import Setting, settled
from milepost.core.checkpoint import BatchUnchanged, Checkpoint, RateLimit
from milepost.core.commands import pause, resume
from milepost.core.errors import VersionConflict
from milepost.core.events import Reason, StoreReturned
from milepost.core.evolve import skip_unchanged
from milepost.core.model import Known, RefusedRow, Stream
from milepost.core.plan import Fetch, Finish, RunBudget, Wait, is_over, open_sweep, plan
from milepost.core.ports import DueDeadLetter, Fetched, Outcome, Refused, Rejected, Request
from milepost.core.rate_limits import held_until
from milepost.core.records import Context, Pending, Record, conclude, prepare, recover
from milepost.core.redrive import discard, redrive, to_reread
from milepost.core.remedies import rule_for
from milepost.core.retry import next_run_at

MAX_REDRIVES_IN_A_TURN = 5


class BrokeOff(Exception):
    """The store stayed away until the turn gave up."""


class Life:
    """One stream's turns in one process. What it yields is the instant at which it has something to do again."""

    def __init__(self, setting: Setting, stream: Stream, rate_limits: dict[Stream, RateLimit]) -> None:
        self.setting = setting
        self.stream = stream
        self.inbox = setting.world.inboxes[stream]
        self.invariants = setting.invariants
        self.store = setting.store
        self.policy = setting.scenario.policy
        self.rate_limits = rate_limits
        self.own_run_id: str | None = None
        self.stale: Checkpoint | None = None

    def slots(self) -> Iterator[datetime]:
        """Take turn after turn, as a daemon does."""
        while True:
            budget = self.setting.new_budget(self.stream)
            try:
                yield from self.budget(budget)
            except BrokeOff:
                self.invariants.disturbed(self.stream, "a run broke off, because the store stayed away")
            self.own_run_id = budget.run_id
            yield self._next_run_at()

    def budget(self, budget: RunBudget) -> Iterator[datetime]:
        """Work the stream for one run, then redrive what is due."""
        checkpoint = self._taken_over()
        self.invariants.run_begins(self.stream, checkpoint, budget)
        while not is_over(checkpoint, budget):
            yield self.setting.now
            self.setting.step()
            checkpoint = self._command(checkpoint, budget)
            checkpoint = self._held_or_resumed(checkpoint, budget)
            budget = self._stopped(budget)
            self._rival(checkpoint, budget)
            match plan(checkpoint, self.setting.now, budget, self.policy, self._held_until()):
                case Finish(reason=reason):
                    self.invariants.disturbed(self.stream, f"a run ended: {reason}")
                    record = conclude(checkpoint, reason, budget)
                    if record is None:
                        break
                    checkpoint = self._record(checkpoint, record, budget.run_id)
                case Wait(until=until):
                    assert until > self.setting.now, "a wait for what is past"
                    yield until
                case Fetch(request=request):
                    checkpoint = self._batch(checkpoint, request, budget)
        self._redrive_due(checkpoint, budget)

    def _taken_over(self) -> Checkpoint:
        checkpoint = self._snapshot()
        self._learn(checkpoint)
        self.stale = self.stale or checkpoint
        record = recover(checkpoint, self.own_run_id)
        if record is None or checkpoint.run is None:
            return checkpoint
        return self._record(checkpoint, record, checkpoint.run.run_id)

    def _snapshot(self) -> Checkpoint:
        """Give the checkpoint that is stored, which was checked to be the fold when it was committed."""
        stored = self.store.checkpoints.get(self.stream.key)
        return Checkpoint(self.stream.key) if stored is None else msgspec.json.decode(stored, type=Checkpoint)

    def _next_run_at(self) -> datetime:
        return next_run_at(
            self._snapshot().run,
            self.setting.now,
            self.setting.random.random(),
            interval_seconds=self.setting.scenario.interval_seconds,
            held_until=self._held_until(),
        )

    # --- a batch ---

    def _batch(self, checkpoint: Checkpoint, request: Request, budget: RunBudget) -> Checkpoint:
        self.setting.crash()
        assert checkpoint.operator_pause is None, "a call for a stream that somebody paused"
        sent_at = self.setting.world.now
        self.invariants.calls(self.stream, self.setting.now)
        outcome = self._by_the_clock_behind(self.inbox.answer(request), self.setting.now)
        self.setting.crash()
        self.setting.world.stir()
        match outcome:
            case Refused(problem=problem):
                rule = rule_for(problem, has_cursor=request.cursor is not None)
                self.invariants.disturbed(self.stream, f"a refusal: {rule.remedy}")
            case Fetched():
                self._fetched(checkpoint, outcome, budget, sent_at)
        after = self._settle(checkpoint, partial(self.setting.decides, checkpoint, outcome), outcome, budget)
        if isinstance(outcome, Fetched) and not self._is_loop(checkpoint, outcome, budget):
            self._read(after, outcome, budget, sent_at)
        return after

    def _by_the_clock_behind(self, outcome: Outcome, asked_at: datetime) -> Outcome:
        """Date an answer as the client does: by our clock or by what the server says of its own."""
        if not isinstance(outcome, Fetched):
            return outcome
        dated = outcome.asked_at + timedelta(seconds=self.setting.scenario.date_skew_seconds)
        return replace(outcome, asked_at=min(dated, whole_second(asked_at)))

    def _fetched(self, checkpoint: Checkpoint, outcome: Fetched, budget: RunBudget, sent_at: datetime) -> None:
        if self._is_loop(checkpoint, outcome, budget):
            self.invariants.disturbed(self.stream, "a cursor loop")
        else:
            self.invariants.batch_fetched(self.stream, open_sweep(checkpoint, budget), outcome, sent_at)

    @staticmethod
    def _is_loop(checkpoint: Checkpoint, outcome: Fetched, budget: RunBudget) -> bool:
        """Whether the answer leads to itself: that is a refusal, and reads nothing."""
        sweep = open_sweep(checkpoint, budget)
        cursor = sweep.position.cursor if sweep is not None else None
        return cursor is not None and outcome.batch.next_cursor == cursor

    def _read(self, after: Checkpoint, outcome: Fetched, budget: RunBudget, sent_at: datetime) -> None:
        """After a batch was read: is it safe, is it within the limits?"""
        self.invariants.batch_is_safe(self.stream, outcome.batch, sent_at)
        run = self.store.runs.get(budget.run_id)
        read = (run.tally.batches if run else 0) + after.unrecorded.batches
        assert read <= budget.max_batches, "more batches than the run may read"

    # --- dead letters ---

    def _redrive_due(self, checkpoint: Checkpoint, budget: RunBudget) -> None:
        if (
            not checkpoint.open_dead_letters
            or checkpoint.failure_streak is not None
            or checkpoint.operator_pause is not None
        ):
            return
        for due in settled(self.store.due_dead_letters(self.stream.key, self.setting.now, MAX_REDRIVES_IN_A_TURN)):
            if self._is_held() or self.setting.now >= budget.deadline_at:
                return
            if self._is_open(due):
                checkpoint = self._redrive(checkpoint, due, budget)

    def _command(self, checkpoint: Checkpoint, budget: RunBudget) -> Checkpoint:
        """Let somebody redrive or discard a letter, now and then."""
        if not checkpoint.open_dead_letters or not self.setting.happens(self.setting.scenario.errand_chance):
            return checkpoint
        due = self.setting.random.choice(self._open_dead_letters())
        if self.setting.random.random() < 0.3:
            self.invariants.disturbed(self.stream, "somebody discarded a letter")
            self.invariants.gave_up(self.stream, due)
            return self._record(checkpoint, discard(checkpoint, due.dead_letter, "enough", budget), budget.run_id)
        if self._is_held():
            return checkpoint
        self.invariants.disturbed(self.stream, "somebody had a letter redriven")
        return self._redrive(checkpoint, due, budget)

    def redrive_all(self) -> None:
        """Have every open letter redriven."""
        checkpoint = self._snapshot()
        budget = self.setting.new_budget(self.stream)
        for due in self._open_dead_letters():
            if self._is_open(due):
                checkpoint = self._redrive(checkpoint, due, budget)

    def _redrive(self, checkpoint: Checkpoint, due: DueDeadLetter, budget: RunBudget) -> Checkpoint:
        self.setting.steps += 1
        outcome: Outcome | None = None
        conversation_id = to_reread(due)
        if conversation_id is not None:
            self.invariants.calls(self.stream, self.setting.now)
            outcome = self.inbox.reread(conversation_id, self.policy.messages_per_conversation)
            self.invariants.sights[self.stream].vain_calls = 0
        self.setting.crash()
        return self._settle(checkpoint, partial(redrive, checkpoint, due, outcome), outcome, budget)

    def _is_open(self, due: DueDeadLetter) -> bool:
        """Whether a letter is still open: the redrive of another one about the same conversation may have closed it."""
        return bool(settled(self.store.find_open_dead_letters((due.dead_letter.dead_letter_id,))))

    def _open_dead_letters(self) -> tuple[DueDeadLetter, ...]:
        ids = tuple(key for key, each in self.store.dead_letters.items() if each.stream == self.stream.key)
        return settled(self.store.find_open_dead_letters(ids))

    # --- the way to the store ---

    def _settle(
        self,
        checkpoint: Checkpoint,
        decides: Callable[[Context], Pending],
        outcome: Outcome | None,
        budget: RunBudget,
    ) -> Checkpoint:
        """Decide and commit, until the store takes every row that is left."""
        refused: tuple[RefusedRow, ...] = ()
        while True:
            jitter = self.setting.random.random()
            pending = decides(Context(self.setting.now, jitter, budget, self.policy, refused))
            decision = pending.record(self._known(pending))
            if isinstance(decision, Record):
                self.invariants.decided(outcome, decision.events)
            if isinstance(decision, BatchUnchanged):
                assert not decision.tally.has_changes, "a batch that changes something was passed over"
                self.invariants.seen["a batch was passed over"] += 1
                after = skip_unchanged(checkpoint, decision)
                self._learn(after)
                return after
            answer = self._commit(checkpoint, decision, budget.run_id)
            if isinstance(answer, Checkpoint):
                return answer
            assert not set(answer.rows) <= set(refused), "rows that were refused are given again"
            self.invariants.disturbed(self.stream, "the store refused rows")
            refused += answer.rows

    def _known(self, pending: Pending) -> Known:
        return Known() if pending.keys is None else settled(self.store.known(pending.keys))

    def _record(self, checkpoint: Checkpoint, record: Record, run_id: str) -> Checkpoint:
        answer = self._commit(checkpoint, record, run_id)
        assert isinstance(answer, Checkpoint)
        return answer

    def _commit(self, checkpoint: Checkpoint, record: Record, run_id: str) -> Checkpoint | Rejected:
        record = replace(record, events=(*self._absence(), *record.events))
        commit = prepare(checkpoint, record, run_id, self.setting.now, CODEC)
        self.setting.crash()
        deleted_before = self.invariants.deleted(self.stream)
        self.invariants.about_to_commit(commit.changes)
        answer = settled(self.store.commit(commit))
        if isinstance(answer, Rejected):
            return answer
        self.invariants.committed(self.stream, commit, deleted_before)
        self._learn(commit.checkpoint)
        self.setting.crash()
        return commit.checkpoint

    def _absence(self) -> tuple[StoreReturned, ...]:
        """Find the store away, for a while or for good."""
        setting = self.setting
        if not setting.happens(setting.scenario.away_chance):
            return ()
        self.invariants.disturbed(self.stream, "the store was away")
        setting.world.pass_time(setting.random.random() * 60)
        if setting.random.random() < 0.3:
            raise BrokeOff
        return (StoreReturned(1.0, 1),)

    # --- what gets in its way ---

    def _learn(self, checkpoint: Checkpoint) -> None:
        if checkpoint.rate_limit is None:
            self.rate_limits.pop(self.stream, None)
        else:
            self.rate_limits[self.stream] = checkpoint.rate_limit

    def _held_until(self) -> datetime | None:
        return held_until(self.stream, self.rate_limits)

    def _held_or_resumed(self, checkpoint: Checkpoint, budget: RunBudget) -> Checkpoint:
        """Let somebody pause the stream, now and then, and resume it after a while."""
        if checkpoint.operator_pause is not None:
            if not self.setting.is_calm and self.setting.random.random() < 0.7:
                return checkpoint
            self.invariants.disturbed(self.stream, "somebody resumed the stream")
            record = resume(checkpoint, "somebody", budget)
        elif self.setting.scenario.hold_chance and self.setting.happens(self.setting.scenario.hold_chance):
            self.invariants.disturbed(self.stream, "somebody paused the stream")
            record = pause(checkpoint, "somebody", budget)
        else:
            return checkpoint
        assert record is not None
        return self._record(checkpoint, record, budget.run_id)

    def _is_held(self) -> bool:
        until = self._held_until()
        return until is not None and until > self.setting.now

    def _rival(self, checkpoint: Checkpoint, budget: RunBudget) -> None:
        """Let a second writer, who remembers an earlier state of the stream, read and commit a batch."""
        stale, setting = self.stale, self.setting
        if stale is None or stale.version == checkpoint.version or not setting.happens(setting.scenario.rival_chance):
            return
        self.stale = None
        rival = replace(budget, run_id=f"{budget.run_id}-rival", deadline_at=setting.now + timedelta(hours=1))
        action = plan(stale, setting.now, rival, self.policy)
        if not isinstance(action, Fetch):
            return
        outcome = self.inbox.answer(action.request)
        pending = setting.decides(stale, outcome, Context(setting.now, 0.5, rival, self.policy))
        decision = pending.record(self._known(pending))
        if isinstance(decision, BatchUnchanged):
            return
        commit = prepare(stale, decision, rival.run_id, setting.now, CODEC)
        deleted_before = self.invariants.deleted(self.stream)
        try:
            settled(self.store.commit(commit))
        except VersionConflict:
            self.invariants.seen["a second writer was refused"] += 1
        else:
            self.invariants.committed(self.stream, commit, deleted_before)

    def _stopped(self, budget: RunBudget) -> RunBudget:
        if budget.stops_for is not None or not self.setting.happens(self.setting.scenario.stop_chance):
            return budget
        return replace(budget, deadline_at=self.setting.now, stops_for=Reason.SHUTDOWN)
