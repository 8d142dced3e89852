"""The backlog of messages in words: which older messages are still to be read, and what became of the others."""

from datetime import datetime
from typing import Any

from milepost.core.checkpoint import Checkpoint, MissedSoFar
from milepost.core.gaps import (
    Gap,
    GapEnding,
    GapEvent,
    HistoriesLeftOut,
    MessagesFailed,
    MessagesMissed,
    MessagesOwed,
    MessagesRead,
    Missed,
    MissedReason,
)
from milepost.reporting.humanize import Description, Level, counted, on_one_line, to_the_second

MAX_IDS = 10  # in the fields of a description
GAP_ENDINGS = {
    GapEnding.CLOSED: "all that was owed is stored",
    GapEnding.THREAD_END: "its oldest message is stored",
    GapEnding.HISTORY_LIMIT: "they reach back to the limit of sync.message_history",
    GapEnding.WITHHELD: "the API withholds the rest",
    GapEnding.GONE: "the conversation no longer exists",
    GapEnding.FORGOTTEN: "the person it is about was erased",
    GapEnding.MOVED: "the conversation is another page's by now, which owes it",
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
        return "Stored conversations are searched for older messages that are owed by now"
    if left_out.seconds is None:
        return "Stored conversations were searched for older messages that are owed by now"
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
