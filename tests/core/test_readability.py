"""Batches in another form than expected: they stop the stream instead of making an inbox of dead letters."""

from collections.abc import Sequence

import pytest

from kit.builders import batch, checkpoint_of, context, conversation, fetched, unreadable
from kit.decisions import decision_on, events
from milepost.core.doubts import MIN_OPEN, MIN_UNREADABLE, unexpected_form
from milepost.core.events import DeadLetterOpened, Reason, RunEnded, RunStatus, Tally
from milepost.core.model import Conversation, Unreadable
from milepost.core.problems import ProblemKind

Items = Sequence[Conversation | Unreadable]


def good(count: int) -> Items:
    return [conversation(f"t_{n}") for n in range(count)]


def odd(count: int, reason: str = "updated_time is missing") -> Items:
    return [unreadable(f"odd_{n}", reason) for n in range(count)]


def odd_inside(count: int) -> Items:
    """Return messages that cannot be read, of conversations that were."""
    return [unreadable(f"t_{n}/messages", "messages without a time") for n in range(count)]


@pytest.mark.parametrize(
    ("items", "before"),
    [
        pytest.param(odd(50), Tally(), id="all of a batch"),
        pytest.param([*good(4), *odd(46)], Tally(), id="nearly all of a batch"),
        pytest.param([*good(20), *odd_inside(20)], Tally(), id="the messages of all"),
        pytest.param([*odd(45), *odd(5, "id is missing")], Tally(), id="nearly all for the same reason"),
        pytest.param(odd(50), Tally(batches=1, unchanged=2), id="nearly all of a sweep"),
        pytest.param(odd(50), Tally(batches=20, unchanged=1000), id="a form that changes in the middle of an inbox"),
        pytest.param(odd(10), Tally(batches=104, unchanged=1000, unreadable=40), id="likewise, in small batches"),
    ],
)
def test_what_nearly_all_rows_have_in_common_is_a_problem_of_the_answer(items: Items, before: Tally) -> None:
    found = unexpected_form(batch(*items), before)

    assert found is not None
    assert found.kind is ProblemKind.MISCONFIGURED


@pytest.mark.parametrize(
    ("items", "before"),
    [
        pytest.param([], Tally(), id="an empty batch"),
        pytest.param(good(50), Tally(), id="a good batch"),
        pytest.param(odd(1), Tally(), id="a batch of one odd row"),
        pytest.param(odd(1), Tally(batches=4, unreadable=4), id="the fifth batch of one"),
        pytest.param(odd(MIN_UNREADABLE - 1), Tally(), id="an inbox of a few odd rows"),
        pytest.param([*good(47), *odd(3)], Tally(), id="three odd rows among many"),
        pytest.param([*good(25), *odd(25)], Tally(), id="half of a batch"),
        pytest.param([*good(20), *odd_inside(3)], Tally(), id="the messages of three"),
        pytest.param(odd(20), Tally(batches=20, unchanged=1000), id="the end of a good inbox"),
        pytest.param(odd(1), Tally(batches=1000, unchanged=900, unreadable=99), id="one in ten, batch by batch"),
        pytest.param([unreadable(f"t_{n}", f"reason {n}") for n in range(50)], Tally(), id="each for its own reason"),
    ],
)
def test_rows_that_are_odd_each_by_itself_are_dead_letters(items: Items, before: Tally) -> None:
    assert unexpected_form(batch(*items), before) is None


def test_batches_of_one_row_count_the_dead_letters_that_are_open() -> None:
    """Each is about another row, while a sweep may meet a row more than once."""
    before = Tally(batches=40, unreadable=40)

    assert unexpected_form(batch(*odd(1)), before, MIN_OPEN) is not None
    assert unexpected_form(batch(*odd(1)), before, MIN_OPEN - 1) is None
    assert unexpected_form(batch(*good(1)), before, MIN_OPEN) is None
    assert unexpected_form(batch(*odd(1)), Tally(), MIN_OPEN) is None, "those of before say nothing of this sweep"
    assert unexpected_form(batch(*odd(1)), Tally(batches=80, unchanged=40, unreadable=40), MIN_OPEN) is None


def test_the_stream_stops_for_its_configuration_and_opens_no_dead_letter() -> None:
    decision = decision_on(checkpoint_of(), fetched(*odd(50)), context())

    *_, ended = events(decision)
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.reason) == (RunStatus.STOPPED, Reason.CONFIGURATION)
    assert ended.problem is not None
    assert "50 of 50 conversations" in ended.problem.message
    assert "source.version" in ended.problem.message
    assert not any(isinstance(event, DeadLetterOpened) for event in events(decision))
