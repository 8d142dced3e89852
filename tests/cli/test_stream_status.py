"""Where a stream stands, told from its checkpoint, the time and whether a Milepost is at work."""

from collections.abc import Sequence
from datetime import datetime

import pytest

from kit.builders import (
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    STREAM,
    at,
    catching_up,
    given,
    run_started,
    sweep_started,
)
from kit.builders import walking as walking_at
from milepost.cli.stream_status import OpenSweep, State, StreamStatus, Surroundings, Written, statuses
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchStored,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Mode,
    Phase,
    Reason,
    RunEnded,
    RunStatus,
    Stage,
    SweepCompleted,
    Tally,
)

OPENED = (run_started(), sweep_started())
STORED = BatchStored(walking_at("c1"), Tally(batches=1, inserted=50, contacts=49, interaction_events=200))
WALKING = (*OPENED, STORED)
LETTER = DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str")


def completed(tally: Tally | None = None) -> SweepCompleted:
    return SweepCompleted(Mode.FULL, NOON, NOON, tally or Tally(batches=1))


def around(
    now: datetime = NOON, *, at_work: bool = True, configured: Sequence[str] | None = (STREAM.key,)
) -> Surroundings:
    return Surroundings(now, at_work, configured, interval_seconds=300.0)


def status_of(checkpoint: Checkpoint, surroundings: Surroundings | None = None) -> StreamStatus:
    (status,) = statuses([checkpoint], surroundings or around())
    return status


@pytest.mark.parametrize(
    ("events", "state"),
    [
        (WALKING, State.SYNCING),
        ((*WALKING, FetchFailed(1, NETWORK, at(4))), State.RETRYING),
        ((*WALKING, completed()), State.COMPLETE),
        ((*WALKING, LETTER, completed(Tally(batches=1, dead_lettered=1))), State.COMPLETE_WITH_ERRORS),
        ((*WALKING, RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking_at("c1"))), State.PAUSED),
        ((*WALKING, RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK)), State.FAILED),
        ((*WALKING, RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)), State.STOPPED),
        ((*WALKING, RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED)), State.INTERRUPTED),
    ],
)
def test_the_state_is_what_the_last_entries_say(events: Sequence[Event], state: State) -> None:
    assert status_of(given(*events)).state is state


def test_every_status_of_a_run_that_ended_is_a_state() -> None:
    ended = {status.value for status in RunStatus} - {RunStatus.RUNNING.value}
    assert ended <= {state.value for state in State}


def test_a_stream_without_a_run_was_never_synced() -> None:
    status = status_of(Checkpoint(STREAM.key))
    assert status.state is State.NEVER_SYNCED
    assert status.updated_at is None
    assert status.last_success_at is None


@pytest.mark.parametrize("events", [WALKING, (*WALKING, FetchFailed(1, NETWORK, at(4)))])
def test_a_run_left_open_is_interrupted_where_no_milepost_is_at_work(events: Sequence[Event]) -> None:
    status = status_of(given(*events), around(at_work=False))
    assert status.state is State.INTERRUPTED
    assert status.retry_at is None


def test_a_retry_tells_when_and_why() -> None:
    status = status_of(given(*WALKING, FetchFailed(1, NETWORK, at(4))))
    assert (status.retry_at, status.problem) == (at(4), "it went wrong")


def test_the_problem_of_a_stopped_run_is_told_with_its_numbers() -> None:
    status = status_of(given(*WALKING, RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)))
    assert (status.reason, status.problem) == (Reason.AUTHORIZATION, "it went wrong (code 190)")


def test_the_open_sweep_is_told_with_its_phase_and_batches() -> None:
    assert status_of(given(*WALKING)).sweep == OpenSweep(Mode.FULL, Phase.WALK, 1, NOON)
    scanning = given(*WALKING, BatchStored(catching_up(), Tally(batches=2)))
    assert status_of(scanning).sweep == OpenSweep(Mode.FULL, Phase.CATCH_UP, 3, NOON)
    assert status_of(given(*WALKING, completed())).sweep is None


def test_what_was_written_covers_all_runs() -> None:
    first = given(*WALKING, completed())
    second = given(completed(Tally(batches=1, inserted=1, updated=2, contacts=3)), after=first, run_id="run-2")
    assert status_of(second).written == Written(51, 2, 52, 200)


def test_the_next_run_is_an_interval_after_the_start_of_the_last_one() -> None:
    assert status_of(given(*WALKING, completed()), around(at(60))).next_run_at == at(300)


def test_a_run_that_reached_its_limit_goes_on_now() -> None:
    paused = given(*WALKING, RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking_at("c1")))
    assert status_of(paused, around(at(60))).next_run_at == at(60)


def test_a_rate_limit_does_not_hasten_the_next_run() -> None:
    limited = given(*WALKING, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=RATE_LIMIT))
    assert status_of(limited, around(at(60))).next_run_at == at(300)


def test_an_overdue_run_is_due_now() -> None:
    assert status_of(given(*WALKING, completed()), around(at(9000))).next_run_at == at(9000)


def test_no_next_run_is_promised_while_one_is_under_way_or_where_none_will_come() -> None:
    assert status_of(given(*WALKING)).next_run_at is None
    assert status_of(given(*WALKING, completed()), around(at_work=False)).next_run_at is None
    assert status_of(given(*WALKING, completed()), around(configured=[])).next_run_at is None


def test_configured_streams_come_first_and_in_their_order() -> None:
    names = ["messenger:9", "messenger:1", "instagram:1"]
    found = statuses([Checkpoint("messenger:1"), Checkpoint("messenger:5")], around(configured=names))
    assert [(status.stream, status.is_configured) for status in found] == [
        ("messenger:9", True),
        ("messenger:1", True),
        ("instagram:1", True),
        ("messenger:5", False),
    ]


def test_where_the_simulator_names_the_streams_those_of_the_journal_are_shown() -> None:
    (status,) = statuses([given(*WALKING, completed())], around(configured=None))
    assert status.is_configured is None
    assert status.next_run_at == at(300)
