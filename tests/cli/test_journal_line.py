"""A journal entry as one line, for people and for programs."""

import json

import pytest

from kit.builders import (
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    STREAM,
    at,
    catching_up,
    entries,
    problem,
    run_started,
    sweep_started,
    walking,
)
from milepost.cli.journal_line import as_json, as_text
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
    Phase,
    Position,
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
from milepost.core.journal import link
from milepost.core.model import Detail, Scope, TokenHealth
from milepost.core.problems import Problem, ProblemKind
from milepost.stores.reader import StoredEntry

BEFORE = "2026-03-01T11:59:00Z"
STORED = Tally(batches=2, inserted=50, unchanged=1200, contacts=1, interaction_events=400)

WORDS: list[tuple[Event, str]] = [
    (run_started(), "run started"),
    (sweep_started(), "full sweep started, back to the end"),
    (
        sweep_started(Mode.INCREMENTAL, walk_until=at(-60)),
        "incremental sweep started, back to 2026-03-01T11:59:00Z",
    ),
    (
        BatchStored(walking("c1"), STORED),
        "2 batches, 50 inserted, 1,200 unchanged, 1 contact written, 400 events written",
    ),
    (BatchStored(catching_up(), Tally(batches=1)), "1 batch; the catch-up scan begins"),
    (BatchStored(catching_up("c2"), Tally(batches=1, order_violations=2)), "1 batch, 2 out of order"),
    (FetchFailed(2, NETWORK, at(4)), "attempt 2 failed: it went wrong; tried again at 2026-03-01T12:00:04Z"),
    (
        BatchStored(Position(Phase.WALK, "c1", at(-60)), Tally(batches=1, inserted=2)),
        "1 batch, 2 inserted; reached 2026-03-01T11:59:00Z",
    ),
    (
        RateLimited(Scope.PAGE, 1, NOON, at(60), RATE_LIMIT),
        "met the page's rate limit: it went wrong (code 613); no call until 2026-03-01T12:01:00Z",
    ),
    (
        RateLimited(Scope.APP, 3, at(-60), at(60), NETWORK),
        f"met the app's rate limit 3 times since {BEFORE}: it went wrong; no call until 2026-03-01T12:01:00Z",
    ),
    (BatchShrunk(25, Detail.NESTED, problem(1)), "asks for 25 conversations at a time: it went wrong (code 1)"),
    (CursorLost(problem(2642)), "cursor refused: it went wrong (code 2642); begins again at the head"),
    (BatchFailed(Stage.FETCH, 3, NETWORK), "batch given up after 3 attempts (fetch): it went wrong"),
    (
        DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str", at(900)),
        "dead letter dl_1 opened for t_bad (fetch): id: expected str; tried again at 2026-03-01T12:15:00Z",
    ),
    (
        DeadLetterOpened("dl_1", Stage.STORE, "t_bad", "NUL in a text"),
        "dead letter dl_1 opened for t_bad (store): NUL in a text; not tried again by itself",
    ),
    (
        RedriveFailed("dl_1", 2, "id: expected str", at(900)),
        "dead letter dl_1 tried again in vain, 2 times so far: id: expected str; tried again at 2026-03-01T12:15:00Z",
    ),
    (
        DeadLetterClosed("dl_1", Resolution.REDRIVEN, Tally(updated=1, interaction_events=2)),
        "dead letter dl_1 closed: redriven; 1 updated, 2 events written",
    ),
    (
        DeadLetterClosed("dl_1", Resolution.DISCARDED, reason="a test thread"),
        "dead letter dl_1 closed: discarded (a test thread)",
    ),
    (
        SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, unchanged=3, unreadable=2, deleted=4)),
        "full sweep complete: 1 batch, 3 unchanged, 4 deleted, 2 unreadable",
    ),
    (
        SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, updated=3, dead_lettered=1, without_contact=2)),
        "full sweep complete: 1 batch, 3 updated, 1 dead-lettered, 2 without a contact",
    ),
    (RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("c1")), "run paused: time limit"),
    (
        RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, walking("c1"), Tally(batches=2, unchanged=100)),
        "run paused: shutdown; 2 batches, 100 unchanged",
    ),
    (
        RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN),
        "run stopped: authorization: it went wrong (code 190)",
    ),
    (
        DeadLetterClosed("dl_1", Resolution.DISCARDED, reason="a test thread", by="API from 127.0.0.1"),
        "dead letter dl_1 closed: discarded (a test thread); asked for by API from 127.0.0.1",
    ),
    (
        RedriveFailed("dl_1", 2, "it fails", by="API"),
        "dead letter dl_1 tried again in vain, 2 times so far: it fails; not tried again by itself; asked for by API",
    ),
    (StreamPaused("API from 127.0.0.1"), "put on hold (API from 127.0.0.1)"),
    (StreamResumed("API from 127.0.0.1"), "resumed (API from 127.0.0.1)"),
    (SyncRequested("command line"), "a sync was asked for (command line)"),
    (SyncRequested("command line", full=True), "a full sweep was asked for (command line)"),
    (TokenChecked(TokenHealth(is_valid=False)), "the token is no longer valid"),
    (TokenChecked(TokenHealth(is_valid=True)), "the token is valid, and never expires"),
    (TokenChecked(TokenHealth(True, at(0), at(-86400))), "the token is valid until 2026-02-28"),
    (StreamRemoved("command line"), "removed with all its rows (command line)"),
    (StoreReturned(12.5, 4), "the database answered again after 12 seconds and 4 attempts"),
]


def placed(event: Event) -> StoredEntry:
    (entry,) = entries(event)
    return StoredEntry(42, entry)


@pytest.mark.parametrize(("event", "words"), WORDS, ids=lambda value: type(value).__name__)
def test_every_event_is_told_in_words(event: Event, words: str) -> None:
    assert as_text(placed(event)) == f"2026-03-01T12:00:00Z  {STREAM.key:<27}  #42 v1  {words}\n"


def test_no_kind_of_event_is_left_out() -> None:
    assert {type(event) for event, _ in WORDS} == set(TAGS)


def test_what_others_wrote_stays_on_its_line() -> None:
    foul = FetchFailed(1, Problem(ProblemKind.API, "first\nsecond\x1b[2J"), at(4))
    line = as_text(placed(foul))
    assert line.count("\n") == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("event", [event for event, _ in WORDS], ids=lambda value: type(value).__name__)
def test_the_json_of_an_entry_has_its_data_as_an_object(event: Event) -> None:
    entry = placed(event).entry
    line = as_json(placed(event))
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
    line = as_json(placed(FetchFailed(1, Problem(ProblemKind.API, "Umlaut ü, emoji 🎉, \x1b"), at(4)))).decode()
    found = json.loads(line)
    data = line[line.index('"data":') + len('"data":') : line.index(',"hash":')]
    columns = (found["stream"], found["version"], found["run_id"], found["recorded_at"], found["type"], data)
    assert link("", columns) == found["hash"]
