"""Commits of which nobody knows what became of them: each is settled by reading before anything else is written.

Whatever happened to the commit, in the end every entry is stored once and published once.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from kit.builders import STREAM, at, budget
from kit.engine_doubles import FlakyStore, Inbox, engine, published, ran, run_of, subscribed, types
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.errors import OutcomeUnknown, StoreAway, VersionConflict
from milepost.core.events import RunStatus, StoreReturned
from milepost.core.model import Table
from milepost.core.ports import Commit, Committed, Rejected
from milepost.engine.context import EngineContext
from milepost.engine.feed import Feed, StoreRetried
from milepost.engine.interrupt import Stop

BATCHES = 3
COMMITS = 4  # of an undisturbed run: three batches, and the end of the sweep
SCAN = (None, "1", "2")  # the catch-up scan: it takes ten older threads to end it before the end of the inbox
UNDISTURBED = ["run_started", "sweep_started", *["batch_stored"] * BATCHES, "sweep_completed"]
STORED = pytest.mark.parametrize("is_stored", [True, False], ids=["it was stored", "it was not stored"])


class Uncertain(MemoryStore):
    """A store whose connection fails at chosen commits, `lost` by number: they are stored or not, and nobody knows.

    `silent_for` questions after that find it away. `asked` lists what it was asked to write and to settle.
    """

    def __init__(self, lost: Sequence[int], *, is_stored: bool, silent_for: int = 0) -> None:
        super().__init__()
        self.lost = lost
        self.is_stored = is_stored
        self.silent_for = silent_for
        self.asked: list[tuple[str, int]] = []
        self._silences = 0
        self._commits = 0

    async def commit(self, commit: Commit) -> Committed | Rejected:
        self.asked.append(("commit", commit.entries[0].version))
        self._commits += 1
        if self._commits in self.lost:
            if self.is_stored:
                await super().commit(commit)
            self._silences = self.silent_for
            raise OutcomeUnknown("the connection broke in the middle of a commit")
        return await super().commit(commit)

    async def settle(self, commit: Commit) -> Committed | None:
        self.asked.append(("settle", commit.entries[0].version))
        if self._silences:
            self._silences -= 1
            raise StoreAway("the database does not answer")
        return await super().settle(commit)


def without_absences(store: MemoryStore) -> list[str]:
    return [each for each in types(store, STREAM) if each != "store_returned"]


@STORED
@pytest.mark.parametrize("number", range(1, COMMITS + 1))
async def test_every_entry_is_stored_and_published_once_whichever_commit_is_unknown(
    number: int, is_stored: bool
) -> None:
    store, feed, inbox = Uncertain([number], is_stored=is_stored), Feed(), Inbox(BATCHES)
    notices = subscribed(feed)

    checkpoint = await ran(engine(store, feed=feed), inbox)

    assert without_absences(store) == UNDISTURBED
    assert published(notices) == list(range(1, len(store.journal) + 1))
    assert checkpoint == await store.load(STREAM)
    assert (run_of(checkpoint).status, run_of(checkpoint).tally.inserted) == (RunStatus.COMPLETE, BATCHES)
    assert inbox.cursors == [None, "1", "2", *SCAN], "nothing else is read again"


@STORED
async def test_an_unknown_commit_is_settled_first_and_repeated_only_if_it_was_not_stored(is_stored: bool) -> None:
    store = Uncertain([2], is_stored=is_stored)

    await ran(engine(store), Inbox(BATCHES))

    first = store.asked.index(("settle", 4))
    assert store.asked[first - 1] == ("commit", 4)
    assert store.asked.count(("settle", 4)) == 1
    assert store.asked.count(("commit", 4)) == (1 if is_stored else 2)


@STORED
async def test_an_unknown_commit_stays_unsettled_while_the_store_is_unavailable(is_stored: bool) -> None:
    store, feed, clock = Uncertain([2], is_stored=is_stored, silent_for=3), Feed(), VirtualClock()
    notices = subscribed(feed)

    await ran(engine(store, feed=feed, clock=clock), Inbox(BATCHES))

    first = store.asked.index(("settle", 4))
    assert store.asked[first : first + 4] == [("settle", 4)] * 4
    assert [notice.attempts for notice in notices if isinstance(notice, StoreRetried)] == [1, 2, 3, 4]
    assert without_absences(store) == UNDISTURBED
    assert published(notices) == list(range(1, len(store.journal) + 1))


@STORED
async def test_a_commit_that_is_lost_again_is_settled_again(is_stored: bool) -> None:
    store, feed = Uncertain([2, 3, 4], is_stored=is_stored), Feed()
    notices = subscribed(feed)

    await ran(engine(store, feed=feed), Inbox(BATCHES))

    assert without_absences(store) == UNDISTURBED
    assert published(notices) == list(range(1, len(store.journal) + 1))


@STORED
async def test_an_outage_is_on_record_even_if_the_commit_was_stored_before_it(
    is_stored: bool,
) -> None:
    """The stored commit cannot record the outage that followed it: the next entry does."""
    for number in range(1, COMMITS + 1):
        store, clock = Uncertain([number], is_stored=is_stored, silent_for=2), VirtualClock()

        await ran(engine(store, clock=clock), Inbox(BATCHES))

        returned = [entry.event for entry in store.entries(STREAM) if entry.type == "store_returned"]
        assert returned == [StoreReturned(sum(clock.slept), attempts=3)], f"commit {number}"


async def test_a_connection_that_fails_at_every_commit_records_a_bounded_number_of_outages() -> None:
    store = Uncertain(range(1, 1_000), is_stored=True)

    await ran(engine(store), Inbox(BATCHES))

    assert without_absences(store) == UNDISTURBED
    assert types(store, STREAM).count("store_returned") < 2 * COMMITS


async def test_an_outage_is_on_record_even_if_the_store_then_refuses_a_row() -> None:
    store = FlakyStore(absences=2)
    store.refuses = {(Table.CONVERSATIONS, "t_0")}

    await ran(engine(store), Inbox(BATCHES))

    assert types(store, STREAM)[:2] == ["store_returned", "run_started"]


@STORED
async def test_an_unavailable_store_ends_the_run_and_the_next_continues_from_what_is_stored(is_stored: bool) -> None:
    store, feed = Uncertain([2], is_stored=is_stored, silent_for=10_000), Feed()
    notices = subscribed(feed)
    with pytest.raises(StoreAway):
        await ran(engine(store, feed=feed), Inbox(BATCHES))
    assert types(store, STREAM).count("batch_stored") == (2 if is_stored else 1)
    assert published(notices) == [1, 2, 3], "the first commit alone is known to be stored"

    inbox = Inbox(BATCHES)
    await ran(engine(store), inbox, budget("run-2", deadline_at=at(100_000)))

    assert inbox.cursors == [None, *(["2"] if is_stored else ["1", "2"]), *SCAN]
    assert types(store, STREAM).count("batch_stored") == BATCHES
    assert types(store, STREAM).count("sweep_completed") == 1
    assert set(store.conversations) == {"t_0", "t_1", "t_2"}


@STORED
async def test_a_stop_does_not_wait_for_the_store_and_the_next_run_continues_from_what_is_stored(
    is_stored: bool,
) -> None:
    store, stop, clock = Uncertain([2], is_stored=is_stored, silent_for=10_000), Stop(), VirtualClock()

    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(broken_off(engine(store, stop=stop, clock=clock), Inbox(BATCHES)))
        await clock.sleep_until(clock.now() + timedelta(seconds=30))
        assert not run.done()
        stop.request()
        before = clock.now()
    assert clock.now() == before, "it waited no longer"

    inbox = Inbox(BATCHES)
    checkpoint = await ran(engine(store), inbox, budget("run-2"))

    assert inbox.cursors == [None, *(["2"] if is_stored else ["1", "2"]), *SCAN]
    assert run_of(checkpoint).status is RunStatus.COMPLETE
    assert types(store, STREAM).count("batch_stored") == BATCHES


async def broken_off(parts: EngineContext, inbox: Inbox) -> None:
    with pytest.raises(StoreAway):
        await ran(parts, inbox)


async def test_an_entry_of_another_process_is_not_taken_for_the_unknown_commit() -> None:
    """The connection broke, the other took the stream over: the version is there, and is not ours."""

    class TakenOver(Uncertain):
        async def settle(self, commit: Commit) -> Committed | None:
            if types(self, STREAM)[-1] != "sweep_completed":
                self.lost = ()
                await ran(engine(self), Inbox(BATCHES), budget("run-other"))
            return await super().settle(commit)

    store, feed = TakenOver([2], is_stored=False), Feed()
    notices = subscribed(feed)

    with pytest.raises(VersionConflict, match="taken over by another Milepost"):
        await ran(engine(store, feed=feed), Inbox(BATCHES))

    assert published(notices) == [1, 2, 3], "its first commit alone was its own"
    assert store.entries(STREAM)[-1].run_id == "run-other"
