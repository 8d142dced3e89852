"""Words for people: counts, durations and instants, rows in columns, descriptions of entries, and the backlog."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, cast

from msgspec import Struct, to_builtins

from milepost.core import events
from milepost.core.checkpoint import Checkpoint, MissedSoFar, Run
from milepost.core.events import GapEvent, RunStatus, Tally
from milepost.core.position import (
    Gap,
    GapEnding,
    HistoriesLeftOut,
    MessagesFailed,
    MessagesMissed,
    MessagesOwed,
    MessagesRead,
    Missed,
    MissedReason,
)
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


def listed(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first names, and how many more there are."""
    more = [f"{len(names) - most:,} more"] if len(names) > most else []
    return separator.join([*names[:most], *more])


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


# --- the backlog of messages ------------------------------------------------------------------------------------------

# Which older messages are still to be read, and what became of the others.

MAX_IDS = 10  # in the fields of a description
GAP_ENDINGS = {
    GapEnding.CLOSED: "all that was owed is stored",
    GapEnding.THREAD_END: "its oldest message is stored",
    GapEnding.HISTORY_LIMIT: "they reach back to the limit of sync.message_history",
    GapEnding.WITHHELD: "the API withholds the rest",
    GapEnding.GONE: "the conversation no longer exists",
    GapEnding.FORGOTTEN: "the person it is about was erased",
    GapEnding.MOVED: "another page has the conversation now, and owes it",
    GapEnding.DEAD_LETTER: "a dead letter keeps what is owed",
}
WITHHELD = {
    MissedReason.WINDOW: "the API lists no older ones",
    MissedReason.NO_CONTENT: "the API lists them without content",
    MissedReason.DELETED: "the API says that they are deleted",
}


def describe_backlog(event: GapEvent, now: datetime) -> Description:
    """Return an entry of the backlog in words."""
    match event:
        case MessagesOwed(gaps=gaps, left_out=left_out):
            return _owed(gaps, left_out)
        case MessagesRead(gap=gap, stored=stored, ending=ending) as read:
            then = "more are owed" if ending is None else GAP_ENDINGS[ending]
            sentence = f"{counted(stored, 'older message')} of a conversation stored; {then}"
            revised = {"edited": read.edited, "unsent": read.unsent}
            counts = {"stored": stored, "stored_so_far": gap.stored} | {k: v for k, v in revised.items() if v}
            # An inbox may have a history to read for each of its conversations.
            level = Level.DEBUG if ending is None or gap.is_history else Level.INFO
            return Description("messages read", sentence, level, _gap_fields(gap, ending) | counts)
        case MessagesFailed(gap=gap, problem=problem, ending=ending):
            then = _next_reading(gap, now) if ending is None else GAP_ENDINGS[ending]
            sentence = f"Older messages of a conversation could not be read; {then}: {on_one_line(problem)}"
            fields = _gap_fields(gap, ending) | {"attempts": gap.attempts, "problem": str(problem)}
            return Description("messages not read", sentence, Level.WARNING, fields)
        case MessagesMissed() as event:
            return _missed(event, now)


def backlog_in_words(checkpoint: Checkpoint) -> str | None:
    """Return which older messages are still to be read; None if there are none."""
    history = checkpoint.history
    between = checkpoint.backlog - (history.left if history is not None else 0)
    remarks = []
    if between:
        remarks.append(f"{counted(between, 'conversation')} with older messages that are still to be read")
    if history is not None:
        remarks.append(f"history: {history.left:,} of {counted(history.total, 'conversation')} still to read")
    return "; ".join(remarks) or None


def missed_in_words(missed: MissedSoFar) -> str:
    """Return how many messages the API has withheld."""
    return f"{counted(missed.messages, 'message')} so far that the API withholds"


def _missed(event: MessagesMissed, now: datetime) -> Description:
    missed = event.missed
    is_exact = not any(each.is_estimate or each.count is None for each in missed)
    count = ("" if is_exact else "about ") + counted(event.messages, "message")
    threads = "a conversation" if len(missed) == 1 else counted(len(missed), "conversation")
    from_at, until_at = _since(missed), max(each.until_at for each in missed)
    span = f"up to {to_the_second(until_at, now)}"
    if from_at is not None:
        span = f"from {to_the_second(from_at, now)} to {to_the_second(until_at, now)}"
    why = " and ".join(WITHHELD[each] for each in MissedReason if any(each is one.reason for one in missed))
    sentence = f"{count[0].upper()}{count[1:]} of {threads} cannot be read, {span}: {why}"
    fields = {
        "conversations": [each.conversation_id for each in missed][:MAX_IDS],
        "messages": event.messages,
        "from": None if from_at is None else from_at.isoformat(),
        "until": until_at.isoformat(),
        "reasons": sorted({each.reason.value for each in missed}),
    }
    return Description("messages missed", sentence, Level.WARNING, fields, "they are not asked for again")


def _since(missed: tuple[Missed, ...]) -> datetime | None:
    """Return the earliest time from which messages are missing; None if that is the beginning of a conversation."""
    instants = [each.from_at for each in missed if each.from_at is not None]
    return min(instants) if len(instants) == len(missed) else None


def _owed(gaps: tuple[Gap, ...], left_out: HistoriesLeftOut | None) -> Description:
    between, histories = [gap for gap in gaps if not gap.is_history], [gap for gap in gaps if gap.is_history]
    said = []
    if between:
        said.append(f"{_conversations(between)} more new messages than the list shows: they are owed")
    if histories:
        said.append(f"{_conversations(histories)} older messages than the list shows{_how_far(histories)}")
    if left_out is not None and not said:
        said.append(_left_out(left_out))
    fields = {"conversations": [gap.conversation_id for gap in gaps][:MAX_IDS], "gaps": len(gaps)}
    if histories:
        fields["histories"] = len(histories)
    return Description("messages owed", "; ".join(said), Level.INFO if between else Level.DEBUG, fields)


def _left_out(left_out: HistoriesLeftOut) -> str:
    if left_out.search is not None:
        return "Searching the stored conversations for older messages that are now owed"
    if left_out.seconds is None:
        return "Searched the stored conversations for older messages that are now owed"
    return "New conversations have older messages, all beyond the limit of sync.message_history"


def _conversations(gaps: list[Gap]) -> str:
    return f"{counted(len(gaps), 'conversation')} {'has' if len(gaps) == 1 else 'have'}"


def _how_far(histories: list[Gap]) -> str:
    at_limit = sum(gap.is_at_limit for gap in histories)
    if not at_limit:
        return ", which are read in the background"
    of = "" if at_limit == len(histories) else f" of {at_limit:,}"
    return f"; those{of} are beyond the limit of sync.message_history"


def _gap_fields(gap: Gap, ending: GapEnding | None) -> dict[str, Any]:
    fields = {"conversation": gap.conversation_id, "reached": gap.reached_at.isoformat()}
    return fields if ending is None else fields | {"ending": ending.value}


def _next_reading(gap: Gap, now: datetime) -> str:
    if gap.retry_at is not None:
        return f"next attempt at {to_the_second(gap.retry_at, now)}"
    return "the next run tries again" if gap.attempts else "it is tried again"
