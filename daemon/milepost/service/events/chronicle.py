"""The journal told as events, entry by entry, each encoded once for all who read it.

What an event tells of its run is folded from the entries of that run, so that it is the same, byte for byte, whether it
is told live or read again years later, from any place.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.events import Entry, RunStatus, SweepCompleted
from milepost.core.evolve import evolve
from milepost.service.events.messages import Message, Status
from milepost.service.events.narration import narrate
from milepost.stores.reader import JournalReader, StoredEntry

_encode = msgspec.json.Encoder().encode


class Told(Struct, frozen=True):
    """An event: its place in the journal, what readers choose by, and the bytes that they get. Live only: seq 0."""

    seq: int
    stream: str
    status: Status
    wire: bytes


def told(message: Message, seq: int = 0) -> Told:
    """Write a message as a server-sent event (WHATWG HTML, "Server-sent events"); JSON holds no line break."""
    place = b"id: %d\n" % seq if seq else b""
    return Told(seq, message.stream, message.status, b"%bdata: %b\n\n" % (place, _encode(message)))


class JournalFollower:
    """Tells the entries of some streams, leaving none out. Of a run that it comes into, it reads the beginning."""

    def __init__(self, journal_reader: JournalReader) -> None:
        self._journal_reader = journal_reader
        self._checkpoints: dict[str, Checkpoint] = {}  # as far as the run tells that is open, or was the latest

    async def tell(self, placed: Sequence[StoredEntry]) -> list[Told]:
        """Tell entries that follow those told before."""
        unknown = {each.entry.stream: each.entry.version for each in reversed(placed)}
        unknown = {stream: version for stream, version in unknown.items() if stream not in self._checkpoints}
        if unknown:
            self._checkpoints |= await self._journal_reader.within_runs(unknown)
        completed = [each.entry.run_id or "" for each in placed if isinstance(each.entry.event, SweepCompleted)]
        with_errors = await self._journal_reader.completed_with_errors(completed) if completed else frozenset()
        return [told(narrate(each.entry, self._run(each.entry, with_errors)), each.seq) for each in placed]

    def _run(self, entry: Entry, with_errors: frozenset[str]) -> Run | None:
        """Fold an entry, and give how its run stands after it; None where no run was under way."""
        before = self._checkpoints[entry.stream].run
        after = self._checkpoints[entry.stream] = evolve(self._checkpoints[entry.stream], entry)
        run = after.run
        if run is None or run.run_id != entry.run_id:
            return None
        if isinstance(entry.event, SweepCompleted):
            # A sweep takes many runs. Whether one of the earlier ones left dead letters, only its whole past can tell.
            has_errors = entry.run_id in with_errors
            return replace(run, status=RunStatus.COMPLETE_WITH_ERRORS if has_errors else RunStatus.COMPLETE)
        was_over = before is not None and before.run_id == entry.run_id and before.ended_at is not None
        return None if was_over else run
