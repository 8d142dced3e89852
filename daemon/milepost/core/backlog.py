"""The backlog: which messages a batch shows to be owed, and when they are read.

Every message of a conversation up to its stored state is stored, owed, or in a dead letter. So where none of the
messages that a list shows is stored, those between them and that state are owed. What reading them means is decided in
`message_reading`.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from hashlib import sha256

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.dead_letters import messages_of, row_of
from milepost.core.events import Reason, RunStatus
from milepost.core.gaps import Gap, MessagesOwed
from milepost.core.journal import instant_text
from milepost.core.merge import Difference, remembered
from milepost.core.message_reading import is_parked
from milepost.core.model import Batch, Conversation, Known, Stream
from milepost.core.plan import Finish, Policy, RunBudget, Wait
from milepost.core.records import Context

MAX_PARKED = 3  # gaps that fail in a run, before it is assumed that all would


# --- what is owed -----------------------------------------------------------------------------------------------------


def owed(stream: Stream, batch: Batch, found: Difference, known: Known, context: Context) -> tuple[MessagesOwed, ...]:
    """Return the event of the messages that a batch shows to be owed, if there are any.

    Nothing is owed of a conversation that is met for the first time: it is not stored, nor was it refused by the store.
    `found` is what the batch changes: a conversation without news owes nothing that it did not owe before, unless its
    messages could not be read until now.
    """
    changed = {row.conversation_id for row in found.changes.conversations}
    gaps: dict[str, Gap] = {}
    for each in remembered(batch.conversations, known):
        if not _has_unknown_older(each, known, context.policy):
            continue
        if each.conversation_id in changed or _is_open(messages_of(each.conversation_id), known):
            stored = known.conversations.get(each.conversation_id)
            gap = _gap_below(stream, each, stored.updated_time if stored else None, context.now)
            gaps[gap.gap_id] = gap
    return (MessagesOwed(tuple(gaps.values())),) if gaps else ()


def _has_unknown_older(read: Conversation, known: Known, policy: Policy) -> bool:
    messages = read.interactions
    may_have_older = read.has_older or len(messages) >= policy.messages_per_conversation
    return (
        bool(messages)
        and may_have_older
        and (read.conversation_id in known.conversations or _is_open(row_of(read.conversation_id), known))
        and known.interaction_events.isdisjoint(each.event_id for each in messages)
    )


def _is_open(subject: str, known: Known) -> bool:
    dead_letter = known.dead_letters.get(subject)
    return dead_letter is not None and dead_letter.is_open


def _gap_below(stream: Stream, read: Conversation, back_to: datetime | None, now: datetime) -> Gap:
    times = [each.occurred_at for each in read.interactions]
    oldest = read.interactions[-1].event_id
    named = f"{stream.key}\n{read.conversation_id}\n{oldest}\n{instant_text(now)}"
    gap_id = sha256(named.encode()).hexdigest()[:16]
    return Gap(gap_id, read.conversation_id, now, max(times), min(times), back_to or min(times), read.older_cursor)


# --- when it is read --------------------------------------------------------------------------------------------------


class ReadGap(Struct, frozen=True):
    """Read the next gap that is due."""


def plan_backlog(
    checkpoint: Checkpoint, now: datetime, budget: RunBudget, held_until: datetime | None = None
) -> ReadGap | Wait | Finish | None:
    """Return what to do about the backlog after a run; None if there is nothing to do, or nothing can be done.

    A run that failed, was stopped, or met a rate limit that lasts shows that calls are in vain for now.
    """
    if not checkpoint.backlog or not _may_read(checkpoint, budget):
        return None
    if budget.stops_for is not None:
        return Finish(budget.stops_for)
    if now >= budget.deadline_at:
        return Finish(Reason.TIME_LIMIT)
    if held_until is None or held_until <= now:
        return ReadGap()
    return Finish(Reason.RATE_LIMIT) if held_until >= budget.deadline_at else Wait(held_until)


def _may_read(checkpoint: Checkpoint, budget: RunBudget) -> bool:
    run = checkpoint.run
    if run is None or run.run_id != budget.run_id or checkpoint.failure_streak or checkpoint.operator_pause:
        return False
    return run.status in {RunStatus.COMPLETE, RunStatus.COMPLETE_WITH_ERRORS} or run.reason in {
        Reason.TIME_LIMIT,
        Reason.BATCH_LIMIT,
    }


def next_gap(gaps: Iterable[Gap], tried: Collection[str], now: datetime, policy: Policy) -> Gap | Wait | None:
    """Return the first of the gaps that can be read now, or when one can be; None if none can in this run.

    One that was `tried` in this run, and failed as often as a run may try, is left to the next; after several of these,
    so are the others.
    """
    latest = now + timedelta(seconds=policy.max_delay_seconds)  # a later retry was set by a clock that was ahead
    parked, waits = 0, []
    for gap in gaps:
        if gap.gap_id in tried and is_parked(gap, policy):
            parked += 1
            if parked >= MAX_PARKED:
                return None
        elif gap.retry_at is None or not now < gap.retry_at <= latest:
            return gap
        else:
            waits.append(gap.retry_at)
    return Wait(min(waits)) if waits else None
