"""One process of a simulation: the engine that the daemon runs, over a simulated API, store, clock and operator.

A process dies at an await point: whatever it awaits never returns, and nothing it does afterwards has any effect.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Any, NoReturn

import structlog
from msgspec.structs import replace

from kit.engine_doubles import engine
from kit.invariants import RIVAL, Reading, concerns, is_refused
from kit.simulated_rivals import Rivals
from kit.simulation_setting import ANOTHER_PAGE, Answer, Setting
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import ApplyFacts, Discard, PauseStream, RecordTokenHealth, Redrive, ResumeStream, SyncNow
from milepost.core.errors import MilepostError, OutcomeUnknown, StoreAway, VersionConflict
from milepost.core.events import Reason, RunEnded, StoreReturned
from milepost.core.evolve import skip_unchanged
from milepost.core.failures import mistaken
from milepost.core.model import Keys, Known, Stream, TokenHealth
from milepost.core.plan import open_sweep, with_head_first
from milepost.core.ports import (
    Answered,
    Commit,
    Committed,
    DueDeadLetter,
    Fetched,
    Held,
    MessagesAnswered,
    MessagesFetched,
    MessagesRequest,
    OpenGap,
    Outcome,
    Refused,
    Rejected,
    Request,
)
from milepost.core.position import Gap, ThreadsSearched
from milepost.core.problems import Remedy, Scope, rule_for
from milepost.core.records import Context, Decision, Pending, Record
from milepost.core.webhooks import DueFact
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Stop
from milepost.engine.rate_limits import RateLimits, StreamGate
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.stores import rows

OPERATOR = "an operator"
PLANNED_ENDS = {Reason.SHUTDOWN, Reason.REQUEST, Reason.REMOVED, Reason.TIME_LIMIT, Reason.BATCH_LIMIT}
MAX_ANSWER_SECONDS = 30.0  # a command that a stopped process leaves unanswered is a bug


class Process:
    """A supervisor at work on every stream, from its start until it stops or dies."""

    def __init__(self, setting: Setting, schedule: Schedule) -> None:
        self.setting = setting
        self.invariants = setting.invariants
        self.is_dead = False
        self.violation: BaseException | None = None
        self.stop = Stop()
        scenario = setting.scenario
        context = engine(
            setting.store,
            clock=SimulatedClock(self),
            stop=self.stop,
            policy=scenario.policy,
            concurrency=scenario.concurrency,
        )
        self.rate_limits = ObservedRateLimits(context, self._forget_limit)
        for snapshot in setting.store.checkpoints.values():
            self.rate_limits.observe(rows.checkpoint(snapshot))
        context = replace(context, store=SimulatedStore(self), rate_limits=self.rate_limits)
        self.sources = {stream: SimulatedSource(self, stream) for stream in setting.streams}
        self.supervisor = Supervisor(context, self.sources, schedule)
        self._schedule = schedule
        self._rivals = Rivals(setting)
        self._died = asyncio.get_running_loop().create_future()
        self.limits_met: list[tuple[Scope, Stream, datetime]] = []
        self._operators: dict[asyncio.Task[None], Stream] = {}
        self._admissions: set[asyncio.Task[None]] = set()
        self._calls_while_waiting: Counter[asyncio.Task[None]] = Counter()
        self._unsettled: dict[Stream, list[tuple[Record, Reading]]] = {}

    def _forget_limit(self, stream: Stream) -> None:
        """Note that a stream's latest limit was about what it requested, and holds up no call."""
        self.limits_met = [each for each in self.limits_met if each[1] != stream]
        self.sources[stream].is_limit_unsettled = False

    # --- start and end ---

    async def run(self, work: Callable[[Supervisor], Coroutine[Any, Any, Any]]) -> None:
        """Run until `work` ends or the process dies. Raises the violation of an invariant, if there was one."""
        config = structlog.get_config()
        structlog.configure(processors=[self._on_log], cache_logger_on_first_use=False)
        working = asyncio.create_task(work(self.supervisor))
        try:
            await asyncio.wait({working, self._died}, return_when=asyncio.FIRST_COMPLETED)
            if self._operators and not self.is_dead:
                await asyncio.wait({*self._operators, self._died}, timeout=MAX_ANSWER_SECONDS)
                if not (self._died.done() or all(task.done() for task in self._operators)):
                    self.violated(AssertionError("a command was never answered"))
        finally:
            self.is_dead = True
            tasks = (working, *self._operators, *self._admissions)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            structlog.configure(**config)
        if self.violation is not None:
            raise self.violation
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def reach(self) -> None:
        """Reach an await point, which the process may not survive."""
        if not self.is_dead and self.setting.is_over:
            self._die()
        elif not self.is_dead and self.setting.happens(self.setting.scenario.crash_chance):
            for stream in self.setting.streams:
                self.invariants.disturbed(stream, "a crash")
            self._die()
        if self.is_dead:
            await asyncio.get_running_loop().create_future()

    async def fail(self, violation: BaseException) -> NoReturn:
        """End the simulation because an invariant was violated."""
        self.violated(violation)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("a dead process goes on")

    def violated(self, violation: BaseException) -> None:
        self.violation = self.violation or violation
        self._die()

    def _die(self) -> None:
        self.is_dead = True
        if not self._died.done():
            self._died.set_result(None)

    def _on_log(self, _: object, __: str, event: MutableMapping[str, Any]) -> NoReturn:
        """Fail for bugs that the engine's bulkhead catches and logs."""
        error = sys.exc_info()[1]
        is_conflict = isinstance(error, VersionConflict) and not self.setting.scenario.rival_chance
        if error is not None and not self.is_dead and (not isinstance(error, MilepostError) or is_conflict):
            self.violated(error)
        raise structlog.DropEvent

    # --- events while it runs ---

    def step(self, stream: Stream) -> None:
        """Advance the world by a step, and let people and other processes act on any of its streams."""
        setting, scenario = self.setting, self.setting.scenario
        if self.is_dead:
            return
        setting.step()
        if setting.is_calm:
            return
        if setting.happens(scenario.rival_chance):
            self._let_another_process_write(stream)
        stream = setting.random.choice(setting.streams)
        self._give_commands(stream)
        if scenario.news_chance and setting.happens(scenario.news_chance):
            self.invariants.seen["a webhook announced news"] += 1
            self.supervisor.prompt(stream)
        if scenario.facts_chance and setting.happens(scenario.facts_chance):
            self._deliver_facts()
        if setting.happens(scenario.reload_chance):
            self._reload(stream)
        if setting.links_the_account():
            self._admit_another_page()
        if setting.happens(scenario.stop_chance):
            self.stop.request()

    def _let_another_process_write(self, stream: Stream) -> None:
        setting = self.setting
        version = self._rivals.write(stream)
        is_notified = version is not None and setting.random.random() < 0.5
        self.sources[stream].calls_since_notified = 0 if is_notified else None
        if version is not None and setting.snapshot(stream).rate_limit is None:  # it read a batch: no limit holds
            self.limits_met = [each for each in self.limits_met if each[1] != stream]
        if version is not None and is_notified:
            self.supervisor.mailbox(stream).observe_version(version)

    def _give_commands(self, stream: Stream) -> None:
        setting, scenario = self.setting, self.setting.scenario
        is_paused = setting.snapshot(stream).operator_pause is not None
        if is_paused and setting.random.random() < 0.3:
            self._operate(stream, self.supervisor.ask(stream, ResumeStream(OPERATOR)))
        elif not is_paused and setting.happens(scenario.pause_chance):
            self._operate(stream, self.supervisor.ask(stream, PauseStream(OPERATOR)))
        if setting.happens(scenario.full_chance / 4):
            self._operate(stream, self.supervisor.ask(stream, SyncNow(OPERATOR, full=True)))
        if setting.happens(scenario.command_chance):
            dead_letters = setting.open_dead_letters(stream)
            chosen = setting.random.choice(dead_letters).dead_letter.dead_letter_id if dead_letters else ""
            match setting.random.randrange(6):
                case 0 | 1 | 2 if chosen:
                    self._operate(stream, self.supervisor.do(Redrive(chosen, OPERATOR)))
                case 3 if chosen:
                    self._operate(stream, self.supervisor.do(Discard(chosen, "enough", OPERATOR)))
                case 4:
                    self._operate(stream, self.supervisor.ask(stream, SyncNow(OPERATOR)))
                case _:
                    health = TokenHealth(setting.random.random() < 0.9)
                    self._operate(stream, self.supervisor.ask(stream, RecordTokenHealth(health)))

    def _deliver_facts(self) -> None:
        """Deliver some facts in any order and any number of times, to be applied now or with later ones."""
        said, random = self.setting.world.facts, self.setting.random
        for fact in random.sample(said, min(len(said), 3)):
            self.setting.store.add_fact(fact)
        for stream in self.sources if random.random() < 0.7 else ():
            self._operate(stream, self.supervisor.ask(stream, ApplyFacts()))

    def _operate(self, stream: Stream, command: Coroutine[Any, Any, Any]) -> None:
        async def operate() -> None:
            try:
                await command
            except MilepostError:
                self.invariants.seen["a command was refused"] += 1

        task = asyncio.create_task(operate())
        self._operators[task] = stream
        task.add_done_callback(self._operators.pop)

    def has_answered(self, stream: Stream) -> bool:
        """Whether no command still waits. One call may have begun before the command came, and one after its answer."""
        waiting = [task for task, of in self._operators.items() if of == stream]
        self._calls_while_waiting.update(waiting)
        return all(self._calls_while_waiting[task] <= 2 for task in waiting)

    def _reload(self, stream: Stream) -> None:
        """Change the configuration: the settings, or whether it lists the stream."""
        setting, random = self.setting, self.setting.random
        if random.random() < 0.5:
            policy = replace(
                setting.scenario.policy,
                batch_size=random.randint(2, 8),
                attempts=random.randint(1, 3),
                message_history_seconds=random.choice((0.0, 60.0, 3600.0, inf)),
            )
            schedule = replace(self._schedule, interval_seconds=random.choice((1.0, 60.0)))
            self.supervisor.adopt(policy, schedule, random.randint(1, 3))
            self.invariants.seen["the configuration was changed"] += 1
        elif stream in self.supervisor.streams:
            self.supervisor.dismiss(stream)
            self._admissions.add(asyncio.create_task(self._admit_again(stream, random.random() * 20)))

    def _admit_another_page(self) -> None:
        self.sources[ANOTHER_PAGE] = SimulatedSource(self, ANOTHER_PAGE)
        self.supervisor.admit(ANOTHER_PAGE, self.sources[ANOTHER_PAGE])

    async def _admit_again(self, stream: Stream, seconds: float) -> None:
        async with self.stop.interruptible():
            await asyncio.sleep(seconds)
        self.supervisor.admit(stream, self.sources[stream])

    # --- decisions and commits ---

    def decide(self, checkpoint: Checkpoint, outcome: Outcome, context: Context) -> Pending:
        """Decide as the engine does, and check the decision."""
        stream = checkpoint.stream
        if checkpoint.version <= self.setting.snapshot(stream).version:  # otherwise earlier ones are not committed yet
            self._unsettled[stream] = []
        if isinstance(outcome, Refused):
            self.sources[stream].is_limit_unsettled = False
        pending = self.setting.decides(checkpoint, outcome, context)
        return ObservedPending(pending, lambda decision: self._check(checkpoint, outcome, context, decision))

    def _check(self, checkpoint: Checkpoint, outcome: Outcome, context: Context, decision: Decision) -> None:
        stream, begun = checkpoint.stream, with_head_first(checkpoint, context.budget)
        sweep = open_sweep(begun, context.budget)
        if isinstance(decision, Record):
            self.invariants.decided(outcome, decision.events)
        if isinstance(outcome, Refused):
            has_cursor = sweep is not None and sweep.position.cursor is not None
            remedy = rule_for(outcome.problem, has_cursor=has_cursor).remedy
            self.invariants.disturbed(stream, f"a refusal: {remedy}")
            if outcome.check is not None:
                is_content = outcome.check.problem is None
                self.invariants.seen[
                    f"a refusal was about {'what the list holds' if is_content else 'everything'}"
                ] += 1
            return
        if is_refused(decision):
            is_another = mistaken(begun, outcome.batch, context.policy) is not None
            in_its_place = "another thread came in the place of one that fails"
            self.invariants.disturbed(stream, in_its_place if is_another else "a cursor loop")
            return
        reading = Reading(stream, sweep, outcome, self.sources[stream].sent_at(outcome), context.budget)
        if isinstance(decision, Record):
            self._unsettled.setdefault(stream, []).append((decision, reading))
        else:
            assert not decision.tally.has_changes, "a batch that changes something was skipped"
            self.invariants.seen["a batch was skipped"] += 1
            self.invariants.batch_fetched(reading)
            self.invariants.batch_is_safe(reading, skip_unchanged(checkpoint, decision))

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Commit a decision, and check that its batch is safe afterwards."""
        stream = commit.checkpoint.stream
        last = commit.entries[-1].event
        reading = next((of for record, of in self._unsettled.get(stream, ()) if record.events[-1] is last), None)
        if reading is None:
            return await self.setting.commit(stream, commit)
        if commit.entries[0].version == self.setting.snapshot(stream).version + 1:  # otherwise it is refused
            self.invariants.batch_fetched(reading)
        answer = await self.setting.commit(stream, commit)
        if isinstance(answer, Committed):
            self.invariants.batch_is_safe(reading, commit.checkpoint)
        return answer


class ObservedPending:
    """A pending decision that reports its outcome."""

    def __init__(self, pending: Pending, on_decision: Callable[[Decision], None]) -> None:
        self.keys = pending.keys
        self._pending = pending
        self._on_decision = on_decision

    def record(self, known: Known) -> Decision:
        """Return the decision, reported."""
        decision = self._pending.record(known)
        self._on_decision(decision)
        return decision


class SimulatedClock:
    """The Clock of a process: virtual time, and numbers drawn from the scenario's seed."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._setting = process.setting

    def now(self) -> datetime:
        return self._setting.now

    def steady(self) -> float:
        return self._setting.time.seconds

    def random(self) -> float:
        return self._setting.random.random()

    async def sleep_until(self, instant: datetime) -> None:
        await self._process.reach()
        stream = self._setting.random.choice(self._setting.streams)
        until = self._process.rate_limits.held_until(stream)
        if until is not None and until > self._setting.now and self._setting.snapshot(stream).rate_limit is None:
            self._process.invariants.seen["a rate limit of another stream holds this one"] += 1
        if self._setting.now >= self._setting.store_returns_at:
            self._process.step(stream)
        await asyncio.sleep(max(0.0, (instant - self._setting.now).total_seconds()))


class ObservedRateLimits(RateLimits):
    """The rate limits of a process, which report each limit that is forgotten."""

    def __init__(self, context: EngineContext, forgotten: Callable[[Stream], None]) -> None:
        super().__init__(context.clock, context.feed, floor_seconds=context.rate_limits.floor_seconds)
        self._forgotten = forgotten

    def forget(self, stream: Stream) -> None:
        super().forget(stream)
        self._forgotten(stream)


class SimulatedSource:
    """The Source of one stream in one process: an inbox behind the gate, with latency."""

    def __init__(self, process: Process, stream: Stream) -> None:
        self._process = process
        self._setting = process.setting
        self._stream = stream
        self._inbox = process.setting.world.inboxes[stream]
        self._gate: StreamGate = process.rate_limits.gate(stream)
        self._sent: dict[int, tuple[Outcome | MessagesFetched, datetime]] = {}
        self.calls_since_notified: int | None = None  # calls since the notice of another process's entry
        self.is_limit_unsettled = False

    def sent_at(self, outcome: Outcome) -> datetime:
        """Return when the request for this answer was sent."""
        if id(outcome) in self._sent:
            return self._sent[id(outcome)][1]
        assert isinstance(outcome, Fetched)  # of a list, and with its thread as it was read alone
        self._process.invariants.seen["a thread that fails in lists was read alone"] += 1
        sent = reversed(self._sent.values())
        return next(at for of, at in sent if isinstance(of, Fetched) and of.asked_at == outcome.asked_at)

    async def fetch(self, request: Request) -> Answered:
        return await self._call(lambda: self._inbox.answer(request), is_batch=True)

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        answered = await self._call(lambda: self._inbox.reread(conversation_id, messages), is_batch=False)
        self._process.invariants.observed[self._stream].vain_calls = 0
        return answered

    async def messages(self, request: MessagesRequest) -> MessagesAnswered:
        answered = await self._call(lambda: self._inbox.messages(request), is_batch=False)
        if isinstance(answered, MessagesFetched):
            self._process.invariants.observed[self._stream].vain_calls = 0
        return answered

    async def _call(self, answer: Callable[[], Answer], *, is_batch: bool) -> Answer | Refused | Held:
        process, setting = self._process, self._setting
        await process.reach()
        if self._gate.is_closed():
            process.invariants.seen["a call was held back by a rate limit"] += 1
            return Held()
        try:
            process.invariants.calls(self._stream, setting.now)
            for scope, owner, until in process.limits_met:
                is_held = concerns(scope, owner, self._stream) and setting.now < until
                assert not is_held, f"a call of {self._stream.key} inside the limit that {owner.key} just met"
            if is_batch:
                self._may_read()
        except AssertionError as violation:
            await process.fail(violation)
        sent_at, asked_at = setting.world.now, setting.now
        outcome = setting.dated(answer(), asked_at)
        await asyncio.sleep(outcome.took_seconds)
        await process.reach()
        if isinstance(outcome, Refused):
            outcome = replace(outcome, refused_at=self._gate.refused(outcome.problem))
            self._was_refused(outcome, is_batch=is_batch)
        process.step(self._stream)
        self._sent[id(outcome)] = (outcome, sent_at)
        return outcome

    def _may_read(self) -> None:
        """Assert that a paused or removed stream requests no batch, except for one that was on its way."""
        process, stream = self._process, self._stream
        if not self._is_ahead():
            assert not process.stop.is_set, "a call after the stop"
            assert process.has_answered(stream), "calls go on while a command waits"
            assert process.setting.is_calm or stream in process.supervisor.streams, "a call for a removed stream"
        pause = self._setting.snapshot(stream).operator_pause
        if pause is not None and pause.by == RIVAL and self.calls_since_notified is not None:
            self.calls_since_notified += 1
            assert self.calls_since_notified <= 1, "calls go on after another process paused the stream"
        assert pause is None or pause.by == RIVAL, f"a call for {stream.key}, which somebody paused"

    def _was_refused(self, refused: Refused, *, is_batch: bool) -> None:
        if self._is_ahead():
            self._process.invariants.seen["a request sent ahead was refused"] += 1
        rule = rule_for(refused.problem, has_cursor=False)
        if rule.remedy is Remedy.WAIT:
            self.is_limit_unsettled = is_batch
            seconds = self._setting.scenario.policy.rate_limit_floor_seconds  # no rate limit is shorter
            until = self._setting.now + timedelta(seconds=seconds)
            self._process.limits_met.append((rule.scope, self._stream, until))

    def _is_ahead(self) -> bool:
        """Whether this call is made ahead, in a task of its own."""
        task = asyncio.current_task()
        return task is None or not task.get_name().startswith("stream ")


class SimulatedStore:
    """The Store of one process: sometimes unavailable, and sometimes unable to tell the outcome of a commit."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._setting = process.setting
        self._store = process.setting.store

    async def load(self, stream: Stream) -> Checkpoint:
        await self._reach()
        checkpoint = self._setting.snapshot(stream)
        self._process.sources[stream].is_limit_unsettled = False  # a limit of an earlier run does not count
        self._process.invariants.loaded(stream, checkpoint)
        return checkpoint

    async def known(self, keys: Keys) -> Known:
        await self._reach()
        return await self._store.known(keys)

    async def due_dead_letters(self, stream: Stream, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        await self._reach()
        return await self._store.due_dead_letters(stream, now, limit)

    async def due_facts(self, stream: Stream, limit: int) -> tuple[DueFact, ...]:
        await self._reach()
        return await self._store.due_facts(stream, limit)

    async def open_gaps(self, stream: Stream, limit: int) -> tuple[OpenGap, ...]:
        await self._reach()
        return await self._store.open_gaps(stream, limit)

    async def gaps_at_limit(self, stream: Stream, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        await self._reach()
        return await self._store.gaps_at_limit(stream, later_than, limit)

    async def search_threads(self, stream: Stream, after: datetime | None, limit: int) -> ThreadsSearched:
        await self._reach()
        return await self._store.search_threads(stream, after, limit)

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        await self._reach()
        return await self._store.find_open_dead_letters(dead_letter_ids)

    async def commit(self, commit: Commit) -> Committed | Rejected:
        (answer,) = await self.commit_all((commit,))
        return answer

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[Committed | Rejected]:
        setting, invariants = self._setting, self._process.invariants
        await self._process.reach()
        for commit in commits:
            await self._expect_refusals_settled(commit)
        if setting.happens(setting.scenario.away_chance):
            self._go_away()
        await self._reach()
        share = setting.random.choice((0.0, 0.0, setting.random.random()))
        await asyncio.sleep(share * setting.scenario.slowest_commit_seconds)
        await self._process.reach()
        is_unknown = setting.happens(setting.scenario.unknown_chance)
        is_stored = not is_unknown or setting.random.random() < 0.5
        answers: list[Committed | Rejected] = []
        for commit in commits if is_stored else ():  # without an await, where the process might die: all or none
            try:
                answers.append(await self._watched(self._process.commit(commit)))
            except VersionConflict:
                if not answers:
                    raise
                break
            if isinstance(answers[-1], Rejected):
                break
        await self._process.reach()
        if not answers or (is_unknown and isinstance(answers[0], Committed)):
            invariants.seen[f"a commit of unknown outcome was {'' if is_stored else 'not '}stored"] += 1
            raise OutcomeUnknown("the connection was lost during a commit")
        if len(answers) > 1:
            invariants.seen["batches were committed together"] += 1
        return answers

    async def _expect_refusals_settled(self, commit: Commit) -> None:
        """Assert that a run records a rate limit that it met before it ends: the limit has to outlive this process."""
        events = [entry.event for entry in commit.entries]
        source = self._process.sources[commit.checkpoint.stream]
        is_end = any(isinstance(event, RunEnded) and event.reason in PLANNED_ENDS for event in events)
        if is_end and source.is_limit_unsettled and not any(isinstance(event, StoreReturned) for event in events):
            await self._process.fail(AssertionError("a run ended, and a rate limit that it met is not on record"))

    async def settle(self, commit: Commit) -> Committed | None:
        await self._reach()
        return await self._store.settle(commit)

    async def _reach(self) -> None:
        await self._process.reach()
        if self._setting.now < self._setting.store_returns_at and not self._setting.is_calm:
            raise StoreAway("the disk is full", hint="make room")

    def _go_away(self) -> None:
        setting = self._setting
        longest = setting.random.choice((60.0, 60.0, 2 * setting.scenario.run_seconds))
        setting.store_returns_at = setting.now + timedelta(seconds=setting.random.random() * longest)

    async def _watched(self, commit: Awaitable[Committed | Rejected]) -> Committed | Rejected:
        try:
            return await commit
        except AssertionError as violation:
            await self._process.fail(violation)
