"""Reading owed messages: decides what a page of older messages means, or the failure to read one.

Reading ends at a stored message that is older than the previously stored state. Newer stored messages do not end it,
because they may have been read since, for another gap. A history ends at its limit. If a cursor dies, reading starts
again at the newest message of the conversation.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.dead_letters import (
    MAX_REASON_CHARACTERS,
    Failure,
    older_of,
    opened,
    subjects_of_events,
    unread_items,
    withhold_each,
)
from milepost.core.events import DeadLetterOpened, Stage, Tally
from milepost.core.failures import rate_limited
from milepost.core.merge import new_events, new_row
from milepost.core.missed import (
    ends_with,
    gone,
    is_doubtful_end,
    is_hint,
    missed_events,
    says_deleted,
    withheld_below,
    without_content,
)
from milepost.core.model import (
    Changes,
    Conversation,
    Keys,
    Known,
    MessagePage,
    RefusedRow,
    Stream,
    Table,
)
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import MessagesFetched, MessagesOutcome, MessagesRequest, Refused
from milepost.core.position import (
    Gap,
    GapEnding,
    MessagesFailed,
    MessagesMissed,
    MessagesRead,
    MissedReason,
    Reading,
    ThreadSpan,
)
from milepost.core.problems import Problem, ProblemKind, Remedy, Rule, is_gone, rule_for
from milepost.core.records import Context, Decided, Pending, Record, arrived_since, unchanged_before, with_news
from milepost.core.revisions import reading, revised, tally_of, without_fingerprint

MESSAGES_PER_REQUEST = 50
SHRINKS_BY = 4
MAX_RESETS = 3  # lost cursors in a row with nothing new in between
MAX_IDLE = 100  # requests in a row that bring nothing new and lead no further
ROUNDS = 3  # runs in which a gap fails before it becomes a dead letter; each of them has just read a list
CURSOR_LOOP = Problem(ProblemKind.CURSOR_LOOP, "the cursor of the next messages is the one just used")
NO_PROGRESS = Problem(ProblemKind.CURSOR_LOOP, "the cursors of the messages lead to nothing new")
DELETED_PAGE = MessagePage((), withheld=MissedReason.DELETED)
EMPTY = Problem(
    ProblemKind.INVALID_RESPONSE, "the list of messages is empty, though some of them were listed or counted"
)

_encode = msgspec.json.Encoder(order=None).encode
_decode = msgspec.json.Decoder(Gap).decode


# --- how it is read ---------------------------------------------------------------------------------------------------


def is_parked(gap: Gap, policy: Policy) -> bool:
    """Return whether the gap has failed as often as a run may try."""
    return gap.attempts > 0 and gap.attempts % policy.attempts == 0


def request_of(gap: Gap) -> MessagesRequest:
    """Return the request for the next messages of a gap."""
    return MessagesRequest(gap.conversation_id, gap.cursor, _limit_of(gap))


def _limit_of(gap: Gap) -> int:
    return gap.limit or MESSAGES_PER_REQUEST


# --- what the messages mean -------------------------------------------------------------------------------------------


def drop_gap(checkpoint: Checkpoint, gap: Gap, ending: GapEnding, budget: RunBudget) -> Record:
    """Return the record of a gap that is no longer to be read."""
    return Record((*unchanged_before(checkpoint, budget), MessagesRead(gap, ending=ending)))


def decide_messages(checkpoint: Checkpoint, gap: Gap, outcome: MessagesOutcome, context: Context) -> Pending:
    """Decide what reading a gap means, as far as that is possible without the store."""
    match outcome:
        case MessagesFetched(page=page, asked_at=asked_at):
            if problem := futile_page(gap, page):
                return Decided(_on_refusal(checkpoint, gap, problem, context))
            keys = keys_of_page(checkpoint, gap, page, context.refused)
            return PendingMessages(checkpoint, gap, page, context, keys, asked_at)
        case Refused(problem=problem) if says_deleted(problem) and _limit_of(gap) == 1:
            keys = keys_of_page(checkpoint, gap, DELETED_PAGE, ())
            return PendingMessages(checkpoint, gap, DELETED_PAGE, context, keys, context.now)
        case Refused(problem=problem) as refused:
            return Decided(_on_refusal(checkpoint, gap, problem, context.as_of(refused)))


def futile_page(gap: Gap, page: MessagePage) -> Problem | None:
    """Return the problem of a cursor that leads to itself, or of a conversation that is suddenly empty.

    Following such a cursor would never end. An empty conversation is not the end of the API's window, which shows the
    newest messages; an incident may be answered with an empty list.
    """
    if page.next_cursor is not None:
        return CURSOR_LOOP if page.next_cursor == gap.cursor else None
    is_empty = not (page.interactions or page.bare_ids or page.unreadable or page.withheld)
    return EMPTY if is_empty and gap.cursor is None and (gap.listed or gap.message_count) else None


def keys_of_page(checkpoint: Checkpoint, gap: Gap, page: MessagePage, refused: Iterable[RefusedRow]) -> Keys:
    """Return the keys of all rows that messages may touch, and of the dead letters about refused ones."""
    events = (*(each.event_id for each in page.interactions), *page.bare_ids)
    return Keys(
        checkpoint.stream,
        conversations=(gap.conversation_id,),
        contacts=tuple(dict.fromkeys(each.contact_id for each in page.interactions if each.contact_id)),
        interaction_events=events,
        subjects=(
            *(each.subject for each in page.unreadable),
            *subjects_of_events(gap.conversation_id, events, refused),
        ),
        # The messages that were counted by the list that showed the gap.
        counts_messages=(
            ThreadSpan(gap.conversation_id, gap.back_to, gap.newest_at, gap.owed_since) if ends_with(page) else None
        ),
        readings=(_reading(gap, page),) if page.interactions else (),
    )


def _reading(gap: Gap, page: MessagePage) -> Reading:
    is_full = page.next_cursor is None or len(page.interactions) >= _limit_of(gap)
    is_whole = is_full and not (page.unreadable or page.bare_ids)
    return reading(gap.conversation_id, page.interactions, is_whole=is_whole)


class PendingMessages(Struct, frozen=True):
    """Messages of a gap; which of them are stored is not known yet."""

    checkpoint: Checkpoint
    gap: Gap
    page: MessagePage
    context: Context
    keys: Keys
    asked_at: datetime

    def record(self, known: Known) -> Record:
        """Return the record of the messages, and of what is still owed."""
        read = read_page(self.keys.stream, self.gap, self.page, self.context, known, self.asked_at)
        if read.ending is None and read.gap.idle > MAX_IDLE:
            return _on_refusal(self.checkpoint, self.gap, NO_PROGRESS, self.context)
        tally = read.tally
        event = MessagesRead(
            read.gap,
            tally.interaction_events,
            tally.dead_lettered,
            read.ending,
            edited=tally.edited,
            unsent=tally.unsent,
            is_hint=read.ending is GapEnding.WITHHELD and is_hint(self.checkpoint, read.gap),
        )
        before = unchanged_before(self.checkpoint, self.context.budget)
        news_after = news_of(self.gap)
        changes, arrived = with_news(read.changes, news_after), arrived_since(news_after, read.changes)
        return Record((*before, *read.events, event), changes, arrived)


def news_of(gap: Gap) -> datetime | None:
    """Return the instant after which messages of a gap are news; None if they are all history."""
    return None if gap.is_history else gap.back_to


class PageRead(Struct, frozen=True):
    """The result of a page of messages: rows to write, dead letters to open, missed messages, and the gap after it."""

    changes: Changes
    events: tuple[DeadLetterOpened | MessagesMissed, ...]
    tally: Tally
    gap: Gap
    ending: GapEnding | None


def read_page(
    stream: Stream, gap: Gap, page: MessagePage, context: Context, known: Known, asked_at: datetime
) -> PageRead:
    """Return the result of messages of a gap, given the stored rows."""
    if gap.conversation_id in known.forgotten:
        return PageRead(Changes(), (), Tally(), gap, GapEnding.FORGOTTEN)
    stored = known.conversations.get(gap.conversation_id)  # None if the store has refused its row
    row = stored or new_row(stream, Conversation(gap.conversation_id, gap.newest_at), context.now)
    new = new_events(row, page.interactions, known, asked_at)
    written, unwritten = withhold_each(new.values(), context.refused)
    again = revised(_reading(gap, page), page.interactions, known, context.now, asked_at) if known.messages else ()
    changed, unchanged = withhold_each(again, context.refused)
    failures = (*unread_items(page.unreadable, known), *unwritten, *unchanged)
    dead_letters, payloads = opened(stream, failures, known, context.now)
    tally = Tally(interaction_events=len(written), dead_lettered=len(dead_letters)) + tally_of(changed)
    after, ending = _gap_after(gap, page, known, stored=len(written))
    missed = without_content(written)
    below = withheld_below(stream, gap, after, page, known, written) if ending is GapEnding.THREAD_END else None
    if below is not None:
        missed, ending = (*missed, below), GapEnding.WITHHELD
    # The fingerprint is that of the messages before; a row that the store refuses keeps it.
    is_refused = any((each.table, each.key) == (Table.CONVERSATIONS, gap.conversation_id) for each in context.refused)
    touched = (without_fingerprint(stored),) if changed and stored is not None and not is_refused else ()
    changes = Changes(touched, interaction_events=written, payloads=payloads, revised=changed)
    return PageRead(changes, (*dead_letters, *missed_events(*missed)), tally, after, ending)


def _gap_after(gap: Gap, page: MessagePage, known: Known, *, stored: int) -> tuple[Gap, GapEnding | None]:
    messages = page.interactions
    oldest = min((each.occurred_at for each in messages), default=gap.reached_at)
    is_new = stored > 0 or oldest < gap.reached_at
    is_further = bool(messages) and (gap.walked_to is None or oldest < gap.walked_to)
    after = replace(
        gap,
        cursor=page.next_cursor,
        reached_at=min(oldest, gap.reached_at),
        stored=gap.stored + stored,
        walked_to=oldest if is_further else gap.walked_to,
        idle=0 if is_new or is_further else gap.idle + 1,
        limit=0 if _limit_of(gap) * SHRINKS_BY >= MESSAGES_PER_REQUEST else _limit_of(gap) * SHRINKS_BY,
        attempts=0,
        resets=0 if is_new else gap.resets,
        retry_at=None,
    )
    # No stored message ends a history: it may be the history's own, or have been read since for another gap. Nor does a
    # message end the gap that brought it, if its conversation was stored without messages.
    before = min(gap.back_to, gap.reached_at)
    if not gap.is_history and any(
        each.event_id in known.interaction_events and each.occurred_at < before for each in messages
    ):
        return after, GapEnding.CLOSED
    if is_doubtful_end(gap, page):
        return _from_the_newest(after), None
    if ends_with(page):
        return after, GapEnding.THREAD_END
    is_at_limit = gap.history_to is not None and oldest <= gap.history_to
    return after, GapEnding.HISTORY_LIMIT if is_at_limit else None


# --- what a refusal means ---------------------------------------------------------------------------------------------


def _on_refusal(checkpoint: Checkpoint, gap: Gap, problem: Problem, context: Context) -> Record:
    before = unchanged_before(checkpoint, context.budget)
    rule = rule_for(problem, has_cursor=gap.cursor is not None)
    if rule.remedy is Remedy.WAIT:
        return Record((*before, rate_limited(checkpoint, problem, rule, context)))
    after, ending = _after_failure(gap, problem, rule, context)
    failed = MessagesFailed(after, problem, ending)
    if ending is not GapEnding.DEAD_LETTER:
        missed = missed_events(gone(gap)) if ending is GapEnding.GONE else ()
        return Record((*before, *missed, failed))
    failure = Failure(
        older_of(gap.conversation_id, gap.gap_id), Stage.FETCH, str(problem)[:MAX_REASON_CHARACTERS], payload_of(after)
    )
    dead_letters, payloads = opened(checkpoint.stream, (failure,), Known(), context.now)
    return Record((*before, *dead_letters, failed), Changes(payloads=payloads))


def _after_failure(gap: Gap, problem: Problem, rule: Rule, context: Context) -> tuple[Gap, GapEnding | None]:
    """Return the gap after a failure: with a smaller request, from the head, or after a delay."""
    policy, size = context.policy, _limit_of(gap)
    if rule.remedy is Remedy.RESET:
        return _from_the_newest(gap), GapEnding.DEAD_LETTER if gap.resets >= MAX_RESETS else None
    if size > 1 and (rule.remedy is Remedy.SHRINK or says_deleted(problem)):  # the API may have some of the newer ones
        return replace(gap, limit=max(1, size // SHRINKS_BY), attempts=0, retry_at=None), None
    after = replace(gap, attempts=gap.attempts + 1)
    if not is_parked(after, policy):
        return replace(after, retry_at=context.retry_at(after.attempts % policy.attempts)), None
    return _after_round(after, problem, rule, policy)


def _from_the_newest(gap: Gap) -> Gap:
    return replace(gap, cursor=None, walked_to=None, idle=0, resets=gap.resets + 1, retry_at=None)


def _after_round(gap: Gap, problem: Problem, rule: Rule, policy: Policy) -> tuple[Gap, GapEnding | None]:
    """Return the gap after it has failed as often as a run may try.

    Even an answer that the conversation is gone has to be repeated as often as other failures: a hidden limit has the
    same code.
    """
    if rule.then is Remedy.RESET and gap.cursor is not None and gap.resets < MAX_RESETS:
        return _from_the_newest(replace(gap, attempts=0)), None
    if gap.attempts >= ROUNDS * policy.attempts:
        return gap, GapEnding.GONE if is_gone(problem) else GapEnding.DEAD_LETTER
    # A list was read just before, so the cause may be these messages themselves.
    limit = max(1, _limit_of(gap) // SHRINKS_BY**2) if rule.remedy is Remedy.RETRY else gap.limit
    return replace(gap, limit=limit, retry_at=None), None


# --- the payload of a dead letter -------------------------------------------------------------------------------------


def payload_of(gap: Gap) -> str:
    """Return the payload for a redrive as JSON: the gap without its failures."""
    return _encode(replace(gap, attempts=0, resets=0, idle=0, retry_at=None)).decode()


def gap_in(payload: str) -> Gap:
    """Return the gap of a payload."""
    return _decode(payload)
