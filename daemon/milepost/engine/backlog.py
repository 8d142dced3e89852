"""The backlog of one stream: reads owed messages between the batches of a run, and after its sweep."""

from collections import Counter
from datetime import datetime
from functools import partial

import structlog

from milepost.core.background import (
    MAX_PARKED,
    MAX_USAGE_RATIO,
    Demand,
    HoldBack,
    ReadGap,
    next_gap,
    plan_backlog,
    reading_ends_at,
    reads_between,
)
from milepost.core.backlog import earlier_limit, next_search, open_found, reopen
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import VersionConflict
from milepost.core.message_reading import decide_messages, drop_gap, futile_page, request_of
from milepost.core.missed import is_beyond_window
from milepost.core.model import MessagePage
from milepost.core.plan import Wait
from milepost.core.ports import (
    Held,
    MessagesAnswered,
    MessagesFetched,
    MessagesOutcome,
    OpenGap,
    Refused,
    Source,
    Usage,
)
from milepost.core.position import Gap, MissedReason
from milepost.core.problems import Remedy, rule_for
from milepost.engine.clock import Deadline
from milepost.engine.commands import CommandHandler
from milepost.engine.context import EngineContext, Mailbox
from milepost.engine.stream_journal import StreamJournal

log = structlog.get_logger("milepost")

GAPS_AHEAD = 10  # loaded besides those that failed
GAPS_REOPENED = 200  # at once; also the conversations of one step of a search for histories that were left out


class BacklogReader:
    """Reads owed messages within the limits of one run. The caller holds the stream's slot."""

    def __init__(
        self,
        engine: EngineContext,
        source: Source,
        stream_journal: StreamJournal,
        commands: CommandHandler,
        mailbox: Mailbox,
    ) -> None:
        self._engine = engine
        self._source = source
        self._stream_journal = stream_journal
        self._commands = commands
        self._mailbox = mailbox
        self._budget = stream_journal.budget
        self._deadline = Deadline(engine.clock, reading_ends_at(self._budget), stream_journal.deadline.anchor)
        self._requests = 0
        self._tried: set[str] = set()
        self._limited: Counter[str] = Counter()  # rate limits, by gap
        self._failures_in_a_row = 0
        self._is_in_vain = False

    def is_due_between(self, checkpoint: Checkpoint) -> bool:
        """Return whether older messages should be read before the next batch of the run."""
        return not self._is_in_vain and reads_between(checkpoint, self._budget, self._demand(), requests=self._requests)

    async def read_between(self, checkpoint: Checkpoint) -> Checkpoint:
        """Make one request before the next batch, if any owed messages can be read now."""
        found = await self._next()
        return await self._read(checkpoint, found) if isinstance(found, OpenGap) else checkpoint

    async def read_owed(self, checkpoint: Checkpoint) -> Checkpoint:
        """Read owed messages until there are none, or the run's limits are reached. Return the checkpoint after it.

        Waiting commands are executed between two calls.
        """
        try:
            checkpoint = await self._open_left_out(await self._reopen(checkpoint))
            self._mailbox.set_version(checkpoint.version)
            while checkpoint.backlog and not self._is_in_vain:
                after = await self._step(checkpoint)
                if after is None:
                    break
                checkpoint = after
                self._mailbox.set_version(checkpoint.version)
        except VersionConflict:  # another process wrote to the stream: the rest is read after the next run
            return await self._stream_journal.load()
        return checkpoint

    async def _reopen(self, checkpoint: Checkpoint) -> Checkpoint:
        """Reopen the histories that are owed further back than they were read."""
        limit = earlier_limit(checkpoint, self._engine.clock.now(), self._budget, self._engine.policy)
        while limit is not None and (gaps := await self._stream_journal.gaps_at_limit(limit, GAPS_REOPENED)):
            checkpoint = await self._stream_journal.record(checkpoint, reopen(checkpoint, gaps, limit, self._budget))
        return checkpoint

    async def _open_left_out(self, checkpoint: Checkpoint) -> Checkpoint:
        """Open the histories that were left out of the record and are now owed. The next run continues if time is up.

        Each run takes at least one step, or histories would never be opened while every run uses up its time.
        """
        clock, journal, budget = self._engine.clock, self._stream_journal, self._budget
        while (search := next_search(checkpoint, clock.now(), budget, self._engine.policy)) is not None:
            self._mailbox.set_version(checkpoint.version)
            searched = await journal.search_threads(search.after, GAPS_REOPENED)
            checkpoint = await journal.record(checkpoint, open_found(checkpoint, search, searched, budget, clock.now()))
            if self._engine.is_interrupted(self._mailbox) or self._deadline.has_passed:
                break
        return checkpoint

    async def _step(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """Take the planned step. Returns the checkpoint after it; None if there is nothing left to do."""
        engine = self._engine
        budget = engine.budget_now(self._budget, self._deadline, self._mailbox)
        held_until = engine.rate_limits.held_until(self._stream_journal.stream)
        now, demand = engine.clock.now(), self._demand()
        match plan_backlog(checkpoint, now, budget, held_until, demand=demand, requests=self._requests):
            case ReadGap() | Wait() if self._mailbox.is_outdated or (self._mailbox.wants_run and self._requests):
                return None
            case ReadGap() | Wait() if self._mailbox.interrupt.is_set:
                return await self._commands.run_commands(checkpoint)
            case ReadGap():
                self._note_held_back(None)
                return await self._read_next(checkpoint)
            case Wait(until=until):
                return await self._wait(checkpoint, until)
            case HoldBack(usage=usage):
                self._note_held_back(usage)
                return None
            case None:
                return None

    def _note_held_back(self, usage: Usage | None) -> None:
        """Log when older messages begin to wait for a budget, and when they no longer do."""
        is_held_back = usage is not None
        if not self._engine.call_shares.note_held_back(self._stream_journal.stream, is_held_back=is_held_back):
            return
        if usage is None:
            log.info("older messages no longer held back")
            return
        log.info(
            "older messages held back",
            budget=usage.scope.value,
            used=f"{usage.ratio:.0%}",
            hint=f"nothing to do: they are read while no more than {MAX_USAGE_RATIO:.0%} of each budget is used",
        )

    def _demand(self) -> Demand:
        engine, stream = self._engine, self._stream_journal.stream
        return engine.call_shares.demand(stream, engine.rate_limits.usage(stream))

    async def _next(self) -> OpenGap | Wait | None:
        """Return a gap that can be read now, or a wait until one can be; None if none can in this run.

        A rate limit may concern only one conversation, so the others come first then. After several limits, the run
        reads no more.
        """
        found = {each.gap.gap_id: each for each in await self._stream_journal.open_gaps(len(self._tried) + GAPS_AHEAD)}
        limited, most = self._limited, self._engine.policy.attempts
        gaps = [each.gap for each in found.values() if limited[each.gap.gap_id] < most]
        gaps.sort(key=lambda gap: limited[gap.gap_id])
        following = next_gap(gaps, self._tried, self._engine.clock.now(), self._engine.policy)
        return found[following.gap_id] if isinstance(following, Gap) else following

    async def _read_next(self, checkpoint: Checkpoint) -> Checkpoint | None:
        match await self._next():
            case OpenGap() as found:
                return await self._read(checkpoint, found)
            case Wait(until=until) if until < self._deadline.at:
                return await self._wait(checkpoint, until)
            case _:
                return None

    async def _read(self, checkpoint: Checkpoint, found: OpenGap) -> Checkpoint:
        """Read the next messages of a gap, and settle them. Nothing changes if a stop or a rate limit comes first."""
        gap = found.gap
        if (ending := found.ending) is not None:
            return await self._stream_journal.record(checkpoint, drop_gap(checkpoint, gap, ending, self._budget))
        answer: MessagesAnswered = Held()
        now = self._engine.clock.now()
        if is_beyond_window(checkpoint.window_at, gap, now):
            answer = MessagesFetched(MessagePage((), withheld=MissedReason.WINDOW), now, 0.0)
        else:
            async with self._engine.stop.interruptible():
                answer = await self._source.messages(request_of(gap))
        if isinstance(answer, Held):
            return checkpoint
        self._requests += 1
        self._engine.call_shares.count_messages(self._stream_journal.stream)
        self._note(gap, answer)
        return await self._stream_journal.settle(checkpoint, partial(decide_messages, checkpoint, gap, answer))

    def _note(self, gap: Gap, answer: MessagesOutcome) -> None:
        """Note a failure, and whether it shows that further calls are in vain for now."""
        problem = answer.problem if isinstance(answer, Refused) else futile_page(gap, answer.page)
        if problem is None:
            self._failures_in_a_row = 0
            return
        self._tried.add(gap.gap_id)
        rule = rule_for(problem, has_cursor=gap.cursor is not None)
        is_limit = rule.remedy is Remedy.WAIT
        self._limited[gap.gap_id] += is_limit
        self._failures_in_a_row += not is_limit
        # Any other refusal may be about this conversation: a list was read just before.
        is_stop = rule.is_general and rule.remedy in {Remedy.STOP_AUTHORIZATION, Remedy.STOP_CONFIGURATION}
        self._is_in_vain = is_stop or self._failures_in_a_row >= MAX_PARKED * self._engine.policy.attempts

    async def _wait(self, checkpoint: Checkpoint, until: datetime) -> Checkpoint:
        """Wait without a slot. A command or news ends the wait."""
        return await self._commands.wait_without_slot(self._engine, checkpoint, until, self._mailbox.prompted)
