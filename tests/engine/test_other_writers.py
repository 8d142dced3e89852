"""Two processes on one store: a run meets another writer, and a process that was taken for dead goes on."""

import asyncio
import copy
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from kit.builders import CODEC, NOON, RUN_ID, STREAM, budget, fetched, unreadable
from kit.engine_doubles import Inbox, after, at_call, engine, find_open_dead_letters, ran, run_of, types
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import PauseStream, SyncNow
from milepost.core.errors import MilepostError, VersionConflict
from milepost.core.events import Reason, RunStatus, StreamRemoved
from milepost.core.model import Stream
from milepost.core.ports import Commit, Committed, Outcome, Rejected, Request
from milepost.core.position import Mode
from milepost.core.records import Record, prepare
from milepost.engine.context import Mailbox
from milepost.engine.supervisor import Schedule, Supervisor

ADA = "status page of another worker"


def elsewhere(store: MemoryStore) -> Supervisor:
    """Another process that knows the stream, and does not work it."""
    return Supervisor(engine(store), {STREAM: Inbox(1)}, Schedule())


async def test_a_run_goes_on_after_another_process_recorded_a_command() -> None:
    store = MemoryStore()

    async def meanwhile() -> None:
        await elsewhere(store).ask(STREAM, SyncNow(ADA))

    inbox = Inbox(6, before=at_call(3, meanwhile))
    checkpoint = await ran(engine(store), inbox)

    assert run_of(checkpoint).status is RunStatus.COMPLETE
    assert set(store.conversations) == {f"t_{n}" for n in range(6)}
    assert types(store, STREAM).count("batch_stored") == 6
    assert types(store, STREAM).count("sync_requested") == 1


async def test_a_pause_by_another_process_ends_the_run_even_if_only_a_conflict_reveals_it() -> None:
    store = MemoryStore()

    async def meanwhile() -> None:
        await elsewhere(store).ask(STREAM, PauseStream(ADA))

    inbox = Inbox(50, before=at_call(3, meanwhile))
    checkpoint = await ran(engine(store), inbox)

    assert (run_of(checkpoint).status, run_of(checkpoint).reason) == (RunStatus.PAUSED, Reason.REQUEST)
    assert len(inbox.asked) <= 5  # the batch in hand, and what was looked ahead for
    assert len(store.conversations) == types(store, STREAM).count("batch_stored")


async def test_a_pause_that_is_reported_holds_even_if_nothing_is_written() -> None:
    """A walk without news commits nothing, and so meets no conflict."""
    store = MemoryStore()
    await ran(engine(store), Inbox(30), budget("r_0"))
    mailbox = Mailbox()

    async def meanwhile() -> None:
        await elsewhere(store).ask(STREAM, PauseStream(ADA))
        mailbox.observe_version((await store.load(STREAM)).version)

    inbox = Inbox(30, before=at_call(3, meanwhile))
    checkpoint = await ran(engine(store), inbox, replace(budget("r_1"), wants_full=True), mailbox)

    assert checkpoint.operator_pause is not None
    assert len(inbox.asked) <= 5


async def test_a_process_that_was_taken_for_dead_writes_nothing_more() -> None:
    store = MemoryStore()

    async def meanwhile() -> None:
        """Let another process take the stream over and complete it, while this one hangs."""
        await ran(engine(store), Inbox(6), budget("r_other"))

    with pytest.raises(VersionConflict, match="taken over by another Milepost"):
        await ran(engine(store), Inbox(6, before=at_call(3, meanwhile)))

    entries = store.entries(STREAM)
    runs = [entry.run_id for entry in entries]
    assert runs[-1] == "r_other"
    assert runs.index("r_other") > max(n for n, run_id in enumerate(runs) if run_id == RUN_ID)
    interrupted = next(entry for entry in entries if entry.type == "run_ended")
    assert interrupted.run_id == RUN_ID
    assert set(store.conversations) == {f"t_{n}" for n in range(6)}


async def test_a_process_that_was_taken_for_dead_writes_nothing_even_if_it_would_follow() -> None:
    """It was notified of the other's entries, and has reloaded: the version alone would not keep it out."""
    store, mailbox = MemoryStore(), Mailbox()

    async def meanwhile() -> None:
        await ran(engine(store), Inbox(6), budget("r_other"))
        mailbox.observe_version((await store.load(STREAM)).version)

    with pytest.raises(VersionConflict, match="taken over by another Milepost"):
        await ran(engine(store), Inbox(6, before=at_call(3, meanwhile)), mailbox=mailbox)

    assert store.entries(STREAM)[-1].run_id == "r_other"


async def test_a_run_ends_if_its_stream_is_removed_and_the_next_begins_anew() -> None:
    store, mailbox = MemoryStore(), Mailbox()

    async def meanwhile() -> None:
        checkpoint = await store.load(STREAM)
        await store.commit(prepare(checkpoint, Record((StreamRemoved(ADA),)), None, NOON, CODEC))
        mailbox.observe_version(checkpoint.version + 1)

    await ran(engine(store), Inbox(2), budget("r_0"))
    with pytest.raises(VersionConflict, match="was removed meanwhile"):
        await ran(engine(store), Inbox(6, before=at_call(1, meanwhile)), mailbox=mailbox)
    assert types(store, STREAM)[-1] == "stream_removed"
    assert (store.conversations, store.runs) == ({}, {})

    checkpoint = await ran(engine(store), Inbox(6), budget("r_2"))

    assert (checkpoint.total.inserted, run_of(checkpoint).mode) == (6, Mode.FULL)
    assert set(store.conversations) == {f"t_{n}" for n in range(6)}


class Racing(MemoryStore):
    """A store on which another writer is faster for the next `times` commits."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def commit(self, commit: Commit) -> Committed | Rejected:
        if self.times:
            self.times -= 1
            raise VersionConflict("somebody was faster")
        return await super().commit(commit)


async def test_a_conflict_without_another_writers_entry_ends_the_run() -> None:
    with pytest.raises(VersionConflict, match="was reported to have moved on, but has not"):
        await ran(engine(Racing(1_000)), Inbox(3))


async def test_a_run_goes_on_from_what_is_stored_where_reported_entries_are_lost() -> None:
    """This happens in a failover to a replica that had not received the last commits."""
    store, mailbox = MemoryStore(), Mailbox()
    await ran(engine(store), Inbox(2), budget("r_0"))
    mailbox.observe_version((await store.load(STREAM)).version + 9)

    checkpoint = await ran(engine(store), Inbox(6), budget("r_1"), mailbox=mailbox)

    assert run_of(checkpoint).status is RunStatus.COMPLETE
    assert not mailbox.is_outdated


@pytest.mark.parametrize("kept_at", [1, 4], ids=["all of the run", "some of the run"])
async def test_a_run_goes_on_from_what_is_stored_where_entries_of_its_own_are_lost(kept_at: int) -> None:
    store, calls, replica = MemoryStore(), 0, dict[str, object]()
    await ran(engine(store), Inbox(2), budget("r_0"))

    async def fail_over(_: Request | str) -> None:
        nonlocal calls
        calls += 1
        if calls == kept_at:
            replica.update(copy.deepcopy(vars(store)))
        if calls == kept_at + 4:
            vars(store).update(replica)

    checkpoint = await ran(engine(store), Inbox(12, before=fail_over), budget("r_1", wants_full=True))

    assert run_of(checkpoint).status is RunStatus.COMPLETE
    assert set(store.conversations) == {f"t_{n}" for n in range(12)}


async def test_a_command_that_meets_another_writer_is_executed_again() -> None:
    store = Racing(3)

    await elsewhere(store).ask(STREAM, PauseStream(ADA))

    assert types(store, STREAM) == ["stream_paused"]


async def test_a_command_that_always_meets_another_writer_fails() -> None:
    with pytest.raises(MilepostError, match="other processes keep writing to"):
        async with asyncio.timeout(5):
            await elsewhere(Racing(1_000)).ask(STREAM, PauseStream(ADA))


class Interrupted(MemoryStore):
    """A store on which another process acts once, right after a checkpoint was loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def load(self, stream: Stream) -> Checkpoint:
        loaded = await super().load(stream)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return loaded


async def broken_off(store: MemoryStore, run_id: str, batches: int) -> None:
    """Leave a run open after so many batches."""
    asked = 0

    async def break_off(_: Request | str) -> Outcome | None:
        nonlocal asked
        asked += 1
        if asked > batches:
            msg = "killed"
            raise RuntimeError(msg)
        return None

    with pytest.raises(RuntimeError, match="killed"):
        await ran(engine(store), Inbox(6, before=break_off), budget(run_id))


async def test_an_open_run_is_taken_over_even_if_a_command_is_recorded_meanwhile() -> None:
    store = Interrupted()
    await broken_off(store, "r_1", batches=3)
    store.meanwhile = lambda: elsewhere(store).ask(STREAM, SyncNow(ADA))

    checkpoint = await ran(engine(store), Inbox(6), budget("r_2"))

    assert run_of(checkpoint).status is RunStatus.COMPLETE
    assert types(store, STREAM).count("run_ended") == 1
    assert set(store.conversations) == {f"t_{n}" for n in range(6)}


async def test_an_open_run_is_left_to_the_process_that_takes_it_over_first() -> None:
    store = Interrupted()
    await broken_off(store, "r_1", batches=3)
    store.meanwhile = lambda: broken_off(store, "r_faster", batches=2)

    with pytest.raises(VersionConflict):
        await ran(engine(store), Inbox(6), budget("r_2"))

    assert store.entries(STREAM)[-1].run_id == "r_faster"


async def test_redrives_end_for_now_if_another_process_writes_to_the_stream() -> None:
    store = MemoryStore()

    unreadable_at_the_second = after("1", fetched(unreadable("t_1"), next_cursor="2"))
    await Supervisor(engine(store), {STREAM: Inbox(3, before=unreadable_at_the_second)}, Schedule()).sync([STREAM])
    (dead_letter,) = find_open_dead_letters(store)
    assert dead_letter.redrive_at is not None
    parts = engine(store)

    async def before(asked: Request | str) -> Outcome | None:
        if isinstance(asked, str):
            await elsewhere(store).ask(STREAM, PauseStream(ADA))
        return await unreadable_at_the_second(asked)

    await asyncio.sleep((dead_letter.redrive_at - parts.clock.now()).total_seconds() + 1)
    (result,) = await Supervisor(parts, {STREAM: Inbox(3, before=before)}, Schedule()).sync([STREAM])

    assert result.error is not None
    assert "it was paused by the " in result.error
    assert types(store, STREAM)[-1] == "stream_paused"
