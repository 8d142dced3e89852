"""The pure core run as the shell runs it: several streams in one process, through a world in which all goes wrong.

A simulation is made of processes that die, each of them of one life a stream, which take steps in whatever order luck
and the clock give. Time is the world's: an hour of a rate limit takes no time at all.
"""

from datetime import datetime, timedelta

from kit.life import Life
from kit.memory_store import MemoryStore
from kit.simulation_setting import Crashed, Decide, Scenario, Setting, settled
from milepost.core.checkpoint import Checkpoint
from milepost.core.decide import decide
from milepost.core.model import Stream
from milepost.core.plan import RunBudget


class Simulation:
    """A scenario lived through, from the first process to the last look at the tables."""

    def __init__(self, scenario: Scenario, decides: Decide = decide, store: MemoryStore | None = None) -> None:
        self.setting = Setting(scenario, decides, store)

    def run(self) -> None:
        """Live through the scenario, then let everything come to rest and look at the tables."""
        for inbox in self.setting.world.inboxes.values():
            for _ in range(self.setting.scenario.threads):
                inbox.new_thread()
                self.setting.world.pass_time(self.setting.random.random() * 10)
        while self.setting.steps < self.setting.scenario.steps:
            self._live_and_die()
        self._come_to_rest()

    def _live_and_die(self) -> None:
        """Let one process live until it dies, or the scenario is over."""
        slots = {stream: life.slots() for stream, life in self._lives().items()}
        due_at = dict.fromkeys(self.setting.streams, self.setting.now)
        try:
            while self.setting.steps < self.setting.scenario.steps:
                stream = self._next(due_at)
                due_at[stream] = next(slots[stream])
        except Crashed:
            for stream in self.setting.streams:
                self.setting.invariants.disturbed(stream, "a crash")

    def _lives(self) -> dict[Stream, Life]:
        """Begin a process: its streams share what they know of pauses, which is what the journal says of them."""
        loaded = {stream: self._loaded(stream) for stream in self.setting.streams}
        rate_limits = {
            stream: checkpoint.rate_limit for stream, checkpoint in loaded.items() if checkpoint.rate_limit is not None
        }
        return {stream: Life(self.setting, stream, rate_limits) for stream in self.setting.streams}

    def _next(self, due_at: dict[Stream, datetime]) -> Stream:
        """Choose one of those that are due, and wait for the first where none is."""
        self.setting.wait_until(min(due_at.values()))
        return self.setting.random.choice([stream for stream, at in due_at.items() if at <= self.setting.now])

    # --- the end ---

    def _come_to_rest(self) -> None:
        """Incremental sweeps alone have to find everything; full ones mend what cannot be seen by time."""
        self.setting.is_calm = True
        self.setting.world.settle()
        self._sweep_all(times=2)
        self.setting.invariants.everything_is_safe()
        self.setting.store.refuses.clear()
        self.setting.world.heal()
        for life in self._lives().values():
            life.redrive_all()
        self._sweep_all(times=2, wants_full=True)
        self.setting.invariants.tables_equal_inboxes()
        self.setting.invariants.projections_are_the_fold()
        before = {stream: self._loaded(stream).version for stream in self.setting.streams}
        deleted = {stream: self.setting.invariants.deleted(stream) for stream in self.setting.streams}
        self._sweep_all(times=1)
        self.setting.invariants.tables_equal_inboxes()
        for stream, version in before.items():
            # What is gone and shares its second with what is there may be marked by this sweep only: that is news.
            is_news = self.setting.invariants.deleted(stream) != deleted[stream]
            is_one = self._loaded(stream).version == version + 1
            assert is_one or is_news, "a sweep of an unchanged inbox is one entry"

    def _sweep_all(self, *, times: int, wants_full: bool = False) -> None:
        for stream in self.setting.streams * times:
            limit = 10 * (len(self.setting.world.inboxes[stream].threads) + 10)
            life = self._lives()[stream]
            now = self.setting.now
            budget = RunBudget(self.setting.new_run_id(stream), now, now + timedelta(days=30), limit, wants_full)
            for due_at in life.budget(budget):
                self.setting.wait_until(due_at)
            assert self._loaded(stream).sweep is None, "a sweep without any trouble does not end"

    def _loaded(self, stream: Stream) -> Checkpoint:
        return settled(self.setting.store.load(stream.key))
