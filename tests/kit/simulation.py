"""Runs the engine in a world in which everything fails: several streams, and one process after the other.

The engine is the daemon's own: supervisor, runs, prefetch, mailboxes, rate limits and store retries. It runs in an
event loop with virtual time, over ports whose behaviour is drawn from a seed: an hour of a rate limit takes no time at
all, and every failure can be reproduced.
"""

import asyncio
from unittest.mock import patch

from kit.memory_store import MemoryStore
from kit.simulated_process import ObservedPending, Process
from kit.simulation_setting import Decide, Scenario, Setting
from kit.virtual_time import VirtualLoop
from milepost.core.backlog import history_from
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import Redrive, ResumeStream
from milepost.core.decide import decide
from milepost.core.doubts import AGREES_AFTER
from milepost.core.message_reading import decide_messages
from milepost.core.model import Stream
from milepost.core.ports import DueDeadLetter, MessagesFetched, MessagesOutcome, Outcome, Refused
from milepost.core.position import Gap
from milepost.core.problems import ProblemKind
from milepost.core.records import Context, Decision, Pending, Record
from milepost.core.redrive import is_refused_alike, redrive
from milepost.engine.supervisor import Schedule, Supervisor

CALM_SECONDS = 30 * 86400.0
MAX_SWEEPS = 10  # until no gap is left, and one more for each gap: those of threads that are gone end one by one


class Simulation:
    """Plays a scenario, from the first process to the final check of the tables."""

    def __init__(self, scenario: Scenario, decides: Decide = decide, store: MemoryStore | None = None) -> None:
        self.setting = Setting(scenario, decides, store)
        self.process: Process | None = None

    def run(self) -> None:
        """Play the scenario, then let everything come to rest and check the tables."""
        with (
            asyncio.Runner(loop_factory=lambda: VirtualLoop(self.setting.time)) as runner,
            patch("milepost.engine.run.decide", self._decide),
            patch("milepost.engine.commands.redrive", self._redrive),
            patch("milepost.engine.backlog.decide_messages", self._decide_messages),
        ):
            runner.run(self._play())

    async def _play(self) -> None:
        setting = self.setting
        for inbox in setting.world.inboxes.values():
            for _ in range(setting.scenario.threads):
                inbox.new_thread()
                setting.world.pass_time(setting.random.random() * 10)
        scenario = setting.scenario
        schedule = Schedule(scenario.interval_seconds, scenario.run_seconds, scenario.max_batches)
        while not setting.is_over:
            await self._process(schedule).run(Supervisor.run)
        await self._come_to_rest()

    async def reach(self) -> None:
        """Reach an await point of the process at work, which it may not survive."""
        if self.process is not None:
            await self.process.reach()

    def _process(self, schedule: Schedule) -> Process:
        self.process = Process(self.setting, schedule)
        return self.process

    def _decide(self, checkpoint: Checkpoint, outcome: Outcome, context: Context) -> Pending:
        assert self.process is not None
        return self.process.decide(checkpoint, outcome, context)

    def _redrive(
        self,
        checkpoint: Checkpoint,
        due: DueDeadLetter,
        outcome: Outcome | MessagesFetched | None,
        context: Context,
        *,
        by: str = "",
    ) -> Pending:
        def check(decision: Decision) -> None:
            assert isinstance(decision, Record)
            is_as_before = isinstance(outcome, Refused) and is_refused_alike(due, outcome.problem)
            self.setting.invariants.decided(outcome, decision.events, is_as_before=is_as_before)

        return ObservedPending(redrive(checkpoint, due, outcome, context, by=by), check)

    def _decide_messages(self, checkpoint: Checkpoint, gap: Gap, outcome: MessagesOutcome, context: Context) -> Pending:
        def check(decision: Decision) -> None:
            assert isinstance(decision, Record)
            self.setting.invariants.messages_decided(outcome, decision.events)

        return ObservedPending(decide_messages(checkpoint, gap, outcome, context), check)

    # --- the end ---

    async def _come_to_rest(self) -> None:
        """Sweep until everything is stored. Incremental sweeps must suffice, except for what times cannot show."""
        setting = self.setting
        setting.is_calm = True
        setting.world.settle()
        await self._resume_all()
        await self._sweep_all(times=2)
        setting.invariants.everything_is_safe()
        setting.store.refuses.clear()
        setting.world.heal()
        await self._redrive_all()
        await self._sweep_all(times=3, full=True)
        if any(self._doubts_messages(stream) for stream in setting.streams):
            await asyncio.sleep(1.1 * AGREES_AFTER.total_seconds())
            await self._sweep_all(times=2, full=True)
        await self._read_what_is_owed()
        await self._sweep_all(times=1, full=True)  # what was owed to a former limit until now is owed further back
        await self._read_what_is_owed()
        setting.invariants.tables_equal_inboxes()
        self._histories_reach_back()
        setting.invariants.projections_are_the_fold()
        before = {stream: setting.snapshot(stream).version for stream in setting.streams}
        await self._sweep_all(times=1)
        setting.invariants.tables_equal_inboxes()
        for stream, version in before.items():
            assert setting.snapshot(stream).version == version + 1, "a sweep of an unchanged inbox is one entry"

    def _doubts_messages(self, stream: Stream) -> bool:
        """Return whether so many messages were unsent at once that the core doubts it for a day."""
        doubt = self.setting.snapshot(stream).doubt
        return doubt is not None and doubt.problem.kind is ProblemKind.MESSAGES_MISSING

    async def _read_what_is_owed(self) -> None:
        """Sweep until no gap is left. A run gives up on a thread that is gone after some refusals."""
        gaps = sum(self.setting.snapshot(stream).backlog for stream in self.setting.streams)
        for _ in range(MAX_SWEEPS + gaps):
            if all(self.setting.snapshot(stream).backlog == 0 for stream in self.setting.streams):
                return
            await self._sweep_all(times=1)
        raise AssertionError("messages are still owed")

    def _histories_reach_back(self) -> None:
        latest_limit = history_from(self.setting.now, self.setting.scenario.policy)
        if latest_limit is not None:
            for stream in self.setting.streams:
                self.setting.invariants.histories_reach_back(stream, latest_limit)

    async def _resume_all(self) -> None:
        async def resume(supervisor: Supervisor) -> None:
            for stream in self.setting.streams:
                await supervisor.ask(stream, ResumeStream("an operator"))

        await self._process(Schedule()).run(resume)

    async def _redrive_all(self) -> None:
        async def redrive(supervisor: Supervisor) -> None:
            for stream in self.setting.streams:
                for due in self.setting.open_dead_letters(stream):
                    await supervisor.do(Redrive(due.dead_letter.dead_letter_id))

        await self._process(Schedule(max_run_seconds=CALM_SECONDS)).run(redrive)

    async def _sweep_all(self, *, times: int, full: bool = False) -> None:
        longest = max(len(inbox.threads) for inbox in self.setting.world.inboxes.values())
        schedule = Schedule(CALM_SECONDS, CALM_SECONDS, max_batches_per_run=10 * (longest + 10))
        for _ in range(times):
            if full:  # a sweep that misses most is believed if one did a day before
                self.setting.world.pass_time(2 * 86_400.0)
            await self._process(schedule).run(lambda supervisor: supervisor.sync(self.setting.streams, full=full))
            for stream in self.setting.streams:
                assert self.setting.snapshot(stream).sweep is None, "a sweep without any trouble does not end"
