"""A journal entry as one line, for people and for programs."""

import json

import pytest

from kit.builders import DEAD_TOKEN, NETWORK, NOON, STREAM, at, entries, sweep_started, walking
from milepost.cli.journal import as_json, as_text
from milepost.core import events
from milepost.core.events import Reason, Resolution, RunEnded, RunStatus, Stage, Tally
from milepost.core.journal import link
from milepost.core.position import Mode, Phase, Position
from milepost.core.problems import Problem, ProblemKind
from milepost.reporting.describe import describe
from milepost.stores.reader import StoredEntry
from reporting.test_describe import CASES, NEW_TOKEN

EVENTS = list(CASES)


def stored(event: events.Event) -> StoredEntry:
    (entry,) = entries(event)
    return StoredEntry(42, entry)


def words(event: events.Event) -> str:
    """Return the line of an event after its time, stream, seq and version."""
    line = as_text(stored(event))
    head = f"2026-03-01T12:00:00Z  {STREAM.key:<27}  #42 v1  "
    assert line.startswith(head)
    return line.removeprefix(head).removesuffix("\n")


@pytest.mark.parametrize("event", EVENTS, ids=lambda value: type(value).__name__)
def test_a_line_has_the_sentence_of_its_entry_and_is_one_line(event: events.Event) -> None:
    assert words(event).startswith(describe(stored(event).entry).sentence)
    assert as_text(stored(event)).count("\n") == 1


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            sweep_started(Mode.INCREMENTAL, walk_until=at(-60)),
            "Incremental sweep started: reading back to 11:59:00 UTC",
        ),
        (
            events.BatchStored(Position(Phase.WALK, "c1", at(-60)), Tally(1, 2, contacts=1, interaction_events=400)),
            "1 batch stored: 2 new  contacts=1  interaction_events=400  reached=2026-03-01T11:59:00+00:00",
        ),
        (
            events.BatchStored(walking("c1"), Tally(batches=1, unchanged=3, without_contact=2, order_violations=2)),
            "1 batch: nothing new, 3 unchanged  without_contact=2  order_violations=2",
        ),
        (
            events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, updated=3, unreadable=2, contacts=1)),
            "Full sweep complete: 1 batch, 3 updated  contacts=1  unreadable=2",
        ),
        (
            RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, None, Tally(batches=2, unchanged=100, without_contact=1)),
            "Stopped for a shutdown (2 batches, 100 unchanged); the next start continues there  without_contact=1",
        ),
        (
            events.BatchFailed(Stage.FETCH, 3, NETWORK),
            "A batch was given up for this run after 3 attempts: it went wrong  stage=fetch",
        ),
        (
            events.DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str", at(900)),
            (
                "A conversation could not be read and became a dead letter, next attempt at 12:15:00 UTC: "
                "id: expected str  dead_letter=dl_1  stage=fetch  subject=t_bad"
            ),
        ),
        (
            events.DeadLetterClosed("dl_1", Resolution.REDRIVEN, Tally(updated=1, interaction_events=2)),
            "A dead letter was redriven successfully: 1 updated  dead_letter=dl_1  interaction_events=2",
        ),
        (
            events.DeadLetterClosed("dl_1", Resolution.DISCARDED, reason="a test\nthread", by="API from 127.0.0.1"),
            "A dead letter was discarded via API from 127.0.0.1  dead_letter=dl_1  note=a test thread",
        ),
        (
            RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN),
            f"Stopped for authorization: it went wrong (code 190). What to do: {NEW_TOKEN}",
        ),
    ],
)
def test_a_line_ends_with_the_details_that_the_sentence_leaves_out(event: events.Event, line: str) -> None:
    assert words(event) == line


def test_foreign_text_stays_on_its_line() -> None:
    line = as_text(stored(events.FetchFailed(1, Problem(ProblemKind.API, "first\nsecond\x1b[2J"), at(4))))
    assert line.count("\n") == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("event", EVENTS, ids=lambda value: type(value).__name__)
def test_the_json_of_an_entry_has_its_data_as_an_object(event: events.Event) -> None:
    entry = stored(event).entry
    line = as_json(stored(event))
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "seq": 42,
        "stream": STREAM.key,
        "version": 1,
        "run_id": "run-1",
        "recorded_at": "2026-03-01T12:00:00.000Z",
        "type": entry.type,
        "data": json.loads(entry.data),
        "hash": entry.hash,
    }


def test_the_hash_can_be_checked_from_the_json_alone() -> None:
    line = as_json(stored(events.FetchFailed(1, Problem(ProblemKind.API, "Umlaut ü, emoji 🎉, \x1b"), at(4)))).decode()
    found = json.loads(line)
    data = line[line.index('"data":') + len('"data":') : line.index(',"hash":')]
    columns = (found["stream"], found["version"], found["run_id"], found["recorded_at"], found["type"], data)
    assert link("", columns) == found["hash"]
