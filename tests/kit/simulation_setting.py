"""All that the lives of a simulation share: the world, the store, the witness, and what gets in their way."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar

from kit.builders import NOON
from kit.fake_inbox import Habits, World
from kit.invariants import Invariants
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import Checkpoint
from milepost.core.decide import decide
from milepost.core.model import Platform, Stream, Table
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import Outcome
from milepost.core.records import Context, Pending

Decide = Callable[[Checkpoint, Outcome, Context], Pending]
Result = TypeVar("Result")

STREAMS = (
    Stream(Platform.MESSENGER, "1"),
    Stream(Platform.INSTAGRAM, "1"),
    Stream(Platform.MESSENGER, "2"),
)


@dataclass(frozen=True)
class Scenario:
    """All that a simulation depends on. What is a chance lies in 0..1, per step."""

    seed: int = 0
    steps: int = 100
    streams: int = 1
    threads: int = 8
    habits: Habits = field(default_factory=Habits)
    policy: Policy = field(default_factory=Policy)
    max_batches: int = 50
    run_seconds: float = 270.0
    interval_seconds: float = 60.0
    skew_seconds: float = 0.0  # our clock less the server's
    date_skew_seconds: float = 0.0  # what the server says of its clock less that
    crash_chance: float = 0.0
    stop_chance: float = 0.0
    rival_chance: float = 0.0
    full_chance: float = 0.0
    refused_row_chance: float = 0.0
    away_chance: float = 0.0
    errand_chance: float = 0.0
    forget_chance: float = 0.0
    hold_chance: float = 0.0


class Crashed(Exception):
    """The process died: what was in memory only is lost."""


class Setting:
    """Where a scenario takes place; `decides` and `store` may be wrong on purpose."""

    def __init__(self, scenario: Scenario, decides: Decide = decide, store: MemoryStore | None = None) -> None:
        self.scenario = scenario
        self.decides = decides
        self.random = Random(scenario.seed)  # noqa: S311  (no secret)
        self.world = World(self.random, scenario.habits, NOON, scenario.policy.watermark_overlap_seconds)
        self.store = store or MemoryStore()
        self.invariants = Invariants(self.world, self.store, scenario.policy.messages_per_conversation)
        if min(scenario.skew_seconds, scenario.date_skew_seconds) > 0:
            self.invariants.doubt = timedelta(seconds=scenario.policy.watermark_overlap_seconds + 1.0)
        self.steps = 0
        self.runs = 0
        self.is_calm = False
        self.streams = STREAMS[: scenario.streams]
        for stream in self.streams:
            self.world.add(stream)
            self.invariants.watch(stream)

    def step(self) -> None:
        """Let the world move on by a step, and the store and the people with it."""
        self.steps += 1
        self.world.stir()
        if self.happens(self.scenario.refused_row_chance):
            self._trouble_the_store()
        if self.happens(self.scenario.forget_chance):
            self._forget_somebody()

    def _trouble_the_store(self) -> None:
        """Let the store begin to refuse a row, or cease to."""
        inbox = self.world.inboxes[self.random.choice(self.streams)]
        if self.store.refuses and self.random.random() < 0.5:
            self.store.refuses.remove(self.random.choice(sorted(self.store.refuses)))
        elif inbox.threads:
            thread = self.random.choice(list(inbox.threads.values()))
            key = self.random.choice(
                (
                    (Table.CONVERSATIONS, thread.thread_id),
                    (Table.CONTACTS, thread.contact_id),
                    (Table.INTERACTION_EVENTS, f"m_{thread.thread_id}_{len(thread.messages)}"),
                )
            )
            self.store.refuses.add(key)

    def _forget_somebody(self) -> None:
        stream = self.random.choice(self.streams)
        inbox = self.world.inboxes[stream]
        if inbox.threads:
            thread = self.random.choice(list(inbox.threads.values()))
            _, conversations, events, _ = self.store.forget(stream, thread.contact_id)
            self.invariants.forgot(stream, thread.thread_id, conversations, events)

    def wait_until(self, at: datetime) -> None:
        """Let time pass, if it is not that late already."""
        self.world.pass_time(max(0.0, (at - self.now).total_seconds()))

    def crash(self) -> None:
        if self.happens(self.scenario.crash_chance):
            raise Crashed

    def happens(self, chance: float) -> bool:
        return not self.is_calm and self.random.random() < chance

    def new_budget(self, stream: Stream) -> RunBudget:
        wants_full = self.happens(self.scenario.full_chance)
        deadline_at = self.now + timedelta(seconds=self.scenario.run_seconds)
        return RunBudget(self.new_run_id(stream), self.now, deadline_at, self.scenario.max_batches, wants_full)

    def new_run_id(self, stream: Stream) -> str:
        self.runs += 1
        return f"{stream.key}/run-{self.runs}"

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
