"""The form of a description, and the counts and times in it."""

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

from msgspec import Struct, to_builtins

from milepost.core import events
from milepost.core.checkpoint import Run
from milepost.core.events import RunStatus, Tally
from milepost.reporting.humanize import counted


class Level(IntEnum):
    """How much attention an entry deserves. The numbers are those of the logging module.

    Routine work is debug or info; what recovers by itself is a warning, once, where it begins; what needs a person is
    an error.
    """

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Description(Struct, frozen=True):
    """An entry in words: its `title` in a few, `sentence` in full, and its facts as plain values in `fields`."""

    title: str
    sentence: str
    level: Level = Level.INFO
    fields: dict[str, Any] = {}
    hint: str | None = None
    note: str = ""


def has_errors(run: Run | None) -> bool:
    """Return whether a run completed its sweep with dead letters on the way."""
    return run is not None and run.status is RunStatus.COMPLETE_WITH_ERRORS


def in_brief(tally: Tally) -> str:
    """Return the counts that matter to everyone and are not 0, or `nothing`."""
    counts = (
        (tally.inserted, f"{tally.inserted:,} new"),
        (tally.updated, f"{tally.updated:,} updated"),
        (tally.moved, f"{tally.moved:,} of them moved here from another page"),
        (tally.unchanged, f"{tally.unchanged:,} unchanged"),
        (tally.deleted, f"{tally.deleted:,} deleted"),
        (tally.edited, f"{counted(tally.edited, 'message')} edited"),
        (tally.unsent, f"{counted(tally.unsent, 'message')} unsent"),
        (tally.dead_lettered, counted(tally.dead_lettered, "dead letter")),
        (tally.replaced_characters, f"{counted(tally.replaced_characters, 'character')} replaced"),
    )
    return ", ".join(words for number, words in counts if number) or "nothing"


def batches_in_brief(tally: Tally) -> str:
    """Return the number of batches and what came of them."""
    return f"{counted(tally.batches, 'batch', 'batches')}, {in_brief(tally)}"


def summary(event: events.SweepCompleted | events.RunEnded, run: Run | None) -> dict[str, Any]:
    """Return the status, the seconds and the counts of an ended run; where it is not known, the counts of the event."""
    if run is None or run.ended_at is None:
        return counts(event.tally)
    return {"status": run.status.value, "seconds": seconds(run.ended_at - run.started_at), **counts(run.tally)}


def counts(tally: Tally) -> dict[str, Any]:
    """Return all counts that are not 0."""
    counts: dict[str, Any] = to_builtins(tally)
    return counts


def seconds(duration: timedelta) -> float:
    """Return a duration to the tenth of a second."""
    return round(max(0.0, duration.total_seconds()), 1)  # the clock may have been set back meanwhile


def clock(instant: datetime, now: datetime) -> str:
    """Return an instant to the second, with its date where that is not today's."""
    utc = instant.astimezone(UTC)
    return f"{utc:%H:%M:%S} UTC" if utc.date() == now.astimezone(UTC).date() else f"{utc:%Y-%m-%d %H:%M:%S} UTC"
