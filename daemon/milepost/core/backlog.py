"""The backlog: which messages a batch shows to be owed.

Every message of a conversation up to its stored state is stored, owed, or in a dead letter. So where none of the
messages that a list shows is stored, those between them and that state are owed. Of a conversation that is met for the
first time, the older ones are owed back to the limit of `sync.message_history`. When they are read is decided in
`background`, and what that means in `message_reading`.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from hashlib import sha256

from msgspec.structs import replace

from milepost.core.background import COMPLETE
from milepost.core.checkpoint import Checkpoint
from milepost.core.dead_letters import messages_of, row_of
from milepost.core.gaps import Gap, HistoriesLeftOut, HistorySearch, MessagesOwed
from milepost.core.journal import instant_text
from milepost.core.merge import Difference, remembered
from milepost.core.model import Batch, Conversation, ConversationRow, Interaction, Known, Stream
from milepost.core.plan import EPOCH, Policy, RunBudget, overlap_before, size_now
from milepost.core.position import Mode
from milepost.core.records import Context, Record, unchanged_before


def owed(
    checkpoint: Checkpoint,
    batch: Batch,
    found: Difference,
    known: Known,
    context: Context,
    watermark: datetime | None = None,
) -> tuple[MessagesOwed, ...]:
    """Return the event of the messages that a batch shows to be owed, if there are any.

    `found` is what the batch changes: a conversation without news owes nothing that it did not owe before, unless its
    messages could not be read until now, or it moves here from another page. One that has news owes what is before them
    even where the list names no older ones: those that are stored are older. One that is neither stored nor was refused
    by the store is met for the first time; since `watermark`, it has nothing but news. Of one that was stored without
    messages, and of one that was deleted while histories were searched for, the history is owed now. So is all that is
    new of one that came without any, though they were asked for.
    """
    stream, policy = checkpoint.stream, context.policy
    last_read_at = overlap_before(watermark, policy.watermark_overlap_seconds) if watermark is not None else None
    history_to = _history_to(context)
    changed = {row.conversation_id for row in found.changes.conversations}
    gaps: dict[str, Gap] = {}
    unrecorded: list[datetime] = []  # how far back they reach
    unread = {each.subject for each in batch.unreadable}
    are_asked_for = bool(policy.messages_per_conversation) and not size_now(checkpoint, policy).detail.leaves_out
    for each in remembered(batch.conversations, known):
        stored = known.conversations.get(each.conversation_id)
        is_refused = stored is None and _is_open(row_of(each.conversation_id), known)
        if stored is None and not is_refused:
            opens = _shows_older(each, policy)
        else:
            opens = each.conversation_id in changed or _is_open(messages_of(each.conversation_id), known)
        is_bare = are_asked_for and _is_bare(each, stored) and messages_of(each.conversation_id) not in unread
        if is_bare or (opens and _are_unknown(each.interactions, known)):
            limit = None if stored else _history_limit(each, last_read_at, history_to, is_refused=is_refused)
            is_whole = not (is_refused or is_bare)
            if limit is not None and is_whole and _may_be_left_out(each, limit, checkpoint, changed, context):
                unrecorded.append(_oldest_at(each))
            else:
                gap = _gap_below(stream, each, stored, found, limit, context.now)
                gaps |= {} if is_bare and gap.is_at_limit else {gap.gap_id: gap}
        limit = _late_limit(each, stored, checkpoint, known, context, opens=opens) if stored is not None else None
        if limit is not None:
            gap = _gap_below(stream, each, None, found, limit, context.now)
            gap = replace(gap, gap_id=sha256(f"late\n{gap.gap_id}".encode()).hexdigest()[:16])
            gaps[gap.gap_id] = gap
    gaps |= {each.gap_id: each for each in _taken_over(stream, found, known)}
    after = _left_out_after(checkpoint.left_out, unrecorded, found, known, context)
    left_out = None if after == checkpoint.left_out else after
    return (MessagesOwed(tuple(gaps.values()), left_out),) if gaps or left_out is not None else ()


def _may_be_left_out(
    read: Conversation, limit: datetime, checkpoint: Checkpoint, changed: Collection[str], context: Context
) -> bool:
    """Return whether the history of a conversation that is met owes nothing, and can be found in the tables later.

    It is found by its number of messages (where the list has one, that must say that there are more), and by the time
    of the oldest; not if the store refuses some of the rows.
    """
    if _oldest_at(read) > limit or limit == EPOCH or context.refused or read.conversation_id not in changed:
        return False
    is_searched = checkpoint.left_out is not None and checkpoint.left_out.search is not None
    return not is_searched and (read.message_count is None or read.message_count > len(read.interactions))


def _late_limit(
    read: Conversation,
    stored: ConversationRow,
    checkpoint: Checkpoint,
    known: Known,
    context: Context,
    *,
    opens: bool,
) -> datetime | None:
    """Return how far back the history of a stored conversation is owed since this batch; None if it is not.

    It is where none of its messages came when it was met, or later: they were not asked for, or the API left them out.
    What has come since is no history. A search for histories leaves out conversations that are deleted: one that is
    listed again has missed it.
    """
    if stored.page_id != checkpoint.stream.page_id or not read.interactions:
        return None
    is_late = not opens and read.updated_time >= stored.updated_time and _are_unknown(read.interactions, known)
    searched_to = _searched_to(checkpoint.left_out) if stored.deleted_at is not None else None
    if not (is_late or searched_to is not None) or not _shows_older(read, context.policy):
        return None
    history_to = _history_to(context)
    if is_late or searched_to is None:
        met_at = overlap_before(stored.first_synced_at, context.policy.watermark_overlap_seconds)
        return _history_limit(read, met_at, history_to, is_refused=False)
    return max(searched_to, _history_limit(read, None, history_to, is_refused=False))


def _searched_to(left_out: HistoriesLeftOut | None) -> datetime | None:
    """Return how far back histories were searched for, or are; None if they never were."""
    if left_out is None:
        return None
    if left_out.search is None:
        return left_out.searched_to
    return min(left_out.search.history_to, left_out.searched_to or left_out.search.history_to)


def _oldest_at(read: Conversation) -> datetime:
    times = [each.occurred_at for each in read.interactions]  # half the time of a generator
    return min(times, default=read.updated_time)


def _left_out_after(
    before: HistoriesLeftOut | None, unrecorded: Collection[datetime], found: Difference, known: Known, context: Context
) -> HistoriesLeftOut | None:
    """Return what is known of the histories that are not on record, after those of a batch."""
    after = before
    for there in known.left_out_elsewhere if found.changes.moved else ():
        search = after.search if after is not None else None
        after = _together(after, there, replace(search, after=None) if search is not None else None)
    if unrecorded:
        seconds = context.policy.message_history_seconds
        after = _together(after, HistoriesLeftOut(max(unrecorded), seconds, since=context.now))
    return after


def _together(
    one: HistoriesLeftOut | None, another: HistoriesLeftOut, search: HistorySearch | None = None
) -> HistoriesLeftOut:
    """Return what is known of both; a search that was under way goes through all of them."""
    both = (another,) if one is None else (one, another)
    return HistoriesLeftOut(
        max(each.reach_to for each in both),
        min((each.seconds for each in both if each.seconds is not None), default=None),
        max((each.searched_to for each in both if each.searched_to is not None), default=None),
        search,
        min((each.since for each in both if each.since is not None), default=None),
    )


def _are_unknown(messages: Collection[Interaction], known: Known) -> bool:
    return bool(messages) and known.interaction_events.isdisjoint(each.event_id for each in messages)


def _is_bare(read: Conversation, stored: ConversationRow | None) -> bool:
    """Return whether a conversation has messages, or news of them, and came without any.

    The API leaves fields out without a word where a right to them is missing.
    """
    if read.interactions or read.message_count == 0:
        return False
    return read.message_count is not None if stored is None else read.updated_time > stored.updated_time


def _shows_older(read: Conversation, policy: Policy) -> bool:
    """Return whether a conversation has more messages than came with the list, by what the list says.

    A first copy meets every conversation, and a request for each of them would take days. Lists were captured in which
    a conversation with all of its messages has a `next` nevertheless: there the count tells. Without a count, as many
    as were asked for may not be all.
    """
    came, count = len(read.interactions), read.message_count
    if came < policy.messages_per_conversation:
        return read.has_older and (count is None or count > came)
    return read.has_older or count is None or count > came


def _history_limit(
    read: Conversation, last_read_at: datetime | None, history_to: datetime | None, *, is_refused: bool
) -> datetime:
    """Return how far back the messages of a conversation are owed of which no state is stored.

    What has come since the sweep before is no history: it is owed whatever the limit `history_to`, or where there are
    no histories. Where the store refused the conversation (`is_refused`), all else was owed when it was met.
    """
    if is_refused:
        return last_read_at or EPOCH
    limit = _oldest_at(read) if history_to is None else history_to
    return min(limit, last_read_at or limit)


def _history_to(context: Context) -> datetime | None:
    """Return the instant back to which histories are owed now; None if there are none."""
    return history_from(context.now, context.policy) if context.policy.message_history_seconds else None


def history_from(now: datetime, policy: Policy) -> datetime:
    """Return the instant back to which histories are owed now."""
    seconds = policy.message_history_seconds
    return now - timedelta(seconds=seconds) if seconds < (now - EPOCH).total_seconds() else EPOCH


def _taken_over(stream: Stream, found: Difference, known: Known) -> Iterator[Gap]:
    """Yield what another page owed of conversations that move here: its token may not read them any more."""
    for gap in known.owed_elsewhere:
        if gap.conversation_id in found.changes.moved:
            gap_id = sha256(f"{stream.key}\n{gap.gap_id}".encode()).hexdigest()[:16]
            yield replace(gap, gap_id=gap_id, idle=0, attempts=0, resets=0, retry_at=None, is_elsewhere=False)


def _is_open(subject: str, known: Known) -> bool:
    dead_letter = known.dead_letters.get(subject)
    return dead_letter is not None and dead_letter.is_open


def _gap_below(
    stream: Stream,
    read: Conversation,
    stored: ConversationRow | None,
    found: Difference,
    history_to: datetime | None,
    now: datetime,
) -> Gap:
    times = [each.occurred_at for each in read.interactions] or [read.updated_time]
    oldest = read.interactions[-1].event_id if read.interactions else ""
    named = f"{stream.key}\n{read.conversation_id}\n{oldest}\n{instant_text(now)}"
    gap_id = sha256(named.encode()).hexdigest()[:16]
    is_elsewhere = stored is not None and stored.page_id != stream.page_id
    return Gap(
        gap_id,
        read.conversation_id,
        now,
        max(times),
        min(times),
        stored.updated_time if stored is not None else min(times),
        read.older_cursor,
        history_to=history_to,
        is_elsewhere=is_elsewhere and read.conversation_id not in found.changes.moved,
        listed=len(read.interactions),
        message_count=read.message_count,
    )


def earlier_limit(checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy) -> datetime | None:
    """Return the limit back to which histories are owed after a full sweep, which may be an earlier one than before.

    None after any other run.
    """
    run = checkpoint.run
    is_full = run is not None and run.run_id == budget.run_id and run.mode is Mode.FULL
    if run is None or not is_full or run.status not in COMPLETE or not policy.message_history_seconds:
        return None
    return history_from(now, policy)


def reopen(checkpoint: Checkpoint, gaps: Iterable[Gap], history_to: datetime, budget: RunBudget) -> Record:
    """Return what to record of histories that end at their limit, and are owed back to an earlier one."""
    opened = tuple(replace(gap, history_to=history_to, idle=0, limit=0, attempts=0, resets=0) for gap in gaps)
    return Record((*unchanged_before(checkpoint, budget), MessagesOwed(opened)))
