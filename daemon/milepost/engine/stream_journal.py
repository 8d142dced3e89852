"""One stream's journal during a run: loads the checkpoint, decides and commits, then publishes to the feed.

All calls are retried while the database is unavailable.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from time import perf_counter
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.errors import OutcomeUnknown, RowsRejected, StoreAway
from milepost.core.events import StoreReturned
from milepost.core.evolve import skip_unchanged
from milepost.core.journal import Codec
from milepost.core.model import InteractionEventRow, Keys, Known, RefusedRow, Stream
from milepost.core.plan import RunBudget
from milepost.core.ports import Commit, Committed, DueDeadLetter, OpenGap, Rejected
from milepost.core.position import Gap, ThreadsSearched
from milepost.core.records import MAX_DRAFTS, Context, Draft, DraftedIds, Pending, Record, prepare, prepare_after
from milepost.core.retry import backoff_seconds
from milepost.core.webhooks import DueFact
from milepost.engine.clock import Deadline
from milepost.engine.context import EngineContext
from milepost.engine.feed import Recorded, StoreRetried, UnchangedRead

Result = TypeVar("Result")

RECENT = timedelta(days=1)


Decide = Callable[[Context], Pending]


class ToSettle(Struct, frozen=True):
    """An outcome that is to be settled: how it is decided, and how long the source took, if it was fetched."""

    decide: Decide
    fetch_seconds: float | None = None


Following = Callable[[Checkpoint, int], ToSettle | None]
"""Returns the outcome that is ready to be settled after a checkpoint, with so many ready ones before it."""


class StreamJournal:
    """The journal of one stream during one run. Its methods raise StoreAway if the store stays unavailable."""

    def __init__(self, engine: EngineContext, stream: Stream, budget: RunBudget) -> None:
        self._engine = engine
        self._store = engine.store
        self.stream = stream
        self.budget = budget
        self.deadline = Deadline(engine.clock, budget.deadline_at)
        self._store_retry = StoreRetry(engine, stream, give_up_at=self.deadline)
        self._codec = Codec()

    def now(self) -> datetime:
        """Return the time."""
        return self._engine.clock.now()

    async def load(self) -> Checkpoint:
        """Return the stream's checkpoint."""
        checkpoint = await self._store_retry.call(lambda: self._store.load(self.stream))
        self._engine.rate_limits.observe(checkpoint)
        return checkpoint

    async def settle(self, checkpoint: Checkpoint, decide: Decide) -> Checkpoint:
        """Decide and commit; decide again without rows that the store refuses, and again if stored rows have changed.

        Return the checkpoint after it.

        Raises VersionConflict if another writer was first, and RowsRejected if the store cannot name what it refuses.
        """
        after, _ = await self.settle_ready(checkpoint, ToSettle(decide), lambda _, __: None)
        return after

    async def settle_ready(
        self, checkpoint: Checkpoint, outcome: ToSettle, following: Following
    ) -> tuple[Checkpoint, int]:
        """Settle an outcome as `settle` does, together with the ready ones `following` it.

        Return the checkpoint after the last settled outcome, and how many followed the first.
        """
        refused: tuple[RefusedRow, ...] = ()
        while True:
            draft = await self._draft(checkpoint, self._decide(outcome, refused), outcome.fetch_seconds)
            if isinstance(draft, BatchUnchanged):
                return self._skip_unchanged(checkpoint, draft, outcome.fetch_seconds or 0.0), 0
            drafts = [draft] if refused else await self._with_following(draft, following)
            answer = await self._commit(checkpoint, drafts)
            if not isinstance(answer, Rejected):
                return answer
            if answer.rows and set(answer.rows) <= set(refused):
                raise RowsRejected("the database refuses rows that it was not given", hint="please report this")
            refused += answer.rows

    async def record(self, checkpoint: Checkpoint, record: Record, run_id: str | None = None) -> Checkpoint:
        """Commit events without rows and return the checkpoint after them. Raises as `settle` does."""
        run_id = run_id or self.budget.run_id
        commit = prepare(checkpoint, record, run_id, self._engine.clock.now(), self._codec)
        answer = await self._commit(checkpoint, [Draft(record, commit, run_id)])
        if isinstance(answer, Rejected):
            raise RowsRejected("the database refuses rows that it was not given", hint="please report this")
        after, _ = answer
        return after

    @property
    def is_store_away(self) -> bool:
        """Whether the store has been unavailable since its latest commit."""
        return bool(self._store_retry.outage())

    async def due_dead_letters(self, limit: int) -> tuple[DueDeadLetter, ...]:
        """Return up to `limit` dead letters of the stream whose redrive is due."""
        now = self._engine.clock.now()
        return await self._store_retry.call(lambda: self._store.due_dead_letters(self.stream, now, limit))

    async def due_facts(self, limit: int) -> tuple[DueFact, ...]:
        """Return up to `limit` facts about stored messages of the stream, the earliest first."""
        return await self._store_retry.call(lambda: self._store.due_facts(self.stream, limit))

    async def open_gaps(self, limit: int) -> tuple[OpenGap, ...]:
        """Return up to `limit` open gaps of the stream, the newest first, but histories after all others."""
        return await self._store_retry.call(lambda: self._store.open_gaps(self.stream, limit))

    async def gaps_at_limit(self, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        """Return up to `limit` histories of the stream that are at their limit and ended later than `later_than`."""
        return await self._store_retry.call(lambda: self._store.gaps_at_limit(self.stream, later_than, limit))

    async def search_threads(self, after: datetime | None, limit: int) -> ThreadsSearched:
        """Search about `limit` conversations of the stream, those next by `updated_time` later than `after`."""
        return await self._store_retry.call(lambda: self._store.search_threads(self.stream, after, limit))

    async def find_open_dead_letter(self, dead_letter_id: str) -> DueDeadLetter | None:
        """Return a dead letter if it is open."""
        found = await self._store_retry.call(lambda: self._store.find_open_dead_letters((dead_letter_id,)))
        return found[0] if found else None

    def _decide(self, outcome: ToSettle, refused: tuple[RefusedRow, ...] = ()) -> Pending:
        clock, quiet = self._engine.clock, self._engine.quiet_heads.get(self.stream)
        return outcome.decide(Context(clock.now(), clock.random(), self.budget, self._engine.policy, refused, quiet))

    async def _draft(
        self, checkpoint: Checkpoint, pending: Pending, fetch_seconds: float | None
    ) -> Draft | BatchUnchanged:
        known = await self._known(pending.keys)
        decision = pending.record(known)
        if isinstance(decision, BatchUnchanged):
            return decision
        run_id, now = self.budget.run_id, self._engine.clock.now()
        commit = replace(prepare(checkpoint, decision, run_id, now, self._codec), known=known)
        return Draft(decision, commit, run_id, pending.keys, fetch_seconds)

    async def _with_following(self, draft: Draft, following: Following) -> list[Draft]:
        """Return a draft, and drafts of the ready outcomes after it that can be committed together with it."""
        drafts, drafted = [draft], DraftedIds()
        while len(drafts) < MAX_DRAFTS:
            drafted.add(drafts[-1])
            checkpoint = drafts[-1].commit.checkpoint
            outcome = following(checkpoint, len(drafts) - 1)
            if outcome is None or not drafted.leave_alone((pending := self._decide(outcome)).keys):
                break
            next_draft = await self._draft(checkpoint, pending, outcome.fetch_seconds)
            if isinstance(next_draft, BatchUnchanged):  # it needs no commit
                break
            drafts.append(next_draft)
        return drafts

    async def _known(self, keys: Keys | None) -> Known:
        if keys is None or keys == Keys(keys.stream):  # there is nothing to look up
            return Known()
        return await self._store_retry.call(lambda: self._store.known(keys))

    def _skip_unchanged(self, checkpoint: Checkpoint, passed: BatchUnchanged, fetch_seconds: float) -> Checkpoint:
        after = skip_unchanged(checkpoint, passed)
        self._engine.rate_limits.observe(after)
        self._engine.feed.publish(UnchangedRead(after, passed.tally, fetch_seconds))
        return after

    async def _commit(self, checkpoint: Checkpoint, drafts: Sequence[Draft]) -> tuple[Checkpoint, int] | Rejected:
        """Commit drafts; return the checkpoint after the last stored one, and how many followed the first."""
        unsettled: list[Commit] = []
        began = perf_counter()
        answered = await self._store_retry.call(lambda: self._attempt(checkpoint, drafts, unsettled))
        _, first = answered[0]
        if isinstance(first, Rejected):
            return first
        seconds, after, settled = perf_counter() - began, checkpoint, -1
        for (commit, answer), draft in zip(answered, drafts, strict=False):
            if isinstance(answer, Committed):
                self._publish(commit, answer, draft, seconds)
                after, settled = commit.checkpoint, settled + 1
        was_away = self.is_store_away  # since this commit, whose outcome was unknown at first
        if drafts[0].record.events and was_away:
            after = await self.record(after, Record(()))
        return after, settled

    async def _attempt(
        self, checkpoint: Checkpoint, drafts: Sequence[Draft], unsettled: list[Commit]
    ) -> list[tuple[Commit, Committed | Rejected]]:
        """Commit drafts, unless they are stored already. `unsettled` are the commits whose outcome is unknown."""
        if unsettled and (stored := await self._stored(unsettled)):
            return stored
        commits = [draft.commit for draft in drafts]
        if outage := self._store_retry.outage():
            # One alone: a slow server may have hung up because so much at once took too long.
            commits = prepare_after(checkpoint, outage, drafts[:1], self._engine.clock.now(), self._codec)
        try:
            answers = await self._store.commit_all(commits)
        except OutcomeUnknown:
            unsettled[:] = commits
            raise
        if isinstance(answers[0], Committed):
            self._store_retry.reset()
        return list(zip(commits, answers, strict=False))  # the commits after a refused one have no answer

    async def _stored(self, commits: Sequence[Commit]) -> list[tuple[Commit, Committed | Rejected]]:
        """Return the commits with an unknown outcome that were stored: the first ones, or none."""
        stored: list[tuple[Commit, Committed | Rejected]] = []
        for commit in commits:
            answer = await self._store.settle(commit)
            if answer is None:
                break
            stored.append((commit, answer))
        return stored

    def _publish(self, commit: Commit, committed: Committed, draft: Draft, seconds: float) -> None:
        self._engine.rate_limits.observe(commit.checkpoint)
        if draft.record.quiet is not None:
            self._engine.quiet_heads[self.stream] = draft.record.quiet
        messages = commit.changes.interaction_events
        recent = _recent(messages, self._engine.clock.now()) if messages else ()
        self._engine.feed.publish(
            Recorded(
                commit.entries, committed, commit.checkpoint, seconds, draft.fetch_seconds, draft.record.arrived, recent
            )
        )


def _recent(messages: Sequence[InteractionEventRow], now: datetime) -> tuple[tuple[str, datetime], ...]:
    """Return the newly stored messages of the last day, with their times."""
    since = now - RECENT
    return tuple((row.event_id, row.occurred_at) for row in messages if row.occurred_at > since)


# --- while the database is unavailable --------------------------------------------------------------------------------

# This is the only condition that the journal cannot record while it lasts. Readers get a notice of each attempt, which
# has no seq; the next successful commit records how long the outage lasted.


class StoreRetry:
    """Retries the store calls of one run until `give_up_at`, or until shutdown."""

    def __init__(self, engine: EngineContext, stream: Stream, give_up_at: Deadline) -> None:
        self._engine = engine
        self._stream = stream
        self._give_up_at = give_up_at
        self._away_since: float | None = None  # by the steady clock
        self._attempts = 0

    async def call(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Call the store until it answers. Raises StoreAway if it stays unavailable."""
        while True:
            try:
                return await attempt()
            except StoreAway as error:
                await self._wait_or_give_up(error)

    def outage(self) -> tuple[StoreReturned, ...]:
        """Return the event that the next commit has to record; none if the store was available."""
        if self._away_since is None:
            return ()
        return (StoreReturned(self._engine.clock.steady() - self._away_since, self._attempts),)

    def reset(self) -> None:
        """Forget the outage, which is now on record."""
        self._away_since, self._attempts = None, 0

    async def _wait_or_give_up(self, error: StoreAway) -> None:
        clock = self._engine.clock
        now, steady = clock.now(), clock.steady()
        self._away_since = steady if self._away_since is None else self._away_since
        self._attempts += 1
        if self._engine.stop.is_requested or self._give_up_at.has_passed:
            raise error
        wait_seconds = backoff_seconds(
            self._attempts,
            clock.random(),
            base_delay_seconds=self._engine.policy.base_delay_seconds,
            max_delay_seconds=self._engine.policy.max_delay_seconds,
        )
        away_seconds = steady - self._away_since
        self._engine.feed.publish(StoreRetried(self._stream, self._attempts, away_seconds, wait_seconds, str(error)))
        async with self._engine.stop.interruptible():
            await clock.sleep_until(now + timedelta(seconds=wait_seconds))
