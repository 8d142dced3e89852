"""What a redrive of a dead letter means: it is closed with the rows that it brings, or tried again later."""

import msgspec
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.decision import Circumstances, Record, passed_before
from milepost.core.events import (
    NO_TALLY,
    DeadLetterClosed,
    Event,
    RedriveFailed,
    Resolution,
    Stage,
    Tally,
)
from milepost.core.letters import (
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
from milepost.core.merge import difference, keys_of, newer, remembered
from milepost.core.model import Batch, Changes, Detail, Keys, Known, RefusedRow, Stream
from milepost.core.plan import Slice
from milepost.core.ports import DueLetter, Fetched, Outcome, Refused
from milepost.core.refusals import rate_limited
from milepost.core.remedies import Remedy, rule_for

_decode_rows = msgspec.json.Decoder(Changes).decode


def to_reread(due: DueLetter) -> str | None:
    """Give the conversation that has to be read for the redrive; None where the payload has all that it needs."""
    return conversation_of(due.letter.subject) if due.letter.stage is Stage.FETCH and due.payload is not None else None


def keys_for_redrive(
    stream: Stream, due: DueLetter, outcome: Outcome | None, refused: tuple[RefusedRow, ...] = ()
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
    due: DueLetter,
    outcome: Outcome | None,
    circumstances: Circumstances,
    known: Known,
    *,
    by: str = "",
) -> Record:
    """Say what a redrive came to. `outcome` is that of the rereading, None where nothing had to be read.

    `by` is who asked for it; empty where nobody had to.
    """
    record = _redriven(checkpoint, due, outcome, circumstances, known)
    events = tuple(_asked_for(event, due.letter, by) for event in record.events) if by else record.events
    return Record((*passed_before(checkpoint, circumstances.work), *events), record.changes)


def _asked_for(event: Event, letter: DeadLetter, by: str) -> Event:
    """Say who asked for what became of the letter; not of others that came to light on the way."""
    is_its_own = isinstance(event, DeadLetterClosed | RedriveFailed) and event.dead_letter_id == letter.dead_letter_id
    return replace(event, by=by) if is_its_own else event


def _redriven(
    checkpoint: Checkpoint, due: DueLetter, outcome: Outcome | None, circumstances: Circumstances, known: Known
) -> Record:
    letter = due.letter
    match outcome:
        case Fetched(batch=batch):
            return _reread(checkpoint, due, batch, circumstances, known)
        case Refused(problem=problem):
            rule = rule_for(problem, has_cursor=False)
            event: Event = _failure(letter, str(problem), circumstances)
            if rule.remedy is Remedy.WAIT:
                event = rate_limited(checkpoint, problem, rule, circumstances)
            return Record((event,))
        case None:
            return _rewritten(due, circumstances, known)


def _rewritten(due: DueLetter, circumstances: Circumstances, known: Known) -> Record:
    """Take the rows of the payload, which could not be written before."""
    letter = due.letter
    if due.payload is None:
        return Record((DeadLetterClosed(letter.dead_letter_id, Resolution.FORGOTTEN),))
    if letter.stage is Stage.FETCH:
        return Record((_failure(letter, f"it has no id to read it by; {letter.reason}", circumstances),))
    if circumstances.refused:
        return Record((_failure(letter, circumstances.refused[0].reason, circumstances),))
    found = newer(_rows(due), known, circumstances.now)
    return Record((DeadLetterClosed(letter.dead_letter_id, Resolution.REDRIVEN, found.tally),), found.changes)


def discard(checkpoint: Checkpoint, letter: DeadLetter, reason: str, work: Slice, *, by: str = "") -> Record:
    """Give a dead letter up. `by` is who asked for it."""
    closed = DeadLetterClosed(letter.dead_letter_id, Resolution.DISCARDED, reason=reason, by=by)
    return Record((*passed_before(checkpoint, work), closed))


def _rows(due: DueLetter) -> Changes:
    """Read the rows of a payload that holds some."""
    return Changes() if due.payload is None or due.letter.stage is Stage.FETCH else _decode_rows(due.payload)


def _failure(letter: DeadLetter, reason: str, circumstances: Circumstances, tally: Tally = NO_TALLY) -> RedriveFailed:
    attempts = letter.attempts + 1
    again_at = redrive_at(circumstances.now, attempts + 1) if can_succeed(letter.stage, letter.subject) else None
    return RedriveFailed(letter.dead_letter_id, attempts, reason[:MAX_REASON_CHARACTERS], again_at, tally)


def _reread(checkpoint: Checkpoint, due: DueLetter, batch: Batch, circumstances: Circumstances, known: Known) -> Record:
    """Take what was read like a batch: it may close other letters of the same conversation, and open some."""
    letter, now = due.letter, circumstances.now
    stream = Stream.parse(checkpoint.stream)
    found, unwritten = withhold(difference(stream, batch, known, now), circumstances.refused)
    failures = (*unread(batch, Detail.NESTED, None, known), *unwritten)
    reasons = {each.subject: each.reason for each in failures}
    letters, payloads = opened(stream, failures, known, now)
    closed = recovered(batch, Detail.NESTED, failures, known)
    others: tuple[Event, ...] = (
        *letters,
        *(each for each in closed if each.dead_letter_id != letter.dead_letter_id),
    )
    changes = replace(found.changes, payloads=payloads)
    tally = replace(found.tally, batches=0, dead_lettered=len(letters))
    if letter.subject in reasons or not batch.conversations:
        reason = reasons.get(letter.subject, "it was not in the answer")
        return Record((*others, _failure(letter, reason, circumstances, tally)), changes)
    is_forgotten = not remembered(batch.conversations, known)
    resolution = Resolution.FORGOTTEN if is_forgotten else Resolution.REDRIVEN
    return Record((*others, DeadLetterClosed(letter.dead_letter_id, resolution, tally)), changes)
