"""walk.next_position: older conversations out of order end neither walk nor scan, however small the batches are.

A batch that is too large is read in small ones, and a handful of older rows fills one of them: as long as fewer than
ten came in a row, newer ones may follow.
"""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from kit.builders import at, conversation, fetched
from kit.decisions import scanning, then, walking
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Conversation
from milepost.core.position import Mode, Phase

ENOUGH = 10
NEW, OLD = -60.0, -7200.0  # the walk goes back to one hour before noon, the scan to ten minutes before
PHASES = {Phase.WALK: walking(mode=Mode.INCREMENTAL), Phase.CATCH_UP: scanning("after 1")}


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
