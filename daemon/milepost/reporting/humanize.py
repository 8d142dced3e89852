"""Formatting for people: counts, durations and instants in words, rows in columns, and the form of a description."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, cast

from msgspec import Struct, to_builtins

from milepost.core import events
from milepost.core.checkpoint import Run
from milepost.core.events import RunStatus, Tally
from milepost.core.problems import Problem
from milepost.core.texts import visible

# The least number of seconds for each unit: "95 seconds" says more than "1 minute".
_UNITS = ((2 * 86400, 86400, "day"), (100 * 60, 3600, "hour"), (100, 60, "minute"))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: `1 run`, `1,234 runs`. `plural` is for nouns that do not just take an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def lasting(seconds: float) -> str:
    """Return a duration in words, rounded down: `12 seconds`, `4 minutes`, `1 hour`, `3 days`."""
    for least, size, noun in _UNITS:
        if seconds >= least:
            return counted(int(seconds / size), noun)
    return counted(max(0, int(seconds)), "second")


def ago(instant: datetime | None, now: datetime) -> str:
    """Return how long ago it was; an instant in the future, from another clock, is `just now`."""
    if instant is None:
        return "never"
    seconds = (now - instant).total_seconds()
    return f"{lasting(seconds)} ago" if seconds >= 1 else "just now"


def ahead(instant: datetime, now: datetime) -> str:
    """Return how far ahead it is: `in 4 minutes`, or `now` once it has come."""
    seconds = (instant - now).total_seconds()
    return f"in {lasting(seconds)}" if seconds >= 1 else "now"


def clock(instant: datetime, now: datetime, time: str = "%H:%M") -> str:
    """Return an instant as a time of day: `14:05 UTC`, with the date if it is not today."""
    utc = instant.astimezone(UTC)
    date = "" if utc.date() == now.astimezone(UTC).date() else f"{utc:%Y-%m-%d} "
    return f"{date}{utc:{time}} UTC"


def to_the_second(instant: datetime, now: datetime) -> str:
    """Return an instant as `clock` does, with its seconds."""
    return clock(instant, now, "%H:%M:%S")


def waiting(waits_for: str, since: datetime | None, until: datetime | None, now: datetime) -> str:
    """Return a sentence about a wait: what for, and where known, since when and until when."""
    words = [f"waits for {waits_for}"]
    if since is not None:
        words.append(f"since {clock(since, now)} ({ago(since, now)})")
    if until is not None:
        words.append(f"until {clock(until, now)} ({ahead(until, now)})")
    return ", ".join(words)


def in_words(tag: str) -> str:
    """Return a tag of the journal as words: `time_limit` is `time limit`."""
    return tag.replace("_", " ")


def on_one_line(text: str | Problem) -> str:
    """Make untrusted text safe for a terminal: line breaks, escape codes and changes of direction become visible."""
    return visible(str(text))


def in_columns(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Align rows of equal length into columns; those in `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# --- descriptions of entries ------------------------------------------------------------------------------------------


class Level(IntEnum):
    """How much attention an entry deserves. The numbers are those of the logging module.

    Routine work is debug or info. A problem that resolves itself is one warning when it begins. A problem that needs a
    person is an error.
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
    """Return whether a run completed its sweep, but opened dead letters."""
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
    """Return the number of batches and their outcomes."""
    return f"{counted(tally.batches, 'batch', 'batches')}, {in_brief(tally)}"


def summary(event: events.SweepCompleted | events.RunEnded, run: Run | None) -> dict[str, Any]:
    """Return the status, the seconds and the counts of an ended run; if the run is unknown, the event's counts."""
    if run is None or run.ended_at is None:
        return counts(event.tally)
    return {"status": run.status.value, "seconds": seconds(run.ended_at - run.started_at), **counts(run.tally)}


def counts(tally: Tally) -> dict[str, Any]:
    """Return all counts that are not 0."""
    return cast("dict[str, Any]", to_builtins(tally))


def seconds(duration: timedelta) -> float:
    """Return a duration to the tenth of a second."""
    return round(max(0.0, duration.total_seconds()), 1)  # the clock may have been set back meanwhile
