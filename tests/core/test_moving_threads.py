"""Full sweeps over lists that change between any two requests: what is there is never marked as deleted.

A thread may move to the head before the walk gets to it, and again before the catch-up scan does. Times are whole
seconds, as in the API, so that several threads often share one.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.list_worlds import ListWorld, aged, ended, listed
from kit.needs import long_only
from milepost.core.model import Batch
from milepost.core.plan import Policy
from milepost.core.ports import Request
from milepost.core.walk import MAX_SCANS

Moves = Sequence[Sequence[int]]  # the threads that move to the head before each request, one after the other


class MovingWorld(ListWorld):
    """A world with stored threads, the newest an hour old, some of which move before each request of a full sweep."""

    def __init__(
        self, threads: int, batch_size: int, *, ahead: timedelta = timedelta(), apart: timedelta = timedelta()
    ) -> None:
        """Create a world whose platform's clock is `ahead` of ours, and whose moves are so far `apart`."""
        hour = timedelta(hours=1) - ahead
        ages = (hour.total_seconds() + 60 * number for number in range(threads))
        self._threads = dict(enumerate(map(aged, range(threads), ages)))  # by place: moved ones come before 0
        self._ahead, self._apart = ahead, apart
        self._moves: Iterator[Sequence[int]] = iter(())
        super().__init__(self._answer, Policy(batch_size=batch_size))
        self.run()
        assert len(self.stored) == threads

    def take_away(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            del self._threads[number]

    @property
    def is_read(self) -> bool:
        """Whether every thread is stored as it is."""
        rows = self.store.conversations
        return all(rows[each.conversation_id].updated_time == each.updated_time for each in self._threads.values())

    def sweep(self, moves: Moves = (), *, full: bool = True, max_batches: int = 500) -> None:
        """Complete a sweep, in as many runs as it takes."""
        self._moves = iter(moves)
        self.run(full=full, max_batches=max_batches)
        while self.checkpoint.sweep is not None:
            self.run(max_batches=max_batches)
        self._moves = iter(())

    def _answer(self, request: Request) -> Batch:
        """Answer as the API does; a cursor is the place of the thread before it, which may have moved since."""
        for number in next(self._moves, ()):
            self._move(f"t_{number:04}")
        after = int(request.cursor) if request.cursor is not None else min(self._threads) - 1
        places = sorted(place for place in self._threads if place > after)
        listed = places[: request.limit]
        next_cursor = str(listed[-1]) if len(places) > len(listed) else None
        return Batch(tuple(self._threads[place] for place in listed), next_cursor)

    def _move(self, conversation_id: str) -> None:
        self.now += self._apart
        second = (self.now + self._ahead).replace(microsecond=0)
        for place, thread in list(self._threads.items()):
            if thread.conversation_id == conversation_id:
                head = min(self._threads) - 1
                self._threads[head] = replace(self._threads.pop(place), updated_time=second)


ESCAPES_THE_WALK = [[], [35, *range(15)], [], []]  # and is listed behind the first batch of the scan


def test_a_thread_that_escapes_the_walk_and_the_scan_is_found_by_another_scan() -> None:
    world = MovingWorld(40, 10)

    world.sweep([*ESCAPES_THE_WALK, [], [35]])

    assert world.deleted == set()


def test_a_thread_may_escape_several_scans() -> None:
    world = MovingWorld(40, 10)
    escapes_a_scan = [[*range(12)], [35], []]

    world.sweep([*ESCAPES_THE_WALK, [], [35], [], *escapes_a_scan, *escapes_a_scan])

    assert world.cursors.count(None) == 1 + 4, "the walk, three scans that the thread escapes, and one that finds it"
    assert world.deleted == set()


def test_a_first_batch_full_of_the_second_in_which_the_scan_before_began_is_no_snapshot() -> None:
    world = MovingWorld(40, 10)
    world.now += timedelta(seconds=0.5)  # so that the first two batches of the scan are read in one second

    world.sweep([*ESCAPES_THE_WALK, [16], [35, *range(12)], [], [35]])

    assert world.deleted == set()


def test_a_thread_that_escapes_an_incremental_sweep_is_read_by_the_next_one() -> None:
    world = MovingWorld(40, 10)
    escapes_the_walk = [[*range(25)], [35, *range(15)], []]

    world.sweep([*escapes_the_walk, [], [35, *range(12)]], full=False)
    assert not world.is_read

    world.run(after=timedelta(hours=1))
    assert world.is_read


def test_a_scan_whose_first_batch_shows_all_that_moved_is_not_repeated() -> None:
    world = MovingWorld(40, 10)
    world.take_away([20])

    world.sweep([[], [35, 36, 37]])

    assert world.cursors.count(None) == 2, "the walk and one scan"
    assert world.deleted == {"t_0020"}


def test_a_scan_is_not_repeated_if_nothing_is_missed() -> None:
    world = MovingWorld(40, 10)

    world.sweep([[], [*range(15)]])

    assert world.cursors.count(None) == 2, "the walk and one scan"


def test_a_sweep_marks_nothing_if_threads_move_faster_than_it_reads_them() -> None:
    world = MovingWorld(40, 10)
    world.take_away([20])

    world.sweep([[*range(15)]] * 200)
    assert world.cursors.count(None) == 1 + MAX_SCANS
    assert world.deleted == set()

    world.run(after=timedelta(days=1))
    world.sweep()
    assert world.deleted == {"t_0020"}


def test_a_second_with_more_threads_than_a_batch_hides_deletions_only_while_it_is_recent() -> None:
    """Such as after an import. Of that second, threads may move after the first batch of a scan was read."""
    threads = [aged(number, 0) for number in range(30)]
    world = ListWorld(lambda request: listed(threads, request), Policy(batch_size=10))
    world.run()
    del threads[20]

    world.run(full=True, after=timedelta(minutes=1))
    assert world.deleted == set()

    world.run(full=True, after=timedelta(minutes=10))
    assert world.deleted == {"t_0020"}


def test_runs_that_repeat_a_scan_are_not_futile() -> None:
    world = MovingWorld(80, 5, apart=timedelta(seconds=1))
    world.take_away([70])

    world.sweep([[], [*range(60)], *[[]] * 18, [*range(40)]], max_batches=1)

    assert world.deleted == {"t_0070"}
    assert {each.problem for each in ended(world.entries)} == {None}


worlds = st.builds(
    MovingWorld,
    st.integers(12, 30),
    st.integers(1, 7),
    ahead=st.sampled_from((timedelta(), timedelta(hours=2), timedelta(hours=-2))),
    apart=st.sampled_from((timedelta(), timedelta(seconds=1))),
)
lists_of_moves = st.lists(st.lists(st.integers(0, 29), max_size=6), min_size=20, max_size=40)
limits = st.sampled_from((2, 500, 500))


def only_what_is_gone_is_marked(world: MovingWorld, moves: Moves, max_batches: int, data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, len(world.stored) - 1), max_size=5))
    world.take_away(gone)

    world.sweep(moves, max_batches=max_batches)
    assert world.deleted <= {f"t_{number:04}" for number in gone}

    world.run(after=timedelta(days=1))
    world.sweep()
    assert world.deleted == {f"t_{number:04}" for number in gone}


@pytest.mark.parametrize("examples", [15, *long_only(80)])
def test_however_threads_move_only_what_is_gone_is_marked(examples: int) -> None:
    cases = drawn(worlds, lists_of_moves, limits, st.data())
    settings(max_examples=examples, deadline=None)(cases(only_what_is_gone_is_marked))()
