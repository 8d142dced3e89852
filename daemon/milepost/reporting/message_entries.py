"""The description of entries about messages: those that are owed, read, or missed. See `describe`."""

from datetime import datetime
from typing import Any

from milepost.core.gaps import Gap, GapEnding, GapEvent, MessagesFailed, MessagesMissed, MessagesOwed, MessagesRead
from milepost.core.model import MissedReason
from milepost.reporting.description import Description, Level, clock
from milepost.reporting.humanize import counted, on_one_line

MAX_IDS = 10  # in the fields of a description
GAP_ENDINGS = {
    GapEnding.CLOSED: "all that was owed is stored",
    GapEnding.THREAD_END: "its oldest message is stored",
    GapEnding.WITHHELD: "the API withholds the rest",
    GapEnding.GONE: "the conversation no longer exists",
    GapEnding.FORGOTTEN: "the person it is about was erased",
    GapEnding.DEAD_LETTER: "a dead letter keeps what is owed",
}

WITHHELD = {
    MissedReason.WINDOW: "the API lists no older ones",
    MissedReason.NO_CONTENT: "the API lists them without content",
    MissedReason.DELETED: "the API says that they are deleted",
}


def describe_messages(event: GapEvent, now: datetime) -> Description:
    """Describe an entry about messages."""
    match event:
        case MessagesOwed(gaps=gaps):
            count = counted(len(gaps), "conversation")
            sentence = (
                f"{count} {'has' if len(gaps) == 1 else 'have'} more new messages than the list shows: they are owed"
            )
            ids = [gap.conversation_id for gap in gaps]
            return Description("messages owed", sentence, fields={"conversations": ids[:MAX_IDS], "gaps": len(gaps)})
        case MessagesRead(gap=gap, stored=stored, ending=ending) as read:
            then = "more are owed" if ending is None else GAP_ENDINGS[ending]
            sentence = f"{counted(stored, 'older message')} of a conversation stored; {then}"
            revised = {"edited": read.edited, "unsent": read.unsent}
            counts = {"stored": stored, "stored_so_far": gap.stored} | {k: v for k, v in revised.items() if v}
            return Description("messages read", sentence, _gap_level(ending), _gap_fields(gap, ending) | counts)
        case MessagesFailed(gap=gap, problem=problem, ending=ending):
            then = _next_reading(gap, now) if ending is None else GAP_ENDINGS[ending]
            sentence = f"Older messages of a conversation could not be read; {then}: {on_one_line(problem)}"
            fields = _gap_fields(gap, ending) | {"attempts": gap.attempts, "problem": str(problem)}
            return Description("messages not read", sentence, Level.WARNING, fields)
        case MessagesMissed() as event:
            return _missed(event, now)


def _missed(event: MessagesMissed, now: datetime) -> Description:
    missed = event.missed
    is_exact = not any(each.is_estimate or each.count is None for each in missed)
    count = ("" if is_exact else "about ") + counted(event.messages, "message")
    threads = "a conversation" if len(missed) == 1 else counted(len(missed), "conversation")
    from_at, until_at = min(each.from_at for each in missed), max(each.until_at for each in missed)
    why = " and ".join(WITHHELD[each] for each in MissedReason if any(each is one.reason for one in missed))
    sentence = (
        f"{count[0].upper()}{count[1:]} of {threads} cannot be read, from {clock(from_at, now)} to "
        f"{clock(until_at, now)}: {why}"
    )
    fields = {
        "conversations": [each.conversation_id for each in missed][:MAX_IDS],
        "messages": event.messages,
        "from": from_at.isoformat(),
        "until": until_at.isoformat(),
        "reasons": sorted({each.reason.value for each in missed}),
    }
    return Description("messages missed", sentence, Level.WARNING, fields, "they are not asked for again")


def _gap_level(ending: GapEnding | None) -> Level:
    return Level.DEBUG if ending is None else Level.INFO


def _gap_fields(gap: Gap, ending: GapEnding | None) -> dict[str, Any]:
    fields = {"conversation": gap.conversation_id, "reached": gap.reached_at.isoformat()}
    return fields if ending is None else fields | {"ending": ending.value}


def _next_reading(gap: Gap, now: datetime) -> str:
    if gap.retry_at is not None:
        return f"next attempt at {clock(gap.retry_at, now)}"
    return "the next run tries again" if gap.attempts else "it is tried again"
