"""Messages that the API withholds: how answers show that there are some, and what is recorded of them.

On Instagram the API has only the newest 20 messages of a conversation (Meta, "Conversations"). It answers a request for
an older one as if it were deleted (code 9000001), or lists it without content. Such messages can only be reported: they
are neither stored nor owed, and are not requested again.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from milepost.core.checkpoint import Checkpoint
from milepost.core.model import (
    UNAVAILABLE,
    InteractionEventRow,
    Known,
    MessagePage,
    Platform,
    Stream,
)
from milepost.core.position import Gap, GapEnding, MessagesMissed, MessagesRead, Missed, MissedReason
from milepost.core.problems import Problem

WINDOW = 20  # messages of a conversation: a list never shows more, and an API that ends there has no more
LEAST_WINDOWS = 3  # conversations that must end at the window before others are not requested (Messenger)
WINDOW_LASTS = timedelta(days=7)  # then it is tried again whether a stream's API still ends there
LEAST_SURPLUS = 2  # by which an estimate of the number of messages must exceed the stored ones
SURPLUS_SHARE = 20  # or by one in this many of them
DELETED = 9000001  # the code for a message that was deleted or is older than the newest 20 (Meta, "Conversations")


def missed_events(*missed: Missed) -> tuple[MessagesMissed, ...]:
    """Return the event that records missed messages, if there are any."""
    return (MessagesMissed(missed),) if missed else ()


# --- messages without content -----------------------------------------------------------------------------------------


def without_content(new: Iterable[InteractionEventRow]) -> tuple[Missed, ...]:
    """Return the new messages that came without any content, by conversation."""
    times: dict[str, list[datetime]] = {}
    for row in new:
        if row.kind == UNAVAILABLE and row.text is None and row.attachments is None:
            times.setdefault(row.conversation_id, []).append(row.occurred_at)
    return tuple(
        Missed(conversation_id, MissedReason.NO_CONTENT, min(instants), max(instants), len(instants))
        for conversation_id, instants in times.items()
    )


# --- a conversation that ends too soon --------------------------------------------------------------------------------


def ends_with(page: MessagePage) -> bool:
    """Return whether reading ends with a page. It does if the page has only ids: older messages would have no more."""
    return page.next_cursor is None or bool(page.bare_ids)


def is_doubtful_end(gap: Gap, page: MessagePage) -> bool:
    """Return whether an end is not believed yet: the API may answer a dead cursor with an empty list and no error."""
    is_empty = not (page.interactions or page.bare_ids or page.unreadable)
    has_next = page.next_cursor is not None or page.withheld is not None
    return is_empty and not has_next and gap.cursor is not None and not gap.resets


def withheld_below(
    stream: Stream, before: Gap, gap: Gap, page: MessagePage, known: Known, new: Collection[InteractionEventRow]
) -> Missed | None:
    """Return what is missed of a gap that ends with a page before any stored message; None if all of it was read.

    The gap is given as it was `before` the page and after it. `new` are the page's messages that are stored with it.
    """
    if gap.is_at_limit or _reaches_stored(before, page, known):
        return None
    counted = _counted(page, known)
    missing = _estimated(gap, known, new) if counted is None else counted
    has_hole = gap.walked_to is not None and gap.walked_to > gap.newest_at
    if not (has_hole or _is_cut(stream, gap, page, known, missing)):
        return None
    if missing is not None and missing <= 0:
        missing = None
    return Missed(
        gap.conversation_id,
        page.withheld or (MissedReason.NO_CONTENT if page.bare_ids else MissedReason.WINDOW),
        _from_at(gap),
        # A walk from the newest message may end sooner than the list did, because new messages fill the window.
        gap.reached_at if gap.walked_to is None else max(gap.reached_at, gap.walked_to),
        missing,
        is_estimate=missing is not None and counted is None,
    )


def _counted(page: MessagePage, known: Known) -> int | None:
    """Return how many messages have nothing but an id; None if older ones may follow."""
    bare = set(page.bare_ids)
    unknown = bare - known.interaction_events
    return len(unknown) if bare and (page.next_cursor is None or unknown != bare) else None


def _estimated(gap: Gap, known: Known, new: Collection[InteractionEventRow]) -> int | None:
    """Return how many of the messages that the list counted are neither stored nor new; None without a count."""
    came = sum(each.occurred_at <= gap.newest_at for each in new)
    return None if gap.message_count is None else gap.message_count - known.stored_messages - came


def _is_cut(stream: Stream, gap: Gap, page: MessagePage, known: Known, missing: int | None) -> bool:
    """Return whether messages are missing behind a page.

    `message_count` is an estimate, so a difference of one normally proves nothing. It does if older messages are stored
    but not listed, or if an earlier answer said that there are more. In the former case, nothing is missing only if the
    count agrees with what is stored, or with that except for those below, which are gone. A lower count proves nothing,
    because some may have been unsent where no list shows it.
    """
    has_below = bool(page.bare_ids) or (known.stored_below > 0 and not gap.is_history)
    is_promised = gap.resets > 0 or page.withheld is not None or (gap.cursor is not None and not page.interactions)
    if missing is None:
        is_at_window = stream.platform is Platform.INSTAGRAM or (gap.listed >= WINDOW and not gap.stored)
        return has_below or page.withheld is not None or (is_promised and is_at_window)
    if has_below:
        return missing not in {0, -known.stored_below}
    if is_promised:
        return missing > 0
    return missing > max(LEAST_SURPLUS, (gap.message_count or 0) // SURPLUS_SHARE)


def gone(gap: Gap) -> Missed:
    """Return what is missed of a gap whose conversation no longer exists."""
    return Missed(gap.conversation_id, MissedReason.DELETED, _from_at(gap), gap.reached_at)


def _from_at(gap: Gap) -> datetime | None:
    """Return when the messages of a gap begin; None if its state was stored without messages, so that it is unknown.

    A state has whole seconds.
    """
    return None if gap.is_history or gap.back_to >= gap.reached_at.replace(microsecond=0) else gap.back_to


def _reaches_stored(gap: Gap, page: MessagePage, known: Known) -> bool:
    """Return whether a page reaches the stored state; only the state's newest message may be left to read."""
    return not gap.is_history and any(
        each.event_id in known.interaction_events
        and each.occurred_at <= gap.back_to
        and each.occurred_at < gap.reached_at
        for each in page.interactions
    )


# --- a stream whose API ends at a window ------------------------------------------------------------------------------


def is_beyond_window(window_at: datetime | None, gap: Gap, now: datetime) -> bool:
    """Return whether a gap need not be requested: at `window_at`, the stream's API ended where the list did.

    It is tried again after some days, because the platform may have changed.
    """
    return (
        window_at is not None
        and timedelta() <= now - window_at < WINDOW_LASTS
        and gap.listed >= WINDOW
        and not gap.stored
    )


def window_after(before: datetime | None, gap: Gap, recorded_at: datetime, *, is_withheld: bool) -> datetime | None:
    """Return since when the stream's API has been known to end at the window, after messages of a gap were read."""
    if gap.listed < WINDOW:
        return before
    if gap.stored:
        return None
    if not is_withheld:
        return before
    return before if before is not None and recorded_at - before < WINDOW_LASTS else recorded_at


def is_hint(checkpoint: Checkpoint, gap: Gap) -> bool:
    """Return whether a withheld gap is one of the first, which prove nothing about other conversations yet.

    A conversation may have been deleted, or an incident may answer with an empty list, and conversations that are
    skipped are never read. On Instagram the window is documented, so one conversation is enough.
    """
    is_alone = checkpoint.window_at is None and checkpoint.stream.platform is not Platform.INSTAGRAM
    if not is_alone or gap.listed < WINDOW or gap.stored:
        return False
    return len({*checkpoint.window_hints, gap.conversation_id}) < LEAST_WINDOWS


def hints_after(before: tuple[str, ...], read: MessagesRead) -> tuple[str, ...]:
    """Return the conversations that have ended at the window, after messages of one were read."""
    gap = read.gap
    if read.is_hint:
        return (*(each for each in before if each != gap.conversation_id), gap.conversation_id)
    is_settled = gap.listed >= WINDOW and (gap.stored or read.ending is GapEnding.WITHHELD)
    return () if is_settled else before


def says_deleted(problem: Problem) -> bool:
    """Return whether the API refuses messages as deleted or too old, between which it does not distinguish."""
    return problem.code == DELETED
