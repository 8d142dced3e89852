"""What the processes of a simulation share: scenario, fake API, store and invariants."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar

from msgspec.structs import replace

from kit.fake_inbox import Habits, World, whole_second
from kit.invariants import Invariants
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualTime
from milepost.core.checkpoint import Checkpoint
from milepost.core.decide import decide
from milepost.core.events import RunEnded, SweepCompleted
from milepost.core.model import Platform, Stream, Table
from milepost.core.plan import Policy
from milepost.core.ports import Commit, Committed, DueDeadLetter, Fetched, MessagesFetched, Outcome, Rejected
from milepost.core.records import Context, Pending
from milepost.stores import rows

Decide = Callable[[Checkpoint, Outcome, Context], Pending]
Answer = TypeVar("Answer", bound=Outcome | MessagesFetched)
Result = TypeVar("Result")

STREAMS = (
    Stream(Platform.MESSENGER, "1"),
    Stream(Platform.INSTAGRAM, "1"),
    Stream(Platform.MESSENGER, "2"),
)
ACCOUNT, ANOTHER_PAGE = STREAMS[1], Stream(Platform.INSTAGRAM, "2")  # the account that may be linked to another page


@dataclass(frozen=True)
class Scenario:
    """All parameters of a simulation. Chances are in 0..1, per step or per commit."""

    seed: int = 0
    steps: int = 100
    streams: int = 1
    threads: int = 8
    habits: Habits = field(default_factory=Habits)
    policy: Policy = field(default_factory=Policy)
    concurrency: int = 3
    max_batches: int = 50
    run_seconds: float = 270.0
    interval_seconds: float = 60.0
    slowest_commit_seconds: float = 1.0  # a call of the API takes up to a second
    skew_seconds: float = 0.0  # our clock less the server's
    date_skew_seconds: float = 0.0  # the clock in the server's Date header less its real clock
    crash_chance: float = 0.0
    stop_chance: float = 0.0
    rival_chance: float = 0.0
    full_chance: float = 0.0
    refused_row_chance: float = 0.0
    away_chance: float = 0.0
    unknown_chance: float = 0.0
    command_chance: float = 0.0
    pause_chance: float = 0.0
    reload_chance: float = 0.0
    forget_chance: float = 0.0
    link_chance: float = 0.0  # the Instagram account is linked to another page, once
    news_chance: float = 0.0  # a webhook announces news of a stream, whether there is any or not
    facts_chance: float = 0.0  # webhooks report edited or unsent messages, now or later


class Setting:
    """The place of a scenario. Tests may make `decides` and `store` wrong on purpose."""

    def __init__(self, scenario: Scenario, decides: Decide = decide, store: MemoryStore | None = None) -> None:
        self.scenario = scenario
        self.decides = decides
        self.random = Random(scenario.seed)  # noqa: S311  (no secret)
        self.time = VirtualTime()
        self.world = World(self.random, scenario.habits, self.time, scenario.policy.watermark_overlap_seconds)
        self.store = store or MemoryStore()
        self.invariants = Invariants(self.world, self.store, scenario.policy.messages_per_conversation)
        if min(scenario.skew_seconds, scenario.date_skew_seconds) > 0:
            self.invariants.doubt = timedelta(seconds=scenario.policy.watermark_overlap_seconds + 1.0)
        self.invariants.behind = timedelta(seconds=max(0.0, -scenario.skew_seconds))
        self.world.stored = lambda stream: len(self.invariants.rows_alive(stream))
        self.steps = 0
        self.is_calm = False
        self.store_returns_at = self.now
        self.streams = STREAMS[: scenario.streams]
        for stream in self.streams:
            self.world.add(stream)
            self.invariants.watch(stream)

    @property
    def now(self) -> datetime:
        """Our own clock, which is not the server's."""
        return self.world.now + timedelta(seconds=self.scenario.skew_seconds)

    @property
    def is_over(self) -> bool:
        return not self.is_calm and self.steps >= self.scenario.steps

    def happens(self, chance: float) -> bool:
        return not self.is_calm and self.random.random() < chance

    def snapshot(self, stream: Stream) -> Checkpoint:
        """Return the stored checkpoint, which was checked against the fold when it was committed."""
        stored = self.store.checkpoints.get(stream.key)
        return Checkpoint(stream) if stored is None else rows.checkpoint(stored)

    def open_dead_letters(self, stream: Stream) -> tuple[DueDeadLetter, ...]:
        ids = tuple(key for key, each in self.store.dead_letters.items() if each.stream == stream)
        return settled(self.store.find_open_dead_letters(ids))

    def step(self) -> None:
        """Advance the world by a step, and with it the store and the people."""
        self.steps += 1
        self.world.stir()
        if self.happens(self.scenario.refused_row_chance):
            self._refuse_a_row()
        if self.happens(self.scenario.forget_chance):
            self._forget_somebody()

    def dated(self, outcome: Answer, asked_at: datetime) -> Answer:
        """Date an answer as the client does: by our clock, or by the server's if that is behind."""
        if not isinstance(outcome, Fetched | MessagesFetched):
            return outcome
        dated = outcome.asked_at + timedelta(seconds=self.scenario.date_skew_seconds)
        return replace(outcome, asked_at=min(dated, whole_second(asked_at)))

    async def commit(self, stream: Stream, commit: Commit) -> Committed | Rejected:
        """Commit for any process, and check the invariants before and after."""
        deleted_before = self.invariants.deleted(stream)
        others_before = self.invariants.deleted_of_linked(stream)
        is_next = commit.entries[0].version == self.snapshot(stream).version + 1
        if is_next and not self.store.is_outdated(commit):  # otherwise it is refused
            self.invariants.about_to_commit(stream, commit)
        answer = await self.store.commit(commit)
        if isinstance(answer, Rejected):
            is_refused = bool(answer.rows)
            self.invariants.disturbed(stream, "the store refused rows" if is_refused else "two pages read at once")
        else:
            self.invariants.committed(stream, commit, deleted_before)
            self.invariants.others_are_left_alone(stream, others_before)
            if any(isinstance(entry.event, RunEnded | SweepCompleted) for entry in commit.entries):
                self.world.inboxes[stream].age_cursors()
        return answer

    def links_the_account(self) -> bool:
        """Occasionally link the Instagram account to another page, whose stream joins the others."""
        chance = self.scenario.link_chance if ACCOUNT in self.streams and ANOTHER_PAGE not in self.streams else 0.0
        if not self.happens(chance):
            return False
        self.streams = (*self.streams, ANOTHER_PAGE)
        self.world.link(ACCOUNT, ANOTHER_PAGE)
        self.invariants.link(ACCOUNT, ANOTHER_PAGE)
        return True

    def _refuse_a_row(self) -> None:
        """Make the store begin or cease to refuse a row."""
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
            stored = self.store.conversations.get(thread.thread_id)
            if stored is None and self.scenario.link_chance:
                return  # for somebody who is stored nowhere, nothing links the pages
            if stored is not None and self.random.random() < 0.5:
                stream = Stream(stream.platform, stored.page_id)  # the other page may have nothing of them yet
            _, conversations, events, _ = self.store.forget(stream, thread.contact_id)
            self.invariants.forgot(stream, thread.thread_id, conversations, events)


def settled(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waited for something")
