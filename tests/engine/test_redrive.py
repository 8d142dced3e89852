"""Dead letters are redriven when they are due, at the end of their stream's run."""

import asyncio

import pytest
from msgspec.structs import replace

from kit.builders import (
    DEAD_TOKEN,
    NETWORK,
    RATE_LIMIT,
    at,
    conversation,
    entries,
    fetched,
    message,
    refused,
    unreadable,
)
from kit.engine_doubles import Inbox, always, cursor_of, engine, find_open_dead_letters, run_of, running
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import Redrive
from milepost.core.errors import MilepostError
from milepost.core.events import DeadLetterClosed, DeadLetterOpened, Reason, RedriveFailed, Resolution, Stage
from milepost.core.evolve import fold
from milepost.core.model import Changes, DeadLetterPayload, Platform, Stream, Table
from milepost.core.ports import Commit, Outcome, Request
from milepost.engine.commands import MAX_REDRIVES_PER_RUN, MIN_REDRIVE_SECONDS
from milepost.engine.context import EngineContext
from milepost.engine.supervisor import Schedule, Supervisor

STREAM = Stream(Platform.MESSENGER, "1")
NEW = Checkpoint(STREAM)
FIRST_REDRIVE = 900.0  # seconds after a dead letter was opened


class Poisonous(Inbox):
    """An inbox whose batches hold what cannot be read; each thread can be read by itself from `good_from` on."""

    def __init__(self, parts: EngineContext, threads: int, *, good_from: float, answer: Outcome | None = None) -> None:
        super().__init__(threads, before=self._poison, clock=parts.clock, gate=parts.rate_limits.gate(STREAM))
        self._good_at = at(good_from)
        self._answer_to_reread = answer or refused(NETWORK)

    async def _poison(self, asked: Request | str) -> Outcome | None:
        assert self._clock is not None
        if isinstance(asked, str):
            return None if self._clock.now() >= self._good_at else self._answer_to_reread
        number = int(cursor_of(asked) or 0)
        following = str(number + 1) if number + 1 < self.batches else None
        good = conversation(f"good_{number}", self._clock.now())
        return fetched(unreadable(f"t_{number}"), good, next_cursor=following, asked_at=self._clock.now())


def resolutions(store: MemoryStore) -> list[Resolution]:
    closed = (row.event for row in store.entries(STREAM))
    return [event.resolution for event in closed if isinstance(event, DeadLetterClosed)]


def failures(store: MemoryStore) -> list[RedriveFailed]:
    return [row.event for row in store.entries(STREAM) if isinstance(row.event, RedriveFailed)]


async def test_a_dead_letter_is_redriven_at_growing_intervals_until_it_succeeds() -> None:
    parts = engine(store := MemoryStore())
    inbox = Poisonous(parts, 1, good_from=4000)
    async with running(Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=60)), parts.stop):
        await asyncio.sleep(6400)
    assert [failed.attempts for failed in failures(store)] == [1, 2]
    assert resolutions(store) == [Resolution.REDRIVEN]
    assert "t_0" in store.conversations
    tried_at = [at for at, asked in zip(inbox.called_at, inbox.asked, strict=True) if isinstance(asked, str)]
    assert tried_at == pytest.approx([900, 2700, 6300], abs=100)


async def test_a_dead_letter_that_another_redrive_closed_is_not_redriven() -> None:
    store = MemoryStore()
    subjects = ("t_0", "t_0/messages")
    dead_letters = entries(*(DeadLetterOpened(each, Stage.FETCH, each, "", at(0)) for each in subjects), after=NEW)
    payloads = tuple(DeadLetterPayload(each, "{}") for each in subjects)
    await store.commit(Commit(dead_letters, Changes(payloads=payloads), fold(dead_letters, NEW), None))

    async def whole_thread(asked: Request | str) -> Outcome | None:
        return fetched(conversation("t_0", messages=[message()])) if isinstance(asked, str) else None

    inbox = Inbox(1, prefix="other", before=whole_thread)
    await Supervisor(engine(store), {STREAM: inbox}, Schedule()).sync([STREAM])
    assert inbox.reread_ids == ["t_0"]
    assert sorted(resolutions(store)) == [Resolution.RECOVERED, Resolution.REDRIVEN]
    assert (await store.load(STREAM)).open_dead_letters == 0


async def test_refused_rows_that_the_store_now_takes_are_written_without_a_call() -> None:
    store = MemoryStore()
    store.refuses = {(Table.CONVERSATIONS, "t_0")}
    parts = engine(store)
    inbox = Inbox(1, clock=parts.clock)
    one = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=10 * 3600))
    async with running(one, parts.stop):
        await asyncio.sleep(FIRST_REDRIVE)
        assert len(find_open_dead_letters(store)) == 1
        store.refuses = set()
        one.wake(STREAM)
        await asyncio.sleep(1)
    assert "t_0" in store.conversations
    assert inbox.reread_ids == []


async def test_a_run_redrives_a_bounded_number_of_dead_letters() -> None:
    parts = engine(MemoryStore())
    inbox = Poisonous(parts, 50, good_from=0)
    one = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=FIRST_REDRIVE * 1.2))
    async with running(one, parts.stop):
        await asyncio.sleep(FIRST_REDRIVE * 1.5)
        assert len(inbox.reread_ids) == MAX_REDRIVES_PER_RUN


async def test_redrives_end_with_the_time_of_their_run() -> None:
    parts = engine(MemoryStore())
    await Supervisor(parts, {STREAM: Poisonous(parts, 10, good_from=0)}, Schedule()).sync([STREAM])
    await asyncio.sleep(FIRST_REDRIVE)
    inbox = Inbox(1, prefix="other", clock=parts.clock, call_seconds=30)
    await Supervisor(parts, {STREAM: inbox}, Schedule(max_run_seconds=100)).sync([STREAM])
    assert asyncio.get_running_loop().time() == FIRST_REDRIVE + 120
    assert len(inbox.reread_ids) == 3


async def test_a_run_that_ends_at_its_time_limit_redrives_for_a_moment_so_that_a_long_sweep_delays_no_redrive() -> None:
    parts = engine(MemoryStore())
    await Supervisor(parts, {STREAM: Poisonous(parts, 10, good_from=0)}, Schedule()).sync([STREAM])
    await asyncio.sleep(FIRST_REDRIVE)
    inbox = Inbox(1000, prefix="other", clock=parts.clock, call_seconds=10)
    (result,) = await Supervisor(parts, {STREAM: inbox}, Schedule(max_run_seconds=100)).sync([STREAM], full=True)
    assert run_of(result).reason is Reason.TIME_LIMIT
    assert len(inbox.reread_ids) == MIN_REDRIVE_SECONDS / 10


async def test_a_limit_ends_the_redrives_and_does_not_count_as_an_attempt() -> None:
    parts = engine(store := MemoryStore())
    limited = refused(replace(RATE_LIMIT, wait_seconds=600.0))
    inbox = Poisonous(parts, 5, good_from=FIRST_REDRIVE + 500, answer=limited)
    async with running(Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=400)), parts.stop):
        await asyncio.sleep(FIRST_REDRIVE + 500)
        assert len(inbox.reread_ids) == 1
        assert failures(store) == []
        await asyncio.sleep(2000)
    assert resolutions(store) == [Resolution.REDRIVEN] * 5


async def test_a_failing_stream_redrives_nothing() -> None:
    parts = engine(store := MemoryStore())
    await Supervisor(parts, {STREAM: Poisonous(parts, 1, good_from=0)}, Schedule()).sync([STREAM])
    assert find_open_dead_letters(store)

    inbox = Inbox(1, before=always(refused(DEAD_TOKEN)))
    async with running(Supervisor(parts, {STREAM: inbox}, Schedule()), parts.stop):
        await asyncio.sleep(3 * 3600)
    assert inbox.reread_ids == []


async def test_a_stop_interrupts_a_redrive_and_leaves_the_dead_letter_as_it_was() -> None:
    parts = engine(store := MemoryStore())
    await Supervisor(parts, {STREAM: Poisonous(parts, 3, good_from=0)}, Schedule()).sync([STREAM])
    before = find_open_dead_letters(store)
    await asyncio.sleep(FIRST_REDRIVE)

    async def hang(asked: Request | str) -> None:
        if isinstance(asked, str):
            await asyncio.Event().wait()

    inbox = Inbox(1, prefix="other", before=hang, clock=parts.clock)
    async with running(Supervisor(parts, {STREAM: inbox}, Schedule()), parts.stop):
        await asyncio.sleep(1)
    assert asyncio.get_running_loop().time() == FIRST_REDRIVE + 1
    assert len(inbox.reread_ids) == 1
    assert find_open_dead_letters(store) == before


async def test_a_stream_that_is_dismissed_redrives_nothing_more() -> None:
    parts = engine(store := MemoryStore())
    inbox = Poisonous(parts, 1, good_from=0)
    supervisor = Supervisor(parts, {STREAM: inbox}, Schedule(interval_seconds=2 * FIRST_REDRIVE))

    async def leave(asked: Request | str) -> Outcome | None:
        if len(inbox.asked) == 2:  # the second run, at whose end the letter is due
            supervisor.dismiss(STREAM)
        return await poison(asked)

    poison, inbox._before = inbox._poison, leave
    async with running(supervisor, parts.stop):
        await asyncio.sleep(3 * FIRST_REDRIVE)

    assert len(find_open_dead_letters(store)) == 1
    assert len(inbox.asked) == 2
    assert inbox.reread_ids == []


async def test_a_stream_that_was_dismissed_has_no_source_to_read_a_letter_with() -> None:
    parts = engine(store := MemoryStore())
    supervisor = Supervisor(parts, {STREAM: Poisonous(parts, 1, good_from=0)}, Schedule())
    await supervisor.sync([STREAM])
    (dead_letter,) = find_open_dead_letters(store)

    supervisor.dismiss(STREAM)

    with pytest.raises(MilepostError, match="is not configured"):
        await supervisor.do(Redrive(dead_letter.dead_letter_id, by="Ada"))
