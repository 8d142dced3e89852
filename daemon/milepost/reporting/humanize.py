"""Formatting for people: counts, durations and instants in words, rows in columns."""

from collections.abc import Sequence
from datetime import UTC, datetime

from milepost.core.problems import Problem
from milepost.core.texts import visible

# The least number of seconds for each unit: 95 seconds say more than 1 minute.
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
    """Return how long ago it was; an instant in the future, by another clock, is `just now`."""
    if instant is None:
        return "never"
    seconds = (now - instant).total_seconds()
    return f"{lasting(seconds)} ago" if seconds >= 1 else "just now"


def ahead(instant: datetime, now: datetime) -> str:
    """Return how far ahead it is: `in 4 minutes`, or `now` once it has come."""
    seconds = (instant - now).total_seconds()
    return f"in {lasting(seconds)}" if seconds >= 1 else "now"


def clock(instant: datetime, now: datetime) -> str:
    """Return an instant as a time of day: `14:05 UTC`, with the date if it is not today."""
    utc = instant.astimezone(UTC)
    return f"{utc:%H:%M} UTC" if utc.date() == now.astimezone(UTC).date() else f"{utc:%Y-%m-%d %H:%M} UTC"


def waiting(waits_for: str, since: datetime | None, until: datetime | None, now: datetime) -> str:
    """Return what is waited for, since when and until when, as far as that is known."""
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
