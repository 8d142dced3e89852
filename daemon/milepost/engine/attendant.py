"""Does what is asked for of a stream, in the name of one turn: it alone writes of the stream."""

from typing import assert_never

from milepost.core import requests
from milepost.core.checkpoint import Checkpoint
from milepost.core.decision import Record
from milepost.core.errors import MilepostError, VersionConflict
from milepost.core.plan import Slice
from milepost.engine.errands import (
    Answer,
    Discard,
    Errand,
    Errands,
    NoteToken,
    PauseStream,
    Redrive,
    ResumeStream,
    StreamErrand,
    SyncNow,
)
from milepost.engine.recorder import Recorder
from milepost.engine.redriving import Redriving

MAX_CONFLICTS = 10


class Attendant:
    """Runs the errands of a stream, one after the other."""

    def __init__(self, errands: Errands, redriving: Redriving, recorder: Recorder, work: Slice) -> None:
        self._errands = errands
        self._redriving = redriving
        self._recorder = recorder
        self._work = work

    async def run_errands(self, checkpoint: Checkpoint) -> Checkpoint:
        """Do all that waits; give where the stream stands then. Raises what keeps all of it from being done."""

        async def do(errand: Errand) -> Answer:
            nonlocal checkpoint
            for _ in range(MAX_CONFLICTS):
                try:
                    checkpoint, answer = await self._attempt(checkpoint, errand)
                except VersionConflict:  # somebody else has written of the stream: it is decided anew
                    checkpoint = await self._recorder.recall()
                else:
                    return answer
            raise MilepostError(f"{checkpoint.stream} is written of by others all the time", hint="try again")

        await self._errands.run(do)
        return checkpoint

    async def _attempt(self, checkpoint: Checkpoint, errand: Errand) -> tuple[Checkpoint, Answer]:
        match errand:
            case Redrive() | Discard():
                return await self._redriving.do(checkpoint, errand)
            case _:
                return await self._do(checkpoint, errand)

    async def _do(self, checkpoint: Checkpoint, errand: StreamErrand) -> tuple[Checkpoint, Answer]:
        if isinstance(errand, SyncNow) and checkpoint.on_hold is not None:
            why = f"{checkpoint.stream} is on hold: {checkpoint.on_hold.by} paused it"
            return checkpoint, MilepostError(why, hint="resume it, which syncs it at once")
        record = self._asked(checkpoint, errand)
        if record is not None:
            checkpoint = await self._recorder.record(checkpoint, record)
        match errand:
            case ResumeStream():
                self._errands.want_turn()
            case SyncNow(full=full):
                self._errands.want_turn(full=full)
            case PauseStream() | NoteToken():
                pass
            case unknown:
                assert_never(unknown)
        return checkpoint, None

    def _asked(self, checkpoint: Checkpoint, errand: StreamErrand) -> Record | None:
        match errand:
            case PauseStream(by=by):
                return requests.pause(checkpoint, by, self._work)
            case ResumeStream(by=by):
                return requests.resume(checkpoint, by, self._work)
            case SyncNow(by=by, full=full):
                return requests.request_sync(checkpoint, by, self._work, full=full)
            case NoteToken(health=health):
                return requests.note_token(checkpoint, health, self._work)
            case unknown:
                assert_never(unknown)
