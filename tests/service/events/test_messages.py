"""The message of each kind of entry, and that the journal read again gives what was sent live, byte for byte."""

import asyncio
import dataclasses
import json
import re
import shutil
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import (
    APP_LIMIT,
    DEAD_TOKEN,
    GAP,
    MISSED,
    NETWORK,
    NOON,
    RUN_ID,
    STREAM,
    at,
    catching_up,
    checkpoint_of,
    entries,
    given,
    run_started,
    sweep_started,
    walking,
)
from kit.event_strategies import events as any_event
from kit.needs import long_only
from kit.notices import passed, store_retried
from kit.scenarios import scenarios
from kit.simulation import Simulation
from kit.simulation_setting import Scenario
from milepost.core import events
from milepost.core.events import TAGS, Reason, Resolution, RunEnded, RunStatus, Stage, Tally
from milepost.core.evolve import evolve
from milepost.core.model import Detail, OwnId, OwnIdState, TokenHealth
from milepost.core.position import MessagesFailed, MessagesMissed, MessagesOwed, MessagesRead, Mode
from milepost.core.problems import Scope
from milepost.core.webhooks import FactsApplied
from milepost.reporting.describe import describe
from milepost.service.events import broadcast, route
from milepost.service.events.messages import EncodedEvent, EntryEncoder, Message, Status, live_message, message_of
from milepost.service.events.route import EventsAsked
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.sqlite.reader import SqliteReader, open_sqlite_reader
from reporting.test_describe import BEFORE, TALLY
from service.events.journals import write, write_lives, write_simulated
from stores.histories import commit_after

DURATION = {"duration": "30s", "duration_seconds": 30.0}
SO_FAR = {"batches": 3, "failedBatches": 1, "successRate": "66%", "success_rate": 66.7, **DURATION}
COUNTS = {"inserted": 50, "updated": 3, "skipped": 1, "unchanged": 2, "deadLettered": 1}
AFTER = {"batches": 4, "failedBatches": 1, "successRate": "75%", "success_rate": 75.0, **DURATION}
IN_ALL = {"inserted": 59, "updated": 3, "skipped": 1, "unchanged": 2, "deadLettered": 1}
BY = "status page from 127.0.0.1"

CASES: list[tuple[events.Event, str, dict[str, Any]]] = [
    (run_started(NOON), "started", {"batches": 0, "failedBatches": 0}),
    (sweep_started(), "progress", SO_FAR),
    (sweep_started(Mode.INCREMENTAL, walk_until=at(-600)), "progress", SO_FAR),
    (events.BatchStored(walking("b"), TALLY), "progress", {"batch": 3, **COUNTS, **AFTER}),
    (
        events.BatchStored(walking("b"), Tally(batches=3, updated=1, unchanged=149)),
        "progress",
        {"batch": 5, "updated": 1, "skipped": 0, "unchanged": 149, "batches": 6},
    ),
    (
        events.BatchStored(catching_up(), Tally(batches=1, unchanged=50)),
        "progress",
        {"batch": 3, "inserted": 0, "unchanged": 50},
    ),
    (
        events.FetchFailed(1, NETWORK, at(34)),
        "retrying",
        {"batch": 3, "until": "2026-03-01T12:00:34Z", **SO_FAR},
    ),
    (
        events.BatchFailed(Stage.FETCH, 3, NETWORK),
        "batch_failed",
        {"batch": 3, "batches": 4, "failedBatches": 2, "successRate": "50%"},
    ),
    (
        events.RateLimited(Scope.APP, 1, at(30), at(7500), APP_LIMIT),
        "rate_limited",
        {"until": "2026-03-01T14:05:00Z", **SO_FAR},
    ),
    (events.BatchShrunk(25, Detail.NESTED, NETWORK), "retrying", {"batch": 3, **SO_FAR}),
    (events.CursorLost(NETWORK), "retrying", SO_FAR),
    (events.FieldsLeftOut(("can_reply",)), "progress", SO_FAR),
    (events.DeadLetterOpened("d_1", Stage.FETCH, "t_1", "id"), "batch_failed", {"batch": 3, **SO_FAR}),
    (events.DeadLetterOpened("d_1", Stage.STORE, "t_1", "id"), "batch_db_failed", {"batch": 3, **SO_FAR}),
    (events.DeadLetterOpened("d_1", Stage.EVENTS, "t_1", "id"), "batch_db_failed", {"batch": 3, **SO_FAR}),
    (
        events.RedriveFailed("d_1", 2, "it went wrong", at(330), Tally(batches=1, inserted=1)),
        "retrying",
        {"inserted": 1, "until": "2026-03-01T12:05:30Z"},
    ),
    (events.RedriveFailed("d_1", 9, "it went wrong"), "retrying", {}),
    *((events.DeadLetterClosed("d_1", resolution), "progress", SO_FAR) for resolution in Resolution),
    (
        events.DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(inserted=1)),
        "progress",
        {"inserted": 1, "updated": 0, "skipped": 0},
    ),
    (
        events.SweepCompleted(Mode.FULL, NOON, NOON, replace(TALLY, dead_lettered=0)),
        "complete",
        {**IN_ALL, "skipped": 0, "deadLettered": 0, **AFTER},
    ),
    (events.SweepCompleted(Mode.FULL, NOON, NOON, TALLY), "complete_with_errors", {**IN_ALL, **AFTER}),
    *(
        (RunEnded(RunStatus.PAUSED, reason, walking("b"), TALLY), status, {**IN_ALL, **AFTER})
        for reason, status in (
            (Reason.TIME_LIMIT, "timeout_warning"),
            (Reason.BATCH_LIMIT, "batch_limit_warning"),
            (Reason.RATE_LIMIT, "rate_limited"),
            (Reason.SHUTDOWN, "paused"),
            (Reason.REQUEST, "paused"),
            (Reason.REMOVED, "paused"),
        )
    ),
    (RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, walking("b"), problem=NETWORK), "paused", SO_FAR),
    (RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED), "paused", {"batches": 3}),
    (RunEnded(RunStatus.INTERRUPTED, Reason.BROKE_OFF), "paused", {"batches": 3}),
    (RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN), "stopped", SO_FAR),
    (RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION), "stopped", SO_FAR),
    (events.StoreReturned(12.3, 3), "progress", SO_FAR),
    (events.StreamPaused(BY), "paused", SO_FAR),
    (events.StreamResumed(BY), "progress", SO_FAR),
    (events.SyncRequested(BY), "progress", SO_FAR),
    (events.SyncRequested(BY, full=True), "progress", SO_FAR),
    (MessagesOwed((GAP,)), "progress", SO_FAR),
    (MessagesRead(GAP, 50), "progress", SO_FAR),
    (MessagesFailed(GAP, NETWORK), "retrying", SO_FAR),
    (MessagesMissed((MISSED,)), "progress", SO_FAR),
    (FactsApplied(reactions=1), "progress", SO_FAR),
    (events.TokenChecked(TokenHealth(is_valid=False)), "progress", SO_FAR),
    (events.OwnIdChecked(OwnId(OwnIdState.UNKNOWN)), "progress", SO_FAR),
    (events.StreamRemoved(BY), "progress", {}),
]


def fields_of(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(message))
    return fields


@pytest.mark.parametrize(("event", "status", "figures"), CASES)
def test_a_message_has_the_status_the_sentence_and_the_figures_of_its_entry(
    event: events.Event, status: str, figures: dict[str, Any]
) -> None:
    (entry,) = entries(event, after=BEFORE, recorded_at=at(30))
    run = evolve(BEFORE, entry).run
    message = fields_of(message_of(entry, run))

    assert (message["status"], message["message"]) == (status, describe(entry, run).sentence)
    assert message["type"] == events.TAGS[type(event)]
    assert (message["stream"], message["run"], message["at"]) == (STREAM.key, RUN_ID, "2026-03-01T12:00:30Z")
    assert figures.items() <= message.items()


def test_a_run_that_has_tried_no_batch_has_no_success_rate() -> None:
    (entry,) = entries(run_started(NOON), after=BEFORE, recorded_at=at(30))
    assert "successRate" not in fields_of(message_of(entry, evolve(BEFORE, entry).run))


def test_every_kind_of_entry_and_every_status_is_in_the_table() -> None:
    assert {type(event) for event, *_ in CASES} == set(events.TAGS)
    assert {Status(status) for _, status, _ in CASES} == set(Status) - {Status.DB_RETRYING}, "which has no entry"
    ended = [event.reason for event, *_ in CASES if isinstance(event, RunEnded)]
    assert set(ended) == set(Reason)


def test_an_interrupted_run_has_no_duration_as_nobody_saw_its_end() -> None:
    (entry,) = entries(RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED), after=BEFORE, recorded_at=at(9999))
    assert "duration" not in fields_of(message_of(entry, evolve(BEFORE, entry).run))


def test_an_entry_of_no_run_has_no_figures_of_one() -> None:
    (entry,) = entries(events.DeadLetterClosed("d_1", Resolution.DISCARDED), run_id=None)
    assert fields_of(message_of(entry, None)) == {
        "status": "progress",
        "message": "A dead letter was discarded",
        "stream": STREAM.key,
        "at": "2026-03-01T12:00:00Z",
        "type": "dead_letter_closed",
    }


def test_what_an_operator_wrote_is_in_no_message() -> None:
    (entry,) = entries(events.DeadLetterClosed("d_1", Resolution.DISCARDED, reason="Ada asked for it", by=BY))
    assert "Ada" not in str(fields_of(message_of(entry, None)))


@drawn(event=any_event, is_in_a_run=st.booleans())
def test_every_entry_has_a_message_of_one_line_that_survives_json(event: events.Event, *, is_in_a_run: bool) -> None:
    (entry,) = entries(event, after=BEFORE if is_in_a_run else None)
    message = message_of(entry, evolve(BEFORE, entry).run if is_in_a_run else None)

    assert message.message
    assert message.message.isprintable()
    assert msgspec.json.decode(msgspec.json.encode(message), type=Message) == message
    if isinstance(event, events.DeadLetterClosed) and len(event.reason) > 3:
        assert event.reason not in message.message


# --- what has no entry ------------------------------------------------------------------------------------------------


def test_an_unchanged_batch_is_progress_without_a_type() -> None:
    open_run = given(run_started(), sweep_started(), events.BatchStored(walking("a"), Tally(batches=2, inserted=9)))
    over = given(RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT), after=open_run)
    for checkpoint, batch in ((open_run, 5), (over, 3)):
        notice = replace(
            passed(), checkpoint=replace(checkpoint, unrecorded=Tally(batches=3)), tally=Tally(1, 0, 0, 50)
        )
        message = fields_of(live_message(notice, at(7)))
        assert (message["status"], message["message"]) == ("progress", f"Batch {batch}: nothing new")
        assert (message["batch"], message["unchanged"], message["stream"]) == (batch, 50, STREAM.key)
        assert message["at"] == "2026-03-01T12:00:07Z"
        assert "type" not in message


def test_an_unavailable_database_is_retried_and_its_error_is_not_quoted() -> None:
    message = fields_of(live_message(replace(store_retried(), wait_seconds=4.0, reason="disk /srv/x is full"), NOON))
    assert message == {
        "status": "db_retrying",
        "message": "The database is unavailable, next attempt in 4 seconds",
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
        "unchanged",
        "deadLettered",
        "batches",
        "failedBatches",
        "successRate",
        "success_rate",
        "duration",
        "duration_seconds",
        "until",
        "times",
        "streams",
    )


def test_a_front_end_of_the_original_kind_gets_every_field_in_its_form() -> None:
    """A front end that shows toasts prints these as they are: `${successRate} in ${duration}`."""
    tally = Tally(batches=1, inserted=50, updated=3, unchanged=40, dead_lettered=2)
    (entry,) = entries(events.SweepCompleted(Mode.FULL, NOON, NOON, tally), after=BEFORE, recorded_at=at(75.4))
    shown = fields_of(message_of(entry, evolve(BEFORE, entry).run))
    assert shown["skipped"] == shown["deadLettered"] == 2, "rows lost to a dead letter, and none that are stored"
    assert shown["batches"] == 4, "the failed one included"
    assert (shown["failedBatches"], shown["successRate"], shown["duration"]) == (1, "75%", "75s")
    assert (shown["success_rate"], shown["duration_seconds"]) == (75.0, 75.4)


def test_a_run_with_a_failed_batch_is_never_wholly_successful() -> None:
    many = given(events.BatchStored(walking("c"), Tally(batches=9_998)), after=BEFORE)
    (entry,) = entries(events.BatchFailed(Stage.FETCH, 3, NETWORK), after=many, recorded_at=at(30))
    assert fields_of(message_of(entry, evolve(many, entry).run))["successRate"] == "99%"


# --- the journal encoded ----------------------------------------------------------------------------------------------


async def encoded(
    journal_reader: SqliteReader, *, after: int = 0, page: int = 1000, stream: str | None = None
) -> list[EncodedEvent]:
    """Encode the journal from a seq on, page by page."""
    encoder, found = EntryEncoder(journal_reader), list[EncodedEvent]()
    while stored := await journal_reader.entries(after=after, limit=page, stream=stream):
        found += await encoder.encode(stored)
        after = stored[-1].seq
    return found


def data(event: EncodedEvent) -> dict[str, object]:
    decoded: dict[str, object] = json.loads(event.wire.partition(b"data: ")[2])
    return decoded


@pytest.fixture
async def lived(tmp_path: Path) -> tuple[Path, int]:
    path = tmp_path / "milepost.db"
    migrate(path)
    return path, write_lives(path, commits=24)


async def test_every_entry_makes_exactly_one_event_with_its_seq(lived: tuple[Path, int]) -> None:
    path, written = lived
    async with open_sqlite_reader(path) as journal_reader:
        found = await encoded(journal_reader)
    assert [event.seq for event in found] == list(range(1, written + 1))
    for event in found:
        assert event.wire.startswith(b"id: %d\ndata: {" % event.seq)
        assert event.wire.endswith(b"}\n\n")
        assert event.wire.count(b"\n") == 3
        assert (data(event)["stream"], data(event)["status"]) == (event.stream, event.status)


@pytest.mark.parametrize("step", [5, *long_only(1)])
async def test_the_encoding_is_the_same_from_every_seq_on(lived: tuple[Path, int], step: int) -> None:
    path, written = lived
    async with open_sqlite_reader(path) as journal_reader:
        whole = await encoded(journal_reader)
        for after in range(0, written + 1, step):
            assert await encoded(journal_reader, after=after, page=7) == whole[after:]


async def test_the_encoding_of_one_stream_alone_is_the_same(lived: tuple[Path, int]) -> None:
    path, _ = lived
    async with open_sqlite_reader(path) as journal_reader:
        whole = await encoded(journal_reader)
        for stream in {event.stream for event in whole}:
            of_stream = [event for event in whole if event.stream == stream]
            assert await encoded(journal_reader, after=30, page=5, stream=stream) == [
                e for e in of_stream if e.seq > 30
            ]


@pytest.mark.parametrize(
    "end", [RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT), events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(1))]
)
async def test_a_redrive_after_the_end_of_a_run_has_no_figures_of_it(tmp_path: Path, end: events.Event) -> None:
    path = tmp_path / "milepost.db"
    migrate(path)
    run = commit_after(checkpoint_of(), run_started(), sweep_started(), events.BatchStored(walking("a"), Tally(1)), end)
    redriven = commit_after(run.checkpoint, events.DeadLetterClosed("d_1", Resolution.REDRIVEN), run_id=RUN_ID)
    write(path, run, redriven)
    async with open_sqlite_reader(path) as journal_reader:
        live, again = await encoded(journal_reader), await encoded(journal_reader, after=4)
    assert live[-1:] == again
    assert data(live[-2]).keys() >= {"batches", "duration"}
    assert data(live[-1]).keys() == {"status", "message", "stream", "at", "type", "run"}


async def test_a_sweep_that_left_dead_letters_in_an_earlier_run_says_so_wherever_reading_begins(tmp_path: Path) -> None:
    path = tmp_path / "milepost.db"
    migrate(path)
    with_dead_letters = events.BatchStored(walking("a"), Tally(1, dead_lettered=2))
    first = commit_after(
        checkpoint_of(),
        run_started(),
        sweep_started(),
        with_dead_letters,
        RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT),
    )
    completed = events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(1), has_errors=True)
    second = commit_after(first.checkpoint, run_started(), completed, run_id="run-2")
    write(path, first, second)
    async with open_sqlite_reader(path) as journal_reader:
        (last,) = await encoded(journal_reader, after=5)
        assert data(last)["status"] == "complete_with_errors"
        assert last == (await encoded(journal_reader))[-1]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "milepost.db"
    migrate(path)
    return path


async def check_encoding(simulation: Simulation, path: Path, after: int, page: int) -> None:
    write_simulated(path, simulation.setting.store)
    async with open_sqlite_reader(path) as journal_reader:
        whole = await encoded(journal_reader)
        assert [event.seq for event in whole] == list(range(1, len(simulation.setting.store.journal) + 1))
        assert (
            await encoded(journal_reader, after=after % (len(whole) + 1), page=page)
            == whole[after % (len(whole) + 1) :]
        )
    ended = {str(data(event)["run"]): event for event in whole if data(event)["type"] == "sweep_completed"}
    for run_id, run in simulation.setting.store.runs.items():
        if run.status in {RunStatus.COMPLETE, RunStatus.COMPLETE_WITH_ERRORS}:
            last = data(ended[run_id])
            assert (last["status"], last["batches"]) == (run.status.value, run.tally.batches)
            assert (last["inserted"], last["failedBatches"]) == (run.tally.inserted, run.failed_batches)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@drawn(scenarios, st.integers(0, 2**31), st.integers(1, 9))
def test_whatever_happened_is_encoded_the_same_from_anywhere(
    migrated: Path, scenario: Scenario, after: int, page: int
) -> None:
    simulation = Simulation(dataclasses.replace(scenario, steps=min(scenario.steps, 60)))
    simulation.run()
    with TemporaryDirectory() as directory:
        path = Path(shutil.copy(migrated, directory))
        asyncio.run(check_encoding(simulation, path, after, page))


# --- docs/events.md ---------------------------------------------------------------------------------------------------


PAGE = (Path(__file__).parents[3] / "docs/events.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """Return the rows of the first table after a heading, by their first cell."""
    _, _, rest = PAGE.partition(f"\n{heading}")
    table = re.search(r"^\|[^\n]*\n\|---\|---\|\n((?:\|[^\n]*\n)+)", rest, re.MULTILINE)
    assert table is not None
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table[1], re.MULTILINE))


def test_the_page_lists_every_status_and_field_in_order() -> None:
    assert list(rows("## Statuses")) == [status.value for status in Status]
    assert set(rows("## Fields")) == set(Message.__struct_encode_fields__)


def test_the_page_lists_every_parameter() -> None:
    assert set(rows("A browser that was cut off")) == set(EventsAsked.__struct_fields__)


def test_the_page_lists_the_statuses_of_each_type_of_entry() -> None:
    documented = {tag: set(re.findall(r"`(\w+)`", statuses)) for tag, statuses in rows("## From the journal").items()}
    found: dict[str, set[str]] = {}
    for event, status, *_ in CASES:
        found.setdefault(TAGS[type(event)], set()).add(status)
    assert documented == found


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    assert f"{broadcast.MAX_READERS} readers can listen" in PAGE
    assert f"every {broadcast.HEARTBEAT_SECONDS:.0f} seconds" in PAGE
    assert f"takes nothing for {route.MAX_WRITE_SECONDS:.0f} seconds" in PAGE
    assert f"(0 to {route.MAX_LAST})" in PAGE
    assert f"may be given {route.MAX_STREAMS} times" in PAGE
    assert 1 / broadcast.BEAT_SECONDS == 5, "five times a second at the most"
    assert broadcast.RETRY_MILLISECONDS == 3000, "after three seconds"
