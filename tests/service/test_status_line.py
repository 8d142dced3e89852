"""The line of `systemctl status`: what all streams are at, in plain words."""

from kit.builders import (
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    STREAM,
    at,
    given,
    run_started,
    sweep_started,
    walking,
)
from kit.notices import passed, recorded, store_retried
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchStored,
    Event,
    FetchFailed,
    Mode,
    RateLimited,
    Reason,
    RunEnded,
    RunStatus,
    StreamPaused,
    SweepCompleted,
    Tally,
)
from milepost.core.model import Platform, Scope, Stream
from milepost.reporting.status import State
from milepost.service.status_line import WORDS, StatusLine

OTHER = Stream(Platform.MESSENGER, "2")
THIRD = Stream(Platform.MESSENGER, "3")
SIBLING = Stream(Platform.INSTAGRAM, STREAM.page_id)
WALKING = (run_started(), sweep_started(), BatchStored(walking("c1"), Tally(batches=1, inserted=50)))
LIMITED = RateLimited(Scope.PAGE, 1, NOON, at(7500), RATE_LIMIT)
COMPLETED = SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1))


def standing_at(stream: Stream, *events: Event) -> Checkpoint:
    return given(*events, after=Checkpoint(stream.key))


def line_of(*checkpoints: Checkpoint) -> StatusLine:
    streams = [Stream.parse(each.stream) for each in checkpoints]
    line = StatusLine(lambda: streams)
    for checkpoint in checkpoints:
        line.load(checkpoint)
    return line


def test_it_says_how_many_streams_are_at_what_and_until_when_a_limit_lasts() -> None:
    line = line_of(standing_at(STREAM, *WALKING, LIMITED), standing_at(OTHER, *WALKING), standing_at(THIRD, *WALKING))
    assert line.words(NOON) == "3 streams: 2 syncing, 1 waits for the page's rate limit until 14:05 UTC"


def test_a_limit_counts_for_all_whom_it_holds_up_until_the_last_may_go_on() -> None:
    line = line_of(standing_at(STREAM, *WALKING, LIMITED), standing_at(SIBLING, *WALKING))
    assert line.words(NOON) == "2 streams: 2 wait for the page's rate limit until 14:05 UTC"


def test_a_limit_that_is_over_holds_nobody_up() -> None:
    line = line_of(standing_at(STREAM, *WALKING, LIMITED), standing_at(SIBLING, *WALKING))
    assert line.words(at(7510)) == "2 streams: 2 syncing"


def test_a_stream_without_anything_left_to_read_waits_for_no_limit() -> None:
    line = line_of(standing_at(STREAM, *WALKING, LIMITED), standing_at(SIBLING, *WALKING, COMPLETED))
    assert "1 up to date" in line.words(NOON)


def test_it_tells_of_streams_that_need_somebody_after_those_that_work() -> None:
    stopped = RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)
    line = line_of(
        standing_at(OTHER, *WALKING, stopped),
        standing_at(SIBLING, *WALKING, FetchFailed(1, NETWORK, at(2))),
        standing_at(STREAM, StreamPaused("ada")),
        Checkpoint(THIRD.key),
    )
    assert line.words(NOON) == (
        "4 streams: 1 retrying, 1 about to begin, "
        "1 stopped until somebody mends the token or the configuration, 1 paused by somebody"
    )


def test_it_follows_what_is_committed_and_what_is_passed_over() -> None:
    line = StatusLine(lambda: [STREAM])
    assert line.words(NOON) == "1 stream: 1 about to begin"
    line.read(recorded(*WALKING))
    assert line.words(NOON) == "1 stream: 1 syncing"
    line.read(store_retried())
    line.read(passed(given(*WALKING, COMPLETED)))
    assert line.words(NOON) == "1 stream: 1 up to date"


def test_it_counts_those_that_are_worked_whatever_is_recalled_of_others() -> None:
    line = StatusLine(list)
    line.load(standing_at(OTHER, *WALKING))
    assert line.words(NOON) == "no streams to sync"


def test_every_state_that_is_no_rate_limit_has_words() -> None:
    assert set(WORDS) == set(State) - {State.RATE_LIMITED}
