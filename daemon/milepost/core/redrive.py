"""What a redrive of a dead letter means: it is closed with the rows that it brings, or tried again later."""

import msgspec
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.dead_letters import (
    MAX_REASON_CHARACTERS,
    can_succeed,
    conversation_of,
    opened,
    recovered,
    redrive_at,
    subjects_of,
    unread,
    withhold,
)
from milepost.core.events import (
    NO_TALLY,
    DeadLetterClosed,
    Event,
    RedriveFailed,
    Resolution,
    Stage,
    Tally,
)
from milepost.core.failures import rate_limited
from milepost.core.merge import difference, keys_of, newer, remembered
from milepost.core.model import Batch, Changes, Detail, Keys, Known, RefusedRow, Stream
from milepost.core.plan import RunBudget
from milepost.core.ports import DueDeadLetter, Fetched, Outcome, Refused
from milepost.core.records import Context, Record, unchanged_before
from milepost.core.remedies import Remedy, rule_for

_decode_rows = msgspec.json.Decoder(Changes).decode


def to_reread(due: DueDeadLetter) -> str | None:
    """Give the conversation that has to be read for the redrive; None where the payload has all that it needs."""
    return (
        conversation_of(due.dead_letter.subject)
        if due.dead_letter.stage is Stage.FETCH and due.payload is not None
        else None
    )


def keys_for_redrive(
    stream: Stream, due: DueDeadLetter, outcome: Outcome | None, refused: tuple[RefusedRow, ...] = ()
) -> Keys:
    """List what has to be known of the store before a redrive is decided on."""
    if isinstance(outcome, Fetched):
        return replace(keys_of(stream, outcome.batch), subjects=subjects_of(outcome.batch, refused))
    rows = _rows(due)
    conversation_ids = [
        *(row.conversation_id for row in rows.conversations),
        *(row.conversation_id for row in rows.interaction_events),
    ]
    contact_ids = [
        *(row.contact_id for row in rows.contacts),
        *(row.contact_id for row in rows.conversations if row.contact_id),
        *(row.contact_id for row in rows.interaction_events if row.contact_id),
    ]
    return Keys(
        stream,
        conversations=tuple(dict.fromkeys(conversation_ids)),
        contacts=tuple(dict.fromkeys(contact_ids)),
        interaction_events=tuple(row.event_id for row in rows.interaction_events),
    )


def redrive(
    checkpoint: Checkpoint,
    due: DueDeadLetter,
    outcome: Outcome | None,
    context: Context,
    known: Known,
    *,
    by: str = "",
) -> Record:
    """Say what a redrive came to. `outcome` is that of the rereading, None where nothing had to be read.

    `by` is who asked for it; empty where nobody had to.
    """
    record = _redriven(checkpoint, due, outcome, context, known)
    events = tuple(_asked_for(event, due.dead_letter, by) for event in record.events) if by else record.events
    return Record((*unchanged_before(checkpoint, context.budget), *events), record.changes)


def _asked_for(event: Event, dead_letter: DeadLetter, by: str) -> Event:
    """Say who asked for what became of the letter; not of others that came to light on the way."""
    is_its_own = (
        isinstance(event, DeadLetterClosed | RedriveFailed) and event.dead_letter_id == dead_letter.dead_letter_id
    )
    return replace(event, by=by) if is_its_own else event


def _redriven(
    checkpoint: Checkpoint, due: DueDeadLetter, outcome: Outcome | None, context: Context, known: Known
) -> Record:
    dead_letter = due.dead_letter
    match outcome:
        case Fetched(batch=batch):
            return _reread(checkpoint, due, batch, context, known)
        case Refused(problem=problem):
            rule = rule_for(problem, has_cursor=False)
            event: Event = _failure(dead_letter, str(problem), context)
            if rule.remedy is Remedy.WAIT:
                event = rate_limited(checkpoint, problem, rule, context)
            return Record((event,))
        case None:
            return _rewritten(due, context, known)


def _rewritten(due: DueDeadLetter, context: Context, known: Known) -> Record:
    """Take the rows of the payload, which could not be written before."""
    dead_letter = due.dead_letter
    if due.payload is None:
        return Record((DeadLetterClosed(dead_letter.dead_letter_id, Resolution.FORGOTTEN),))
    if dead_letter.stage is Stage.FETCH:
        return Record((_failure(dead_letter, f"it has no id to read it by; {dead_letter.reason}", context),))
    if context.refused:
        return Record((_failure(dead_letter, context.refused[0].reason, context),))
    found = newer(_rows(due), known, context.now)
    return Record((DeadLetterClosed(dead_letter.dead_letter_id, Resolution.REDRIVEN, found.tally),), found.changes)


def discard(checkpoint: Checkpoint, dead_letter: DeadLetter, reason: str, budget: RunBudget, *, by: str = "") -> Record:
    """Give a dead letter up. `by` is who asked for it."""
    closed = DeadLetterClosed(dead_letter.dead_letter_id, Resolution.DISCARDED, reason=reason, by=by)
    return Record((*unchanged_before(checkpoint, budget), closed))


def _rows(due: DueDeadLetter) -> Changes:
    """Read the rows of a payload that holds some."""
    return Changes() if due.payload is None or due.dead_letter.stage is Stage.FETCH else _decode_rows(due.payload)


def _failure(dead_letter: DeadLetter, reason: str, context: Context, tally: Tally = NO_TALLY) -> RedriveFailed:
    attempts = dead_letter.attempts + 1
    again_at = redrive_at(context.now, attempts + 1) if can_succeed(dead_letter.stage, dead_letter.subject) else None
    return RedriveFailed(dead_letter.dead_letter_id, attempts, reason[:MAX_REASON_CHARACTERS], again_at, tally)


def _reread(checkpoint: Checkpoint, due: DueDeadLetter, batch: Batch, context: Context, known: Known) -> Record:
    """Take what was read like a batch: it may close other letters of the same conversation, and open some."""
    dead_letter, now = due.dead_letter, context.now
    stream = Stream.parse(checkpoint.stream)
    found, unwritten = withhold(difference(stream, batch, known, now), context.refused)
    failures = (*unread(batch, Detail.NESTED, None, known), *unwritten)
    reasons = {each.subject: each.reason for each in failures}
    dead_letters, payloads = opened(stream, failures, known, now)
    closed = recovered(batch, Detail.NESTED, failures, known)
    others: tuple[Event, ...] = (
        *dead_letters,
        *(each for each in closed if each.dead_letter_id != dead_letter.dead_letter_id),
    )
    changes = replace(found.changes, payloads=payloads)
    tally = replace(found.tally, batches=0, dead_lettered=len(dead_letters))
    if dead_letter.subject in reasons or not batch.conversations:
        reason = reasons.get(dead_letter.subject, "it was not in the answer")
        return Record((*others, _failure(dead_letter, reason, context, tally)), changes)
    is_forgotten = not remembered(batch.conversations, known)
    resolution = Resolution.FORGOTTEN if is_forgotten else Resolution.REDRIVEN
    return Record((*others, DeadLetterClosed(dead_letter.dead_letter_id, resolution, tally)), changes)
