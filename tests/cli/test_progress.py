"""The line that a stream has in the live display of a sync."""

import io
from datetime import timedelta

from msgspec.structs import replace

from kit.builders import NETWORK, NOON, given, run_started, sweep_started, walking
from milepost.cli.progress import BesideBars, Progress, line
from milepost.core.events import BatchStored, FetchFailed, Mode, SweepCompleted, Tally
from milepost.engine.feed import Passed, StoreRetried

BATCH = BatchStored(walking("c"), Tally(batches=4, inserted=150, unchanged=50))


def test_a_line_tells_batches_conversations_rate_and_retries() -> None:
    checkpoint = given(run_started(), sweep_started(), BATCH)
    assert line(checkpoint, NOON + timedelta(seconds=2)).split() == [
        checkpoint.stream, "4", "batches", "200", "conversations", "100/s", "0", "retries", "walk",
    ]  # fmt: skip


def test_batches_that_changed_nothing_count_before_they_are_recorded() -> None:
    checkpoint = replace(given(run_started(), sweep_started(), BATCH), unrecorded=Tally(batches=2, unchanged=100))
    assert " 6 batches      300 conversations" in line(checkpoint, NOON + timedelta(seconds=1))


def test_a_retry_is_told_with_its_reason() -> None:
    checkpoint = given(run_started(), sweep_started(), FetchFailed(1, NETWORK, NOON + timedelta(seconds=2)))
    assert line(checkpoint, NOON).endswith("1 retries  retrying: it went wrong")


def test_the_end_is_told() -> None:
    done = given(run_started(), sweep_started(), BATCH, SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
    assert line(done, NOON).endswith("complete")


def test_each_stream_has_a_line_of_its_own_on_the_terminal() -> None:
    out = io.StringIO()
    progress = Progress(lambda: NOON, out)
    progress.read(Passed(given(run_started()), Tally(), 0.1))
    progress.read(StoreRetried("instagram:9", 1, 4.0, 2.0, "disk full"))
    progress.close()
    assert "messenger:" in out.getvalue()
    assert "the store has been away for 4 s: disk full" in out.getvalue()


def test_log_lines_go_above_the_bars() -> None:
    out = io.StringIO()
    assert BesideBars(out).write("a warning\n") == len("a warning\n")
    assert out.getvalue().endswith("a warning\n")
