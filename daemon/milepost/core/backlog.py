"""The backlog: finds the messages that a batch shows to be owed.

Every message of a conversation up to its stored state is stored, owed, or in a dead letter. So if a list shows only
messages that are not stored, those between them and that state are owed. If a conversation is new, its older messages
are owed back to the limit of `sync.message_history`. `background` decides when owed messages are read, and
`message_reading` what the answers mean.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.background import COMPLETE, may_read
from milepost.core.checkpoint import Checkpoint
from milepost.core.dead_letters import events_of, messages_of, row_of
from milepost.core.journal import derived_id, instant_text
from milepost.core.merge import Difference, remembered
from milepost.core.missed import WINDOW
from milepost.core.model import Batch, Conversation, ConversationRow, Detail, Known
from milepost.core.plan import Policy, RunBudget
from milepost.core.position import (
    Gap,
    HistoriesLeftOut,
    HistorySearch,
    MessagesOwed,
    Mode,
    ThreadsSearched,
    UnopenedThread,
)
from milepost.core.records import Context, Record, unchanged_before
from milepost.core.walk import EPOCH, overlap_before


def owed(
    checkpoint: Checkpoint, batch: Batch, detail: Detail, found: Difference, known: Known, context: Context
) -> tuple[MessagesOwed, ...]:
    """Return the event of the messages that a batch with this detail shows to be owed, if any.

    `found` are the batch's changes.
    """
    watermark, overlap_seconds = checkpoint.watermark, context.policy.watermark_overlap_seconds
    last_read_at = overlap_before(watermark, overlap_seconds) if watermark is not None else None
    changed = frozenset([row.conversation_id for row in found.changes.conversations])
    history_to = history_from(context.now, context.policy)
    is_searched = checkpoint.left_out is not None and checkpoint.left_out.search is not None
    meeting = _Meeting(
        checkpoint,
        known,
        context,
        changed,
        found.changes.moved,
        _open_among(batch, known, row_of),
        _open_among(batch, known, messages_of),
        last_read_at,
        history_to,
        leaves_out=not (context.refused or is_searched),
    )
    gaps: list[Gap] = []
    unrecorded: list[datetime] = []  # how far back the histories reach that are left out of the record
    bare = _came_bare(batch, known) if context.policy.messages_per_conversation and not detail.leaves_out else ()
    for each in remembered(batch.conversations, known):
        stored = known.conversations.get(each.conversation_id)
        is_bare = each.conversation_id in bare and meeting.has_news(each)
        opens = is_bare or meeting.opens_gap(each, stored)
        if opens and stored is None and not is_bare and meeting.may_be_left_out(each, oldest_at := _oldest_at(each)):
            unrecorded.append(oldest_at)
        elif opens:
            limit = None if stored else meeting.first_limit(each, _oldest_at(each))
            gaps.append(meeting.gap_below(each, stored, limit))
        late_limit = meeting.late_limit(each, stored, opens=opens) if stored is not None else None
        if late_limit is not None:
            gap = meeting.gap_below(each, None, late_limit)
            gaps.append(replace(gap, gap_id=derived_id("late", gap.gap_id)))
    gaps += meeting.moved_here()
    after = _left_out_after(checkpoint.left_out, unrecorded, meeting)
    left_out = None if after == checkpoint.left_out else after
    by_id = {each.gap_id: each for each in gaps}
    return (MessagesOwed(tuple(by_id.values()), left_out),) if gaps or left_out is not None else ()


class _Meeting(Struct, frozen=True):
    """A batch together with what is stored, and with the record of histories.

    `changed` conversations have news, and `moved` ones belonged to another page. The store has `refused` the rows of
    some, and the messages of some were `unread` until now. Everything since `last_read_at` is news, and histories are
    owed back to `history_to` (None: no histories). It `leaves_out` those that owe nothing, as long as they can be found
    in the tables later: the store refuses no rows, and no search is under way.
    """

    checkpoint: Checkpoint
    known: Known
    context: Context
    changed: frozenset[str]
    moved: Collection[str]
    refused: Collection[str]
    unread: Collection[str]
    last_read_at: datetime | None
    history_to: datetime | None
    leaves_out: bool

    def opens_gap(self, read: Conversation, stored: ConversationRow | None) -> bool:
        """Return whether messages older than the listed ones of a conversation are owed. None of the listed is stored.

        A conversation without news owes nothing new, unless its messages could not be read until now, or it moves here
        from another page. A conversation with news owes the messages before them even if the list names no older ones,
        because the stored ones are older. A conversation that is not stored, and that the store did not refuse, is new.

        If messages could not be read until now, and others have come since, the list may no longer show them, even if
        some of the listed are stored.
        """
        is_changed, is_unread = read.conversation_id in self.changed, read.conversation_id in self.unread
        if stored is None and read.conversation_id not in self.refused:
            return _shows_older(read, self.context.policy) and self._are_unknown(read)
        if is_unread and read.interactions and _shows_older(read, self.context.policy) and self.has_news(read):
            return True
        return (is_changed or is_unread) and self._are_unknown(read)

    def has_news(self, read: Conversation) -> bool:
        """Return whether a conversation has news. If the store refuses its row, it seems to have some each time."""
        since = self.last_read_at if row_of(read.conversation_id) in self.known.dead_letters else None
        return read.conversation_id in self.changed and (since is None or read.updated_time > since)

    def first_limit(self, read: Conversation, oldest_at: datetime) -> datetime:
        """Return how far back the messages of a conversation without a row are owed.

        If the store refused it, everything older was owed when it was first met; otherwise its history is owed. If it
        could not be read until now, messages since it was first met are not history.
        """
        if read.conversation_id in self.refused:
            return self.last_read_at or EPOCH
        dead_letter = self.known.dead_letters.get(read.conversation_id)
        if dead_letter is None or not dead_letter.is_open:
            return self._history_limit(oldest_at, self.last_read_at)
        met_at = overlap_before(dead_letter.opened_at, self.context.policy.watermark_overlap_seconds)
        return self._history_limit(oldest_at, min(met_at, self.last_read_at or met_at))

    def may_be_left_out(self, read: Conversation, oldest_at: datetime) -> bool:
        """Return whether the history of a new conversation owes nothing now, and can be found in the tables later.

        It is found by its number of messages (if the list has a count, it must say that there are more) and by the time
        of the oldest one.
        """
        conversation_id = read.conversation_id
        if not self.leaves_out or conversation_id not in self.changed or conversation_id in self.refused:
            return False
        limit = self.first_limit(read, oldest_at)
        is_counted = read.message_count is None or read.message_count > len(read.interactions)
        return is_counted and oldest_at <= limit != EPOCH

    def late_limit(self, read: Conversation, stored: ConversationRow, *, opens: bool) -> datetime | None:
        """Return how far back the history of a stored conversation becomes owed with this batch; None if it does not.

        It does if none of its messages have come so far, because they were not requested or the API left them out.
        Messages since then are not history. It also does if a deleted conversation is listed again, because searches
        for histories skip deleted ones.
        """
        policy = self.context.policy
        if stored.page_id != self.checkpoint.stream.page_id or not read.interactions:
            return None
        is_late = not opens and read.updated_time >= stored.updated_time and self._are_unknown(read)
        searched_to = _searched_to(self.checkpoint.left_out) if stored.deleted_at is not None else None
        if not (is_late or searched_to is not None) or not _shows_older(read, policy):
            return None
        if is_late or searched_to is None:
            last_read_at = overlap_before(stored.first_synced_at, policy.watermark_overlap_seconds)
            return self._history_limit(_oldest_at(read), last_read_at)
        return max(searched_to, self._history_limit(_oldest_at(read), None))

    def _history_limit(self, oldest_at: datetime, last_read_at: datetime | None) -> datetime:
        """Return how far back a history is owed. Messages since the last reading are not history, and always owed."""
        limit = oldest_at if self.history_to is None else self.history_to
        return limit if last_read_at is None else min(limit, last_read_at)

    def _are_unknown(self, read: Conversation) -> bool:
        """Return whether none of the listed messages is stored, or is known as one that the store refuses."""
        stored, dead_letters = self.known.interaction_events, self.known.dead_letters
        if stored and any(each.event_id in stored for each in read.interactions):
            return False
        events = read.interactions if dead_letters else ()
        subjects = (events_of(read.conversation_id, each.event_id) for each in events)
        return bool(read.interactions) and dead_letters.keys().isdisjoint(subjects)

    def moved_here(self) -> Iterator[Gap]:
        """Yield the gaps of conversations that move here from another page, whose token can no longer read them."""
        for gap in self.known.owed_elsewhere:
            if gap.conversation_id in self.moved:
                gap_id = derived_id(self.checkpoint.stream.key, gap.gap_id)
                yield replace(gap, gap_id=gap_id, idle=0, attempts=0, resets=0, retry_at=None, is_elsewhere=False)

    def gap_below(self, read: Conversation, stored: ConversationRow | None, history_to: datetime | None) -> Gap:
        """Return the gap below the messages of a conversation."""
        stream, now = self.checkpoint.stream, self.context.now
        times = [each.occurred_at for each in read.interactions] or [read.updated_time]
        oldest_id = read.interactions[-1].event_id if read.interactions else ""
        is_elsewhere = stored is not None and stored.page_id != stream.page_id
        return Gap(
            derived_id(stream.key, read.conversation_id, oldest_id, instant_text(now)),
            read.conversation_id,
            now,
            max(times),
            min(times),
            stored.updated_time if stored is not None else min(times),
            read.older_cursor,
            history_to=history_to,
            is_elsewhere=is_elsewhere and read.conversation_id not in self.moved,
            listed=len(read.interactions),
            message_count=read.message_count,
        )


def _open_among(batch: Batch, known: Known, subject_of: Callable[[str], str]) -> Collection[str]:
    """Return the conversations of a batch with an open dead letter about a subject."""
    is_open = {subject for subject, dead_letter in known.dead_letters.items() if dead_letter.is_open}
    if not is_open:
        return ()
    return {each.conversation_id for each in batch.conversations if subject_of(each.conversation_id) in is_open}


def _oldest_at(read: Conversation) -> datetime:
    oldest_at = read.interactions[0].occurred_at if read.interactions else read.updated_time
    for each in read.interactions:
        if each.occurred_at < oldest_at:  # noqa: PLR1730 -- a comparison takes a third of the time of `min`
            oldest_at = each.occurred_at
    return oldest_at


def has_no_messages(read: Conversation) -> bool:
    """Return whether a conversation that came without messages has none, by its count."""
    return read.message_count == 0 and not read.has_older


def _came_bare(batch: Batch, known: Known) -> Collection[str]:
    """Return the conversations that came without messages although they may have some, or have news.

    The API silently leaves out fields for which a permission is missing, and an empty page may have a `next`.
    """
    unread = {each.subject for each in batch.unreadable}

    def is_bare(read: Conversation) -> bool:
        if has_no_messages(read) or messages_of(read.conversation_id) in unread:
            return False
        stored = known.conversations.get(read.conversation_id)
        return stored is None or read.updated_time > stored.updated_time

    return {each.conversation_id for each in batch.conversations if not each.interactions and is_bare(each)}


def _shows_older(read: Conversation, policy: Policy) -> bool:
    """Return whether the list says that a conversation has more messages than came with it.

    A first copy meets every conversation, and a request for each of them would take days. Lists were captured in which
    a conversation has a `next` although all its messages came. So the count decides, unless it is lower than what came
    and so is wrong. Without a count, there may be more if as many came as were requested.
    """
    came, count = len(read.interactions), read.message_count
    if came < policy.messages_per_conversation:
        return read.has_older and count != came
    return read.has_older or count is None or count > came


def _left_out_after(
    before: HistoriesLeftOut | None, unrecorded: Collection[datetime], meeting: _Meeting
) -> HistoriesLeftOut | None:
    """Return the summary of the histories that are not on record, updated by those of a batch."""
    after, context = before, meeting.context
    for there in meeting.known.left_out_elsewhere if meeting.moved else ():
        search = after.search if after is not None else None
        after = _together(after, there, replace(search, after=None) if search is not None else None)
    if unrecorded:
        seconds = context.policy.message_history_seconds
        after = _together(after, HistoriesLeftOut(max(unrecorded), seconds, since=context.now))
    return after


def _together(
    one: HistoriesLeftOut | None, another: HistoriesLeftOut, search: HistorySearch | None = None
) -> HistoriesLeftOut:
    """Return the summary of both; a search that was under way covers all of them."""
    both = (another,) if one is None else (one, another)
    return HistoriesLeftOut(
        max(each.reach_to for each in both),
        min((each.seconds for each in both if each.seconds is not None), default=None),
        max((each.searched_to for each in both if each.searched_to is not None), default=None),
        search,
        min((each.since for each in both if each.since is not None), default=None),
    )


def _searched_to(left_out: HistoriesLeftOut | None) -> datetime | None:
    """Return how far back the current or last search for histories goes; None if there was none."""
    if left_out is None:
        return None
    if left_out.search is None:
        return left_out.searched_to
    return min(left_out.search.history_to, left_out.searched_to or left_out.search.history_to)


def history_from(now: datetime, policy: Policy) -> datetime | None:
    """Return the instant back to which histories are owed now; None if there are none."""
    seconds = policy.message_history_seconds
    if not seconds:
        return None
    return now - timedelta(seconds=seconds) if seconds < (now - EPOCH).total_seconds() else EPOCH


# --- histories that have become owed ----------------------------------------------------------------------------------

# A first copy meets every conversation. For most of them, the list already shows all messages back to the limit of
# `sync.message_history`, so that none are owed, and nothing is recorded for each of them. If the limit is later moved
# further back, these conversations are searched for in the tables after a full sweep, step by step, and opened.

SLACK = timedelta(seconds=1)  # a stored instant has fewer digits than the instant of the decision


def earlier_limit(checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy) -> datetime | None:
    """Return the limit back to which histories are owed after a full sweep; it may be earlier than before.

    None after any other run.
    """
    run = checkpoint.run
    if run is None or run.run_id != budget.run_id or run.mode is not Mode.FULL or run.status not in COMPLETE:
        return None
    return history_from(now, policy)


def reopen(checkpoint: Checkpoint, gaps: Iterable[Gap], history_to: datetime, budget: RunBudget) -> Record:
    """Return the record that reopens histories: they were read to their limit, and are now owed to an earlier one."""
    opened = tuple(replace(gap, history_to=history_to, idle=0, limit=0, attempts=0, resets=0) for gap in gaps)
    return Record((*unchanged_before(checkpoint, budget), MessagesOwed(opened)))


def next_search(checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy) -> HistorySearch | None:
    """Return the search for histories that have become owed: the open one, or a new one after a full sweep.

    None if all histories that were left out of the record reach back to the limit, as they do until it is moved back.
    """
    left_out = checkpoint.left_out
    if left_out is None or not policy.message_history_seconds or not may_read(checkpoint, budget):
        return None
    if left_out.search is not None:
        return left_out.search
    limit = earlier_limit(checkpoint, now, budget, policy)
    return HistorySearch(limit) if limit is not None and limit < left_out.reach_to else None


def open_found(
    checkpoint: Checkpoint, search: HistorySearch, searched: ThreadsSearched, budget: RunBudget, now: datetime
) -> Record:
    """Return the record of a step of a search: the histories that it found to be owed, and how far it has come."""
    left_out = checkpoint.left_out or HistoriesLeftOut(search.history_to)
    gaps = tuple(
        _opened(checkpoint, thread, search.history_to, now)
        for thread in searched.threads
        if _is_owed(thread, left_out, search.history_to)
    )
    if searched.until is None:
        after = HistoriesLeftOut(search.history_to, searched_to=search.history_to, since=left_out.since)
    else:
        after = replace(left_out, search=replace(search, after=searched.until))
    return Record((*unchanged_before(checkpoint, budget), MessagesOwed(gaps, after)))


def _is_owed(thread: UnopenedThread, left_out: HistoriesLeftOut, history_to: datetime) -> bool:
    """Return whether a history was left out and is now owed.

    A history that is neither on record nor left out was read to its end. It must not be opened: if the API withholds
    its beginning, that would be requested and recorded as missed once more.
    """
    # If more are stored than were counted, some were unsent since, where no list shows it: then the count is no proof.
    if thread.stored == thread.message_count:
        return False
    is_older = left_out.since is not None and thread.first_synced_at < left_out.since - SLACK
    if thread.oldest_at <= history_to or is_older:
        return False
    if left_out.searched_to is not None and thread.oldest_at <= left_out.searched_to:
        return True
    seconds = left_out.seconds
    if seconds is None:
        return False
    # Without a limit by time, each history was left out. A clock that is behind dates the row before its messages.
    return not seconds or thread.oldest_at <= thread.first_synced_at - timedelta(seconds=seconds) + SLACK


def _opened(checkpoint: Checkpoint, thread: UnopenedThread, history_to: datetime, now: datetime) -> Gap:
    """Return the gap of a history. Without a cursor, reading begins at the newest message."""
    return Gap(
        derived_id(checkpoint.stream.key, thread.conversation_id, instant_text(history_to), instant_text(now)),
        thread.conversation_id,
        now,
        thread.newest_at,
        thread.oldest_at,
        thread.oldest_at,
        history_to=history_to,
        listed=min(thread.stored, WINDOW),
        message_count=thread.message_count,
    )
