"""The live view: what each stream is doing between two entries, its state for the gauges, and the status line."""

from datetime import datetime, timedelta

from kit.builders import DEAD_TOKEN, NETWORK, NOON, RATE_LIMIT, STREAM, at, given, run_started, sweep_started, walking
from kit.notices import passed, store_retried
from milepost.core import events
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.evolve import skip_unchanged
from milepost.core.model import Platform, Stream
from milepost.core.ports import Committed
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.engine.feed import Recorded, UnchangedRead
from milepost.reporting.live import MAX_AGE, WORDS, LiveStreams
from milepost.reporting.status import ConditionContext, State
from milepost.reporting.views import StreamStatus, status_of

OTHER = Stream(Platform.MESSENGER, "2")
THIRD = Stream(Platform.MESSENGER, "3")
SIBLING = Stream(Platform.INSTAGRAM, STREAM.page_id)
STARTED = (run_started(), sweep_started(), events.BatchStored(walking("c1"), events.Tally(batches=1, inserted=50)))
COMPLETED = events.SweepCompleted(Mode.FULL, NOON, NOON, events.Tally(batches=4, inserted=200))
LIMITED = events.RateLimited(Scope.PAGE, 1, NOON, at(7500), RATE_LIMIT)
QUIET = events.Tally(batches=1, unchanged=50)
WALKING = given(*STARTED)
COMPLETE = given(COMPLETED)


class Clock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def checkpoint_of(stream: Stream, *history: events.Event) -> Checkpoint:
    return given(*history, after=Checkpoint(stream))


def recorded(checkpoint: Checkpoint) -> Recorded:
    return Recorded((), Committed(1, 0.0, 0.0), checkpoint, 0.0, None)


def unchanged(checkpoint: Checkpoint, batches: int = 1) -> UnchangedRead:
    """Read batches that change nothing."""
    sweep = WALKING.sweep
    assert sweep is not None
    for _ in range(batches):
        checkpoint = skip_unchanged(checkpoint, BatchUnchanged(sweep, QUIET))
    return UnchangedRead(checkpoint, QUIET, 0.1)


def live_view(*checkpoints: Checkpoint, now: datetime = NOON) -> LiveStreams:
    live = LiveStreams(Clock(now))
    for checkpoint in checkpoints:
        live.read(recorded(checkpoint))
    return live


def line_of(*checkpoints: Checkpoint, now: datetime = NOON) -> str:
    return live_view(*checkpoints, now=now).status_line([each.stream for each in checkpoints])


def states(live: LiveStreams) -> dict[str, State]:
    return {checkpoint.stream.key: state for checkpoint, state in live.states()}


def status(checkpoint: Checkpoint, now: datetime) -> StreamStatus:
    context = ConditionContext(now, is_at_work=True, interval_seconds=300.0, batch_size=50)
    return status_of(checkpoint, context, {}, is_configured=True)


# --- between two entries ----------------------------------------------------------------------------------------------


def test_a_sweep_that_finds_nothing_new_makes_visible_progress() -> None:
    live = LiveStreams(clock := Clock())
    live.read(unchanged(WALKING, batches=2))
    shown = status(live.since(WALKING), clock.now)
    assert shown.sweep is not None
    assert (shown.sweep.batches, shown.sweep.conversations) == (3, 150)
    assert shown.state is State.SYNCING


def test_a_run_without_an_entry_so_far_is_syncing_and_has_no_next_run() -> None:
    live = LiveStreams(clock := Clock())
    live.read(unchanged(COMPLETE))
    before, after = status(COMPLETE, clock.now), status(live.since(COMPLETE), clock.now)
    assert (before.state, before.next_run_at is None) == (State.COMPLETE, False)
    assert (after.state, after.next_run_at) == (State.SYNCING, None)


def test_the_next_entry_replaces_what_came_before() -> None:
    live = LiveStreams(Clock())
    live.read(unchanged(COMPLETE))
    live.read(recorded(WALKING))
    assert live.since(WALKING) == WALKING
    assert live.since(COMPLETE) == COMPLETE


def test_an_entry_in_the_journal_that_the_view_has_not_read_yet_counts_for_more() -> None:
    live = LiveStreams(Clock())
    live.read(unchanged(WALKING))
    assert live.since(COMPLETE) == COMPLETE


def test_an_entry_that_comes_again_from_the_follower_takes_nothing_back() -> None:
    live = LiveStreams(Clock())
    live.read(recorded(WALKING))
    live.read(progress := unchanged(WALKING))
    live.read(recorded(WALKING))
    assert live.since(WALKING) == progress.checkpoint
    assert states(live) == {STREAM.key: State.SYNCING}


def test_a_run_that_broke_off_is_not_shown_as_running_for_ever() -> None:
    live = LiveStreams(clock := Clock())
    live.read(unchanged(WALKING))
    clock.now += MAX_AGE - timedelta(seconds=1)
    assert live.since(WALKING) != WALKING
    clock.now += timedelta(seconds=1)
    assert live.since(WALKING) == WALKING


def test_a_stream_that_the_view_knows_nothing_of_stands_where_the_journal_says() -> None:
    assert LiveStreams(Clock()).since(Checkpoint(STREAM)) == Checkpoint(STREAM)


# --- states -----------------------------------------------------------------------------------------------------------


def test_a_run_that_a_dead_process_left_open_is_interrupted_until_the_stream_is_worked() -> None:
    live = LiveStreams(Clock())
    live.load(WALKING)
    assert states(live) == {STREAM.key: State.INTERRUPTED}
    live.read(unchanged(WALKING))
    assert states(live) == {STREAM.key: State.SYNCING}


def test_a_stream_is_retrying_from_when_the_store_is_away_until_it_gets_on() -> None:
    live = live_view(WALKING)
    live.read(store_retried())
    assert states(live) == {STREAM.key: State.RETRYING}
    assert live.status_line([STREAM]) == "1 stream: 1 retrying"
    live.read(unchanged(WALKING))
    assert states(live) == {STREAM.key: State.SYNCING}


def test_a_removed_stream_has_no_state_but_its_rate_limit_still_holds_others() -> None:
    app = events.RateLimited(Scope.APP, 1, NOON, at(7500), RATE_LIMIT)
    live = live_view(checkpoint_of(STREAM, *STARTED, app, events.StreamRemoved("Ada")), checkpoint_of(OTHER, *STARTED))
    assert states(live) == {OTHER.key: State.RATE_LIMITED}
    assert live.removed() == [STREAM]


def test_while_the_database_is_away_no_stream_is_syncing() -> None:
    is_away = True
    live = LiveStreams(Clock(), is_store_away=lambda: is_away)
    for checkpoint in (WALKING, checkpoint_of(OTHER, COMPLETED), Checkpoint(THIRD)):
        live.read(recorded(checkpoint))
    assert states(live) == {STREAM.key: State.RETRYING, OTHER.key: State.COMPLETE, THIRD.key: State.RETRYING}
    assert live.status_line([STREAM, OTHER, THIRD]) == "3 streams: 2 retrying, 1 up to date"
    is_away = False
    assert states(live)[STREAM.key] is State.SYNCING


def test_a_stream_whose_run_gave_up_is_not_retrying_for_longer_than_the_database_is_away() -> None:
    away = [True]
    live = LiveStreams(Clock(), is_store_away=lambda: away[0])
    live.read(recorded(COMPLETE))
    live.read(store_retried())
    assert states(live) == {STREAM.key: State.RETRYING}
    away[0] = False
    assert states(live) == {STREAM.key: State.COMPLETE}


def test_a_stream_that_waits_for_a_slot_is_neither_syncing_nor_up_to_date() -> None:
    queue = {STREAM, OTHER}
    live = LiveStreams(Clock(), lambda: queue)
    for checkpoint in (WALKING, checkpoint_of(OTHER, COMPLETED), checkpoint_of(THIRD, *STARTED)):
        live.read(recorded(checkpoint))
    assert states(live) == {STREAM.key: State.QUEUED, OTHER.key: State.QUEUED, THIRD.key: State.SYNCING}
    assert live.status_line([STREAM, OTHER, THIRD]) == "3 streams: 1 syncing, 2 waiting for a slot"


# --- the status line --------------------------------------------------------------------------------------------------


def test_the_line_counts_streams_by_state_and_says_when_a_limit_ends() -> None:
    line = line_of(
        checkpoint_of(STREAM, *STARTED, LIMITED), checkpoint_of(OTHER, *STARTED), checkpoint_of(THIRD, *STARTED)
    )
    assert line == "3 streams: 2 syncing, 1 waiting for the page's rate limit until 14:05 UTC"


def test_the_line_counts_every_stream_that_a_limit_holds_until_the_last_may_continue() -> None:
    line = line_of(checkpoint_of(STREAM, *STARTED, LIMITED), checkpoint_of(SIBLING, *STARTED))
    assert line == "2 streams: 2 waiting for the page's rate limit until 14:05 UTC"


def test_a_limit_that_is_over_holds_nobody_up() -> None:
    line = line_of(checkpoint_of(STREAM, *STARTED, LIMITED), checkpoint_of(SIBLING, *STARTED), now=at(7510))
    assert line == "2 streams: 2 syncing"


def test_a_stream_with_nothing_left_to_read_waits_for_no_limit() -> None:
    line = line_of(checkpoint_of(STREAM, *STARTED, LIMITED), checkpoint_of(SIBLING, *STARTED, COMPLETED))
    assert "1 up to date" in line


def test_the_line_names_streams_that_need_a_person_after_those_that_work() -> None:
    stopped = events.RunEnded(events.RunStatus.STOPPED, events.Reason.AUTHORIZATION, problem=DEAD_TOKEN)
    line = line_of(
        checkpoint_of(OTHER, *STARTED, stopped),
        checkpoint_of(SIBLING, *STARTED, events.FetchFailed(1, NETWORK, at(2))),
        checkpoint_of(STREAM, events.StreamPaused("ada")),
        Checkpoint(THIRD),
    )
    assert line == (
        "4 streams: 1 retrying, 1 about to start, "
        "1 stopped until the token or the configuration is fixed, 1 paused by an operator"
    )


def test_the_line_follows_commits_and_unchanged_batches() -> None:
    live = LiveStreams(Clock())
    assert live.status_line([STREAM]) == "1 stream: 1 about to start"
    live.read(recorded(WALKING))
    assert live.status_line([STREAM]) == "1 stream: 1 syncing"
    complete = given(*STARTED, COMPLETED)
    live.read(recorded(complete))
    assert live.status_line([STREAM]) == "1 stream: 1 up to date"
    live.read(passed(complete))
    assert live.status_line([STREAM]) == "1 stream: 1 syncing"


def test_the_line_counts_the_given_streams_whatever_is_known_of_others() -> None:
    live = live_view(checkpoint_of(OTHER, *STARTED))
    assert live.status_line([]) == "no streams to sync"


def test_streams_that_get_nowhere_are_named_with_their_problem_unless_an_operator_paused_them() -> None:
    stuck = Problem(ProblemKind.NO_PROGRESS, "nothing new")
    reason = events.Reason.RETRIES_EXHAUSTED
    checkpoint = given(events.RunEnded(events.RunStatus.FAILED, reason, walking("b"), problem=stuck), after=WALKING)
    live = LiveStreams(lambda: NOON)
    live.load(checkpoint)

    assert live.getting_nowhere({STREAM}) == {STREAM: stuck}
    assert live.getting_nowhere(set()) == {}

    live.load(given(events.StreamPaused("Ada"), after=checkpoint))
    assert live.getting_nowhere({STREAM}) == {}


def test_every_state_but_rate_limited_has_words() -> None:
    assert set(WORDS) == set(State) - {State.RATE_LIMITED}
