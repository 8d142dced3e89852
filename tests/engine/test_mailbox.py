"""A command is executed by the task that works its stream, whatever that is doing, and always gets a result."""

import asyncio

import pytest
from msgspec.structs import replace

from kit.builders import NETWORK, RATE_LIMIT, STREAM, at, fetched, refused, unreadable
from kit.engine_doubles import (
    FlakyStore,
    Inbox,
    always,
    cursor_of,
    engine,
    find_open_dead_letters,
    refusing,
    run_of,
    running,
)
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import (
    Command,
    CommandDeferred,
    Discard,
    PauseStream,
    RecordTokenHealth,
    Redrive,
    ResumeStream,
)
from milepost.core.errors import MilepostError, StoreAway, StoreRefused
from milepost.core.events import Resolution, RunStatus, Stage
from milepost.core.model import Stream, Table, TokenHealth
from milepost.core.plan import Policy
from milepost.core.ports import Commit, Committed, Outcome, Rejected, Request
from milepost.engine.context import CommandResult, EngineContext, Mailbox
from milepost.engine.supervisor import Schedule, Supervisor

LONG_LIMIT = replace(RATE_LIMIT, wait_seconds=3600.0)


async def unlisted(asked: Request | str) -> Outcome | None:
    """Make the thread t_1 unreadable in lists, but readable by its id."""
    return fetched(unreadable("t_1"), next_cursor="2") if cursor_of(asked) == "1" else None


async def with_letter(stage: Stage, store: MemoryStore | None = None) -> tuple[MemoryStore, str]:
    """Return a store with one open dead letter, about the thread t_1 of five."""
    store = store or MemoryStore()
    if stage is Stage.STORE:
        store.refuses = {(Table.CONVERSATIONS, "t_1")}
    inbox = Inbox(5, before=unlisted if stage is Stage.FETCH else None)
    await Supervisor(engine(store), {STREAM: inbox}, Schedule()).sync([STREAM])
    store.refuses = set()
    (dead_letter,) = find_open_dead_letters(store)
    assert dead_letter.stage is stage
    return store, dead_letter.dead_letter_id


def supervisor(parts: EngineContext, inbox: Inbox | None = None) -> Supervisor:
    """Return a supervisor whose one stream has nothing new for a long time."""
    return Supervisor(parts, {STREAM: inbox or Inbox(5, before=unlisted)}, Schedule(interval_seconds=86_400))


async def paused(store: MemoryStore, seconds: float = 3600.0) -> None:
    """Let the stream meet a rate limit, in a process that then ends."""
    parts = engine(store)
    limit = replace(RATE_LIMIT, wait_seconds=seconds)
    inbox = Inbox(5, before=refusing(limit, until=at(10_000), clock=parts.clock))
    await Supervisor(parts, {STREAM: inbox}, Schedule(max_run_seconds=1)).sync([STREAM])


# --- no task works the stream -----------------------------------------------------------------------------------------


async def test_a_redrive_is_executed_by_its_caller_if_no_task_works_the_stream() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    inbox = Inbox(5)
    assert await supervisor(engine(store), inbox).do(Redrive(dead_letter_id)) is None
    assert "t_1" in store.conversations
    assert inbox.reread_ids == ["t_1"]
    assert not find_open_dead_letters(store)


async def test_a_redrive_that_fails_returns_the_dead_letter_with_its_reason() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)

    after = await supervisor(engine(store), Inbox(5, before=always(refused(NETWORK)))).do(Redrive(dead_letter_id))
    assert after is not None
    assert (after.attempts, after.reason) == (1, str(NETWORK))


async def test_a_dead_letter_is_discarded_with_the_given_reason() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    assert await supervisor(engine(store)).do(Discard(dead_letter_id, "of no interest")) is None
    assert store.dead_letters[dead_letter_id].resolution is Resolution.DISCARDED
    assert store.dead_letters[dead_letter_id].note == "of no interest"


async def test_a_command_for_a_closed_dead_letter_returns_none() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    one = supervisor(engine(store))
    await one.do(Discard(dead_letter_id, "of no interest"))
    assert await one.do(Redrive(dead_letter_id)) is None


async def test_a_command_returns_none_if_its_dead_letter_is_closed_while_it_waits() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    inbox = Inbox(5, call_seconds=1)
    one = supervisor(engine(store), inbox)
    answers = await asyncio.gather(*(one.do(Redrive(dead_letter_id)) for _ in range(3)))
    assert answers == [None, None, None]
    assert inbox.reread_ids == ["t_1"], "one at a time: the others found it closed"


async def test_a_redrive_without_a_call_needs_no_source() -> None:
    store, dead_letter_id = await with_letter(Stage.STORE)
    assert await Supervisor(engine(store), {}, Schedule()).do(Redrive(dead_letter_id)) is None
    assert "t_1" in store.conversations


async def test_a_redrive_that_needs_a_call_fails_without_a_source() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    with pytest.raises(MilepostError, match=f"{STREAM.key} is not configured"):
        await Supervisor(engine(store), {}, Schedule()).do(Redrive(dead_letter_id))
    assert await Supervisor(engine(store), {}, Schedule()).do(Discard(dead_letter_id, "gone")) is None


async def test_a_redrive_that_needs_a_call_is_deferred_to_the_end_of_a_rate_limit() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    await paused(store)
    parts = engine(store)
    inbox = Inbox(5, gate=parts.rate_limits.gate(STREAM))
    with pytest.raises(CommandDeferred, match="13:00:00") as raised:
        await supervisor(parts, inbox).do(Redrive(dead_letter_id))
    assert raised.value.until == at(3600)
    assert inbox.asked == []
    assert store.dead_letters[dead_letter_id].attempts == 0


async def test_a_redrive_without_a_call_is_executed_during_a_rate_limit() -> None:
    store, dead_letter_id = await with_letter(Stage.STORE)
    await paused(store)
    assert await supervisor(engine(store)).do(Redrive(dead_letter_id)) is None


async def test_a_redrive_makes_its_call_once_the_rate_limit_is_over() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    await paused(store, seconds=100)
    parts = engine(store)
    await asyncio.sleep(100)
    assert await supervisor(parts, Inbox(5, gate=parts.rate_limits.gate(STREAM))).do(Redrive(dead_letter_id)) is None


async def test_a_limit_that_a_redrive_meets_is_reported_and_holds_from_then_on() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store)
    inbox = Inbox(
        5, before=refusing(LONG_LIMIT, until=at(10_000), clock=parts.clock), gate=parts.rate_limits.gate(STREAM)
    )
    one = supervisor(parts, inbox)
    for _ in range(3):
        with pytest.raises(CommandDeferred):
            await one.do(Redrive(dead_letter_id))
    assert inbox.reread_ids == ["t_1"]
    assert (await store.load(STREAM)).rate_limit is not None
    assert store.dead_letters[dead_letter_id].attempts == 0


async def test_every_command_fails_with_store_away_if_the_store_stays_unavailable() -> None:
    store = FlakyStore()
    _, dead_letter_id = await with_letter(Stage.FETCH, store)
    store.absences = 1_000_000
    one = supervisor(engine(store))
    answers = await asyncio.gather(*(one.do(Redrive(dead_letter_id)) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreAway] * 3
    assert asyncio.get_running_loop().time() < 300, "they wait together, not one after the other"


# --- a task works the stream ------------------------------------------------------------------------------------------


async def test_a_command_between_runs_is_executed_at_once() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store)
    async with running(supervisor(parts), parts.stop):
        pass
    one = supervisor(parts := engine(store))
    async with running(one, parts.stop):
        await asyncio.sleep(100)
        assert await one.do(Redrive(dead_letter_id)) is None
        assert asyncio.get_running_loop().time() == 100


async def test_a_command_during_a_run_is_executed_between_two_batches() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store)
    one = supervisor(parts, Inbox(50, call_seconds=1, clock=parts.clock))
    sync = asyncio.create_task(one.sync([STREAM], full=True))
    await asyncio.sleep(0.5)
    await one.do(Discard(dead_letter_id, "of no interest"))
    assert asyncio.get_running_loop().time() == 1
    assert store.dead_letters[dead_letter_id].resolution is Resolution.DISCARDED
    (result,) = await sync
    assert run_of(result).status is RunStatus.COMPLETE


async def test_a_command_is_executed_at_once_while_a_run_waits_to_retry() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    policy = Policy(batch_size=1, base_delay_seconds=200, max_delay_seconds=200)
    parts = engine(store, policy=policy)

    async def fail(asked: Request | str) -> Outcome | None:
        return refused(NETWORK) if isinstance(asked, Request) else None

    one = supervisor(parts, Inbox(5, before=fail))
    async with running(one, parts.stop):
        await asyncio.sleep(10)
        assert await one.do(Redrive(dead_letter_id)) is None
        assert asyncio.get_running_loop().time() == 10


@pytest.mark.parametrize("rate_limit_seconds", [200.0, 3600.0], ids=["inside the run", "beyond the run"])
async def test_a_rate_limit_defers_only_commands_that_need_a_call(rate_limit_seconds: float) -> None:
    store, to_read = await with_letter(Stage.FETCH)
    store.refuses = {(Table.CONVERSATIONS, "t_2")}
    parts = engine(store)
    limited = replace(RATE_LIMIT, wait_seconds=rate_limit_seconds)
    refuse = refusing(limited, until=at(rate_limit_seconds), clock=parts.clock)

    async def before(asked: Request | str) -> Outcome | None:
        return await refuse(asked) if isinstance(asked, Request) else None

    inbox = Inbox(5, before=before, gate=parts.rate_limits.gate(STREAM))
    one = supervisor(parts, inbox)
    async with running(one, parts.stop):
        await asyncio.sleep(10)
        with pytest.raises(CommandDeferred) as raised:
            await one.do(Redrive(to_read))
        assert raised.value.until == at(rate_limit_seconds)
        assert await one.do(Discard(to_read, "of no interest")) is None
        assert asyncio.get_running_loop().time() == 10
    assert len(inbox.asked) == 1


async def test_a_command_does_not_wait_for_a_slot_that_another_stream_holds() -> None:
    """The waiting run has released its slot, and needs none to write."""
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store, concurrency=1)
    refuse = refusing(replace(RATE_LIMIT, wait_seconds=200.0), until=at(200), clock=parts.clock)
    other = Stream(STREAM.platform, "2")
    sources = {STREAM: Inbox(5, before=refuse), other: Inbox(5, call_seconds=50, prefix="o")}
    one = Supervisor(parts, sources, Schedule())
    async with running(one, parts.stop):
        await asyncio.sleep(10)
        await one.do(Discard(dead_letter_id, "of no interest"))
        assert asyncio.get_running_loop().time() == 10


async def test_a_command_does_not_wait_until_a_run_that_has_waited_has_a_slot_again() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store, concurrency=1)
    refuse = refusing(replace(RATE_LIMIT, wait_seconds=70.0), until=at(70), clock=parts.clock)
    inbox = Inbox(5, before=refuse)
    sources = {STREAM: inbox, Stream(STREAM.platform, "2"): Inbox(5, call_seconds=50, prefix="o")}
    one = Supervisor(parts, sources, Schedule())
    async with running(one, parts.stop):
        await asyncio.sleep(80)
        assert STREAM in parts.slots.waiting
        await one.do(Discard(dead_letter_id, "of no interest"))
        await one.ask(STREAM, PauseStream("Ada"))
        assert asyncio.get_running_loop().time() == 80
        await asyncio.sleep(300)
        assert len(inbox.asked) == 1, "it was paused before it went on"


async def test_a_command_does_not_wait_for_the_slot_that_the_next_run_waits_for() -> None:
    """Thousands of streams may wait in turn during a first copy. The stream keeps its place among them."""
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store, concurrency=1)
    first, last = Stream(STREAM.platform, "2"), Stream(STREAM.platform, "3")
    inbox = Inbox(1, call_seconds=1, clock=parts.clock)
    inbox_of_last = Inbox(1, call_seconds=1, clock=parts.clock, prefix="l")
    sources = {first: Inbox(5, call_seconds=50, prefix="o"), STREAM: inbox, last: inbox_of_last}
    one = Supervisor(parts, sources, Schedule())
    async with running(one, parts.stop):
        await asyncio.sleep(10)
        await one.do(Discard(dead_letter_id, "of no interest"))
        await one.ask(STREAM, RecordTokenHealth(TokenHealth(is_valid=True)))
        await one.ask(last, PauseStream("Ada"))
        await one.ask(last, ResumeStream("Ada"))
        assert asyncio.get_running_loop().time() == 10
        assert (inbox.asked, inbox_of_last.asked) == ([], [])
        one.wake(STREAM)
        await asyncio.sleep(500)
    assert 250 < inbox.called_at[0] < inbox_of_last.called_at[0], "in the order in which they came"


async def test_a_run_begins_after_the_command_that_was_under_way_when_it_got_its_slot() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store, concurrency=1)
    inbox = Inbox(1, call_seconds=100)
    sources = {Stream(STREAM.platform, "2"): Inbox(1, call_seconds=10, prefix="o"), STREAM: inbox}
    one = Supervisor(parts, sources, Schedule())
    async with running(one, parts.stop):
        await asyncio.sleep(10)
        redriving = asyncio.create_task(one.do(Redrive(dead_letter_id)))
        await asyncio.sleep(50)
        assert STREAM in parts.slots.held_seconds()
        assert (one.stalled(), len(inbox.asked)) == (None, 1)
        await redriving
        assert asyncio.get_running_loop().time() == 110
        await asyncio.sleep(150)
    assert len(inbox.asked) > 1, "the run followed"


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_every_command_gets_a_result_if_the_checkpoint_cannot_be_loaded() -> None:
    class Damaged(MemoryStore):
        is_damaged = False
        recalls = 0

        async def load(self, stream: Stream) -> Checkpoint:
            self.recalls += 1
            if self.is_damaged:
                raise StoreRefused("the database is corrupt")
            return await super().load(stream)

    store = Damaged()
    _, dead_letter_id = await with_letter(Stage.FETCH, store)
    parts = engine(store)
    one = supervisor(parts)
    async with running(one, parts.stop):
        await asyncio.sleep(10)
        store.is_damaged, before = True, store.recalls
        answers = await asyncio.gather(*(one.do(Redrive(dead_letter_id)) for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(100)
        assert [type(answer) for answer in answers] == [StoreRefused] * 3
        assert store.recalls - before <= 3, "it is not tried over and over"


async def test_a_cancelled_command_leaves_the_others_their_results() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store)
    inbox = Inbox(5, before=unlisted, call_seconds=1, clock=parts.clock)
    one = supervisor(parts, inbox)
    async with running(one, parts.stop):
        await asyncio.sleep(100)
        gone = asyncio.create_task(one.do(Redrive(dead_letter_id)))
        stays = asyncio.create_task(one.do(Redrive(dead_letter_id)))
        await asyncio.sleep(0.5)
        gone.cancel()
        assert await stays is None
    assert inbox.reread_ids == ["t_1"]


async def test_too_many_commands_are_refused() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store)
    one = supervisor(parts, Inbox(5, call_seconds=1))
    asked = [one.do(Discard(dead_letter_id, "of no interest")) for _ in range(1_100)]
    async with running(one, parts.stop):
        await asyncio.sleep(0.5)  # the first call is under way
        answers = await asyncio.gather(*asked, return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, MilepostError)]
    assert len(refusals) == 100
    assert "too many" in str(refusals[0])


class Slow(MemoryStore):
    """A store whose commits take five seconds. `most` is how many there were at once."""

    writers = most = 0

    async def commit(self, commit: Commit) -> Committed | Rejected:
        self.writers += 1
        self.most = max(self.most, self.writers)
        await asyncio.sleep(5)
        self.writers -= 1
        return await super().commit(commit)


async def test_a_command_that_comes_while_a_single_run_ends_is_executed_after_it() -> None:
    """A worker that shares streams with others runs each by itself, with nothing between two runs."""
    store = Slow()
    _, dead_letter_id = await with_letter(Stage.FETCH, store)
    parts = engine(store)
    one = supervisor(parts, Inbox(1, call_seconds=1, clock=parts.clock, prefix="n"))
    run = asyncio.create_task(one.run_once(STREAM, full=False))
    await asyncio.sleep(2)  # the commit that ends the sweep is under way
    assert await one.do(Discard(dead_letter_id, "of no interest")) is None
    assert run_of(await run).status is RunStatus.COMPLETE
    assert store.most == 1


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_every_command_gets_a_result_at_shutdown() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store)

    async def stop(asked: Request | str) -> Outcome | None:
        if isinstance(asked, str):
            parts.stop.request()
            await asyncio.sleep(10)
        return await unlisted(asked)

    inbox = Inbox(5, before=stop, call_seconds=1, clock=parts.clock)
    one = supervisor(parts, inbox)
    async with running(one, parts.stop):
        await asyncio.sleep(100)
        answers = await asyncio.gather(*(one.do(Redrive(dead_letter_id)) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [CommandDeferred] * 3
    assert store.dead_letters[dead_letter_id].attempts == 0
    with pytest.raises(CommandDeferred, match="stopping"):
        await one.do(Redrive(dead_letter_id))
    assert inbox.reread_ids == ["t_1"]


async def test_a_command_during_shutdown_does_not_write_beside_the_run() -> None:
    store = Slow()
    _, dead_letter_id = await with_letter(Stage.FETCH, store)
    parts = engine(store)
    one = supervisor(parts, Inbox(1, call_seconds=1, clock=parts.clock, prefix="n"))
    async with running(one, parts.stop):
        await asyncio.sleep(2)  # the commit that ends the sweep is under way
        parts.stop.request()
        with pytest.raises(CommandDeferred, match="stopping"):
            await one.do(Discard(dead_letter_id, "of no interest"))
        assert await one.do(Discard(dead_letter_id, "of no interest")) is None, "nobody works the stream any more"
    assert store.most == 1


async def test_a_callers_redrive_and_a_starting_daemon_do_not_overlap() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store)
    inbox = Inbox(5, call_seconds=10, clock=parts.clock)
    one = supervisor(parts, inbox)
    redrive = asyncio.create_task(one.do(Redrive(dead_letter_id)))
    await asyncio.sleep(1)
    async with running(one, parts.stop):
        assert await redrive is None
        await asyncio.sleep(100)
        assert await one.do(Redrive(dead_letter_id)) is None
    checkpoint = await store.load(STREAM)
    assert checkpoint.last_success_at is not None
    assert checkpoint.last_success_at > at(10), "the run began after the redrive and was not overtaken"


async def test_a_stream_that_is_admitted_during_a_command_starts_after_it() -> None:
    store = Slow()
    _, dead_letter_id = await with_letter(Stage.FETCH, store)
    parts = engine(store)
    one = Supervisor(parts, {}, Schedule())
    async with running(one, parts.stop):
        discard = asyncio.create_task(one.do(Discard(dead_letter_id, "of no interest")))
        await asyncio.sleep(1)
        admitted_at = parts.clock.now()
        one.admit(STREAM, Inbox(5, clock=parts.clock))
        assert await discard is None
        await asyncio.sleep(100)
    checkpoint = await store.load(STREAM)
    assert checkpoint.last_success_at is not None
    assert checkpoint.last_success_at > admitted_at
    assert run_of(checkpoint).reason is None


async def test_a_command_that_comes_between_two_owners_is_executed_by_the_second() -> None:
    mailbox = Mailbox()

    async def do(_: Command) -> CommandResult:
        return None

    async def attend_second() -> None:
        async with mailbox.owned():
            await asyncio.sleep(1)
            await mailbox.run(do)

    async with mailbox.owned():
        second = asyncio.create_task(attend_second())
        await asyncio.sleep(1)
    assert mailbox.has_owner
    assert await mailbox.ask(Discard("d_1", "of no interest")) is None
    await second
    assert not mailbox.has_owner


async def test_a_command_that_nobody_waits_for_is_not_executed() -> None:
    store, dead_letter_id = await with_letter(Stage.FETCH)
    parts = engine(store)
    one = supervisor(parts, Inbox(5, before=unlisted, call_seconds=10, clock=parts.clock))
    async with running(one, parts.stop):
        await asyncio.sleep(1)
        discard = asyncio.create_task(one.do(Discard(dead_letter_id, "of no interest")))
        await asyncio.sleep(1)
        discard.cancel()
        await asyncio.sleep(100)
    assert [dead_letter.dead_letter_id for dead_letter in find_open_dead_letters(store)] == [dead_letter_id]
