"""walk: where walks begin and end, and what a batch covers, however small batches are and whatever their order.

A batch that is too large is read in small ones, and a handful of older rows fills one of them: as long as fewer than
ten came in a row, newer ones may follow. Where threads share a second with a batch's edge, what is gone is marked as
deleted, and nothing that is there.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from kit.builders import at, conversation, fetched
from kit.decisions import scanning, then, walking
from kit.list_worlds import ListWorld, aged, listed, newest_first
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Conversation
from milepost.core.plan import Policy
from milepost.core.position import Mode, Phase
from milepost.core.walk import EPOCH, MAX_EDGE, older_in_a_row, overlap_before, reaches_back, walk_start

ENOUGH = 10
NEW, OLD = -60.0, -7200.0  # the walk goes back to one hour before noon, the scan to ten minutes before
PHASES = {Phase.WALK: walking(mode=Mode.INCREMENTAL), Phase.CATCH_UP: scanning("after 1")}
UNTIL = at(0)
OVERLAP = 600.0

# --- where it begins and ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        pytest.param((), False, id="an empty batch proves nothing"),
        pytest.param((-1, -2), True, id="all older"),
        pytest.param((1, -2), False, id="the first is newer"),
        pytest.param((-1, 2), False, id="the last is newer, against the order"),
        pytest.param((-1, 2, -3), False, id="one old row is not enough"),
        pytest.param((0,), False, id="the boundary itself is not older"),
        pytest.param((0, -1), False, id="the boundary and older ones"),
        pytest.param((-0.001,), True, id="a millisecond older"),
    ],
)
def test_a_walk_ends_at_a_batch_wholly_older(seconds: tuple[float, ...], answer: bool) -> None:
    assert reaches_back([at(second) for second in seconds], UNTIL) is answer


def test_a_walk_to_the_end_of_the_inbox_reaches_back_nowhere() -> None:
    assert not reaches_back([at(-10_000)], None)


@pytest.mark.parametrize(
    ("seconds", "before", "older"),
    [
        pytest.param((), 3, 3, id="an empty batch changes nothing"),
        pytest.param((-1, -2), 3, 5, id="all older"),
        pytest.param((1, -2), 3, 1, id="a newer one restarts the count"),
        pytest.param((-1, 2), 3, 0, id="the last is newer"),
        pytest.param((0,), 3, 0, id="the boundary itself is not older"),
    ],
)
def test_older_conversations_are_counted_in_a_row_across_batches(
    seconds: tuple[float, ...], before: int, older: int
) -> None:
    assert older_in_a_row([at(second) for second in seconds], UNTIL, before) == older


def test_no_conversation_is_older_than_a_walk_to_the_end_of_the_inbox() -> None:
    assert older_in_a_row([at(-10_000)], None, 0) == 0


def test_the_overlap_is_before_the_instant() -> None:
    assert overlap_before(at(0), 600.0) == at(-600)


@pytest.mark.parametrize(
    ("started", "newest", "start"),
    [
        pytest.param(0, -5, 0, id="a busy inbox agrees with the clock"),
        pytest.param(0, -601, 0, id="a quiet inbox agrees with it up to the overlap"),
        pytest.param(0, -3600, -3600 + 601, id="a very quiet inbox overrides the clock"),
        pytest.param(30 * 86400, -5, -5 + 601, id="a clock that is ahead is not trusted"),
        pytest.param(-86400, -5, -86400, id="a clock that is behind costs no more than reading again"),
    ],
)
def test_a_walk_starts_no_later_than_the_newest_conversation_allows(started: int, newest: int, start: int) -> None:
    assert walk_start(at(started), [at(newest - 7), at(newest), at(newest - 3)], OVERLAP, None) == at(start)


def test_a_first_batch_without_conversations_leaves_the_watermark_where_it_was() -> None:
    assert walk_start(at(0), [], OVERLAP, None) == EPOCH
    assert walk_start(at(0), [], OVERLAP, at(-50)) == at(-50)
    assert walk_start(at(0), [], OVERLAP, at(50)) == at(0)


instants = st.datetimes(EPOCH.replace(tzinfo=None), timezones=st.just(UTC))


@drawn(instants, st.lists(instants, min_size=1), st.floats(0, 7 * 86400.0))
def test_whatever_the_clocks_say_the_next_walk_reaches_back_to_the_newest_conversation(
    asked_at: datetime, times: list[datetime], overlap_seconds: float
) -> None:
    start = walk_start(asked_at, times, overlap_seconds, None)
    assert start <= asked_at
    assert overlap_before(start, overlap_seconds) <= max(times) + timedelta(seconds=1.001)


def numbered(ages: Sequence[float]) -> list[Conversation]:
    return [conversation(f"t_{number}", at(seconds - number / 1000)) for number, seconds in enumerate(ages)]


def in_batches(threads: Sequence[Conversation], sizes: Sequence[int]) -> Iterator[Sequence[Conversation]]:
    """Yield batches of these sizes, then batches of one."""
    start = 0
    for size in [*sizes, *([1] * len(threads))]:
        if start < len(threads):
            yield threads[start : start + size]
        start += size


def is_at_its_end(checkpoint: Checkpoint, phase: Phase) -> bool:
    return checkpoint.sweep is None or checkpoint.sweep.position.phase is not phase


@pytest.mark.parametrize("phase", PHASES)
@drawn(st.lists(st.integers(0, ENOUGH - 1), min_size=1, max_size=6), st.lists(st.integers(1, 12), max_size=40))
def test_fewer_than_ten_older_conversations_in_a_row_do_not_end_a_walk(
    phase: Phase, handfuls: list[int], sizes: list[int]
) -> None:
    ages = [age for handful in handfuls for age in (*[OLD] * handful, NEW)]
    checkpoint, left = PHASES[phase], len(ages)

    for batch in in_batches(numbered(ages), sizes):
        assert not is_at_its_end(checkpoint, phase), f"{left} conversations were not read"
        left -= len(batch)
        checkpoint = then(checkpoint, fetched(*batch, next_cursor=f"after {left}"))

    assert left == 0
    assert not is_at_its_end(checkpoint, phase)


@pytest.mark.parametrize("size", [1, 2, 5, ENOUGH])
@pytest.mark.parametrize("phase", PHASES)
def test_ten_older_conversations_in_a_row_end_a_walk_in_batches_of_any_size(phase: Phase, size: int) -> None:
    checkpoint, read = PHASES[phase], 0

    for batch in in_batches(numbered([OLD] * 40), [size] * 40):
        checkpoint = then(checkpoint, fetched(*batch, next_cursor=f"after {read}"))
        read += len(batch)
        if is_at_its_end(checkpoint, phase):
            break

    assert read == ENOUGH


@pytest.mark.parametrize("phase", PHASES)
def test_a_batch_with_a_newer_conversation_does_not_end_a_walk_however_many_older_ones_follow(phase: Phase) -> None:
    checkpoint = then(PHASES[phase], fetched(*numbered([NEW, *[OLD] * 49]), next_cursor="after 49"))

    assert not is_at_its_end(checkpoint, phase)


# --- what a batch covers ----------------------------------------------------------------------------------------------


class GoneWorld(ListWorld):
    """A world with a thread for each of these ages, all of them stored; some can be taken away."""

    def __init__(self, seconds: list[int], batch_size: int) -> None:
        self._threads = newest_first([aged(number, 3600 + ago) for number, ago in enumerate(seconds)])
        super().__init__(lambda request: listed(self._threads, request), Policy(batch_size=batch_size))
        self.run()
        assert len(self.stored) == len(seconds)

    def take_away(self, *conversation_ids: str) -> None:
        self._threads = [each for each in self._threads if each.conversation_id not in conversation_ids]


@pytest.mark.parametrize("size", [2, 3, 4, 7])
@pytest.mark.parametrize("gone", range(10))
def test_a_gone_thread_is_marked_wherever_its_second_lies(size: int, gone: int) -> None:
    world = GoneWorld([0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 5, 5], size)
    world.take_away(f"t_{gone:04}")

    world.run(full=True)

    assert world.deleted == {f"t_{gone:04}"}


@pytest.mark.parametrize("size", [1, 3, 10, 50])
def test_a_hundred_threads_of_one_second_are_all_there(size: int) -> None:
    world = GoneWorld([*range(20), *[20] * 100, *range(21, 40)], size)
    before = world.checkpoint.version

    world.run(full=True)

    assert world.deleted == set()
    assert world.checkpoint.version == before + 1, "a quiet sweep is one entry"


def test_a_hundred_threads_of_one_second_less_three_are_marked_so() -> None:
    world = GoneWorld([*range(20), *[20] * 100, *range(21, 40)], 10)
    world.take_away("t_0020", "t_0065", "t_0119")

    world.run(full=True)

    assert world.deleted == {"t_0020", "t_0065", "t_0119"}


def test_more_threads_of_one_second_than_a_position_remembers_are_never_marked() -> None:
    world = GoneWorld([0, *[1] * (MAX_EDGE + 30), 2], 10)
    world.take_away("t_0100")

    for _ in range(2):
        world.run(full=True)
        assert world.deleted <= {"t_0100"}


@settings(max_examples=60, deadline=None)
@drawn(st.lists(st.integers(0, 6), min_size=1, max_size=25), st.integers(1, 8), st.data())
def test_what_is_gone_is_marked_and_nothing_else(seconds: list[int], size: int, data: st.DataObject) -> None:
    world = GoneWorld(seconds, size)
    gone = data.draw(st.sets(st.sampled_from(sorted(world.stored)), max_size=5))
    assume(len(gone) < len(seconds))  # an empty answer is another matter
    world.take_away(*gone)

    world.run(full=True, max_batches=data.draw(st.sampled_from((1, 2, 500))))
    while world.checkpoint.sweep is not None:
        world.run(max_batches=2)

    assert world.deleted == gone
