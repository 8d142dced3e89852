"""The status as people see it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import takewhile

import pytest
from msgspec.structs import replace

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
from milepost.cli.status import rendered
from milepost.core import events
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Reason, RunEnded, RunStatus, Stage, Tally
from milepost.core.model import Detail, Platform, Stream
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.reporting.health import DaemonStatus, Issue, IssueKind, WebhookStatus
from milepost.reporting.status import OPEN_DEAD_LETTERS, ConditionContext, rate_limits_of
from milepost.reporting.views import Status, statuses

IDLE = Stream(Platform.MESSENGER, "61590023753730000")
BUSY = Stream(Platform.INSTAGRAM, "61590023753730000")
OPENED = (run_started(), sweep_started())
STORED = events.BatchStored(walking("c1"), Tally(batches=12, inserted=600, contacts=590, interaction_events=2400))


def text(*checkpoints: Checkpoint, at_work: bool = True, configured: Sequence[Stream] | None = None) -> str:
    around = ConditionContext(at(240), at_work, 240.0, 50, rate_limits_of(checkpoints))
    return "\n".join(
        rendered(Status(around.now, "milepost.db", at_work, statuses(checkpoints, around, configured, {})))
    )


def text_of_daemon(daemon: DaemonStatus, *checkpoints: Checkpoint) -> str:
    around = ConditionContext(at(240), True, 240.0, 50, rate_limits_of(checkpoints))
    shown = statuses(checkpoints, around, None, {}, daemon)
    return "\n".join(rendered(Status(around.now, "milepost.db", True, shown, daemon)))


def daemon_with(
    *issues: Issue, queued: Mapping[str, datetime] | None = None, slowed: Mapping[str, str] | None = None
) -> DaemonStatus:
    return DaemonStatus(at(240), "1", issues, queued or {}, slowed or {})


def test_what_is_wrong_with_the_daemon_comes_first_and_what_to_do() -> None:
    away = Issue(IssueKind.STORE_AWAY, "the database is unavailable", NOON, "the disk is full", "make room")
    reload = Issue(IssueKind.RELOAD_REFUSED, "the configuration could not be reloaded", NOON, "found 5")
    lines = text_of_daemon(daemon_with(away, reload), after(*OPENED, STORED)).splitlines()
    assert lines[:5] == [
        "The database is unavailable since 12:00 UTC (4 minutes ago): the disk is full",
        "  → make room",
        "The configuration could not be reloaded since 12:00 UTC (4 minutes ago): found 5",
        "",
        "stream                       state     open sweep        last saved     last success  next run",
    ]
    assert lines[5].startswith("messenger:61590023753730000  retrying  ")
    assert lines[6] == "  waits for the database, since 12:00 UTC (4 minutes ago)"


@pytest.mark.parametrize(
    ("webhooks", "line"),
    [
        (WebhookStatus(0, None, 0), "0 webhooks since the start"),
        (
            WebhookStatus(1250, at(120), 3),
            "1,250 webhooks since the start, the last 2 minutes ago; 3 messages came without one",
        ),
    ],
)
def test_what_has_come_by_webhooks_comes_last(webhooks: WebhookStatus, line: str) -> None:
    daemon = replace(daemon_with(), webhooks=webhooks)
    assert text_of_daemon(daemon, after(*OPENED, STORED)).splitlines()[-2:] == ["", line]


def test_without_streams_the_reason_is_all_there_is_to_say() -> None:
    none = Issue(IssueKind.NOTHING_TO_DO, "there is no stream to work on", reason="the configuration lists no page")
    assert text_of_daemon(daemon_with(none)) == "There is no stream to work on: the configuration lists no page"


def test_a_stream_that_waits_for_a_slot_and_one_that_is_slow_say_so() -> None:
    daemon = daemon_with(queued={IDLE.key: at(180)}, slowed={BUSY.page_id: "calls are 8 seconds apart"})
    table = text_of_daemon(daemon, Checkpoint(IDLE), after(*OPENED, STORED, stream=BUSY))
    waits, remark = under(table)
    assert waits.startswith("  waits for a free slot (sync.concurrency limits")
    assert waits.endswith("since 12:03 UTC (60 seconds ago)")
    assert remark == "  calls are 8 seconds apart"
    assert under(table, BUSY) == ["  calls are 8 seconds apart"]


def under(table: str, stream: Stream = IDLE) -> list[str]:
    """Return the lines under a stream's row."""
    lines = table.splitlines()
    below = lines[next(place for place, line in enumerate(lines) if line.startswith(stream.key)) + 1 :]
    return list(takewhile(lambda line: line.startswith("  "), below))


def after(*happened: events.Event, stream: Stream = IDLE) -> Checkpoint:
    return given(*happened, after=Checkpoint(stream))


def test_the_table_reads_like_this() -> None:
    complete = after(events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, inserted=1234, updated=5)))
    syncing = after(*OPENED, STORED, stream=BUSY)
    assert text(complete, syncing).splitlines() == [
        "stream                       state                 open sweep        last saved     last success   next run",
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


def test_a_retry_is_shown_with_its_time_and_reason() -> None:
    table = text(
        after(*OPENED, STORED, events.FetchFailed(1, Problem(ProblemKind.TIMEOUT, "no answer within 30 s"), at(252)))
    )
    assert "retrying in 12 seconds" in table
    waits, problem, _ = under(table)
    attempt = "the next attempt at a batch that could not be read"
    assert waits == f"  waits for {attempt}, since 12:00 UTC (4 minutes ago), until 12:04 UTC (in 12 seconds)"
    assert problem == "  cause: no answer within 30 s"


def test_a_rate_limit_is_shown_with_its_start_its_end_and_that_nothing_is_to_do() -> None:
    limited = after(*OPENED, STORED, events.RateLimited(Scope.APP, 2, at(-60), at(2100), RATE_LIMIT))
    table = text(limited, after(*OPENED, STORED, stream=BUSY))
    assert table.count("rate limited ") == 2
    reasons = [
        "  cause: it went wrong (code 613)",
        "  → nothing to do: it continues when the limit is over; further calls would prolong it",
    ]
    since = "since 11:59 UTC (5 minutes ago), until 12:35 UTC (in 31 minutes)"
    assert under(table) == [f"  waits for the app's rate limit, {since}", *reasons]
    assert under(table, BUSY) == [f"  waits for the app's rate limit (met by {IDLE.key}), {since}", *reasons]


def test_a_refused_token_is_shown_with_what_to_do_and_its_next_probe() -> None:
    table = text(after(*OPENED, RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)))
    assert "stopped: authorization" in table
    waits, problem, advice = under(table)
    assert waits == (
        "  waits for the token or a permission to be fixed, since 12:00 UTC (4 minutes ago), "
        "until 12:30 UTC (in 26 minutes)"
    )
    assert problem == "  cause: it went wrong (code 190)"
    assert "→ the token is not valid: give page 61590023753730000 a new access_token" in advice


def test_other_stops_point_to_the_configuration() -> None:
    table = text(after(*OPENED, RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION, problem=BAD_VERSION)))
    assert "stopped: configuration" in table
    assert "source.version" in under(table)[-1]


def test_a_run_that_stopped_at_a_limit_needs_no_advice() -> None:
    table = text(after(*OPENED, STORED, RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("c1"))))
    assert "paused: time limit  full, 12 batches" in table
    assert "until 12:04 UTC (now)" in under(table)[0]
    assert "→" not in table


def test_a_process_that_died_is_shown() -> None:
    table = text(after(*OPENED, STORED), at_work=False)
    assert "interrupted: process died  full, 12 batches" in table
    assert "→" not in table


def test_a_run_that_broke_off_in_a_process_that_lives_did_not_die() -> None:
    table = text(after(*OPENED, STORED, RunEnded(RunStatus.INTERRUPTED, Reason.BROKE_OFF)))
    assert "interrupted  " in table
    assert "died" not in table


def test_a_failed_run_is_retried_and_says_what_to_check() -> None:
    table = text(after(*OPENED, RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK)))
    waits, _, advice = under(table)
    assert waits.startswith("  waits for the next attempt, since 12:00 UTC")
    assert advice.endswith("if it persists, check the network and source.base_url")


def test_open_dead_letters_are_counted_and_explained() -> None:
    dead_letter = events.DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str")
    table = text(
        after(*OPENED, dead_letter, events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, dead_lettered=1)))
    )
    assert "complete with errors" in table
    assert under(table) == [f"  → {OPEN_DEAD_LETTERS}"]
    assert table.endswith(" 1")


def test_a_stream_with_a_reduced_request_says_so() -> None:
    table = text(
        after(*OPENED, STORED, events.BatchShrunk(6, Detail.NESTED, Problem(ProblemKind.API, "too\nmuch", code=1)))
    )
    assert under(table) == ["  requests 6 conversations at a time, because of this: too much (code 1)"]


def test_a_problem_stays_on_its_line() -> None:
    foul = Problem(ProblemKind.API, "first\n\x1b[31msecond")
    table = text(after(*OPENED, RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=foul)))
    assert under(table)[1] == "  cause: first \\x1b[31msecond"


def test_streams_wait_for_the_daemon_or_for_nothing() -> None:
    checkpoint = after(events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
    assert "when the daemon runs" in text(checkpoint, at_work=False)
    assert "not configured" in text(checkpoint, configured=[BUSY])


def test_without_any_stream_it_says_how_to_start() -> None:
    assert text() == "No stream has been synced yet: start with `milepost sync` or `milepost run`."
