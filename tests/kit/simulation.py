"""The pure core run as the shell runs it, through a world of arrivals, refusals, crashes, stops and rivals."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar

from msgspec.structs import replace

from kit.builders import CODEC, NOON, STREAM
from kit.memory_store import MemoryStore
from kit.witness import Witness
from kit.world import Habits, World
from milepost.core.checkpoint import BatchPassed, Checkpoint, pass_over
from milepost.core.decide import Circumstances, Decision, Record, conclude, decide, prepare, recover
from milepost.core.errors import VersionConflict
from milepost.core.events import Reason
from milepost.core.merge import keys_of
from milepost.core.model import Known
from milepost.core.plan import Fetch, Finish, Policy, Slice, Wait, is_over, open_sweep, plan
from milepost.core.ports import Fetched, Outcome, Refused, Request
from milepost.core.remedies import remedy

Decide = Callable[[Checkpoint, Outcome, Circumstances, Known], Decision]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Scenario:
    """All that a simulation depends on. What is a chance lies in 0..1, per step."""

    seed: int = 0
    steps: int = 100
    threads: int = 8
    habits: Habits = field(default_factory=Habits)
    policy: Policy = field(default_factory=Policy)
    max_batches: int = 50
    run_seconds: float = 270.0
    skew_seconds: float = 0.0  # our clock less the server's
    crash_chance: float = 0.0
    stop_chance: float = 0.0
    rival_chance: float = 0.0
    full_chance: float = 0.0


class Crashed(Exception):
    """The process died: what was in memory only is lost."""


class Simulation:
    """One stream's life, step by step; `decides` and `store` may be wrong on purpose."""

    def __init__(self, scenario: Scenario, decides: Decide = decide, store: MemoryStore | None = None) -> None:
        self.scenario = scenario
        self.decides = decides
        self.random = Random(scenario.seed)  # noqa: S311  (no secret)
        self.world = World(self.random, scenario.habits, NOON, scenario.policy.watermark_overlap_seconds)
        self.store = store or MemoryStore()
        self.witness = Witness(self.world, self.store)
        self.steps = 0
        self.runs = 0
        self.is_calm = False
        self.stale: Checkpoint | None = None

    def run(self) -> None:
        """Live through the scenario, then let everything come to rest and look at the tables."""
        for _ in range(self.scenario.threads):
            self.world.new_thread()
            self.world.pass_time(self.random.random() * 10)
        while self.steps < self.scenario.steps:
            self._live(self._slice())
            self.world.pass_time(self.random.random() * self.random.choice((1, 10, 100)))
            self.world.stir()
        self._come_to_rest()

    def _come_to_rest(self) -> None:
        """Incremental sweeps alone have to find everything; a full one mends what cannot be seen by time."""
        self.is_calm = True
        self.world.settle()
        self._sweep()
        self._sweep()
        self.witness.everything_is_safe()
        self._sweep(wants_full=True)
        self._sweep(wants_full=True)
        self.witness.tables_equal_inbox(self.scenario.policy.messages_per_conversation)
        journaled = len(self.store.journal)
        self._sweep()
        assert len(self.store.journal) == journaled + 1, "a sweep of an unchanged inbox is one entry"

    def _sweep(self, *, wants_full: bool = False) -> None:
        limit = 10 * (len(self.world.threads) + 1)
        self._live(Slice(self._run_id(), self.now, self.now + timedelta(days=1), limit, wants_full))
        checkpoint = settled(self.store.recall(STREAM.key))
        assert checkpoint.sweep is None, "a sweep without any trouble does not end"

    # --- the loop, as the shell has it ---

    def _live(self, work: Slice) -> None:
        try:
            self._work(work)
        except Crashed:
            self.witness.disturbed("a crash")

    def _work(self, work: Slice) -> None:
        checkpoint = self._recalled()
        self.witness.run_begins(checkpoint, work)
        fetches = 0
        while not is_over(checkpoint, work):
            self.steps += 1
            self.world.stir()
            work = self._stopped(work)
            self._rival(checkpoint, work)
            match plan(checkpoint, self.now, work, self.scenario.policy):
                case Finish(reason=reason):
                    self._finish(checkpoint, reason, work)
                    return
                case Wait(until=until):
                    assert until > self.now, "a wait for what is past"
                    self.world.pass_time((until - self.now).total_seconds())
                case Fetch(request=request):
                    fetches += 1
                    checkpoint = self._batch(checkpoint, request, work)
        assert fetches <= work.max_batches * self.scenario.policy.attempts, "more requests than a run may make"

    def _recalled(self) -> Checkpoint:
        checkpoint = settled(self.store.recall(STREAM.key))
        self.stale = self.stale or checkpoint
        record = recover(checkpoint)
        if record is None:
            return checkpoint
        assert checkpoint.run is not None
        return self._commit(checkpoint, record, checkpoint.run.run_id)

    def _finish(self, checkpoint: Checkpoint, reason: Reason, work: Slice) -> None:
        self.witness.disturbed(f"a run ended: {reason}")
        record = conclude(checkpoint, reason, work)
        if record is not None:
            self._commit(checkpoint, record, work.run_id)

    def _batch(self, checkpoint: Checkpoint, request: Request, work: Slice) -> Checkpoint:
        self.crash()
        sent_at = self.world.now
        outcome = self.world.answer(request)
        self.crash()
        self.world.stir()
        decision = self._decision(checkpoint, outcome, work)
        match outcome:
            case Refused(problem=problem):
                self.witness.disturbed(f"a refusal: {remedy(problem)}")
            case Fetched():
                self.witness.batch_fetched(open_sweep(checkpoint, work), outcome, sent_at)
        after = self._moved_on(checkpoint, decision, work)
        self._read(checkpoint, after, outcome, work)
        return after

    def _moved_on(self, checkpoint: Checkpoint, decision: Decision, work: Slice) -> Checkpoint:
        match decision:
            case BatchPassed() as passed:
                assert not passed.tally.has_changes, "a batch that changes something was passed over"
                self.witness.seen["a batch was passed over"] += 1
                return pass_over(checkpoint, passed)
            case Record() as record:
                return self._commit(checkpoint, record, work.run_id)

    def _decision(self, checkpoint: Checkpoint, outcome: Outcome, work: Slice) -> Decision:
        luck = Circumstances(self.now, self.random.random(), work, self.scenario.policy)
        return self.decides(checkpoint, outcome, luck, self._known(outcome))

    def _known(self, outcome: Outcome) -> Known:
        if isinstance(outcome, Refused):
            return Known()
        return settled(self.store.known(keys_of(STREAM, outcome.batch)))

    def _read(self, before: Checkpoint, after: Checkpoint, outcome: Outcome, work: Slice) -> None:
        """After a batch was read: is it safe, is it within the limits? A loop is a refusal, and reads nothing."""
        if not isinstance(outcome, Fetched):
            return
        sweep = open_sweep(before, work)
        cursor = sweep.position.cursor if sweep is not None else None
        if cursor is not None and outcome.batch.next_cursor == cursor:
            self.witness.disturbed("a cursor loop")
            return
        self.witness.batch_is_safe(outcome.batch, self._known(outcome))
        run = self.store.runs.get(work.run_id)
        read = (run.tally.batches if run else 0) + after.unrecorded.batches
        assert read <= work.max_batches, "more batches than the run may read"

    def _commit(self, checkpoint: Checkpoint, record: Record, run_id: str) -> Checkpoint:
        commit = prepare(checkpoint, record, run_id, self.now, CODEC)
        self.crash()
        self.witness.about_to_commit(commit.changes)
        settled(self.store.commit(commit))
        self.witness.committed(commit)
        self.crash()
        return commit.checkpoint

    # --- what gets in its way ---

    def _rival(self, checkpoint: Checkpoint, work: Slice) -> None:
        """Let a second writer, who remembers an earlier state of the stream, read and commit a batch."""
        stale = self.stale
        if stale is None or stale.version == checkpoint.version or not self._happens(self.scenario.rival_chance):
            return
        self.stale = None
        policy = self.scenario.policy
        rival = replace(work, run_id=f"{work.run_id}-rival", deadline_at=self.now + timedelta(hours=1))
        action = plan(stale, self.now, rival, policy)
        if not isinstance(action, Fetch):
            return
        outcome = self.world.answer(action.request)
        decision = self._decision(stale, outcome, rival)
        if isinstance(decision, BatchPassed):
            return
        commit = prepare(stale, decision, rival.run_id, self.now, CODEC)
        try:
            settled(self.store.commit(commit))
        except VersionConflict:
            self.witness.seen["a second writer was refused"] += 1
        else:
            self.witness.committed(commit)

    def _stopped(self, work: Slice) -> Slice:
        if work.is_stopping or not self._happens(self.scenario.stop_chance):
            return work
        return replace(work, deadline_at=self.now, is_stopping=True)

    def crash(self) -> None:
        if self._happens(self.scenario.crash_chance):
            raise Crashed

    def _happens(self, chance: float) -> bool:
        return not self.is_calm and self.random.random() < chance

    def _slice(self) -> Slice:
        wants_full = self._happens(self.scenario.full_chance)
        deadline_at = self.now + timedelta(seconds=self.scenario.run_seconds)
        return Slice(self._run_id(), self.now, deadline_at, self.scenario.max_batches, wants_full)

    def _run_id(self) -> str:
        self.runs += 1
        return f"run-{self.runs}"

    @property
    def now(self) -> datetime:
        """Our own clock, which is not the server's."""
        return self.world.now + timedelta(seconds=self.scenario.skew_seconds)


def settled(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waited for something")
