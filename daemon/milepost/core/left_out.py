"""Histories that are left out of the record because they owe nothing, and how they are opened when they do.

A first copy meets every conversation, and most of their histories end where the limit of `sync.message_history` is, or
earlier: the list has shown all that is owed. Nothing is recorded of these one by one. If the limit is an earlier one
later, they are searched for in the tables after a full sweep, step by step, and opened.
"""

from datetime import datetime, timedelta
from hashlib import sha256

from msgspec.structs import replace

from milepost.core.background import may_read
from milepost.core.backlog import earlier_limit
from milepost.core.checkpoint import Checkpoint
from milepost.core.gaps import Gap, HistoriesLeftOut, HistorySearch, MessagesOwed, ThreadsSearched, UnopenedThread
from milepost.core.journal import instant_text
from milepost.core.missed import WINDOW
from milepost.core.plan import Policy, RunBudget
from milepost.core.records import Record, unchanged_before

SLACK = timedelta(seconds=1)  # a stored instant has fewer digits than that of the decision


def next_search(checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy) -> HistorySearch | None:
    """Return the search for histories that are owed by now: the open one, or one that begins after a full sweep.

    None if all that were left out of the record reach back to the limit, as they do until it is set to an earlier one.
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
    """Return what to record of a step of a search: the histories that are owed, and how far it has come."""
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
    """Return whether a history was left out and is owed.

    One that is not on record, and was not left out either, is read to its end: or else, where the API withholds its
    beginning, that would be asked for, and on record as missed, once more.
    """
    if thread.message_count is not None and thread.stored >= thread.message_count:
        return False
    is_older = left_out.since is not None and thread.first_synced_at < left_out.since - SLACK
    if thread.oldest_at <= history_to or is_older:
        return False
    if left_out.searched_to is not None and thread.oldest_at <= left_out.searched_to:
        return True
    seconds = left_out.seconds
    return seconds is not None and thread.oldest_at <= thread.first_synced_at - timedelta(seconds=seconds) + SLACK


def _opened(checkpoint: Checkpoint, thread: UnopenedThread, history_to: datetime, now: datetime) -> Gap:
    """Return the gap of a history. Without a cursor, reading begins at the newest message."""
    named = f"{checkpoint.stream.key}\n{thread.conversation_id}\n{instant_text(history_to)}\n{instant_text(now)}"
    return Gap(
        sha256(named.encode()).hexdigest()[:16],
        thread.conversation_id,
        now,
        thread.newest_at,
        thread.oldest_at,
        thread.oldest_at,
        history_to=history_to,
        listed=min(thread.stored, WINDOW),
        message_count=thread.message_count,
    )
