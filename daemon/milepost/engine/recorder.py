"""One stream's way to the store: read where it stands, commit what is decided, then tell the readers."""

from collections.abc import Callable
from time import perf_counter

from milepost.core.checkpoint import BatchPassed, Checkpoint, pass_over
from milepost.core.codec import Codec
from milepost.core.decision import Circumstances, Decision, Record, prepare
from milepost.core.errors import OutcomeUnknown, RowsRejected
from milepost.core.model import Keys, Known, RefusedRow, Stream
from milepost.core.plan import Slice
from milepost.core.ports import Commit, Committed, DueLetter, Rejected
from milepost.engine.feed import Passed, Recorded
from milepost.engine.patience import Patience
from milepost.engine.shared import Shared


class Recorder:
    """The journal of one stream during one turn. Its methods raise StoreAway if the store stays away."""

    def __init__(self, shared: Shared, stream: Stream, work: Slice) -> None:
        self._shared = shared
        self._store = shared.store
        self._stream = stream
        self._work = work
        self._patience = Patience(shared, stream.key, give_up_at=work.deadline_at)
        self._codec = Codec()

    async def recall(self) -> Checkpoint:
        """Give where the stream stands."""
        checkpoint = await self._patience.insist(lambda: self._store.recall(self._stream.key))
        self._shared.pauses.learn(checkpoint)
        return checkpoint

    async def settle(
        self,
        checkpoint: Checkpoint,
        decide: Callable[[Circumstances, Known], Decision],
        keys: Callable[[Circumstances], Keys | None],
        fetch_seconds: float | None = None,
    ) -> Checkpoint:
        """Decide and commit, until the store takes every row that is left; give where the stream stands then.

        Raises VersionConflict if another writer was first, and RowsRejected if the store cannot say what it refuses.
        """
        refused: tuple[RefusedRow, ...] = ()
        while True:
            clock = self._shared.clock
            circumstances = Circumstances(clock.now(), clock.luck(), self._work, self._shared.policy, refused)
            decision = decide(circumstances, await self._known(keys(circumstances)))
            if isinstance(decision, BatchPassed):
                return self._pass_over(checkpoint, decision, fetch_seconds or 0.0)
            answer = await self._commit(checkpoint, decision, self._work.run_id, fetch_seconds)
            if isinstance(answer, Checkpoint):
                return answer
            if set(answer.rows) <= set(refused):
                raise RowsRejected("the database refuses rows that it was not given", hint="please report this")
            refused += answer.rows

    async def record(self, checkpoint: Checkpoint, record: Record, run_id: str | None = None) -> Checkpoint:
        """Commit what has no rows; give where the stream stands then. Raises as `settle` does."""
        answer = await self._commit(checkpoint, record, run_id or self._work.run_id)
        if isinstance(answer, Rejected):
            raise RowsRejected("the database refuses rows that it was not given", hint="please report this")
        return answer

    async def due_letters(self, limit: int) -> tuple[DueLetter, ...]:
        """Give dead letters of the stream whose redrive is due."""
        now = self._shared.clock.now()
        return await self._patience.insist(lambda: self._store.due_letters(self._stream.key, now, limit))

    async def open_letter(self, dead_letter_id: str) -> DueLetter | None:
        """Give a dead letter if it is open."""
        found = await self._patience.insist(lambda: self._store.open_letters((dead_letter_id,)))
        return found[0] if found else None

    async def _known(self, keys: Keys | None) -> Known:
        return Known() if keys is None else await self._patience.insist(lambda: self._store.known(keys))

    def _pass_over(self, checkpoint: Checkpoint, passed: BatchPassed, fetch_seconds: float) -> Checkpoint:
        after = pass_over(checkpoint, passed)
        self._shared.pauses.learn(after)
        self._shared.feed.publish(Passed(after, passed.tally, fetch_seconds))
        return after

    async def _commit(
        self, checkpoint: Checkpoint, record: Record, run_id: str, fetch_seconds: float | None = None
    ) -> Checkpoint | Rejected:
        unsettled: Commit | None = None

        async def attempt() -> tuple[Commit, Committed | Rejected]:
            nonlocal unsettled
            if unsettled is not None:
                committed = await self._store.settle(unsettled)
                if committed is not None:
                    return unsettled, committed
                unsettled = None
            now = self._shared.clock.now()
            events = (*self._patience.absence(), *record.events)
            commit = prepare(checkpoint, Record(events, record.changes), run_id, now, self._codec)
            try:
                answer = await self._store.commit(commit)
            except OutcomeUnknown:
                unsettled = commit
                raise
            if isinstance(answer, Committed):
                self._patience.is_recorded()
            return commit, answer

        began = perf_counter()
        commit, answer = await self._patience.insist(attempt)
        if isinstance(answer, Rejected):
            return answer
        seconds = perf_counter() - began
        self._shared.pauses.learn(commit.checkpoint)
        self._shared.feed.publish(Recorded(commit.entries, answer, commit.checkpoint, seconds, fetch_seconds))
        if record.events and self._patience.absence():  # since this commit: it was settled
            return await self._commit(commit.checkpoint, Record(()), run_id)
        return commit.checkpoint
