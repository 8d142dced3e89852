"""One run of one stream: ask the core, do what it says, commit what it decides. Not one decision is made here."""

from functools import partial
from typing import assert_never

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.decide import decide, keys_for
from milepost.core.decision import Circumstances, conclude, recover
from milepost.core.errors import VersionConflict
from milepost.core.events import Reason
from milepost.core.model import Keys, Stream
from milepost.core.plan import Fetch, Finish, Slice, Wait, is_over, plan
from milepost.core.ports import Answered, Fetched, Held, Outcome, Request, Source
from milepost.engine.attendant import Attendant
from milepost.engine.clock import Deadline
from milepost.engine.errands import Errands
from milepost.engine.lookahead import LookAhead, look_ahead
from milepost.engine.recorder import Recorder
from milepost.engine.redriving import Redriving
from milepost.engine.shared import Shared


async def run_slice(
    shared: Shared, stream: Stream, source: Source, work: Slice, errands: Errands, own_run_id: str | None = None
) -> Checkpoint:
    """Work a stream until its sweep is complete or the slice is used up, redrive what is due, and say where it stands.

    The stream has its turn. Errands are done between batches; a stream that is dismissed goes no further. `own_run_id`
    is the run that this process gave the stream before, if any.

    Raises StoreAway, StoreRefused, RowsRejected or VersionConflict where the journal cannot be written.
    """
    recorder = Recorder(shared, stream, work)
    redriving = Redriving(shared, stream, source, recorder, work)
    attendant = Attendant(errands, redriving, recorder, work)
    async with look_ahead(source) as ahead:
        checkpoint = await _Run(shared, stream, ahead, recorder, work).complete(attendant, errands, own_run_id)
    return checkpoint if errands.is_dismissed else await redriving.redrive_due(checkpoint)


async def errands_only(
    shared: Shared, stream: Stream, source: Source | None, work: Slice, errands: Errands
) -> Checkpoint:
    """Do the errands that wait for a stream that is not at work. Raises as `run_slice` does."""
    recorder = Recorder(shared, stream, work)
    redriving = Redriving(shared, stream, source, recorder, work)
    return await Attendant(errands, redriving, recorder, work).run_errands(await recorder.recall())


class _Run:
    """A run under way. The checkpoint is handed from step to step."""

    def __init__(self, shared: Shared, stream: Stream, source: LookAhead, recorder: Recorder, work: Slice) -> None:
        self._shared = shared
        self._stream = stream
        self._source = source
        self._recorder = recorder
        self._work = work
        self._deadline = Deadline(shared.clock, work.deadline_at)

    async def complete(self, attendant: Attendant, errands: Errands, own_run_id: str | None) -> Checkpoint:
        """Plan and do, until the run is over. The attendant does the errands."""
        checkpoint = await self._take_over(await self._recorder.recall(), own_run_id)
        run_before = checkpoint.run
        while not is_over(checkpoint, self._work):
            self._demand_ours(checkpoint, run_before)
            errands.stand_at(checkpoint.version)
            try:
                after = await self._step(checkpoint, attendant, errands)
            except VersionConflict:
                after = await self._rejoin(checkpoint)
            if after is None:
                break
            checkpoint = after
        return checkpoint

    async def _step(self, checkpoint: Checkpoint, attendant: Attendant, errands: Errands) -> Checkpoint | None:
        """Do what is next; give where the stream stands then, or None where the run ends without an entry."""
        shared = self._shared
        if errands.is_outdated:
            return await self._rejoin(checkpoint)
        refused_ahead = self._source.refusal()
        if refused_ahead is not None:  # on record before anything else: a limit has to outlive this process
            return await self._settle(checkpoint, refused_ahead)
        done = await attendant.run_errands(checkpoint)
        if done is not checkpoint:
            return done
        if shared.stop.is_requested:
            self._work = replace(self._work, stops_for=Reason.SHUTDOWN)
        elif errands.is_dismissed:
            self._work = replace(self._work, stops_for=Reason.REMOVED)
        held_until = shared.pauses.held_until(self._stream)
        work = replace(self._work, deadline_at=self._deadline.at)
        match plan(checkpoint, shared.clock.now(), work, shared.policy, held_until):
            case Fetch(request=request):
                return await self._fetch(checkpoint, request)
            case Wait(until=until):
                async with shared.turns.given_back(self._stream):
                    async with shared.stop.cut_short(), errands.bell.cut_short():
                        await shared.clock.sleep_until(until)
                    return await attendant.run_errands(checkpoint)  # which takes no turn
            case Finish(reason=reason):
                ending = conclude(checkpoint, reason, self._work)
                return None if ending is None else await self._recorder.record(checkpoint, ending)
            case unknown:
                assert_never(unknown)

    async def _rejoin(self, checkpoint: Checkpoint) -> Checkpoint:
        """Go on from where the stream stands after somebody else has written of it: an errand, as anybody may.

        Quiet batches that have no entry are read again.
        """
        recalled = await self._recorder.recall()
        if recalled.version <= checkpoint.version:
            raise VersionConflict(
                f"{self._stream.key} is said to have moved on, and has not", hint="please report this"
            )
        return recalled

    def _demand_ours(self, checkpoint: Checkpoint, run_before: Run | None) -> None:
        """Raise VersionConflict where somebody took this process for dead, and the stream over.

        Whatever else was written of it, nothing more may be, however well it would follow.
        """
        run = checkpoint.run
        if checkpoint.removed_at is not None and run_before is not None:
            raise VersionConflict(f"{self._stream.key} was removed meanwhile", hint="its next run begins it anew")
        if run != run_before and (run is None or run.run_id != self._work.run_id):
            raise VersionConflict(
                f"{self._stream.key} was taken over by another Milepost", hint="that one goes on from the last batch"
            )

    async def _take_over(self, checkpoint: Checkpoint, own_run_id: str | None) -> Checkpoint:
        """Close the run that was left open, in that run's name, unless another process was faster to take it over."""
        left = checkpoint.run
        while (abandoned := recover(checkpoint, own_run_id)) is not None and left is not None:
            try:
                return await self._recorder.record(checkpoint, abandoned, left.run_id)
            except VersionConflict:
                checkpoint = await self._rejoin(checkpoint)
                if checkpoint.run is None or checkpoint.run.run_id != left.run_id:
                    raise
        return checkpoint

    async def _fetch(self, checkpoint: Checkpoint, request: Request) -> Checkpoint:
        """Read a batch and settle what it means; nothing has happened where a stop or a pause keeps it from that."""
        answer: Answered = Held()
        async with self._shared.stop.cut_short():
            answer = await self._source.fetch(request)
        return checkpoint if isinstance(answer, Held) else await self._settle(checkpoint, answer)

    async def _settle(self, checkpoint: Checkpoint, outcome: Outcome) -> Checkpoint:
        """Store and record what an outcome means; give where the stream stands then."""

        def keys(circumstances: Circumstances) -> Keys | None:
            return keys_for(checkpoint, outcome, circumstances) if isinstance(outcome, Fetched) else None

        return await self._recorder.settle(
            checkpoint, partial(decide, checkpoint, outcome), keys, fetch_seconds=outcome.took_seconds
        )
