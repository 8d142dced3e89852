"""The status as people see it."""

from collections.abc import Sequence

from kit.builders import DEAD_TOKEN, NOON, at, given, run_started, sweep_started, walking
from milepost.cli.status_table import rendered
from milepost.cli.stream_status import Status, Surroundings, statuses
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchStored,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Mode,
    Reason,
    RunEnded,
    RunStatus,
    Stage,
    SweepCompleted,
    Tally,
)
from milepost.core.model import Platform, Stream
from milepost.core.problems import Problem, ProblemKind

IDLE = Stream(Platform.MESSENGER, "61590023753730000")
BUSY = Stream(Platform.INSTAGRAM, "61590023753730000")
OPENED = (run_started(), sweep_started())
STORED = BatchStored(walking("c1"), Tally(batches=12, inserted=600, contacts=590, interaction_events=2400))


def text(*checkpoints: Checkpoint, at_work: bool = True, configured: Sequence[str] | None = None) -> str:
    around = Surroundings(at(240), at_work, configured, interval_seconds=240.0)
    return rendered(Status(around.now, "milepost.db", at_work, statuses(checkpoints, around)))


def after(*events: Event, stream: Stream = IDLE) -> Checkpoint:
    return given(*events, after=Checkpoint(stream.key))


def test_the_table_reads_like_this() -> None:
    complete = after(SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, inserted=1234, updated=5)))
    syncing = after(*OPENED, STORED, stream=BUSY)
    assert text(complete, syncing).splitlines() == [
        "stream                       state                 open sweep        place saved    last success   next run",
        "messenger:61590023753730000  complete              -                 4 minutes ago  4 minutes ago  now",
        "instagram:61590023753730000  syncing, at batch 13  full, 12 batches  4 minutes ago  never          under way",
        "",
        "stream                       conversations  updates  contacts  events  open dead letters",
        "messenger:61590023753730000          1,234        5         0       0                  0",
        "instagram:61590023753730000            600        0       590   2,400                  0",
    ]


def test_the_widest_standing_fits_120_columns() -> None:
    longest = after(*OPENED, STORED, RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("c1")))
    assert max(map(len, text(longest, at_work=False).splitlines())) <= 120


def test_a_retry_tells_when_and_why() -> None:
    told = text(after(*OPENED, STORED, FetchFailed(1, Problem(ProblemKind.TIMEOUT, "no answer within 30 s"), at(252))))
    assert "retrying in 12 seconds" in told
    assert f"{IDLE.key}: retrying: no answer within 30 s" in told


def test_a_refused_token_tells_what_to_do() -> None:
    told = text(after(*OPENED, RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)))
    assert "stopped: token" in told
    assert f"{IDLE.key}: stopped: it went wrong (code 190)\n  → give the page a new access_token" in told


def test_other_stops_point_to_the_configuration() -> None:
    told = text(after(*OPENED, RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION, problem=DEAD_TOKEN)))
    assert "stopped: configuration" in told
    assert "→ correct source or pages" in told


def test_limits_are_no_trouble() -> None:
    told = text(after(*OPENED, STORED, RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("c1"))))
    assert "paused: time limit  full, 12 batches" in told
    assert "now" in told
    assert "→" not in told


def test_a_process_that_died_is_named() -> None:
    told = text(after(*OPENED, STORED), at_work=False)
    assert "interrupted: process died  full, 12 batches" in told
    assert "→" not in told


def test_a_failed_run_says_that_the_place_is_saved() -> None:
    told = text(after(*OPENED, RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=DEAD_TOKEN)))
    assert "the place is saved, and the next run tries again" in told


def test_open_dead_letters_are_counted_and_explained() -> None:
    letter = DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str")
    told = text(after(*OPENED, letter, SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, dead_lettered=1))))
    assert "complete with errors" in told
    assert told.splitlines()[4].endswith(" 1")
    assert "kept as dead letters" in told


def test_a_problem_stays_on_its_line() -> None:
    foul = Problem(ProblemKind.API, "first\n\x1b[31msecond")
    told = text(after(*OPENED, RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=foul)))
    assert f"{IDLE.key}: failed: first [31msecond" in told.splitlines()


def test_streams_wait_for_the_daemon_or_for_nothing() -> None:
    checkpoint = after(SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
    assert "when the daemon runs" in text(checkpoint, at_work=False)
    assert "not configured" in text(checkpoint, configured=[BUSY.key])


def test_without_any_stream_it_says_how_to_begin() -> None:
    assert text() == "No stream has been worked yet: `milepost sync` or `milepost run` begins."
