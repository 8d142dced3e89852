"""The status as people see it."""

from collections.abc import Sequence
from itertools import takewhile

from kit.builders import (
    BAD_VERSION,
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    at,
    given,
    run_started,
    sweep_started,
    walking,
)
from milepost.cli.status_table import rendered
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchShrunk,
    BatchStored,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Mode,
    RateLimited,
    Reason,
    RunEnded,
    RunStatus,
    Stage,
    SweepCompleted,
    Tally,
)
from milepost.core.model import Detail, Platform, Scope, Stream
from milepost.core.problems import Problem, ProblemKind
from milepost.reporting.status import OPEN_DEAD_LETTERS, ConditionContext, rate_limits_of
from milepost.reporting.views import Status, statuses

IDLE = Stream(Platform.MESSENGER, "61590023753730000")
BUSY = Stream(Platform.INSTAGRAM, "61590023753730000")
OPENED = (run_started(), sweep_started())
STORED = BatchStored(walking("c1"), Tally(batches=12, inserted=600, contacts=590, interaction_events=2400))


def text(*checkpoints: Checkpoint, at_work: bool = True, configured: Sequence[str] | None = None) -> str:
    around = ConditionContext(at(240), at_work, 240.0, 50, rate_limits_of(checkpoints))
    return rendered(Status(around.now, "milepost.db", at_work, statuses(checkpoints, around, configured, {})))


def under(told: str, stream: Stream = IDLE) -> list[str]:
    """Give the lines under a stream's row."""
    lines = told.splitlines()
    below = lines[next(place for place, line in enumerate(lines) if line.startswith(stream.key)) + 1 :]
    return list(takewhile(lambda line: line.startswith("  "), below))


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


def test_the_widest_row_fits_120_columns() -> None:
    longest = after(*OPENED, STORED, RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("c1")))
    assert max(len(line) for line in text(longest, at_work=False).splitlines() if not line.startswith(" ")) <= 120


def test_a_retry_tells_when_and_why() -> None:
    told = text(after(*OPENED, STORED, FetchFailed(1, Problem(ProblemKind.TIMEOUT, "no answer within 30 s"), at(252))))
    assert "retrying in 12 seconds" in told
    waits, problem, _ = under(told)
    attempt = "the next attempt at a batch that could not be read"
    assert waits == f"  waits for {attempt}, since 12:00 UTC (4 minutes ago), until 12:04 UTC (in 12 seconds)"
    assert problem == "  because of this: no answer within 30 s"


def test_a_rate_limit_tells_since_when_until_when_and_that_nothing_need_be_done() -> None:
    limited = after(*OPENED, STORED, RateLimited(Scope.APP, 2, at(-60), at(2100), RATE_LIMIT))
    told = text(limited, after(*OPENED, STORED, stream=BUSY))
    assert told.count("rate limited ") == 2
    reasons = [
        "  because of this: it went wrong (code 613)",
        "  → nothing to do: it continues when the limit is over; further calls would prolong it",
    ]
    since = "since 11:59 UTC (5 minutes ago), until 12:35 UTC (in 31 minutes)"
    assert under(told) == [f"  waits for the app's rate limit, {since}", *reasons]
    assert under(told, BUSY) == [f"  waits for the app's rate limit (met by {IDLE.key}), {since}", *reasons]


def test_a_refused_token_tells_what_to_do_and_when_it_is_probed() -> None:
    told = text(after(*OPENED, RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)))
    assert "stopped: authorization" in told
    waits, problem, advice = under(told)
    assert waits == (
        "  waits for the token or a permission to be fixed, since 12:00 UTC (4 minutes ago), "
        "until 12:30 UTC (in 26 minutes)"
    )
    assert problem == "  because of this: it went wrong (code 190)"
    assert "→ the token is not valid: give page 61590023753730000 a new access_token" in advice


def test_other_stops_point_to_the_configuration() -> None:
    told = text(after(*OPENED, RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION, problem=BAD_VERSION)))
    assert "stopped: configuration" in told
    assert "source.version" in under(told)[-1]


def test_limits_of_a_run_are_no_trouble() -> None:
    told = text(after(*OPENED, STORED, RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("c1"))))
    assert "paused: time limit  full, 12 batches" in told
    assert "until 12:04 UTC (now)" in under(told)[0]
    assert "→" not in told


def test_a_process_that_died_is_named() -> None:
    told = text(after(*OPENED, STORED), at_work=False)
    assert "interrupted: process died  full, 12 batches" in told
    assert "→" not in told


def test_a_run_that_broke_off_in_a_process_that_lives_did_not_die() -> None:
    told = text(after(*OPENED, STORED, RunEnded(RunStatus.INTERRUPTED, Reason.BROKE_OFF)))
    assert "interrupted  " in told
    assert "died" not in told


def test_a_failed_run_is_tried_again_and_says_what_to_look_at() -> None:
    told = text(after(*OPENED, RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK)))
    waits, _, advice = under(told)
    assert waits.startswith("  waits for the next attempt, since 12:00 UTC")
    assert advice.endswith("if it persists, check the network and source.base_url")


def test_open_dead_letters_are_counted_and_explained() -> None:
    dead_letter = DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str")
    told = text(after(*OPENED, dead_letter, SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, dead_lettered=1))))
    assert "complete with errors" in told
    assert under(told) == [f"  → {OPEN_DEAD_LETTERS}"]
    assert told.endswith(" 1")


def test_a_stream_that_asks_for_less_says_so() -> None:
    told = text(after(*OPENED, STORED, BatchShrunk(6, Detail.NESTED, Problem(ProblemKind.API, "too\nmuch", code=1))))
    assert under(told) == ["  requests 6 conversations at a time, because of this: too much (code 1)"]


def test_a_problem_stays_on_its_line() -> None:
    foul = Problem(ProblemKind.API, "first\n\x1b[31msecond")
    told = text(after(*OPENED, RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=foul)))
    assert under(told)[1] == "  because of this: first [31msecond"


def test_streams_wait_for_the_daemon_or_for_nothing() -> None:
    checkpoint = after(SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
    assert "when the daemon runs" in text(checkpoint, at_work=False)
    assert "not configured" in text(checkpoint, configured=[BUSY.key])


def test_without_any_stream_it_says_how_to_begin() -> None:
    assert text() == "No stream has been worked yet: `milepost sync` or `milepost run` begins."
