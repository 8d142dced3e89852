"""Histories that owe nothing when their conversations are met are found in the tables when the limit is raised."""

from collections import Counter
from datetime import datetime, timedelta
from math import inf

import pytest
from msgspec.structs import replace

from engine.test_backlog import POLICY, STREAM, Busy, all_of, endings, one_run
from kit.builders import NOON, message
from kit.engine_doubles import engine
from kit.memory_store import MemoryStore
from milepost.core.events import Event
from milepost.core.model import MessagePage, Stream, Table
from milepost.core.ports import MessagesFetched, MessagesOutcome, MessagesRequest
from milepost.core.position import Gap, GapEnding, MessagesMissed, MessagesOwed, MissedReason, ThreadsSearched
from milepost.engine import backlog
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Stop

HOUR = 3600.0


class Searched(MemoryStore):
    """A store that counts the steps of searches, and fails in the one with the number `fails_at`."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.fails_at = 0

    async def search_threads(self, stream: Stream, after: datetime | None, limit: int) -> ThreadsSearched:
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("the process is killed")
        return await super().search_threads(stream, after, limit)


def with_long_pasts(threads: int) -> tuple[Searched, EngineContext, Busy]:
    """Return an inbox of threads with a message now, and 40 others from 30 hours ago on, one an hour."""
    store = Searched()
    parts = engine(store, policy=POLICY)
    inbox = Busy(parts, threads)
    for number in range(threads):
        has_long_past(inbox, number)
    return store, parts, inbox


def has_long_past(inbox: Busy, number: int) -> None:
    old = [message(f"m_{number}_old_{n}", NOON - timedelta(hours=n, minutes=number)) for n in range(69, 29, -1)]
    inbox.threads[f"t_{number}"] = [*old, message(f"m_{number}_0", NOON - timedelta(minutes=number))]


def comes_back(inbox: Busy, number: int) -> None:
    """Let somebody write whose conversation was not listed, and who wrote only long before the first sweep."""
    has_long_past(inbox, number)
    inbox.threads[f"t_{number}"][-1] = message(f"m_{number}_new", NOON + timedelta(minutes=number))


async def sync(parts: EngineContext, inbox: Busy, hours: float, *, full: bool = False) -> None:
    """Sync the stream once, with histories of so many hours."""
    policy = replace(POLICY, message_history_seconds=hours * HOUR)
    await one_run(replace(parts, policy=policy), inbox).sync([STREAM], full=full)


def opened(store: MemoryStore) -> Counter[str]:
    """Count how often each conversation's history was on record as owed."""
    return Counter(gap.conversation_id for gap in gaps(store) if gap.is_history and not gap.is_at_limit)


def gaps(store: MemoryStore) -> list[Gap]:
    return [gap for event in events(store) if isinstance(event, MessagesOwed) for gap in event.gaps]


def events(store: MemoryStore) -> list[Event]:
    return [entry.event for entry in store.entries(STREAM)]


def up_to(inbox: Busy, hours: int) -> set[str]:
    """Return the messages of the last hours, and those of the page that reaches beyond."""
    return {
        each.event_id
        for thread in inbox.threads.values()
        for each in thread
        if each.occurred_at > NOON - timedelta(hours=hours)
    }


async def test_a_first_copy_records_no_history_that_owes_nothing() -> None:
    store, parts, inbox = with_long_pasts(12)

    await sync(parts, inbox, 20)
    await sync(parts, inbox, 20, full=True)

    assert (store.gaps, gaps(store), inbox.requests, store.steps) == ({}, [], [], 0)
    assert [type(event).__name__ for event in events(store)].count("MessagesOwed") == 1


@pytest.mark.parametrize("shorter", [20, 0])
async def test_a_longer_limit_opens_histories_once_after_a_full_sweep(shorter: float) -> None:
    store, parts, inbox = with_long_pasts(3)
    await sync(parts, inbox, shorter)
    await sync(parts, inbox, 45)
    assert store.steps == 0, "it is no full sweep"

    await sync(parts, inbox, 45, full=True)

    assert opened(store) == dict.fromkeys(inbox.threads, 1)
    assert store.interaction_events.keys() >= up_to(inbox, 45)
    assert set(endings(store)) == {None, GapEnding.HISTORY_LIMIT}
    calls, steps = len(inbox.requests), store.steps
    for hours in (45, 20, 45, 0):
        await sync(parts, inbox, hours, full=True)
    assert (len(inbox.requests), store.steps) == (calls, steps), "it was raised once"
    await sync(parts, inbox, inf, full=True)
    assert store.interaction_events.keys() == all_of(inbox)
    assert store.gaps == {}


async def test_a_limit_that_was_shorter_for_a_while_opens_the_histories_met_meanwhile() -> None:
    store, parts, inbox = with_long_pasts(2)
    await sync(parts, inbox, 45)
    for number in (7, 8):
        comes_back(inbox, number)
    assert opened(store) == {"t_0": 1, "t_1": 1}

    await sync(parts, inbox, 20)
    assert opened(store) == {"t_0": 1, "t_1": 1}
    await sync(parts, inbox, 45, full=True)

    assert opened(store) == dict.fromkeys(inbox.threads, 1)
    assert store.interaction_events.keys() >= up_to(inbox, 45)


async def test_a_history_that_is_met_by_an_incremental_sweep_is_found_like_the_others() -> None:
    store, parts, inbox = with_long_pasts(1)
    inbox.threads["t_0"] = inbox.threads["t_0"][-1:]
    await sync(parts, inbox, 20)
    comes_back(inbox, 7)
    await sync(parts, inbox, 20)
    assert opened(store) == {}

    await sync(parts, inbox, inf, full=True)

    assert opened(store) == {"t_7": 1}
    assert store.interaction_events.keys() == all_of(inbox)


async def as_many_come_as_are_missing(store: MemoryStore, parts: EngineContext, inbox: Busy) -> None:
    """Let messages come until as many are stored as there were when the conversation was met."""
    for _ in range(39):
        inbox.arrive("t_0", 1)
        await sync(parts, inbox, 20)
    assert len(store.interaction_events) == 41


async def test_a_history_is_found_though_the_store_refuses_the_later_row_of_its_conversation() -> None:
    store, parts, inbox = with_long_pasts(1)
    await sync(parts, inbox, 20)
    store.refuses = {(Table.CONVERSATIONS, "t_0")}
    await as_many_come_as_are_missing(store, parts, inbox)

    await sync(parts, inbox, inf, full=True)

    assert store.interaction_events.keys() == all_of(inbox)


async def test_a_history_is_found_though_later_lists_have_no_count_of_messages() -> None:
    store, parts, inbox = with_long_pasts(1)
    await sync(parts, inbox, 20)
    inbox.has_counts = False
    await as_many_come_as_are_missing(store, parts, inbox)

    await sync(parts, inbox, inf, full=True)

    assert store.interaction_events.keys() == all_of(inbox)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 5])
async def test_a_kill_while_histories_are_opened_leaves_the_rest_to_the_next_run(
    fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "GAPS_REOPENED", 1)
    store, parts, inbox = with_long_pasts(5)
    await sync(parts, inbox, 20)
    store.fails_at = fails_at
    await sync(parts, inbox, 45, full=True)
    assert inbox.requests == []
    assert len(opened(store)) == fails_at - 1
    comes_back(inbox, 9)
    inbox.arrive("t_2", 1)

    await sync(parts, inbox, 45, full=fails_at == 1)
    await sync(parts, inbox, 45, full=True)

    assert opened(store) == dict.fromkeys(inbox.threads, 1)
    assert store.interaction_events.keys() >= up_to(inbox, 45)


async def test_a_history_that_is_met_while_the_others_are_opened_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "GAPS_REOPENED", 1)
    store, parts, inbox = with_long_pasts(3)
    await sync(parts, inbox, 20)
    store.fails_at = 2
    await sync(parts, inbox, 45, full=True)
    comes_back(inbox, 9)

    await sync(parts, inbox, 20)
    assert [gap.is_at_limit for gap in gaps(store) if gap.conversation_id == "t_9"] == [True]
    await sync(parts, inbox, 45, full=True)

    assert opened(store) == dict.fromkeys(inbox.threads, 1)
    assert store.interaction_events.keys() >= up_to(inbox, 45)


async def test_a_stop_ends_a_search_and_the_next_run_goes_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "GAPS_REOPENED", 2)
    stop = Stop()
    store, parts, inbox = with_long_pasts(6)
    await sync(parts, inbox, 20)

    async def stops(*_: object) -> ThreadsSearched:
        stop.request()
        return await search(STREAM, None, 2)

    search = store.search_threads
    monkeypatch.setattr(store, "search_threads", stops)
    await sync(replace(parts, stop=stop), inbox, 45, full=True)
    assert len(opened(store)) == 2
    monkeypatch.setattr(store, "search_threads", search)
    await sync(parts, inbox, 45)

    assert opened(store) == dict.fromkeys(inbox.threads, 1)


async def test_messages_that_the_api_withholds_are_reported_once() -> None:
    store, parts, inbox = with_long_pasts(3)

    async def withholds(_: MessagesRequest) -> MessagesOutcome:
        return MessagesFetched(MessagePage((), withheld=MissedReason.WINDOW), NOON, 0.1)

    inbox._before_messages = withholds
    await sync(parts, inbox, 20)
    for hours in (45, 45, inf, inf):
        await sync(parts, inbox, hours, full=True)

    assert len(inbox.requests) == 3
    missed = [
        each.conversation_id for event in events(store) if isinstance(event, MessagesMissed) for each in event.missed
    ]
    assert sorted(missed) == ["t_0", "t_1", "t_2"]


async def test_histories_that_older_entries_have_on_record_are_opened_beside_them() -> None:
    store, parts, inbox = with_long_pasts(2)
    await sync(parts, inbox, 35)
    assert opened(store) == {"t_0": 1, "t_1": 1}
    read = len(inbox.requests)
    comes_back(inbox, 7)
    await sync(parts, inbox, 20)

    await sync(parts, inbox, inf, full=True)

    assert store.interaction_events.keys() == all_of(inbox)
    assert {each.conversation_id for each in inbox.requests[read:] if each.cursor is None} == {"t_7"}
