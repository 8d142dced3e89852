"""A stream whose last run ended in an error, and that gets somewhere again, is told once."""

from collections.abc import Iterator

import pytest
import structlog
from msgspec.structs import replace
from structlog.testing import capture_logs

from kit.builders import (
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RUN_ID,
    STREAM,
    at,
    entries,
    given,
    run_started,
    sweep_started,
    walking,
)
from kit.notices import passed, recorded
from milepost.core.events import (
    BatchStored,
    Event,
    FetchFailed,
    Mode,
    Reason,
    RunEnded,
    RunStatus,
    SweepCompleted,
    Tally,
)
from milepost.service.logs.recoveries import Recoveries

FAILED = RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK)
STOPPED = RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)
STORED = BatchStored(walking("a"), Tally(batches=1, inserted=1))
COMPLETED = SweepCompleted(Mode.FULL, NOON, NOON, Tally())


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def told(*events: Event) -> list[tuple[str, str]]:
    """Give the streams and events that are told when these events are committed one by one."""
    reader, after = Recoveries(), given(run_started(), sweep_started())
    with capture_logs() as lines:
        for event in events:
            reader.read(recorded(event, after=after))
    return [(line["stream"], line["event"]) for line in lines]


@pytest.mark.parametrize("error", [FAILED, STOPPED])
@pytest.mark.parametrize("progress", [STORED, COMPLETED])
def test_the_first_that_is_committed_after_an_error_is_told_and_nothing_more(error: Event, progress: Event) -> None:
    assert told(error, progress, progress) == [(STREAM.key, "reads again")]


def test_however_often_it_had_failed_it_is_told_once() -> None:
    assert told(FAILED, FAILED, FAILED, STORED, STORED) == [(STREAM.key, "reads again")]


@pytest.mark.parametrize(
    "before",
    [
        FetchFailed(1, NETWORK, at(2)),
        RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT),
        RunEnded(RunStatus.INTERRUPTED, Reason.BROKE_OFF),
    ],
)
def test_what_was_no_error_has_no_end(before: Event) -> None:
    assert told(before, STORED) == []


def test_a_try_that_fails_again_is_no_recovery() -> None:
    assert told(FAILED, FetchFailed(1, NETWORK, at(2)), FAILED) == []


def test_it_says_in_which_run_and_how_long_it_took() -> None:
    reader, after = Recoveries(), given(run_started(), sweep_started())
    later = replace(recorded(STORED, after=after), entries=entries(STORED, after=after, recorded_at=at(90)))
    with capture_logs() as lines:
        for signal in (recorded(FAILED, after=after), passed(), later):
            reader.read(signal)
    (line,) = lines
    assert (line["log_level"], line["run"], line["after_seconds"]) == ("info", RUN_ID, 90.0)
