"""The journal's projections as a stream of values: what a rebuild writes and a verification compares.

Runs and dead letters are given as soon as they are final, so that a journal of any length is read in constant memory
(a checkpoint for each stream, a value for each dead letter that is open, nothing for each entry).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.chain import check
from milepost.core.checkpoint import Checkpoint, DeadLetter, Run, evolve
from milepost.core.events import DeadLetterClosed, DeadLetterOpened, Entry, RedriveFailed, StreamRemoved


class RunOf(Struct, frozen=True):
    """A run of a stream, as it stands after its last entry."""

    stream: str
    run: Run


Projected = Checkpoint | RunOf | DeadLetter


def since_removal(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return those of one stream's entries that follow its removal: all of them where there is none."""
    for place in range(len(entries), 0, -1):
        if isinstance(entries[place - 1].event, StreamRemoved):
            return entries[place:]
    return entries


def project(entries: Iterable[Entry], removed: Mapping[str, int]) -> Iterator[Projected]:
    """Fold a whole journal, in the order of seq, checking its hash chains on the way.

    `removed` has the version of each stream's latest removal: of the runs and dead letters before it none is left.

    Raises JournalDamaged at the first entry that does not follow from its predecessor.
    """
    checkpoints: dict[str, Checkpoint] = {}
    letters: dict[str, DeadLetter] = {}
    for entry in entries:
        before = checkpoints.get(entry.stream) or Checkpoint(entry.stream)
        check(before, entry)
        after = evolve(before, entry)
        checkpoints[entry.stream] = after
        if entry.version <= removed.get(entry.stream, 0):
            continue
        if before.run is not None and after.run is not None and before.run.run_id != after.run.run_id:
            yield RunOf(entry.stream, before.run)
        letter = letter_after(entry, letters.get)
        if letter is not None and letter.closed_at is not None:
            letters.pop(letter.dead_letter_id, None)
            yield letter
        elif letter is not None:
            letters[letter.dead_letter_id] = letter
    yield from letters.values()
    for checkpoint in checkpoints.values():
        if checkpoint.run is not None:
            yield RunOf(checkpoint.stream, checkpoint.run)
        yield checkpoint


def letter_after(entry: Entry, before: Callable[[str], DeadLetter | None]) -> DeadLetter | None:
    """Give the dead letter that an entry is about, as it stands after it; None where it is about none."""
    match entry.event:
        case DeadLetterOpened() as event:
            return DeadLetter(
                event.dead_letter_id,
                entry.stream,
                event.stage,
                event.subject,
                event.reason,
                entry.recorded_at,
                redrive_at=event.redrive_at,
                fingerprint=event.fingerprint,
            )
        case RedriveFailed(dead_letter_id=key) as event if letter := before(key):
            return replace(letter, attempts=event.attempts, reason=event.reason, redrive_at=event.redrive_at)
        case DeadLetterClosed(dead_letter_id=key) as event if letter := before(key):
            return replace(
                letter,
                closed_at=entry.recorded_at,
                resolution=event.resolution,
                note=event.reason,
                redrive_at=None,
            )
        case _:
            return None
