"""The line of a stream in the live display of a sync."""

import io
from datetime import timedelta

from msgspec.structs import replace

from kit.builders import NETWORK, NOON, RATE_LIMIT, STREAM, at, given, run_started, sweep_started, walking
from kit.notices import recorded, usage_told
from milepost.cli.progress import BesideBars, Progress, line
from milepost.core import events
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Reason, RunEnded, RunStatus, Tally
from milepost.core.model import Stream
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.engine.feed import StoreRetried, UnchangedRead
from milepost.reporting.status import rate_limits_of

LIMITED = events.RateLimited(Scope.APP, 1, NOON, at(7500), RATE_LIMIT)
BATCH = events.BatchStored(walking("c"), Tally(batches=4, inserted=150, unchanged=50))


def drawn(progress: Progress, stream: Stream) -> str:
    """Return the current line of a stream."""
    return progress._bars[stream].desc


def test_a_line_shows_batches_conversations_rate_and_retries() -> None:
    checkpoint = given(run_started(), sweep_started(), BATCH)
    assert line(checkpoint, NOON + timedelta(seconds=2), {}, "Corner Bakery").split() == [
        "Corner", "Bakery", "walk", "200", "conversations", "100/s",
    ]  # fmt: skip


def test_unchanged_batches_count_before_they_are_recorded() -> None:
    checkpoint = replace(given(run_started(), sweep_started(), BATCH), unrecorded=Tally(batches=2, unchanged=100))
    assert "  300 conversations" in line(checkpoint, NOON + timedelta(seconds=1), {}, STREAM.key)


def test_unchanged_batches_do_not_count_towards_the_previous_run() -> None:
    ended = given(run_started(), sweep_started(), BATCH, events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
    checkpoint = replace(ended, unrecorded=Tally(batches=2, unchanged=100))
    assert line(checkpoint, at(3600), {}, STREAM.key).split() == [
        checkpoint.stream.key,
        "starting",
        "100",
        "conversations",
    ]


def test_a_full_sweep_of_a_known_inbox_has_a_bar() -> None:
    first = given(run_started(), sweep_started(), BATCH, events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
    again = given(
        run_started(), sweep_started(), events.BatchStored(walking("c"), Tally(batches=1, unchanged=75)), after=first
    )
    assert "  walk      ██████░░░░░░  50%  75 of 150  " in line(again, NOON + timedelta(seconds=1), {}, "Corner Bakery")
    more = replace(again, unrecorded=Tally(unchanged=80))
    assert "  walk      ████████████ 100%  155 conversations  " in line(more, NOON + timedelta(seconds=1), {}, "")


def test_a_long_name_is_shortened_and_a_line_of_eighty_columns_holds_what_it_waits_for() -> None:
    limited = given(run_started(), sweep_started(), BATCH, LIMITED)
    shown = line(limited, NOON, rate_limits_of([limited]), "Bäckerei und Konditorei an der Ecke messenger")
    assert "waits for the app's rate limit until 14:05 UTC" in shown[:80]


def test_a_retry_is_shown_with_its_reason() -> None:
    checkpoint = given(run_started(), sweep_started(), events.FetchFailed(1, NETWORK, NOON + timedelta(seconds=2)))
    shown = line(checkpoint, NOON, {}, "Corner Bakery")
    assert shown.split("  ")[0] == "Corner Bakery"
    assert "  retrying: it went wrong  " in shown
    assert shown.endswith("1 retry")


def test_the_end_of_a_run_is_shown() -> None:
    done = given(run_started(), sweep_started(), BATCH, events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
    assert line(done, NOON, {}, "Corner Bakery").split() == ["Corner", "Bakery", "complete", "200", "conversations"]


def test_a_wait_for_a_rate_limit_is_shown_with_its_end() -> None:
    limited = given(run_started(), sweep_started(), BATCH, LIMITED)
    holds = rate_limits_of([limited])
    assert (
        line(limited, NOON, holds, "A").split("  ", 1)[1].strip().startswith("waits for the app's rate limit until 14")
    )
    beyond_the_run = given(RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT), after=limited)
    assert "  waits for the app's rate limit until 14:05 UTC  " in line(beyond_the_run, NOON, holds, "A")
    assert line(limited, at(7500), holds, "A").split()[1] == "walk"


def test_a_limit_that_one_stream_reaches_is_shown_on_all_lines_until_it_ends() -> None:
    out = io.StringIO()
    progress = Progress(lambda: NOON, out)
    progress.read(recorded(run_started(), sweep_started(), after=Checkpoint(Stream.parse("messenger:2"))))
    limited = recorded(run_started(), sweep_started(), LIMITED)
    progress.read(limited)
    waits = f"waits for the app's rate limit (met by {STREAM.key}) until 14:05 UTC"
    assert waits in drawn(progress, Stream.parse("messenger:2"))
    progress.read(recorded(BATCH, after=limited.checkpoint))
    assert drawn(progress, Stream.parse("messenger:2")).split()[1] == "walk"
    progress.close()


def test_notices_without_a_checkpoint_draw_no_line() -> None:
    out = io.StringIO()
    Progress(lambda: NOON, out).read(usage_told())
    assert out.getvalue() == ""


def test_foreign_text_cannot_control_the_terminal() -> None:
    foul = Problem(ProblemKind.API, "first\n\x1b[2Jsecond")
    checkpoint = given(run_started(), sweep_started(), events.FetchFailed(1, foul, NOON + timedelta(seconds=2)))
    assert line(checkpoint, NOON, {}, STREAM.key).isprintable()


def test_each_stream_has_a_line_of_its_own_on_the_terminal() -> None:
    out = io.StringIO()
    progress = Progress(lambda: NOON, out)
    progress.read(UnchangedRead(given(run_started()), Tally(), 0.1))
    progress.read(StoreRetried(Stream.parse("instagram:9"), 1, 4.0, 2.0, "disk full"))
    progress.close()
    assert "messenger:" in out.getvalue()
    assert "the database has been unavailable for 4 s: disk full" in out.getvalue()


def test_log_lines_go_above_the_bars() -> None:
    out = io.StringIO()
    assert BesideBars(out).write("a warning\n") == len("a warning\n")
    assert out.getvalue().endswith("a warning\n")
