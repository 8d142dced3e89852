"""The status of a stream as API and CLI show it, from its checkpoint, the time and whether a Milepost is at work."""

from collections.abc import Sequence
from datetime import datetime

from kit.builders import (
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RUN_ID,
    STREAM,
    at,
    catching_up,
    given,
    problem,
    run_started,
    sweep_started,
)
from milepost.core import events
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Detail, Stream
from milepost.core.position import Mode, Phase, Position
from milepost.reporting.status import ConditionContext, State, rate_limits_of
from milepost.reporting.views import OpenSweep, StreamStatus, Written, statuses

OPENED = (run_started(), sweep_started())
STORED = events.BatchStored(
    Position(Phase.WALK, "c1", at(-60)),
    events.Tally(batches=1, inserted=50, contacts=49, interaction_events=200),
)
WALKING = (*OPENED, STORED)


def completed(tally: events.Tally | None = None) -> events.SweepCompleted:
    return events.SweepCompleted(Mode.FULL, NOON, NOON, tally or events.Tally(batches=1))


def context_at(now: datetime = NOON, *others: Checkpoint, at_work: bool = True) -> ConditionContext:
    return ConditionContext(now, at_work, interval_seconds=300.0, batch_size=50, rate_limits=rate_limits_of(others))


def status_of(
    checkpoint: Checkpoint,
    context: ConditionContext | None = None,
    configured: Sequence[Stream] | None = (STREAM,),
) -> StreamStatus:
    (status,) = statuses(
        [checkpoint], context or context_at(NOON, checkpoint), configured, {STREAM.page_id: "Corner Bakery"}
    )
    return status


def test_a_stream_without_a_run_was_never_synced() -> None:
    status = status_of(Checkpoint(STREAM))
    assert status.state is State.NEVER_SYNCED
    assert status.updated_at is None
    assert status.last_success_at is None


def test_a_retry_shows_when_and_why_if_a_milepost_is_at_work() -> None:
    retrying = given(*WALKING, events.FetchFailed(1, NETWORK, at(4)))
    assert (status_of(retrying).retry_at, status_of(retrying).problem) == (at(4), "it went wrong")
    status = status_of(retrying, context_at(at_work=False))
    assert (status.state, status.retry_at) == (State.INTERRUPTED, None)


def test_a_stopped_stream_shows_what_it_waits_for_why_and_what_to_do() -> None:
    status = status_of(
        given(*WALKING, events.RunEnded(events.RunStatus.STOPPED, events.Reason.AUTHORIZATION, problem=DEAD_TOKEN))
    )
    assert (status.state, status.reason, status.problem) == (
        State.STOPPED,
        events.Reason.AUTHORIZATION,
        "it went wrong (code 190)",
    )
    assert status.waits_for == "the token or a permission to be fixed"
    assert (status.since, status.until, status.next_run_at) == (NOON, at(1800), at(1800))
    assert status.advice is not None
    assert "access_token" in status.advice


def test_a_healthy_stream_waits_for_nothing_and_needs_nobody() -> None:
    status = status_of(given(*WALKING))
    shown = (status.waits_for, status.since, status.until, status.problem, status.advice, status.remark)
    assert shown == (None,) * 6


def test_a_smaller_request_is_remarked_on_by_the_configured_batch_size() -> None:
    shrunk = given(*WALKING, events.BatchShrunk(25, Detail.NESTED, problem(1)))
    assert status_of(shrunk).remark == "requests 25 conversations at a time, because of this: it went wrong (code 1)"
    small = ConditionContext(NOON, is_at_work=True, interval_seconds=300.0, batch_size=25)
    assert status_of(shrunk, small).remark is None


def test_the_open_sweep_is_shown_with_its_phase_and_progress() -> None:
    assert status_of(given(*WALKING)).sweep == OpenSweep(Mode.FULL, Phase.WALK, 1, NOON, at(-60), 50, None, None)
    scanning = given(*WALKING, events.BatchStored(catching_up(), events.Tally(batches=2, unchanged=7)))
    assert status_of(scanning).sweep == OpenSweep(Mode.FULL, Phase.CATCH_UP, 3, NOON, None, 57, None, None)
    assert status_of(given(*WALKING, completed())).sweep is None


def test_a_full_sweep_is_expected_to_read_as_many_conversations_as_are_known() -> None:
    first = given(*WALKING, completed(events.Tally(batches=1, inserted=10, deleted=3)))
    again = given(run_started(), sweep_started(), after=first, run_id="run-2")
    assert sweep_of(again).expected == 57


def test_an_incremental_sweep_goes_as_far_as_its_walk_has_to() -> None:
    first = given(*WALKING, completed())
    again = given(run_started(), sweep_started(Mode.INCREMENTAL, at(300), at(-600)), after=first, run_id="run-2")
    assert (sweep_of(again).expected, sweep_of(again).walk_until) == (None, at(-600))


def sweep_of(checkpoint: Checkpoint) -> OpenSweep:
    sweep = status_of(checkpoint).sweep
    assert sweep is not None
    return sweep


def test_the_page_is_named_and_so_is_its_platform() -> None:
    status = status_of(Checkpoint(STREAM))
    assert (status.platform, status.page_id, status.page_name) == (STREAM.platform, STREAM.page_id, "Corner Bakery")
    (unnamed,) = statuses([], context_at(), [Stream.parse("messenger:9")], {})
    assert unnamed.page_name == ""


def test_the_latest_run_is_shown_with_its_counts() -> None:
    run = status_of(given(*WALKING)).run
    assert run is not None
    assert (run.run_id, run.status, run.batches, run.inserted, run.contacts) == (
        RUN_ID,
        events.RunStatus.RUNNING,
        1,
        50,
        49,
    )
    assert status_of(Checkpoint(STREAM)).run is None


def test_what_was_written_covers_all_runs() -> None:
    first = given(*WALKING, completed())
    second = given(completed(events.Tally(batches=1, inserted=1, updated=2, contacts=3)), after=first, run_id="run-2")
    assert status_of(second).written == Written(51, 2, 52, 200)


def test_no_next_run_is_promised_during_a_run_or_if_none_will_come() -> None:
    assert status_of(given(*WALKING, completed()), context_at(at(60))).next_run_at == at(300)
    assert status_of(given(*WALKING)).next_run_at is None
    assert status_of(given(*WALKING, completed()), context_at(at_work=False)).next_run_at is None
    assert status_of(given(*WALKING, completed()), configured=[]).next_run_at is None


def test_configured_streams_come_first_and_in_their_order() -> None:
    configured = [Stream.parse(key) for key in ("messenger:9", "messenger:1", "instagram:1")]
    journaled = [Checkpoint(Stream.parse(key)) for key in ("messenger:1", "messenger:5")]
    found = statuses(journaled, context_at(), configured, {})
    assert [(status.stream, status.is_configured) for status in found] == [
        ("messenger:9", True),
        ("messenger:1", True),
        ("instagram:1", True),
        ("messenger:5", False),
    ]


def test_a_removed_stream_is_shown_only_if_it_is_configured_and_then_without_a_past() -> None:
    removed = given(*WALKING, completed(), events.StreamRemoved("Ada"))

    assert statuses([removed], context_at(), [], {}) == ()
    assert statuses([removed], context_at(), None, {}) == ()
    (status,) = statuses([removed], context_at(), [removed.stream], {})
    assert (status.state, status.run, status.last_success_at) == (State.NEVER_SYNCED, None, None)


def test_if_the_simulator_names_the_streams_those_of_the_journal_are_shown() -> None:
    status = status_of(given(*WALKING, completed()), configured=None)
    assert status.is_configured is None
    assert status.next_run_at == at(300)
