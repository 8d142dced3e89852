"""Runs of one stream over a list whose answers come from a function, one run after the other, without an event loop.

The answers need not make sense: this is for an API that lies. The core plans and decides as in the daemon; time is a
number.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta

from kit.builders import CODEC, NOON, STREAM, conversation
from kit.memory_store import MemoryStore
from kit.simulation_setting import settled
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.decide import decide
from milepost.core.events import Entry, RunEnded
from milepost.core.evolve import skip_unchanged
from milepost.core.failures import check_request, checked, wants_check
from milepost.core.model import Batch, Conversation, Known
from milepost.core.plan import Fetch, Finish, Policy, RunBudget, Wait, is_over, plan
from milepost.core.ports import Committed, Fetched, Held, Outcome, Refused, Request
from milepost.core.problems import Problem
from milepost.core.records import Context, Record, conclude, prepare
from milepost.reporting.describe import describe
from milepost.reporting.humanize import Level
from milepost.reporting.live import LiveStreams
from milepost.reporting.status import ConditionContext, condition
from milepost.service.metrics.collect import Metrics

Answer = Callable[[Request], Batch | Problem]


def aged(number: int, seconds_ago: float | None = None) -> Conversation:
    """Return a thread; the higher its number, the older it is, by a minute unless `seconds_ago` says otherwise."""
    ago = 3600 + 60 * number if seconds_ago is None else seconds_ago
    return conversation(f"t_{number:04}", NOON - timedelta(seconds=ago))


def newest_first(threads: Sequence[Conversation]) -> list[Conversation]:
    return sorted(threads, key=lambda each: (each.updated_time, each.conversation_id), reverse=True)


def listed(threads: Sequence[Conversation], request: Request) -> Batch:
    """Answer as the API does; a cursor is the number of threads before it."""
    start = int(request.cursor or 0)
    end = start + request.limit
    return Batch(tuple(threads[start:end]), str(end) if end < len(threads) else None)


class ListWorld:
    """A stream whose list answers by `answer`, which may be replaced at any time, and the store that it fills."""

    def __init__(self, answer: Answer, policy: Policy | None = None) -> None:
        self.answer = answer
        self.policy = policy or Policy(batch_size=10)
        self.store = MemoryStore()
        self.now = NOON
        self.asked: list[Request] = []
        self._runs = 0

    @property
    def checkpoint(self) -> Checkpoint:
        """What is stored; loading it checks that it is the fold of the journal."""
        return settled(self.store.load(STREAM))

    @property
    def cursors(self) -> list[str | None]:
        return [request.cursor for request in self.asked]

    @property
    def stored(self) -> set[str]:
        return set(self.store.conversations)

    @property
    def deleted(self) -> set[str]:
        return {key for key, row in self.store.conversations.items() if row.deleted_at is not None}

    @property
    def entries(self) -> list[Entry]:
        return self.store.entries(STREAM)

    def warnings(self) -> list[str]:
        """Return the log messages at the levels that people look at."""
        described = [describe(entry) for entry in self.entries]
        return [each.sentence for each in described if each.level >= Level.WARNING]

    def run(self, *, max_batches: int = 500, full: bool = False, after: timedelta = timedelta(minutes=5)) -> Checkpoint:
        """Let a run take place, `after` so long. Returns the checkpoint after it; what it asked is in `asked`."""
        self.now += after
        self.asked = []
        self._runs += 1
        budget = RunBudget(f"run-{self._runs}", self.now, self.now + timedelta(hours=4), max_batches, wants_full=full)
        checkpoint = self.checkpoint
        while not is_over(checkpoint, budget):
            match plan(checkpoint, self.now, budget, self.policy):
                case Fetch(request=request):
                    checkpoint = self._settle(checkpoint, self._ask(request, checkpoint), budget)
                case Wait(until=until):
                    self.now = until
                case Finish(reason=reason):
                    ending = conclude(checkpoint, reason, budget)
                    return checkpoint if ending is None else self._commit(checkpoint, ending, budget)
        return checkpoint

    def _ask(self, request: Request, checkpoint: Checkpoint) -> Outcome:
        assert len(self.asked) < 20_000, "it asks without end"
        self.asked.append(request)
        answer = self.answer(request)
        if not isinstance(answer, Problem):
            return Fetched(answer, self.now, 0.1)
        refused = Refused(answer, 0.1)
        if not wants_check(request, answer):
            return refused
        outcome = checked(refused, self._ask(check_request(request, checkpoint), checkpoint))
        assert not isinstance(outcome, Held)
        return outcome

    def _settle(self, checkpoint: Checkpoint, outcome: Outcome, budget: RunBudget) -> Checkpoint:
        self.now += timedelta(seconds=0.5)
        pending = decide(checkpoint, outcome, Context(self.now, 0.5, budget, self.policy))
        known = Known() if pending.keys is None else settled(self.store.known(pending.keys))
        decision = pending.record(known)
        if isinstance(decision, BatchUnchanged):
            return skip_unchanged(checkpoint, decision)
        return self._commit(checkpoint, decision, budget)

    def _commit(self, checkpoint: Checkpoint, record: Record, budget: RunBudget) -> Checkpoint:
        commit = prepare(checkpoint, record, budget.run_id, self.now, CODEC)
        assert isinstance(settled(self.store.commit(commit)), Committed)
        return commit.checkpoint


def named_on_every_face(world: ListWorld) -> bool:
    """Whether both the status and a metric say what is wrong with a stream that makes no progress."""
    checkpoint = world.checkpoint
    now = condition(checkpoint, ConditionContext(world.now, True, 300.0, world.policy.batch_size))
    live = LiveStreams(lambda: world.now)
    live.load(checkpoint)
    shown = [line for line in Metrics(live).expose().decode().splitlines() if line.endswith(" 1.0")]
    is_in_doubt = any(line.startswith("milepost_stream_in_doubt{") for line in shown)
    has_failed = any('state="failed"' in line or 'state="stopped"' in line for line in shown)
    is_named = now.remark is not None if is_in_doubt else now.wait is not None and now.wait.problem is not None
    return (is_in_doubt or has_failed) and is_named and now.advice is not None


def problem_of(checkpoint: Checkpoint) -> Problem | None:
    """Return the problem with which the latest run ended."""
    return checkpoint.run.problem if checkpoint.run is not None else None


def ended(entries: Sequence[Entry]) -> list[RunEnded]:
    return [entry.event for entry in entries if isinstance(entry.event, RunEnded)]
