"""Decides what a redrive means: the dead letter is closed together with the rows it yields, or retried later."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.backlog import has_no_messages
from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.dead_letters import (
    MAX_REASON_CHARACTERS,
    can_succeed,
    conversation_of,
    is_of_older,
    messages_of,
    redrive_at,
    subjects_of,
)
from milepost.core.decide import read_batch
from milepost.core.doubts import AGREES_AFTER
from milepost.core.events import (
    NO_TALLY,
    DeadLetterClosed,
    RedriveFailed,
    Resolution,
    Stage,
    Tally,
)
from milepost.core.failures import rate_limited
from milepost.core.merge import keys_of, keys_of_rows, newer, remembered
from milepost.core.message_reading import (
    DELETED_PAGE,
    EMPTY,
    futile_page,
    gap_in,
    keys_of_page,
    news_of,
    payload_of,
    read_page,
    request_of,
)
from milepost.core.missed import gone, missed_events, says_deleted, without_content
from milepost.core.model import (
    Changes,
    Conversation,
    DeadLetterPayload,
    Detail,
    Keys,
    Known,
)
from milepost.core.plan import RunBudget
from milepost.core.ports import DueDeadLetter, Fetched, MessagesFetched, MessagesRequest, Outcome, Refused
from milepost.core.position import MessagesOwed, is_kept_after
from milepost.core.problems import Problem, Remedy, is_gone, rule_for
from milepost.core.records import Context, Pending, Record, unchanged_before, with_news
from milepost.core.revisions import readings, with_older_messages
from milepost.core.texts import storable

NEWS_BEFORE_FAILURE = timedelta(days=1)  # a failed batch also has older messages of its conversations
TEXTS = ("name", "username", "link", "snippet", "text")  # the columns with texts that people wrote

Row = TypeVar("Row", bound=Struct)

_decode_rows = msgspec.json.Decoder(Changes).decode


def to_reread(due: DueDeadLetter) -> str | MessagesRequest | None:
    """Return the conversation or older messages that a redrive has to read; None if the payload is enough."""
    if due.dead_letter.stage is not Stage.FETCH or due.payload is None:
        return None
    if is_of_older(due.dead_letter.subject):
        return request_of(gap_in(due.payload))
    return conversation_of(due.dead_letter.subject)


def is_refused_alike(due: DueDeadLetter, problem: Problem) -> bool:
    """Return whether a redrive is refused as before: then the cause is what it reads, even if it looks like a limit.

    A limit that says when it ends is believed.
    """
    return problem.wait_seconds is None and str(problem)[:MAX_REASON_CHARACTERS] == due.dead_letter.reason


def redrive(
    checkpoint: Checkpoint,
    due: DueDeadLetter,
    outcome: Outcome | MessagesFetched | None,
    context: Context,
    *,
    by: str = "",
) -> Pending:
    """Decide what a redrive means. `outcome` is the outcome of reading the subject again; None if nothing was to read.

    `by` is who requested it; empty for an automatic redrive.
    """
    stream = checkpoint.stream
    rows, replaced = _rows(due)
    if isinstance(outcome, Refused) and says_deleted(outcome.problem) and is_of_older(due.dead_letter.subject):
        outcome = MessagesFetched(DELETED_PAGE, context.now, outcome.took_seconds)
    keys: Keys | None = None
    match outcome:
        case Fetched(batch=batch):
            asked = context.policy.messages_per_conversation
            shown = readings(batch, Detail.NESTED, asked)
            keys = replace(keys_of(stream, batch), subjects=subjects_of(batch, context.refused), readings=shown)
        case MessagesFetched(page=page):
            keys = keys_of_page(checkpoint, gap_in(due.payload or ""), page, context.refused)
        case Refused() if is_of_older(due.dead_letter.subject) and due.payload is not None:
            keys = Keys(stream, conversations=(gap_in(due.payload).conversation_id,))
        case Refused():
            pass
        case None:
            keys = keys_of_rows(stream, rows)
    return PendingRedrive(checkpoint, due, outcome, context, by, rows, keys, replaced)


class PendingRedrive(Struct, frozen=True):
    """A redrive whose stored rows are not known yet.

    `rows` are those of the payload; `replaced_characters` counts the characters replaced in their texts.
    """

    checkpoint: Checkpoint
    due: DueDeadLetter
    outcome: Outcome | MessagesFetched | None
    context: Context
    by: str
    rows: Changes
    keys: Keys | None
    replaced_characters: int

    def record(self, known: Known) -> Record:
        """Record that the dead letter is closed or has failed again, with the rows to write."""
        record = self._result(known)
        return replace(record, events=(*unchanged_before(self.checkpoint, self.context.budget), *record.events))

    def _result(self, known: Known) -> Record:
        match self.outcome:
            case Fetched() as fetched:
                return self._reread(fetched, known)
            case MessagesFetched() as fetched:
                return self._read_older(fetched, known)
            case Refused(problem=problem) as refused:
                return self._refused(problem, self.context.as_of(refused), known)
            case None:
                return self._rewrite(known)

    def _closed(self, resolution: Resolution, tally: Tally = NO_TALLY) -> DeadLetterClosed:
        return DeadLetterClosed(self.due.dead_letter.dead_letter_id, resolution, tally, by=self.by)

    def _refused(self, problem: Problem, context: Context, known: Known) -> Record:
        """Record why it could not be read. If the cursor of older messages is lost, the next redrive does without it.

        If older messages are still gone after a day, and were gone the last time, it is not an incident, unless another
        page has taken the conversation over.
        """
        due = self.due
        gap = gap_in(due.payload) if is_of_older(due.dead_letter.subject) and due.payload is not None else None
        rule = rule_for(problem, has_cursor=gap is not None and gap.cursor is not None)
        if rule.remedy is Remedy.WAIT and not is_refused_alike(due, problem):
            return Record((rate_limited(self.checkpoint, problem, rule, context),))
        has_lasted = context.now - due.dead_letter.opened_at >= AGREES_AFTER and is_refused_alike(due, problem)
        has_moved = any(row.page_id != self.checkpoint.stream.page_id for row in known.conversations.values())
        if gap is not None and has_lasted and not has_moved and (is_gone(problem) or problem == EMPTY):
            return Record((*missed_events(gone(gap)), self._closed(Resolution.REDRIVEN)))
        failed = Record((_failure(self, str(problem)),))
        if gap is None or gap.cursor is None or Remedy.RESET not in {rule.remedy, rule.then}:
            return failed
        payload = DeadLetterPayload(
            due.dead_letter.dead_letter_id, payload_of(replace(gap, cursor=None, walked_to=None))
        )
        return replace(failed, changes=Changes(payloads=(payload,)))

    def _read_older(self, fetched: MessagesFetched, known: Known) -> Record:
        """Store older messages that could not be read before; the rest of them is owed."""
        gap, page = gap_in(self.due.payload or ""), fetched.page
        if problem := futile_page(gap, page):
            return self._refused(problem, self.context, known)
        read = read_page(self.checkpoint.stream, gap, page, self.context, known, fetched.asked_at)
        is_forgotten = gap.conversation_id in known.forgotten
        resolution = Resolution.FORGOTTEN if is_forgotten else Resolution.REDRIVEN
        rest = (MessagesOwed((read.gap,)),) if is_kept_after(read.ending) else ()
        changes = with_news(read.changes, news_of(gap))
        closed = self._closed(resolution, read.tally)
        return Record((*read.events, closed, *rest), changes)

    def _rewrite(self, known: Known) -> Record:
        """Write the rows of the payload, which the store once refused."""
        dead_letter, context = self.due.dead_letter, self.context
        if self.due.payload is None:
            return Record((self._closed(Resolution.FORGOTTEN),))
        if dead_letter.stage is Stage.FETCH:
            return Record((_failure(self, f"it has no id to read it by; {dead_letter.reason}"),))
        if context.refused:
            return Record((_failure(self, context.refused[0].reason),))
        written = newer(self.rows, known, context.now)
        tally = replace(written.tally, replaced_characters=self.replaced_characters if written.tally.has_changes else 0)
        missed = missed_events(*without_content(written.changes.interaction_events))
        changes = with_older_messages(with_news(written.changes, self._news_after), known)
        return Record((*missed, self._closed(Resolution.REDRIVEN, tally)), changes)

    def _reread(self, fetched: Fetched, known: Known) -> Record:
        """Treat the answer like a batch: it may also close or open other dead letters of the conversation."""
        subject = self.due.dead_letter.subject
        shown = self.keys.readings if self.keys is not None else ()
        # Without a watermark, so that none of the owed messages count as news.
        checkpoint = replace(self.checkpoint, watermark=None)
        read = read_batch(checkpoint, fetched, Detail.NESTED, shown, known, self.context)
        recovered = DeadLetterClosed(self.due.dead_letter.dead_letter_id, Resolution.RECOVERED)
        others = tuple(each for each in read.events if each != recovered)
        changes = with_news(read.changes, self._news_after)
        tally = replace(read.tally, batches=0, unreadable=0)
        reasons = {each.subject: each.reason for each in read.failures}
        listed = fetched.batch.conversations
        is_forgotten = bool(listed) and not remembered(listed, known)
        if not is_forgotten and (subject in reasons or not self._has_subject(listed)):
            reason = reasons.get(subject, "it was not in the answer")
            return Record((*others, _failure(self, reason, tally)), changes)
        resolution = Resolution.FORGOTTEN if is_forgotten else Resolution.REDRIVEN
        return Record((*others, self._closed(resolution, tally)), changes)

    def _has_subject(self, listed: Collection[Conversation]) -> bool:
        """Return whether an answer has what the dead letter is about: a conversation, or the messages of one."""
        subjects = {messages_of(each.conversation_id) for each in listed}
        if self.due.dead_letter.subject not in subjects or not self.context.policy.messages_per_conversation:
            return bool(listed)
        return any(each.interactions or has_no_messages(each) for each in listed)

    @property
    def _news_after(self) -> datetime | None:
        """The instant after which the failed messages still count as news; None in a first copy."""
        return None if self.checkpoint.watermark is None else self.due.dead_letter.opened_at - NEWS_BEFORE_FAILURE


def _failure(pending: PendingRedrive, reason: str, tally: Tally = NO_TALLY) -> RedriveFailed:
    dead_letter = pending.due.dead_letter
    attempts, may_succeed = dead_letter.attempts + 1, can_succeed(dead_letter.stage, dead_letter.subject)
    again_at = redrive_at(pending.context.now, attempts + 1) if may_succeed else None
    reason = reason[:MAX_REASON_CHARACTERS]
    return RedriveFailed(dead_letter.dead_letter_id, attempts, reason, again_at, tally, by=pending.by)


def discard(checkpoint: Checkpoint, dead_letter: DeadLetter, reason: str, budget: RunBudget, *, by: str = "") -> Record:
    """Discard a dead letter. `by` is who requested it."""
    closed = DeadLetterClosed(dead_letter.dead_letter_id, Resolution.DISCARDED, reason=reason, by=by)
    return Record((*unchanged_before(checkpoint, budget), closed))


def _rows(due: DueDeadLetter) -> tuple[Changes, int]:
    """Decode the rows of a payload; the payload of an unread item has none.

    Earlier versions left NULs in texts, which PostgreSQL refused. Such characters are replaced and counted here.
    """
    if due.payload is None or due.dead_letter.stage is Stage.FETCH:
        return Changes(), 0
    rows = _decode_rows(due.payload)
    replaced = 0

    def mended(row: Row) -> Row:
        nonlocal replaced
        texts = {name: storable(text) for name in TEXTS if (text := getattr(row, name, None)) is not None}
        replaced += sum(count for _, count in texts.values())
        return replace(row, **{name: text for name, (text, _) in texts.items()})

    conversations, contacts = tuple(map(mended, rows.conversations)), tuple(map(mended, rows.contacts))
    events = tuple(map(mended, rows.interaction_events))
    return replace(rows, conversations=conversations, contacts=contacts, interaction_events=events), replaced
