"""Batches that are ready while the store is busy are committed together, with the same result as one by one."""

import asyncio
from collections.abc import Sequence

import pytest

from kit.builders import RATE_LIMIT, STREAM, budget, refused
from kit.engine_doubles import (
    Inbox,
    cursor_of,
    engine,
    find_open_dead_letters,
    published,
    ran,
    run_of,
    subscribed,
    types,
)
from kit.memory_store import MemoryStore
from milepost.core.commands import RecordTokenHealth
from milepost.core.errors import OutcomeUnknown, StoreAway
from milepost.core.events import Reason, RunStatus
from milepost.core.model import Table, TokenHealth
from milepost.core.ports import Commit, Committed, Outcome, Rejected, Request
from milepost.core.records import MAX_DRAFTS
from milepost.engine.context import Mailbox
from milepost.engine.feed import Feed
from milepost.engine.interrupt import Stop

BATCHES = 6


class Busy(MemoryStore):
    """A store whose commits last until the source has answered every request. `groups` are the commits' sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []

    async def commit_all(self, commits: Sequence[Commit]) -> list[Committed | Rejected]:
        self.groups.append(len(commits))
        for _ in range(200):
            await asyncio.sleep(0)
        return await super().commit_all(commits)


def walked(inbox: Inbox) -> list[str | None]:
    """Return the cursors of the walk, without the catch-up scan."""
    return inbox.cursors[: inbox.cursors.index(None, 1)] if None in inbox.cursors[1:] else inbox.cursors


def numbers(inbox: Inbox) -> list[str | None]:
    return [None, *map(str, range(1, inbox.batches))]


async def test_batches_that_are_ready_are_committed_together_with_an_entry_each() -> None:
    store, inbox, feed = Busy(), Inbox(BATCHES), Feed()
    notices = subscribed(feed)

    checkpoint = await ran(engine(store, feed=feed), inbox)

    assert store.groups[:2] == [1, BATCHES - 1]
    assert types(store, STREAM) == ["run_started", "sweep_started", *["batch_stored"] * BATCHES, "sweep_completed"]
    assert set(store.conversations) == {f"t_{number}" for number in range(BATCHES)}
    assert published(notices) == list(range(1, len(store.journal) + 1))
    assert checkpoint == await store.load(STREAM)
    assert walked(inbox) == numbers(inbox), "each is requested once"


async def test_a_commit_takes_a_bounded_number_of_batches() -> None:
    store, inbox = Busy(), Inbox(3 * MAX_DRAFTS)

    await ran(engine(store), inbox)

    assert max(store.groups) == MAX_DRAFTS
    assert len(store.conversations) == 3 * MAX_DRAFTS


async def test_a_refused_row_among_several_batches_makes_a_dead_letter_and_harms_no_other() -> None:
    store, inbox = Busy(), Inbox(BATCHES)
    store.refuses = {(Table.CONVERSATIONS, "t_3")}

    checkpoint = await ran(engine(store), inbox)

    assert {each.subject for each in find_open_dead_letters(store)} == {"t_3/row"}
    assert set(store.conversations) == {"t_0", "t_1", "t_2", "t_4", "t_5"}
    assert walked(inbox) == numbers(inbox), "what was ready behind it is not requested again"
    assert checkpoint == await store.load(STREAM)


async def test_the_batch_limit_holds_for_batches_that_are_ready() -> None:
    store, inbox = Busy(), Inbox(BATCHES)

    checkpoint = await ran(engine(store), inbox, budget(max_batches=4))

    assert set(store.conversations) == {f"t_{number}" for number in range(4)}
    assert inbox.cursors == [None, "1", "2", "3"], "no more than the run may read are requested"
    assert run_of(checkpoint).reason is Reason.BATCH_LIMIT


async def test_a_stop_ends_the_run_before_batches_that_are_ready() -> None:
    stop = Stop()

    class Stops(Busy):
        async def commit_all(self, commits: Sequence[Commit]) -> list[Committed | Rejected]:
            answers = await super().commit_all(commits)
            stop.request()
            return answers

    store = Stops()

    checkpoint = await ran(engine(store, stop=stop), Inbox(BATCHES))

    assert set(store.conversations) == {"t_0"}
    assert run_of(checkpoint).reason is Reason.SHUTDOWN


async def test_a_command_comes_before_batches_that_are_ready_and_none_is_requested_while_it_waits() -> None:
    mailbox = Mailbox()
    asked: list[int] = []

    class Asks(Busy):
        async def commit_all(self, commits: Sequence[Commit]) -> list[Committed | Rejected]:
            if len(self.groups) == 0:
                mailbox.ask(RecordTokenHealth(TokenHealth(is_valid=True)))
                asked.append(len(inbox.asked))
            elif len(self.groups) == 1:
                asked.append(len(inbox.asked))
            return await super().commit_all(commits)

    store, inbox = Asks(), Inbox(BATCHES)

    await ran(engine(store), inbox, mailbox=mailbox)

    assert types(store, STREAM)[:4] == ["run_started", "sweep_started", "batch_stored", "token_checked"]
    assert asked[1] - asked[0] <= 1, "the one that was on its way"
    assert len(store.conversations) == BATCHES


async def test_a_rate_limit_behind_batches_that_are_ready_goes_on_record_at_once() -> None:
    limited = False

    async def limit_at_the_fourth(request: Request | str) -> Outcome | None:
        nonlocal limited
        if cursor_of(request) == "3" and not limited:
            limited = True
            return refused(RATE_LIMIT)
        return None

    store = Busy()

    await ran(engine(store), Inbox(BATCHES, before=limit_at_the_fourth))

    assert types(store, STREAM)[:4] == ["run_started", "sweep_started", "batch_stored", "rate_limited"]
    assert len(store.conversations) == BATCHES


@pytest.mark.parametrize("stored", range(BATCHES))
async def test_batches_of_an_unknown_commit_are_stored_and_published_once_however_many_of_them_were_stored(
    stored: int,
) -> None:
    class Uncertain(Busy):
        async def commit_all(self, commits: Sequence[Commit]) -> list[Committed | Rejected]:
            if len(self.groups) == 1:
                await super().commit_all(commits[:stored])
                raise OutcomeUnknown("the connection broke in the middle of a commit")
            return await super().commit_all(commits)

    store, feed, inbox = Uncertain(), Feed(), Inbox(BATCHES)
    notices = subscribed(feed)

    checkpoint = await ran(engine(store, feed=feed), inbox)

    undisturbed = [each for each in types(store, STREAM) if each != "store_returned"]
    assert undisturbed == ["run_started", "sweep_started", *["batch_stored"] * BATCHES, "sweep_completed"]
    assert published(notices) == list(range(1, len(store.journal) + 1))
    assert checkpoint == await store.load(STREAM)
    assert (run_of(checkpoint).status, run_of(checkpoint).tally.inserted) == (RunStatus.COMPLETE, BATCHES)
    assert walked(inbox) == numbers(inbox)


async def test_batches_that_are_too_much_at_once_are_committed_one_by_one() -> None:
    """A slow server hangs up on a transaction that takes too long, however often that is repeated."""

    class Slow(Busy):
        async def commit_all(self, commits: Sequence[Commit]) -> list[Committed | Rejected]:
            if len(commits) > 1:
                self.groups.append(len(commits))
                raise StoreAway("the statement took too long")
            return await super().commit_all(commits)

    store, inbox = Slow(), Inbox(BATCHES)

    checkpoint = await ran(engine(store), inbox)

    assert run_of(checkpoint).status is RunStatus.COMPLETE
    assert len(store.conversations) == BATCHES
    assert walked(inbox) == numbers(inbox), "none is requested again"


async def test_no_batch_is_requested_ahead_while_the_store_is_away() -> None:
    asked: list[int] = []

    class Away(Busy):
        async def commit_all(self, commits: Sequence[Commit]) -> list[Committed | Rejected]:
            asked.append(len(inbox.asked))
            if len(asked) == 1:
                raise StoreAway("the disk is full")
            return await super().commit_all(commits)

    store, inbox = Away(), Inbox(3 * BATCHES)

    await ran(engine(store), inbox)

    assert asked[1] == 2, "the batch in hand, and the one that was on its way"
    assert len(store.conversations) == 3 * BATCHES
