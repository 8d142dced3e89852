"""Open gaps are read at the end of a stream's run, within its limits."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from math import inf

import pytest
from msgspec.structs import replace

from kit.builders import (
    DEAD_CURSOR,
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    contact,
    conversation,
    fetched,
    message,
    messages_fetched,
    problem,
    refused,
)
from kit.engine_doubles import Inbox, engine, run_of
from kit.memory_store import MemoryStore
from milepost.core.commands import PauseStream
from milepost.core.events import RunStatus
from milepost.core.model import Conversation, Interaction, MessagePage, Platform, Stream
from milepost.core.plan import Policy
from milepost.core.ports import (
    Answered,
    Held,
    MessagesAnswered,
    MessagesFetched,
    MessagesOutcome,
    MessagesRequest,
    Refused,
    Request,
    Usage,
)
from milepost.core.position import GapEnding, MessagesFailed, MessagesRead
from milepost.core.problems import Scope
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Schedule, Supervisor

STREAM = Stream(Platform.MESSENGER, "1")
POLICY = Policy(batch_size=10, messages_per_conversation=2, full_sweep_interval_seconds=0)
PAGE_SIZE = 10
OfCall = Callable[[MessagesRequest], Awaitable[MessagesOutcome | None]]


class Busy(Inbox):
    """An inbox of some threads, in which messages arrive; pages have PAGE_SIZE messages, cursors are their ids.

    Lists have no counts of messages unless it `has_counts`. `before` is awaited ahead of each answer to a request for
    messages, and may answer in its place.
    """

    def __init__(self, parts: EngineContext, threads: int, *, before: OfCall | None = None) -> None:
        super().__init__(1, clock=parts.clock, gate=parts.rate_limits.gate(STREAM))
        self.calls: list[str] = []
        self.threads = {f"t_{number}": [message(f"m_{number}_0", NOON)] for number in range(threads)}
        self.requests: list[MessagesRequest] = []
        self.has_counts = True
        self._before_messages = before

    def has_past(self, thread_id: str, count: int) -> None:
        """Let a thread have messages from before, one an hour."""
        number = thread_id.partition("_")[2]
        older = [message(f"m_{number}_old_{n}", NOON - timedelta(hours=n)) for n in range(count, 0, -1)]
        self.threads[thread_id] = older + self.threads[thread_id]

    def arrive(self, thread_id: str, count: int) -> None:
        thread = self.threads[thread_id]
        number = thread_id.partition("_")[2]
        now = NOON + timedelta(minutes=5 + len(thread))
        thread += [message(f"m_{number}_{len(thread) + n}", now + timedelta(seconds=n)) for n in range(count)]

    def call_takes(self, seconds: float) -> None:
        self._call_seconds = seconds

    async def fetch(self, request: Request) -> Answered:
        self.asked.append(request)
        await asyncio.sleep(self._call_seconds)
        self.calls.append("list")
        listed = sorted(map(self._listed, self.threads), key=lambda each: each.updated_time, reverse=True)
        start, end = int(request.cursor or 0), int(request.cursor or 0) + request.limit
        next_cursor = str(end) if end < len(listed) else None
        return fetched(*listed[start:end], next_cursor=next_cursor, asked_at=NOON + timedelta(minutes=1))

    def _listed(self, thread_id: str) -> Conversation:
        thread = self.threads[thread_id]
        shown = thread[::-1][: POLICY.messages_per_conversation]
        read = conversation(thread_id, thread[-1].occurred_at, of=contact(f"c_{thread_id}"), messages=shown)
        has_older = len(shown) < len(thread)
        count = len(thread) if self.has_counts else None
        return replace(read, has_older=has_older, older_cursor=shown[-1].event_id, message_count=count)

    async def messages(self, request: MessagesRequest) -> MessagesAnswered:
        assert self._gate is not None
        if self._gate.is_closed():
            return Held()
        self.requests.append(request)
        self.calls.append("messages")
        outcome = await self._before_messages(request) if self._before_messages is not None else None
        if isinstance(outcome, Refused):
            return replace(outcome, refused_at=self._gate.refused(outcome.problem))
        return outcome or MessagesFetched(self._page(request), NOON, 0.1)

    def _page(self, request: MessagesRequest) -> MessagePage:
        newest_first: list[Interaction] = self.threads[request.conversation_id][::-1]
        start = 0
        if request.cursor is not None:
            start = [each.event_id for each in newest_first].index(request.cursor) + 1
        shown = newest_first[start : start + PAGE_SIZE]
        has_more = start + len(shown) < len(newest_first)
        return MessagePage(tuple(shown), shown[-1].event_id if has_more else None)


def refusing(outcome: MessagesOutcome, times: int) -> OfCall:
    """Answer the first requests with this outcome."""
    left = iter(range(times))

    async def before(_: MessagesRequest) -> MessagesOutcome | None:
        return outcome if next(left, None) is not None else None

    return before


def one_run(parts: EngineContext, inbox: Busy, schedule: Schedule | None = None) -> Supervisor:
    return Supervisor(parts, {STREAM: inbox}, schedule or Schedule())


async def bursts(
    *counts: int, before: OfCall | None = None, stop: Stop | None = None
) -> tuple[MemoryStore, EngineContext, Busy]:
    """Copy an inbox of so many threads, and let so many messages arrive in each."""
    parts = engine(store := MemoryStore(), policy=POLICY, stop=stop)
    inbox = Busy(parts, len(counts), before=before)
    await one_run(parts, inbox).sync([STREAM])
    assert inbox.requests == [], "something was owed of what was met for the first time"
    for number, count in enumerate(counts):
        inbox.arrive(f"t_{number}", count)
    return store, parts, inbox


def with_pasts(parts: EngineContext, *counts: int, before: OfCall | None = None) -> Busy:
    """Return an inbox of threads with so many older messages each."""
    inbox = Busy(parts, len(counts), before=before)
    for number, count in enumerate(counts):
        inbox.threads[f"t_{number}"] = [message(f"m_{number}_0", NOON - timedelta(minutes=number))]
        inbox.has_past(f"t_{number}", count)
    return inbox


def endings(store: MemoryStore) -> list[GapEnding | None]:
    events = (row.event for row in store.entries(STREAM))
    return [event.ending for event in events if isinstance(event, MessagesRead | MessagesFailed)]


def all_of(inbox: Busy) -> set[str]:
    return {each.event_id for thread in inbox.threads.values() for each in thread}


async def test_what_is_owed_is_read_page_by_page_until_a_message_that_was_stored() -> None:
    store, parts, inbox = await bursts(25, 0)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert store.interaction_events.keys() == all_of(inbox)
    assert [request.cursor for request in inbox.requests] == ["m_0_24", "m_0_14", "m_0_4"]
    assert endings(store) == [None, None, GapEnding.THREAD_END]
    assert run_of(result).tally.interaction_events == 25
    assert result.backlog == 0


async def test_a_sweep_without_news_asks_for_no_messages_and_writes_one_entry() -> None:
    store, parts, inbox = await bursts(25, 0)
    await one_run(parts, inbox).sync([STREAM])
    entries, calls = len(store.journal), len(inbox.requests)

    await one_run(parts, inbox).sync([STREAM])

    assert (len(store.journal), len(inbox.requests)) == (entries + 1, calls)


async def test_the_newest_gap_is_read_first_and_to_its_end() -> None:
    _, parts, inbox = await bursts(15, 25, 20)

    await one_run(parts, inbox).sync([STREAM])

    order = list(dict.fromkeys(request.conversation_id for request in inbox.requests))
    assert order == ["t_1", "t_2", "t_0"]
    assert [request.conversation_id for request in inbox.requests] == sorted(
        (request.conversation_id for request in inbox.requests), key=order.index
    )


async def test_messages_that_arrive_between_two_gaps_leave_both_to_be_read() -> None:
    store, parts, inbox = await bursts(25, before=refusing(refused(NETWORK), POLICY.attempts))
    (result,) = await one_run(parts, inbox).sync([STREAM])
    assert result.backlog == 1
    inbox.arrive("t_0", 30)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert result.backlog == 0
    assert store.interaction_events.keys() == all_of(inbox)


async def test_a_failure_is_retried_within_the_run() -> None:
    store, parts, inbox = await bursts(25, before=refusing(refused(NETWORK), POLICY.attempts - 1))

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert result.backlog == 0
    assert store.interaction_events.keys() == all_of(inbox)


async def test_a_rate_limit_is_waited_out_and_no_call_is_made_meanwhile() -> None:
    _, parts, inbox = await bursts(25, before=refusing(refused(RATE_LIMIT), 1))
    began = parts.clock.now()

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert result.backlog == 0
    assert parts.clock.now() - began >= timedelta(seconds=POLICY.rate_limit_floor_seconds)
    assert len(inbox.requests) == 4


async def test_a_conversation_that_is_refused_as_by_a_rate_limit_holds_up_no_other() -> None:
    async def limit(request: MessagesRequest) -> MessagesOutcome | None:
        return refused(RATE_LIMIT) if request.conversation_id == "t_2" else None

    store, parts, inbox = await bursts(25, 25, 25, before=limit)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert result.backlog == 1
    assert [request.conversation_id for request in inbox.requests].count("t_2") <= POLICY.attempts
    unread = {message.event_id for message in inbox.threads["t_2"]} - store.interaction_events.keys()
    assert store.interaction_events.keys() == all_of(inbox) - unread


async def test_a_dead_token_ends_the_reading_at_once() -> None:
    _, parts, inbox = await bursts(25, 25, 25, before=refusing(refused(DEAD_TOKEN), 100))

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (1, 3)


@pytest.mark.parametrize("code", [10, 200, 100, 2500])
async def test_a_conversation_that_is_refused_as_by_a_wrong_setting_holds_up_no_other(code: int) -> None:
    """A list was read just before, so neither token nor permission is missing: it is about this conversation."""

    async def refuse(request: MessagesRequest) -> MessagesOutcome | None:
        return refused(problem(code)) if request.conversation_id == "t_2" else None

    store, parts, inbox = await bursts(25, 25, 25, before=refuse)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert result.backlog == 1
    unread = {message.event_id for message in inbox.threads["t_2"]} - store.interaction_events.keys()
    assert store.interaction_events.keys() == all_of(inbox) - unread


async def test_gaps_that_all_fail_end_the_reading() -> None:
    _, parts, inbox = await bursts(*[25] * 6, before=refusing(refused(NETWORK), 1000))

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (3 * POLICY.attempts, 6)


async def test_an_incident_that_is_told_as_empty_lists_costs_no_messages() -> None:
    store, parts, inbox = await bursts(*[25] * 6, before=refusing(messages_fetched(), 20))

    results = [(await one_run(parts, inbox).sync([STREAM]))[0] for _ in range(2)]

    assert [each.backlog for each in results] == [6, 0]
    assert store.interaction_events.keys() == all_of(inbox)
    assert not store.dead_letters


async def test_reading_ends_at_the_time_limit_and_the_next_run_goes_on_there() -> None:

    async def slow(_: MessagesRequest) -> None:
        await asyncio.sleep(20)

    store, parts, inbox = await bursts(75, before=slow)
    schedule = Schedule(max_run_seconds=50.0)

    (result,) = await one_run(parts, inbox, schedule).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (3, 1)
    while result.backlog:
        (result,) = await one_run(parts, inbox, schedule).sync([STREAM])
    assert store.interaction_events.keys() == all_of(inbox)
    cursors = [request.cursor for request in inbox.requests]
    assert len(set(cursors)) == len(cursors), "something was read twice"


async def test_a_run_that_used_up_its_time_makes_one_request() -> None:
    _, parts, inbox = await bursts(75)
    inbox.call_takes(20.0)

    (result,) = await one_run(parts, inbox, Schedule(max_run_seconds=10.0)).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (1, 1)


async def test_a_sweep_that_comes_due_ends_the_reading() -> None:

    async def slow(_: MessagesRequest) -> None:
        await asyncio.sleep(20)

    _, parts, inbox = await bursts(75, before=slow)
    schedule = Schedule(interval_seconds=60.0, max_run_seconds=3600.0)

    (result,) = await one_run(parts, inbox, schedule).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (3, 1)


async def test_news_ends_the_reading_after_one_request() -> None:

    async def hear_of_news(_: MessagesRequest) -> None:
        supervisor.prompt(STREAM)

    _, parts, inbox = await bursts(75, before=hear_of_news)
    supervisor = one_run(parts, inbox)

    (result,) = await supervisor.sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (1, 1)


async def test_a_run_makes_no_more_requests_than_it_may_read_batches() -> None:
    _, parts, inbox = await bursts(75)

    (result,) = await one_run(parts, inbox, Schedule(max_batches_per_run=3)).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (3, 1)


async def test_a_stop_ends_the_reading() -> None:
    stop = Stop()

    async def stops(_: MessagesRequest) -> None:
        stop.request()

    _, parts, inbox = await bursts(75, before=stops, stop=stop)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (1, 1)


async def test_commands_are_executed_between_two_calls() -> None:
    asked: list[asyncio.Task[None]] = []

    async def pauses(_: MessagesRequest) -> None:
        if not asked:
            asked.append(asyncio.ensure_future(supervisor.ask(STREAM, PauseStream("somebody"))))
            await asyncio.sleep(0)

    store, parts, inbox = await bursts(75, before=pauses)
    supervisor = one_run(parts, inbox)

    await supervisor.sync([STREAM])

    await asked[0]
    assert len(inbox.requests) == 1
    assert "stream_paused" in [row.type for row in store.journal]


async def test_of_a_person_who_was_erased_nothing_is_read() -> None:
    store, parts, inbox = await bursts(25, before=refusing(refused(NETWORK), POLICY.attempts))
    await one_run(parts, inbox).sync([STREAM])
    calls = len(inbox.requests)
    store.forget(STREAM, "c_t_0")

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (calls, 0)
    assert endings(store)[-1] is GapEnding.FORGOTTEN


async def test_of_a_conversation_that_has_moved_to_another_page_nothing_is_read() -> None:
    """The other page has the gap by now, and this page's token may no longer read it."""
    store, parts, inbox = await bursts(25, before=refusing(refused(NETWORK), POLICY.attempts))
    await one_run(parts, inbox).sync([STREAM])
    calls = len(inbox.requests)
    store.conversations["t_0"] = replace(store.conversations["t_0"], page_id="another")
    store.moves[STREAM.key, f"{STREAM.platform}:another"] = parts.clock.now()

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert (len(inbox.requests), result.backlog) == (calls, 0)
    assert endings(store)[-1] is GapEnding.MOVED


# --- histories --------------------------------------------------------------------------------------------------------


async def test_the_history_of_a_conversation_that_is_met_is_read_back_to_the_limit() -> None:
    store = MemoryStore()
    parts = engine(store, policy=replace(POLICY, message_history_seconds=15 * 3600.0))
    inbox = with_pasts(parts, 30, 0, 3)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert [(each.conversation_id, each.cursor) for each in inbox.requests] == [
        ("t_0", "m_0_old_1"),
        ("t_0", "m_0_old_11"),
        ("t_2", "m_2_old_1"),
    ]
    assert endings(store) == [None, GapEnding.HISTORY_LIMIT, GapEnding.THREAD_END]
    assert store.interaction_events.keys() == all_of(inbox) - {f"m_0_old_{n}" for n in range(22, 31)}
    assert result.backlog == 0


async def test_an_inbox_whose_messages_all_came_makes_no_calls_for_messages() -> None:
    parts = engine(store := MemoryStore(), policy=POLICY)
    inbox = with_pasts(parts, 1, 1, 0)

    await one_run(parts, inbox).sync([STREAM])

    assert inbox.requests == []
    assert "messages_owed" not in [row.type for row in store.journal]


async def test_a_longer_limit_reads_on_where_reading_stopped_with_the_next_full_sweep() -> None:
    store = MemoryStore()
    parts = engine(store, policy=replace(POLICY, message_history_seconds=0.0))
    inbox = with_pasts(parts, 30, 12)
    await one_run(parts, inbox).sync([STREAM])
    assert inbox.requests == []
    longer = replace(parts, policy=replace(POLICY, message_history_seconds=11 * 3600.0))

    await one_run(longer, inbox).sync([STREAM])
    assert inbox.requests == [], "the histories are looked at without a full sweep"
    await one_run(longer, inbox).sync([STREAM], full=True)
    assert [each.cursor for each in inbox.requests] == [None, "m_0_old_9", None, "m_1_old_9"]
    await one_run(longer, inbox).sync([STREAM], full=True)
    assert len(inbox.requests) == 4, "what was read is read again"
    whole = replace(parts, policy=replace(POLICY, message_history_seconds=inf))
    await one_run(whole, inbox).sync([STREAM], full=True)

    assert [each.cursor for each in inbox.requests[4:]] == ["m_0_old_19", "m_0_old_29"]
    assert store.interaction_events.keys() == all_of(inbox)


async def test_messages_that_arrive_while_a_history_is_read_are_stored_and_do_not_prolong_it() -> None:
    parts = engine(store := MemoryStore(), policy=POLICY)

    async def arrives(_: MessagesRequest) -> None:
        inbox.arrive("t_0", 5)

    inbox = with_pasts(parts, 45, before=arrives)
    await one_run(parts, inbox).sync([STREAM])
    assert len(inbox.requests) == 5
    await one_run(parts, inbox).sync([STREAM])
    inbox._before_messages = None

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert result.backlog == 0
    assert store.interaction_events.keys() == all_of(inbox)


async def test_a_lost_cursor_begins_a_history_anew_and_stores_nothing_twice() -> None:
    parts = engine(store := MemoryStore(), policy=POLICY)
    calls = iter(range(100))

    async def loses(request: MessagesRequest) -> MessagesOutcome | None:
        return refused(DEAD_CURSOR) if next(calls) == 2 else None

    inbox = with_pasts(parts, 45, before=loses)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert result.backlog == 0
    assert store.interaction_events.keys() == all_of(inbox)
    assert [each.cursor for each in inbox.requests][:4] == ["m_0_old_1", "m_0_old_11", "m_0_old_21", None]


# --- beside a sweep ---------------------------------------------------------------------------------------------------


def thirty(parts: EngineContext) -> Busy:
    """Return an inbox of three batches, in the first of which a thread has a long past."""
    return with_pasts(parts, 95, *[0] * 29)


async def test_a_sweep_leaves_every_second_call_to_older_messages() -> None:
    parts = engine(store := MemoryStore(), policy=POLICY)
    inbox = thirty(parts)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    # The catch-up scan reads two batches; a batch is requested ahead of the messages that are read before it.
    sweep = inbox.calls[: len(inbox.calls) - inbox.calls[::-1].index("list")]
    assert sweep.count("list") == 5
    assert sweep.count("messages") == 4
    assert result.backlog == 0
    assert store.interaction_events.keys() == all_of(inbox)


async def test_a_sweep_of_several_runs_leaves_no_more_than_half_of_the_calls() -> None:
    parts = engine(MemoryStore(), policy=POLICY)
    inbox = thirty(parts)

    (result,) = await one_run(parts, inbox, Schedule(max_batches_per_run=2)).sync([STREAM])

    assert run_of(result).status is RunStatus.PAUSED
    assert (inbox.calls.count("list"), inbox.calls.count("messages")) == (2, 2)


async def test_no_more_is_read_while_too_much_of_a_budget_is_used() -> None:
    parts = engine(MemoryStore(), policy=POLICY)
    inbox = thirty(parts)
    parts.rate_limits.gate(STREAM).used((Usage(Scope.PAGE, "call_count", 0.61),))

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert (inbox.requests, result.backlog) == ([], 1)
    parts.rate_limits.gate(STREAM).used((Usage(Scope.PAGE, "call_count", 0.6),))
    (result,) = await one_run(parts, inbox).sync([STREAM])
    assert result.backlog == 0


async def test_messages_wait_for_their_share_while_another_stream_of_the_page_is_swept() -> None:
    parts = engine(MemoryStore(), policy=POLICY)
    inbox = with_pasts(parts, 95)
    instagram = Stream(Platform.INSTAGRAM, "1")
    began = parts.clock.now()

    async def sweep() -> None:
        with parts.call_shares.sweeping(instagram):
            for _ in range(3):
                parts.call_shares.count_batches(instagram, 1)
                await asyncio.sleep(10)

    sweeping = asyncio.create_task(sweep())
    await asyncio.sleep(0)
    (result,) = await one_run(parts, inbox).sync([STREAM])

    # Two of them after the list of its own, and each of the others after one of the other stream's.
    assert parts.clock.now() - began >= timedelta(seconds=30)
    assert result.backlog == 0
    await sweeping


async def test_older_messages_that_fail_between_two_batches_do_not_hold_up_the_sweep() -> None:
    parts = engine(MemoryStore(), policy=POLICY)
    inbox = thirty(parts)
    inbox._before_messages = refusing(refused(NETWORK), 1000)

    (result,) = await one_run(parts, inbox).sync([STREAM])

    assert run_of(result).status is RunStatus.COMPLETE
    assert result.backlog == 1
