"""The summary that `milepost sync` prints."""

from datetime import timedelta

from kit.builders import DEAD_TOKEN, NOON
from milepost.cli.summary_table import rendered
from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.summary import Result

DONE = Run(
    "r_1",
    NOON,
    status=RunStatus.COMPLETE,
    ended_at=NOON + timedelta(seconds=12.34),
    tally=Tally(batches=40, inserted=2000, unchanged=50, contacts=1990, interaction_events=9000),
    retries=3,
)
PAUSED = Run("r_2", NOON, status=RunStatus.PAUSED, reason=Reason.BATCH_LIMIT, ended_at=NOON, tally=Tally(batches=10))
STOPPED = Run("r_3", NOON, status=RunStatus.STOPPED, reason=Reason.AUTHORIZATION, ended_at=NOON, problem=DEAD_TOKEN)


def cells(line: str) -> list[str]:
    return line.split()


def test_a_stream_has_a_line_with_its_counts() -> None:
    table = rendered([Result("messenger:1", DONE)], 12.5).splitlines()
    assert cells(table[1]) == ["messenger:1", "complete", "40", "2,000", "0", "50", "0", "3", "0", "12.3"]
    assert cells(table[2]) == ["total", "40", "2,000", "0", "50", "0", "3", "0", "12.5"]
    assert "100.0% of batches succeeded" in table
    assert "written: 1,990 contacts, 9,000 interaction events" in table


def test_columns_are_aligned() -> None:
    lines = rendered([Result("messenger:1", DONE), Result("instagram:12345", PAUSED)], 1.0).splitlines()[:4]
    assert len({len(line) for line in lines}) == 1


def test_what_is_not_complete_says_why_and_what_happens_next() -> None:
    text = rendered(
        [
            Result("messenger:1", PAUSED),
            Result("messenger:2", STOPPED),
            Result("messenger:3", None, error="the disk is full (make room)"),
        ],
        1.0,
    )
    assert "messenger:1: batch limit; the next sync goes on there" in text
    assert "messenger:2: authorization: it went wrong (code 190)" in text
    assert "messenger:3: the disk is full (make room)" in text
