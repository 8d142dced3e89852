"""The head first: a run that resumes a walk reads what is new, whatever the old stretch does, and loses nothing."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from msgspec.structs import replace

from kit.builders import STREAM, TOO_HEAVY, UNKNOWN, problem
from kit.list_worlds import ListWorld, aged, listed, newest_first
from milepost.core.events import BatchStored, RunStarted, RunStatus
from milepost.core.model import Batch, Conversation, Detail
from milepost.core.plan import Policy, size_now
from milepost.core.ports import Request
from milepost.core.position import Phase
from milepost.core.problems import Problem, ProblemKind

OUTAGE = problem(kind=ProblemKind.NETWORK)


class GrowingWorld(ListWorld):
    """Sixty threads, newest first, to which others come; `refuses` says of which requests nothing comes back."""

    def __init__(self, batch_size: int = 10) -> None:
        self.threads = [aged(number) for number in range(60)]
        self.refuses: Callable[[Request, Batch], Problem | None] = lambda *_: None
        super().__init__(self._answer, Policy(batch_size=batch_size))

    def arrive(self, *numbers: int) -> None:
        """Let a message arrive for threads, new or not, now."""
        names = {f"t_{number:04}" for number in numbers}
        rest = [each for each in self.threads if each.conversation_id not in names]
        self.now += timedelta(seconds=1)
        self.threads = [*(replace(aged(number), updated_time=self.now) for number in numbers), *rest]

    def _answer(self, request: Request) -> Batch | Problem:
        """Answer with the threads behind a cursor, which names the last one before them."""
        rest: list[Conversation] = newest_first(self.threads)
        if request.cursor is not None:
            at, name = request.cursor.split("/")
            rest = [each for each in rest if (each.updated_time.isoformat(), each.conversation_id) < (at, name)]
        batch = listed(rest, replace(request, cursor=None))
        if batch.next_cursor is not None:
            last = batch.conversations[-1]
            batch = replace(batch, next_cursor=f"{last.updated_time.isoformat()}/{last.conversation_id}")
        return self.refuses(request, batch) or batch

    def version_of(self, number: int) -> object:
        row = self.store.conversations.get(f"t_{number:04}")
        return None if row is None else row.updated_time


def old_ones_fail(with_code: Problem) -> Callable[[Request, Batch], Problem | None]:
    """Refuse each list with a thread that is behind the first twenty."""
    old = {f"t_{number:04}" for number in range(20, 60)}
    return lambda _, batch: with_code if any(each.conversation_id in old for each in batch.conversations) else None


def test_a_resumed_run_reads_the_head_with_one_call_where_nothing_is_new() -> None:
    world = GrowingWorld()
    resumed_at = world.run(max_batches=2).sweep
    assert resumed_at is not None

    world.run(max_batches=3)

    assert world.cursors[:2] == [None, resumed_at.position.cursor]
    assert len(world.stored) == 40


def test_what_is_new_is_read_before_the_walk_goes_on() -> None:
    world = GrowingWorld()
    world.run(max_batches=2)
    world.arrive(900, 50)

    world.run(max_batches=2)

    assert {"t_0900", "t_0050"} <= world.stored


def test_the_head_is_read_as_far_as_there_is_something_new() -> None:
    world = GrowingWorld()
    world.run(max_batches=2)
    world.arrive(*range(900, 925))

    world.run(max_batches=4)

    assert len([cursor for cursor in world.cursors if cursor is None]) == 1
    assert {f"t_{number:04}" for number in range(900, 925)} <= world.stored
    assert len(world.stored) == 20 + 25 + 10


@pytest.mark.parametrize(
    "failure", [OUTAGE, UNKNOWN, TOO_HEAVY, problem(2, is_transient=True), problem(960), problem(190)], ids=str
)
def test_a_walk_that_is_stuck_keeps_nothing_new_from_being_read(failure: Problem) -> None:
    world = GrowingWorld()
    world.run(max_batches=2)
    world.refuses = old_ones_fail(failure)

    for number in range(900, 906):
        world.arrive(number)
        world.run()
        assert world.version_of(number) is not None

    world.refuses = lambda *_: None
    for _ in range(3):
        world.run()
    assert world.checkpoint.sweep is None
    assert len(world.stored) == 66


@pytest.mark.parametrize("max_batches", [1, 2, 3])
def test_runs_that_are_short_come_to_the_end_of_the_walk_and_to_what_is_new(max_batches: int) -> None:
    world = GrowingWorld()
    for number in range(900, 940):
        world.run(max_batches=max_batches)
        world.arrive(number)
        if world.checkpoint.sweep is None:
            break
        assert number < 903 or world.version_of(number - 3) is not None

    assert world.checkpoint.watermark is not None
    assert {f"t_{number:04}" for number in range(60)} <= world.stored


def test_a_head_that_was_read_in_part_is_read_further_back_the_next_time() -> None:
    world = GrowingWorld()
    world.run(max_batches=2)
    world.refuses = old_ones_fail(OUTAGE)
    world.arrive(*range(900, 930))
    world.run(max_batches=1)
    assert len(world.stored) == 30

    for _ in range(3):
        world.run()

    assert len(world.stored) == 50


def test_neither_order_nor_deletions_are_judged_at_the_head() -> None:
    world = GrowingWorld()
    world.run()
    world.run(full=True, max_batches=3)
    world.arrive(45, 3)
    gone = world.threads.pop(50)

    while world.checkpoint.sweep is not None:
        world.run(max_batches=3)

    assert world.deleted == {gone.conversation_id}
    assert world.checkpoint.total.order_violations == 0


def poisoned_by(name: str) -> Callable[[Request, Batch], Problem | None]:
    """Refuse each list with this thread, unless it asks for positions only."""
    return lambda request, batch: (
        UNKNOWN
        if request.detail is not Detail.POSITION and any(each.conversation_id == name for each in batch.conversations)
        else None
    )


@pytest.mark.parametrize("max_batches", [1, 2, 3, 500])
def test_the_search_for_what_fails_takes_no_thread_of_the_head_for_it(max_batches: int) -> None:
    world = GrowingWorld()
    world.run(max_batches=2)
    world.refuses = poisoned_by("t_0020")

    for number in range(900, 940):
        world.arrive(number)
        world.run(max_batches=max_batches)

    assert {each.subject for each in world.store.dead_letters.values()} == {"t_0020"}
    assert {f"t_{number:04}" for number in range(60) if number != 20} <= world.stored


def test_a_limit_that_the_walk_has_learnt_holds_for_the_head_as_well() -> None:
    world = GrowingWorld()
    world.run(max_batches=2)
    world.refuses = lambda request, batch: TOO_HEAVY if request.cursor and request.limit > 2 else None
    after = world.run(max_batches=2)
    assert size_now(after, world.policy).limit == 2

    world.refuses = lambda *_: None
    world.run(max_batches=2)

    assert [request.limit for request in world.asked] == [2, 2]


def test_the_journal_says_that_a_run_began_with_the_head() -> None:
    world = GrowingWorld()
    world.run(max_batches=2)
    world.arrive(900)
    world.run(max_batches=1)

    started, stored = [entry.event for entry in world.entries][-3:-1]

    assert isinstance(started, RunStarted)
    assert started.continues is Phase.HEAD
    assert isinstance(stored, BatchStored)
    assert stored.position.is_after_head
    assert world.checkpoint.run is not None
    assert world.checkpoint.run.status is RunStatus.PAUSED
    assert world.checkpoint.stream == STREAM


@pytest.mark.parametrize("failure", [UNKNOWN, OUTAGE, problem(190), problem(10), problem(100, subcode=33)])
@pytest.mark.parametrize("is_busy", [True, False])
def test_a_cursor_that_is_refused_for_good_is_given_up_where_the_head_can_be_read(
    failure: Problem, *, is_busy: bool
) -> None:
    world = GrowingWorld()
    dead = world.run(max_batches=2).sweep
    assert dead is not None
    world.refuses = lambda request, _: failure if request.cursor == dead.position.cursor else None

    for number in range(3):
        if is_busy:
            world.arrive(900 + number)
        world.run(max_batches=50)

    assert {f"t_{number:04}" for number in range(60)} <= world.stored


def test_a_place_that_no_cursor_leads_beyond_is_not_walked_to_in_each_run() -> None:
    world = GrowingWorld()
    world.run(max_batches=2)
    world.refuses = lambda request, batch: (
        UNKNOWN if request.cursor and batch.conversations[-1].updated_time < aged(19).updated_time else None
    )

    calls = []
    for _ in range(40):
        before = len(world.cursors)
        world.run(max_batches=50)
        calls.append(len(set(world.cursors[before:])))

    assert sum(each > 2 for each in calls[20:]) < 3
    assert world.checkpoint.run is not None
    assert world.checkpoint.run.status is RunStatus.FAILED
