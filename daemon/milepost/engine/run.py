"""One run of one stream: ask the core, do what it says, commit what it decides. Not one decision is made here."""

from time import perf_counter
from typing import assert_never

from msgspec.structs import replace

from milepost.core.checkpoint import BatchPassed, Checkpoint, pass_over
from milepost.core.decide import Circumstances, Record, conclude, decide, recover
from milepost.core.merge import keys_of
from milepost.core.model import Known, Stream
from milepost.core.plan import Fetch, Finish, Slice, Wait, is_over, plan
from milepost.core.ports import Fetched, Outcome, Refused, Request, Source
from milepost.engine.feed import Passed, Recorded
from milepost.engine.lookahead import look_ahead
from milepost.engine.patience import PatientStore
from milepost.engine.shared import Shared


async def run_slice(
    shared: Shared, stream: Stream, source: Source, work: Slice, own_run_id: str | None = None
) -> Checkpoint:
    """Work a stream until its sweep is complete or the slice is used up, and give the checkpoint after it.

    `own_run_id` is the run that this process gave the stream before, if any.

    Raises StoreAway, StoreRefused, RowsRejected or VersionConflict where the journal cannot be written.
    """
    store = PatientStore(shared, stream.key, give_up_at=work.deadline_at)
    async with look_ahead(source) as ahead:
        return await _Run(shared, stream, ahead, store, work).complete(own_run_id)


class _Run:
    """A run under way. The checkpoint is handed from step to step."""

    def __init__(self, shared: Shared, stream: Stream, source: Source, store: PatientStore, work: Slice) -> None:
        self._shared = shared
        self._stream = stream
        self._source = source
        self._store = store
        self._work = work

    async def complete(self, own_run_id: str | None) -> Checkpoint:
        """Plan and do, until the run is over."""
        checkpoint = await self._take_over(await self._store.recall(), own_run_id)
        while not is_over(checkpoint, self._work):
            if self._shared.stop.is_requested:
                self._work = replace(self._work, is_stopping=True)
            match plan(checkpoint, self._shared.clock.now(), self._work, self._shared.policy):
                case Fetch(request=request):
                    checkpoint = await self._fetch(checkpoint, request)
                case Wait(until=until):
                    async with self._shared.stop.cut_short():
                        await self._shared.clock.sleep_until(until)
                case Finish(reason=reason):
                    ending = conclude(checkpoint, reason, self._work)
                    if ending is None:
                        break
                    checkpoint = await self._record(checkpoint, ending)
                case unknown:
                    assert_never(unknown)
        return checkpoint

    async def _take_over(self, checkpoint: Checkpoint, own_run_id: str | None) -> Checkpoint:
        """Close the run that was left open, in that run's name."""
        abandoned = recover(checkpoint, own_run_id)
        if abandoned is None or checkpoint.run is None:
            return checkpoint
        return await self._record(checkpoint, abandoned, run_id=checkpoint.run.run_id)

    async def _fetch(self, checkpoint: Checkpoint, request: Request) -> Checkpoint:
        """Read a batch and settle what it means; nothing has happened where a stop cuts the reading short."""
        outcome: Outcome | None = None
        async with self._shared.stop.cut_short():
            outcome = await self._source.fetch(request)
        if outcome is None:
            return checkpoint
        clock = self._shared.clock
        known = await self._known(outcome)
        circumstances = Circumstances(clock.now(), clock.luck(), self._work, self._shared.policy)
        match decide(checkpoint, outcome, circumstances, known):
            case BatchPassed(tally=tally) as passed:
                checkpoint = pass_over(checkpoint, passed)
                self._shared.feed.publish(Passed(checkpoint, tally, outcome.took_seconds))
            case Record() as record:
                checkpoint = await self._record(checkpoint, record, fetch_seconds=outcome.took_seconds)
        return checkpoint

    async def _known(self, outcome: Outcome) -> Known:
        match outcome:
            case Fetched(batch=batch):
                return await self._store.known(keys_of(self._stream, batch))
            case Refused():
                return Known()

    async def _record(
        self,
        checkpoint: Checkpoint,
        record: Record,
        *,
        run_id: str | None = None,
        fetch_seconds: float | None = None,
    ) -> Checkpoint:
        began = perf_counter()
        commit, committed = await self._store.commit(checkpoint, record, run_id or self._work.run_id)
        seconds = perf_counter() - began
        self._shared.feed.publish(Recorded(commit.entries, committed, commit.checkpoint, seconds, fetch_seconds))
        return commit.checkpoint
