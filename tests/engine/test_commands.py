"""Commands for a stream: pause, resume, sync now. Its task executes them, and journals who gave them."""

import asyncio

import pytest

from kit.builders import STREAM, at, fetched, unreadable
from kit.engine_doubles import Inbox, cursor_of, engine, find_open_dead_letters, run_of, running, types
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import Discard, PauseStream, RecordTokenHealth, Redrive, ResumeStream, SyncNow
from milepost.core.errors import MilepostError
from milepost.core.events import Reason, RunStatus
from milepost.core.model import Stream, TokenHealth
from milepost.core.ports import Outcome, Request
from milepost.core.position import Mode
from milepost.engine.context import EngineContext
from milepost.engine.supervisor import Schedule, Supervisor

ADA = "status page from 127.0.0.1"
DAY = 86_400.0


def supervisor(parts: EngineContext, inbox: Inbox) -> Supervisor:
    return Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=100))


async def test_a_paused_stream_makes_no_call_until_it_is_resumed_and_then_at_once() -> None:
    parts = engine(store := MemoryStore())
    inbox = Inbox(2, clock=parts.clock)
    async with running(one := supervisor(parts, inbox), parts.stop):
        await asyncio.sleep(10)
        await one.ask(STREAM, PauseStream(ADA))
        calls = len(inbox.called_at)
        await asyncio.sleep(DAY)
        assert len(inbox.called_at) == calls
        entries = len(store.entries(STREAM))
        await one.ask(STREAM, ResumeStream(ADA))
        await asyncio.sleep(1)
        assert inbox.called_at[calls] == 10 + DAY
    assert types(store, STREAM)[entries - 1 : entries + 1] == ["stream_paused", "stream_resumed"]


async def test_a_pause_ends_the_run_after_the_current_batch_with_its_position_saved() -> None:
    parts = engine(store := MemoryStore())
    inbox = Inbox(50, call_seconds=1, clock=parts.clock)
    async with running(one := supervisor(parts, inbox), parts.stop):
        await asyncio.sleep(2.5)
        await one.ask(STREAM, PauseStream(ADA))
        await asyncio.sleep(1000)
        checkpoint = await store.load(STREAM)
        assert (run_of(checkpoint).status, run_of(checkpoint).reason) == (RunStatus.PAUSED, Reason.REQUEST)
        assert checkpoint.operator_pause is not None
        assert (checkpoint.operator_pause.by, checkpoint.operator_pause.since) == (ADA, at(3))
        assert checkpoint.sweep is not None
        calls = len(inbox.asked)
        await one.ask(STREAM, ResumeStream(ADA))
        await asyncio.sleep(100)
        assert inbox.cursors[calls : calls + 2] == [None, checkpoint.sweep.position.cursor], "the head comes first"
    assert len(store.conversations) == 50


async def test_a_pause_survives_the_process_that_recorded_it() -> None:
    parts = engine(store := MemoryStore())
    await supervisor(parts, Inbox(2)).ask(STREAM, PauseStream(ADA))
    parts = engine(store)
    inbox = Inbox(2)
    async with running(supervisor(parts, inbox), parts.stop):
        await asyncio.sleep(DAY)
    assert inbox.asked == []
    assert types(store, STREAM) == ["stream_paused"], "however often it runs"


async def test_a_paused_stream_is_looked_at_once_in_an_interval_whatever_news_there_is() -> None:
    class Counting(MemoryStore):
        loads = 0

        async def load(self, stream: Stream) -> Checkpoint:
            self.loads += 1
            return await super().load(stream)

    parts = engine(store := Counting())
    one = Supervisor(parts, {STREAM: Inbox(2)}, Schedule(interval_seconds=DAY))
    await one.ask(STREAM, PauseStream(ADA))
    store.loads = 0
    async with running(one, parts.stop):
        for _ in range(40):
            await asyncio.sleep(1000)
            one.prompt(STREAM)
        assert store.loads == 1


async def test_a_command_that_changes_nothing_is_not_journaled() -> None:
    parts = engine(store := MemoryStore())
    one = supervisor(parts, Inbox(2))
    await one.ask(STREAM, ResumeStream(ADA))
    for _ in range(3):
        await one.ask(STREAM, PauseStream(ADA))
    for health in (TokenHealth(is_valid=True), TokenHealth(is_valid=True), TokenHealth(is_valid=False)):
        await one.ask(STREAM, RecordTokenHealth(health))
    assert types(store, STREAM) == ["stream_paused", "token_checked", "token_checked"]
    assert (await store.load(STREAM)).token == TokenHealth(is_valid=False)


async def test_a_sync_of_a_paused_stream_is_refused_with_a_hint() -> None:
    parts = engine(store := MemoryStore())
    one = supervisor(parts, inbox := Inbox(2))
    await one.ask(STREAM, PauseStream(ADA))
    (result,) = await one.sync([STREAM])
    assert (result.run, result.error) == (None, f"it was paused by the {ADA}, and has to be resumed first")
    with pytest.raises(MilepostError, match=rf"was paused by the {ADA} \(resume it, which also syncs it at once\)"):
        await one.ask(STREAM, SyncNow(ADA))
    assert inbox.asked == []
    assert types(store, STREAM) == ["stream_paused"]


@pytest.mark.parametrize("full", [False, True])
async def test_a_requested_sync_starts_at_once_in_the_requested_mode(full: bool) -> None:
    parts = engine(store := MemoryStore())
    inbox = Inbox(12, clock=parts.clock)
    async with running(one := Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=DAY)), parts.stop):
        await asyncio.sleep(1000)
        calls = len(inbox.asked)
        await one.ask(STREAM, SyncNow(ADA, full=full))
        await asyncio.sleep(10)
        assert inbox.called_at[calls] == 1000
        checkpoint = await store.load(STREAM)
        assert run_of(checkpoint).mode is (Mode.FULL if full else Mode.INCREMENTAL)
        await asyncio.sleep(1000)
        assert len(inbox.asked) == calls + (12 if full else 10) + 10, (
            "once; ten older threads in a row end an incremental walk, and the catch-up scan after either"
        )
    assert "sync_requested" in types(store, STREAM)


async def test_a_later_request_does_not_cancel_a_requested_full_sweep() -> None:
    parts = engine(store := MemoryStore())
    inbox = Inbox(1, clock=parts.clock, call_seconds=10)
    async with running(one := Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=DAY)), parts.stop):
        await asyncio.sleep(100)
        await asyncio.gather(one.ask(STREAM, SyncNow(ADA, full=True)), one.ask(STREAM, SyncNow(ADA)))
        await asyncio.sleep(100)
    last = (await store.load(STREAM)).run
    assert last is not None
    assert last.mode is Mode.FULL


async def test_a_paused_stream_redrives_only_the_dead_letters_that_a_command_names() -> None:
    parts = engine(store := MemoryStore())
    is_ill = True

    async def unreadable_at_the_second(asked: Request | str) -> Outcome | None:
        return fetched(unreadable("t_1"), next_cursor="2") if is_ill and cursor_of(asked) == "1" else None

    inbox = Inbox(5, before=unreadable_at_the_second)
    one = supervisor(parts, inbox)
    await one.sync([STREAM])
    (dead_letter,) = find_open_dead_letters(store)
    await one.ask(STREAM, PauseStream(ADA))
    async with running(one, parts.stop):
        await asyncio.sleep(DAY)
        assert find_open_dead_letters(store) == [dead_letter]
        is_ill = False
        assert await one.do(Redrive(dead_letter.dead_letter_id, ADA)) is None
    assert "t_1" in store.conversations


async def test_the_journal_names_who_redrove_or_discarded_a_dead_letter() -> None:
    parts = engine(store := MemoryStore())

    async def unreadable_twice(asked: Request | str) -> Outcome | None:
        number = cursor_of(asked)
        return fetched(unreadable(f"t_{number}"), next_cursor=str(int(number) + 1)) if number in {"1", "2"} else None

    one = supervisor(parts, Inbox(5, before=unreadable_twice))
    await one.sync([STREAM])
    first, second = find_open_dead_letters(store)
    await one.do(Redrive(first.dead_letter_id, ADA))
    await one.do(Discard(second.dead_letter_id, "of no interest", "command line"))
    closed = [entry.event for entry in store.entries(STREAM) if entry.type == "dead_letter_closed"]
    assert [getattr(event, "by", None) for event in closed] == [ADA, "command line"]
