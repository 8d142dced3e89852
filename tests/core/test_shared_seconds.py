"""Deletions where threads share a second with a batch's edge: what is gone is marked, and nothing that is there."""

import pytest
from hypothesis import assume, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from kit.list_worlds import ListWorld, aged, listed, newest_first
from milepost.core.plan import Policy
from milepost.core.walk import MAX_EDGE


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
