"""The journal's projections as a stream of values: what a rebuild writes and a verification compares.

Runs and dead letters are given as soon as they are final, so that a journal of any length is read in constant memory
(a checkpoint for each stream, nothing for each entry).
"""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from milepost.core.chain import check
from milepost.core.checkpoint import Checkpoint, DeadLetter, Run, evolve
from milepost.core.events import DeadLetterOpened, Entry


class RunOf(Struct, frozen=True):
    """A run of a stream, as it stands after its last entry."""

    stream: str
    run: Run


Projected = Checkpoint | RunOf | DeadLetter


def project(entries: Iterable[Entry]) -> Iterator[Projected]:
    """Fold a whole journal, in the order of seq, checking its hash chains on the way.

    Raises JournalDamaged at the first entry that does not follow from its predecessor.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for entry in entries:
        before = checkpoints.get(entry.stream) or Checkpoint(entry.stream)
        check(before, entry)
        after = evolve(before, entry)
        checkpoints[entry.stream] = after
        if before.run is not None and after.run is not None and before.run.run_id != after.run.run_id:
            yield RunOf(entry.stream, before.run)
        if isinstance(entry.event, DeadLetterOpened):
            yield _dead_letter(entry, entry.event)
    for checkpoint in checkpoints.values():
        if checkpoint.run is not None:
            yield RunOf(checkpoint.stream, checkpoint.run)
        yield checkpoint


def dead_letters(entries: Iterable[Entry]) -> Iterator[DeadLetter]:
    """Give the dead letters that entries opened."""
    for entry in entries:
        if isinstance(entry.event, DeadLetterOpened):
            yield _dead_letter(entry, entry.event)


def _dead_letter(entry: Entry, opened: DeadLetterOpened) -> DeadLetter:
    return DeadLetter(
        opened.dead_letter_id, entry.stream, opened.stage.value, opened.subject, opened.reason, entry.recorded_at
    )
