"""What readers of the event stream are told of each kind of entry, and that nobody's words are among it."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import (
    APP_LIMIT,
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RUN_ID,
    STREAM,
    at,
    catching_up,
    entries,
    given,
    run_started,
    sweep_started,
    walking,
)
from kit.event_strategies import events
from kit.notices import passed, store_retried
from milepost.core.events import (
    TAGS,
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Mode,
    RateLimited,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStatus,
    Stage,
    StoreReturned,
    StreamPaused,
    StreamRemoved,
    StreamResumed,
    SweepCompleted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.evolve import evolve
from milepost.core.model import Detail, Scope, TokenHealth
from milepost.reporting.describe import CLOSINGS, ENDINGS, OPENINGS
from milepost.service.events.messages import Message, Status
from milepost.service.events.narration import narrate, narrate_live

# Two batches of nine conversations were stored, one was given up and a call was made again, in 30 seconds.
BEFORE = given(
    run_started(),
    sweep_started(),
    BatchStored(walking("a"), Tally(batches=2, inserted=9)),
    FetchFailed(1, NETWORK, at(2)),
    BatchFailed(Stage.FETCH, 3, NETWORK),
)
SO_FAR = {"batches": 2, "failedBatches": 1, "successRate": 66.7, "duration": 30.0}
TALLY = Tally(batches=1, inserted=50, updated=3, unchanged=2, dead_lettered=1)
COUNTS = {"inserted": 50, "updated": 3, "skipped": 2, "dead_lettered": 1}
AFTER = {"batches": 3, "failedBatches": 1, "successRate": 75.0, "duration": 30.0}
IN_ALL = {"inserted": 59, "updated": 3, "skipped": 2, "dead_lettered": 1}
BY = "status page from 127.0.0.1"

CASES: list[tuple[Event, str, str, dict[str, Any]]] = [
    (run_started(NOON), "started", "Run started", {"batches": 0, "failedBatches": 0, "successRate": 100.0}),
    (sweep_started(), "progress", "Full sweep started: all conversations are read", SO_FAR),
    (
        sweep_started(Mode.INCREMENTAL, walk_until=at(-600)),
        "progress",
        "Sweep started: back to 11:50:00 UTC",
        SO_FAR,
    ),
    (
        BatchStored(walking("b"), TALLY),
        "progress",
        "Batch 3 stored: 50 new, 3 updated, 2 unchanged, 1 dead letter",
        {"batch": 3, **COUNTS, **AFTER},
    ),
    (
        BatchStored(walking("b"), Tally(batches=3, updated=1, unchanged=149)),
        "progress",
        "Batches 3 to 5 stored: 1 updated, 149 unchanged",
        {"batch": 5, "updated": 1, "skipped": 149, "batches": 5},
    ),
    (
        BatchStored(catching_up(), Tally(batches=1, unchanged=50)),
        "progress",
        "Batch 3: nothing new",
        {"batch": 3, "inserted": 0, "skipped": 50},
    ),
    (
        FetchFailed(1, NETWORK, at(34)),
        "retrying",
        "Batch 3 could not be read (attempt 1; tried again in 4 seconds): it went wrong",
        {"batch": 3, "until": "2026-03-01T12:00:34Z", **SO_FAR},
    ),
    (
        BatchFailed(Stage.FETCH, 3, NETWORK),
        "batch_failed",
        "Batch 3 given up for this run after 3 attempts: it went wrong",
        {"batch": 3, "failedBatches": 2, "successRate": 50.0},
    ),
    (
        RateLimited(Scope.APP, 1, at(30), at(7500), APP_LIMIT),
        "rate_limited",
        "Met the app's rate limit: waiting until 14:05:00 UTC",
        {"until": "2026-03-01T14:05:00Z", **SO_FAR},
    ),
    (
        RateLimited(Scope.PAGE, 1, at(30), at(86400), APP_LIMIT),
        "rate_limited",
        "Met the page's rate limit: waiting until 2026-03-02 12:00:00 UTC",
        {},
    ),
    (
        BatchShrunk(25, Detail.NESTED, NETWORK),
        "retrying",
        "Batch 3 is asked for again, 25 conversations at a time: it went wrong",
        {"batch": 3, **SO_FAR},
    ),
    (
        CursorLost(NETWORK),
        "retrying",
        "The place in the inbox was refused, and the walk begins again at the head: it went wrong",
        SO_FAR,
    ),
    *(
        (
            DeadLetterOpened("d_1", stage, "t_1", "id: expected\nstr"),
            status,
            f"{OPENINGS[stage]}, and is kept as a dead letter: id: expected str",
            {"batch": 3, **SO_FAR},
        )
        for stage, status in (
            (Stage.FETCH, "batch_failed"),
            (Stage.STORE, "batch_db_failed"),
            (Stage.EVENTS, "batch_db_failed"),
        )
    ),
    (
        RedriveFailed("d_1", 2, "it went wrong", at(330), Tally(batches=1, inserted=1)),
        "retrying",
        "A dead letter could not be settled (attempt 2; tried again in 5 minutes): it went wrong",
        {"inserted": 1, "until": "2026-03-01T12:05:30Z"},
    ),
    (
        RedriveFailed("d_1", 9, "it went wrong"),
        "retrying",
        "A dead letter could not be settled (attempt 9; not tried again by itself): it went wrong",
        {},
    ),
    *((DeadLetterClosed("d_1", resolution), "progress", CLOSINGS[resolution], SO_FAR) for resolution in Resolution),
    (
        DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(inserted=1)),
        "progress",
        "A dead letter was tried again, and is settled",
        {"inserted": 1, "updated": 0, "skipped": 0},
    ),
    (
        SweepCompleted(Mode.FULL, NOON, NOON, replace(TALLY, dead_lettered=0)),
        "complete",
        "Full sweep complete: 3 batches, 59 new, 3 updated, 2 unchanged",
        {**IN_ALL, "dead_lettered": 0, **AFTER},
    ),
    (
        SweepCompleted(Mode.FULL, NOON, NOON, TALLY),
        "complete_with_errors",
        "Full sweep complete, with dead letters: 3 batches, 59 new, 3 updated, 2 unchanged, 1 dead letter",
        {**IN_ALL, **AFTER},
    ),
    *(
        (RunEnded(RunStatus.PAUSED, reason, walking("b"), TALLY), status, ENDINGS[reason], {**IN_ALL, **AFTER})
        for reason, status in (
            (Reason.TIME_LIMIT, "timeout_warning"),
            (Reason.BATCH_LIMIT, "batch_limit_warning"),
            (Reason.RATE_LIMIT, "rate_limited"),
            (Reason.SHUTDOWN, "paused"),
            (Reason.REQUEST, "paused"),
            (Reason.REMOVED, "paused"),
        )
    ),
    (
        RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, walking("b"), problem=NETWORK),
        "paused",
        "Paused, as all attempts have failed: the next run tries again: it went wrong",
        SO_FAR,
    ),
    *(
        (RunEnded(RunStatus.INTERRUPTED, reason), "paused", ENDINGS[reason], {"batches": 2})
        for reason in (Reason.PROCESS_DIED, Reason.BROKE_OFF)
    ),
    (
        RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN),
        "stopped",
        (
            "Stopped: the token or a permission has to be mended: it went wrong (code 190). What to do: the token is "
            "not valid: give page 1234567890 a new access_token (in config.yaml or its access_token_file; in "
            "source.access_token where pages are discovered), which is picked up without a restart"
        ),
        SO_FAR,
    ),
    (
        RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION),
        "stopped",
        "Stopped: the configuration has to be mended",
        SO_FAR,
    ),
    (
        StoreReturned(12.3, 3),
        "progress",
        "The database answers again, after 12 seconds and 3 attempts",
        SO_FAR,
    ),
    (StreamPaused(BY), "paused", f"Paused until somebody resumes it (asked for by {BY})", SO_FAR),
    (StreamResumed(BY), "progress", f"Resumed (asked for by {BY})", SO_FAR),
    (SyncRequested(BY), "progress", f"A sync begins (asked for by {BY})", SO_FAR),
    (SyncRequested(BY, full=True), "progress", f"A full sweep begins (asked for by {BY})", SO_FAR),
    (
        TokenChecked(TokenHealth(is_valid=False)),
        "progress",
        "The token is no longer valid",
        SO_FAR,
    ),
    (StreamRemoved(BY), "progress", f"Removed with all its rows (asked for by {BY})", {}),
]


def told(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(message))
    return fields


@pytest.mark.parametrize(("event", "status", "words", "figures"), CASES)
def test_it_tells_what_happened(event: Event, status: str, words: str, figures: dict[str, Any]) -> None:
    (entry,) = entries(event, after=BEFORE, recorded_at=at(30))
    message = told(narrate(entry, evolve(BEFORE, entry).run))

    assert (message["status"], message["message"]) == (status, words)
    assert message["type"] == TAGS[type(event)]
    assert (message["stream"], message["run"], message["at"]) == (STREAM.key, RUN_ID, "2026-03-01T12:00:30Z")
    assert figures.items() <= message.items()


def test_every_kind_of_entry_is_among_what_is_tested() -> None:
    assert {type(event) for event, *_ in CASES} == set(TAGS)
    assert {Status(status) for _, status, *_ in CASES} == set(Status) - {Status.DB_RETRYING}, "which has no entry"
    ended = [event.reason for event, *_ in CASES if isinstance(event, RunEnded)]
    assert set(ended) == set(Reason)


def test_an_interrupted_run_has_no_duration_as_nobody_saw_its_end() -> None:
    (entry,) = entries(RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED), after=BEFORE, recorded_at=at(9999))
    assert "duration" not in told(narrate(entry, evolve(BEFORE, entry).run))


def test_what_is_part_of_no_run_tells_of_none() -> None:
    (entry,) = entries(DeadLetterClosed("d_1", Resolution.DISCARDED), run_id=None)
    assert told(narrate(entry, None)) == {
        "status": "progress",
        "message": "A dead letter was discarded",
        "stream": STREAM.key,
        "at": "2026-03-01T12:00:00Z",
        "type": "dead_letter_closed",
    }


def test_the_reason_that_a_person_gave_is_not_told() -> None:
    (entry,) = entries(DeadLetterClosed("d_1", Resolution.DISCARDED, reason="Ada asked for it", by=BY))
    assert "Ada" not in str(told(narrate(entry, None)))


@drawn(event=events, is_in_a_run=st.booleans())
def test_whatever_an_entry_holds_is_told_in_one_line(event: Event, *, is_in_a_run: bool) -> None:
    (entry,) = entries(event, after=BEFORE if is_in_a_run else None)
    message = narrate(entry, evolve(BEFORE, entry).run if is_in_a_run else None)

    assert message.message
    assert message.message.isprintable()
    assert msgspec.json.decode(msgspec.json.encode(message), type=Message) == message
    if isinstance(event, DeadLetterClosed) and len(event.reason) > 3:
        assert event.reason not in message.message


# --- what has no entry ------------------------------------------------------------------------------------------------


def test_a_batch_that_was_passed_over_is_progress_and_has_no_type() -> None:
    open_run = given(run_started(), sweep_started(), BatchStored(walking("a"), Tally(batches=2, inserted=9)))
    over = given(RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT), after=open_run)
    for checkpoint, batch in ((open_run, 5), (over, 3)):
        signal = replace(
            passed(), checkpoint=replace(checkpoint, unrecorded=Tally(batches=3)), tally=Tally(1, 0, 0, 50)
        )
        message = told(narrate_live(signal, at(7)))
        assert (message["status"], message["message"]) == ("progress", f"Batch {batch}: nothing new")
        assert (message["batch"], message["skipped"], message["stream"]) == (batch, 50, STREAM.key)
        assert message["at"] == "2026-03-01T12:00:07Z"
        assert "type" not in message


def test_a_store_that_is_away_is_told_without_what_it_said() -> None:
    message = told(narrate_live(replace(store_retried(), wait_seconds=4.0, reason="disk /srv/x is full"), NOON))
    assert message == {
        "status": "db_retrying",
        "message": "The database does not answer; tried again in 4 seconds",
        "stream": STREAM.key,
        "at": "2026-03-01T12:00:00Z",
        "until": (NOON + timedelta(seconds=4)).isoformat().replace("+00:00", "Z"),
    }


# --- what front ends rely on ------------------------------------------------------------------------------------------


def test_the_names_that_front_ends_know_never_change() -> None:
    assert [status.value for status in Status] == [
        "started",
        "progress",
        "retrying",
        "db_retrying",
        "batch_failed",
        "batch_db_failed",
        "rate_limited",
        "timeout_warning",
        "batch_limit_warning",
        "paused",
        "stopped",
        "complete",
        "complete_with_errors",
    ]
    assert Message.__struct_encode_fields__ == (
        "status",
        "message",
        "stream",
        "at",
        "type",
        "run",
        "batch",
        "inserted",
        "updated",
        "skipped",
        "dead_lettered",
        "batches",
        "failedBatches",
        "successRate",
        "duration",
        "until",
    )
