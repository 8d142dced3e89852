"""One stream's journal during a run: load the checkpoint, decide and commit, then publish to the feed."""

from collections.abc import Callable
from datetime import datetime, timedelta
from time import perf_counter

from msgspec.structs import replace

from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.errors import OutcomeUnknown, RowsRejected
from milepost.core.evolve import skip_unchanged
from milepost.core.gaps import Gap
from milepost.core.journal import Codec
from milepost.core.model import Keys, Known, RefusedRow, Stream
from milepost.core.plan import RunBudget
from milepost.core.ports import Commit, Committed, DueDeadLetter, OpenGap, Rejected
from milepost.core.records import Context, Pending, Record, prepare
from milepost.core.webhooks import DueFact
from milepost.engine.context import EngineContext
from milepost.engine.feed import Recorded, UnchangedRead
from milepost.engine.store_retry import StoreRetry

RECENT = timedelta(days=1)


class StreamJournal:
    """The journal of one stream during one run. Its methods raise StoreAway if the store stays unavailable."""

    def __init__(self, engine: EngineContext, stream: Stream, budget: RunBudget) -> None:
        self._engine = engine
        self._store = engine.store
        self.stream = stream
        self.budget = budget
        self._store_retry = StoreRetry(engine, stream, give_up_at=budget.deadline_at)
        self._codec = Codec()

    def now(self) -> datetime:
        """Return the time."""
        return self._engine.clock.now()

    async def load(self) -> Checkpoint:
        """Return the stream's checkpoint."""
        checkpoint = await self._store_retry.call(lambda: self._store.load(self.stream))
        self._engine.rate_limits.observe(checkpoint)
        return checkpoint

    async def settle(
        self,
        checkpoint: Checkpoint,
        decide: Callable[[Context], Pending],
        fetch_seconds: float | None = None,
    ) -> Checkpoint:
        """Decide and commit, again without the rows that the store refuses, and again where what is stored has changed.

        Returns the checkpoint after it.

        Raises VersionConflict if another writer was first, and RowsRejected if the store cannot name what it refuses.
        """
        refused: tuple[RefusedRow, ...] = ()
        while True:
            clock = self._engine.clock
            context = Context(clock.now(), clock.random(), self.budget, self._engine.policy, refused)
            pending = decide(context)
            known = await self._known(pending.keys)
            decision = pending.record(known)
            if isinstance(decision, BatchUnchanged):
                return self._skip_unchanged(checkpoint, decision, fetch_seconds or 0.0)
            answer = await self._commit(checkpoint, decision, self.budget.run_id, fetch_seconds, known)
            if isinstance(answer, Checkpoint):
                return answer
            if answer.rows and set(answer.rows) <= set(refused):
                raise RowsRejected("the database refuses rows that it was not given", hint="please report this")
            refused += answer.rows

    async def record(self, checkpoint: Checkpoint, record: Record, run_id: str | None = None) -> Checkpoint:
        """Commit events without rows and return the checkpoint after them. Raises as `settle` does."""
        answer = await self._commit(checkpoint, record, run_id or self.budget.run_id)
        if isinstance(answer, Rejected):
            raise RowsRejected("the database refuses rows that it was not given", hint="please report this")
        return answer

    async def due_dead_letters(self, limit: int) -> tuple[DueDeadLetter, ...]:
        """Return dead letters of the stream whose redrive is due, at most `limit`."""
        now = self._engine.clock.now()
        return await self._store_retry.call(lambda: self._store.due_dead_letters(self.stream, now, limit))

    async def due_facts(self, limit: int) -> tuple[DueFact, ...]:
        """Return up to `limit` facts about messages of the stream that are stored, the earliest first."""
        return await self._store_retry.call(lambda: self._store.due_facts(self.stream, limit))

    async def open_gaps(self, limit: int) -> tuple[OpenGap, ...]:
        """Return up to `limit` open gaps of the stream: those between two sweeps before histories, the newest first."""
        return await self._store_retry.call(lambda: self._store.open_gaps(self.stream, limit))

    async def gaps_at_limit(self, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        """Return up to `limit` histories of the stream that are at their limit and ended later than `later_than`."""
        return await self._store_retry.call(lambda: self._store.gaps_at_limit(self.stream, later_than, limit))

    async def find_open_dead_letter(self, dead_letter_id: str) -> DueDeadLetter | None:
        """Return a dead letter if it is open."""
        found = await self._store_retry.call(lambda: self._store.find_open_dead_letters((dead_letter_id,)))
        return found[0] if found else None

    async def _known(self, keys: Keys | None) -> Known:
        return Known() if keys is None else await self._store_retry.call(lambda: self._store.known(keys))

    def _skip_unchanged(self, checkpoint: Checkpoint, passed: BatchUnchanged, fetch_seconds: float) -> Checkpoint:
        after = skip_unchanged(checkpoint, passed)
        self._engine.rate_limits.observe(after)
        self._engine.feed.publish(UnchangedRead(after, passed.tally, fetch_seconds))
        return after

    async def _commit(
        self,
        checkpoint: Checkpoint,
        record: Record,
        run_id: str,
        fetch_seconds: float | None = None,
        known: Known | None = None,
    ) -> Checkpoint | Rejected:
        unsettled: Commit | None = None

        async def attempt() -> tuple[Commit, Committed | Rejected]:
            nonlocal unsettled
            if unsettled is not None:
                committed = await self._store.settle(unsettled)
                if committed is not None:
                    return unsettled, committed
                unsettled = None
            now = self._engine.clock.now()
            events = (*self._store_retry.outage(), *record.events)
            commit = replace(prepare(checkpoint, Record(events, record.changes), run_id, now, self._codec), known=known)
            try:
                answer = await self._store.commit(commit)
            except OutcomeUnknown:
                unsettled = commit
                raise
            if isinstance(answer, Committed):
                self._store_retry.reset()
            return commit, answer

        began = perf_counter()
        commit, answer = await self._store_retry.call(attempt)
        if isinstance(answer, Rejected):
            return answer
        seconds = perf_counter() - began
        self._engine.rate_limits.observe(commit.checkpoint)
        recent = _recent(commit, self._engine.clock.now())
        self._engine.feed.publish(
            Recorded(commit.entries, answer, commit.checkpoint, seconds, fetch_seconds, record.arrived, recent)
        )
        if record.events and self._store_retry.outage():  # since this commit, whose outcome was unknown at first
            return await self._commit(commit.checkpoint, Record(()), run_id)
        return commit.checkpoint


def _recent(commit: Commit, now: datetime) -> tuple[tuple[str, datetime], ...]:
    """Return the messages of the last day among those that were stored, and their times."""
    since = now - RECENT
    rows = commit.changes.interaction_events
    return tuple((row.event_id, row.occurred_at) for row in rows if row.occurred_at > since)
