"""The summary that `milepost sync` prints."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from kit.builders import DEAD_TOKEN, NETWORK, NOON, RATE_LIMIT, STREAM, at, given, run_started, sweep_started, walking
from milepost.cli.options import Titles
from milepost.cli.sync_actions import Synced, rendered
from milepost.cli.terminal import Terminal
from milepost.core import events
from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.events import Reason, RunEnded, RunStatus, Stage, Tally
from milepost.core.model import Stream
from milepost.core.ports import Held, RunResult
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.reporting.advice import advice_on
from milepost.reporting.status import OPEN_DEAD_LETTERS, ConditionContext, condition, rate_limits_of

DONE = Run(
    "r_1",
    NOON,
    status=RunStatus.COMPLETE,
    ended_at=NOON + timedelta(seconds=12.34),
    tally=Tally(batches=40, inserted=2000, unchanged=50, contacts=1990, interaction_events=9000),
    retries=3,
)
PAUSED = Run("r_2", NOON, status=RunStatus.PAUSED, reason=Reason.BATCH_LIMIT, ended_at=NOON, tally=Tally(batches=10))

READ = (run_started(), sweep_started(), events.BatchStored(walking("c1"), Tally(batches=1, inserted=50)))
LIMITED = events.RateLimited(Scope.PAGE, 1, NOON, at(7500), RATE_LIMIT)


def explanations(*checkpoints: Checkpoint, of_run: bool = True) -> list[str]:
    """Return the lines below the totals, for streams with these checkpoints after a sync."""
    around = ConditionContext(NOON, False, 300.0, 50, rate_limits_of(checkpoints))
    conditions = {each.stream: condition(each, around) for each in checkpoints}
    results = [RunResult(each.stream, each.run if of_run else None) for each in checkpoints]
    lines = rendered(Synced(results, 1.0, conditions), NOON)
    return lines[lines.index("") + 3 :]


def after(*happened: events.Event, stream: Stream = STREAM) -> Checkpoint:
    return given(*READ, *happened, after=Checkpoint(stream))


def table(*results: RunResult) -> list[str]:
    return rendered(Synced(results, 12.5), NOON)


def cells(line: str) -> list[str]:
    return line.split()


def test_a_stream_has_a_line_with_its_counts() -> None:
    lines = table(RunResult(Stream.parse("messenger:1"), DONE))
    assert cells(lines[1]) == ["messenger:1", "complete", "40", "2,000", "0", "50", "0", "3", "0", "12.3"]
    assert cells(lines[2]) == ["total", "40", "2,000", "0", "50", "0", "3", "0", "12.5"]
    assert "100.0% of batches succeeded" in lines
    assert "written: 1,990 contacts, 9,000 interaction events" in lines


def test_a_sync_that_read_nothing_does_not_claim_that_it_succeeded() -> None:
    untouched = RunResult(Stream.parse("messenger:1"), None)
    failed = RunResult(
        Stream.parse("messenger:2"), Run("r_3", NOON, status=RunStatus.STOPPED, ended_at=NOON, retries=2)
    )
    for results in ([], [untouched], [untouched, failed]):
        said = "\n".join(table(*results))
        assert "no batch was read" in said
        assert "%" not in said


def test_a_sync_without_streams_says_why_there_are_none() -> None:
    lines = rendered(Synced([], 1.0, undiscovered=DEAD_TOKEN), NOON)
    assert lines[-2] == "source.discover_pages: the pages could not be discovered: it went wrong (code 190)"
    assert "give source.access_token a new token" in lines[-1]
    held = rendered(Synced([], 1.0, undiscovered=Held()), NOON)
    assert (
        held[-1]
        == "source.discover_pages: the pages were not discovered: a rate limit forbids the call, or a stop came first"
    )


def test_columns_are_aligned() -> None:
    lines = table(RunResult(Stream.parse("messenger:1"), DONE), RunResult(Stream.parse("instagram:12345"), PAUSED))[:4]
    assert len({len(line) for line in lines}) == 1


def test_a_complete_stream_has_no_explanation() -> None:
    assert explanations(after(events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))) == []


@pytest.mark.parametrize(
    ("happened", "lines"),
    [
        (
            [RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("c1"))],
            [f"{STREAM.key}: batch limit; the next sync continues there"],
        ),
        (
            [LIMITED, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, walking("c1"), problem=RATE_LIMIT)],
            [
                f"{STREAM.key}: waits for the page's rate limit until 14:05 UTC: it went wrong (code 613)",
                "  → nothing to do: it continues when the limit is over; further calls would prolong it",
            ],
        ),
        (
            [
                events.DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str"),
                events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, dead_lettered=1)),
            ],
            [
                f"{STREAM.key}: complete, but with dead letters",
                f"  → {OPEN_DEAD_LETTERS}",
            ],
        ),
        (
            [
                events.BatchFailed(Stage.FETCH, 3, NETWORK),
                RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK),
            ],
            [
                f"{STREAM.key}: retries exhausted: it went wrong",
                f"  → {advice_on(NETWORK, STREAM)}",
            ],
        ),
    ],
    ids=["batch limit", "rate limit", "dead letters", "failed"],
)
def test_an_incomplete_stream_says_why_until_when_and_what_to_do(
    happened: Sequence[events.Event], lines: list[str]
) -> None:
    assert explanations(after(*happened)) == lines


def test_a_stopped_stream_says_what_has_to_be_fixed() -> None:
    why, advice = explanations(after(RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)))
    assert why == f"{STREAM.key}: authorization: it went wrong (code 190)"
    assert "give page 1234567890 a new access_token" in advice


def test_a_stream_held_up_by_the_limit_of_another_says_so() -> None:
    limited = after(LIMITED, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT))
    lines = explanations(limited, Checkpoint(Stream.parse(f"instagram:{STREAM.page_id}")), of_run=False)
    assert f"instagram:{STREAM.page_id}: waits for the page's rate limit (met by {STREAM.key}) until" in lines[2]


def test_an_error_is_shown_on_its_line() -> None:
    lines = table(RunResult(Stream.parse("messenger:3"), None, error="the disk is full\n\x1b[2J(make room)"))
    assert "messenger:3: the disk is full \\x1b[2J(make room)" in lines


def test_foreign_text_stays_on_its_line() -> None:
    foul = Problem(ProblemKind.API, "first\n\x1b[31msecond", code=190)
    lines = explanations(after(RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=foul)))
    assert lines[0] == f"{STREAM.key}: authorization: first \\x1b[31msecond (code 190)"


def test_the_summary_fits_eighty_columns_with_the_names_of_pages_first() -> None:
    results = [
        RunResult(Stream.parse("messenger:61590023753730000"), DONE),
        RunResult(Stream.parse("instagram:61590023753730000"), PAUSED),
    ]
    titles = Titles({"61590023753730000": "Corner Bakery"})
    lines = rendered(Synced(results, 12.5, titles=titles), NOON, Terminal(80))
    assert max(map(len, lines)) <= 80
    heading, first, second, total, *_ = map(cells, lines)
    assert (heading[:3], total[0]) == (["page", "stream", "status"], "total")
    assert {"inserted", "dead-lettered"} <= set(heading)
    assert (first[:2], second[:2]) == (["Corner", "Bakery"], ["Corner", "Bakery"])
    assert "Corner Bakery (instagram:61590023753730000): batch limit; the next sync" in " ".join(lines)
