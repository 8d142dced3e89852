"""Every kind of entry is described once: in a title, a sentence, a level, fields and a hint."""

import pytest
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
    RATE_LIMIT,
    STREAM,
    at,
    catching_up,
    entries,
    given,
    problem,
    run_started,
    sweep_started,
    walking,
)
from kit.event_strategies import events as any_event
from milepost.core import events
from milepost.core.checkpoint import Run
from milepost.core.events import Reason, Resolution, RunEnded, RunStatus, Stage, Tally
from milepost.core.evolve import evolve
from milepost.core.model import Detail, OwnId, OwnIdState, TokenHealth
from milepost.core.position import (
    GapEnding,
    HistoriesLeftOut,
    HistorySearch,
    MessagesFailed,
    MessagesMissed,
    MessagesOwed,
    MessagesRead,
    Missed,
    MissedReason,
    Mode,
    Phase,
    Position,
    Scan,
)
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.core.webhooks import FactsApplied
from milepost.reporting.advice import advice_on
from milepost.reporting.describe import CLOSINGS, ENDINGS, OPENINGS, describe
from milepost.reporting.humanize import Description, Level
from milepost.reporting.status import SET_OWN_ID

# Two batches of nine conversations were stored, one was given up and a fetch was retried, in 30 seconds.
BEFORE = given(
    run_started(),
    sweep_started(),
    events.BatchStored(walking("a"), Tally(batches=2, inserted=9)),
    events.FetchFailed(1, NETWORK, at(2)),
    events.BatchFailed(Stage.FETCH, 3, NETWORK),
)
TALLY = Tally(batches=1, inserted=50, updated=3, unchanged=2, dead_lettered=1)
COUNTS = {"inserted": 50, "updated": 3, "unchanged": 2, "dead_lettered": 1}
IN_ALL = {"seconds": 30.0, "batches": 3, "inserted": 59, "updated": 3, "unchanged": 2, "dead_lettered": 1}
IN_BRIEF = "3 batches, 59 new, 3 updated, 2 unchanged, 1 dead letter"
BY = "API from 127.0.0.1"
DEBUG, INFO, WARNING, ERROR = Level
OF_GAP = {"conversation": "t_1", "reached": "2026-03-01T11:58:00+00:00"}
WENT_WRONG = {"problem": "it went wrong"}
WAIT = advice_on(RATE_LIMIT, STREAM)
NEW_TOKEN = advice_on(DEAD_TOKEN, STREAM)
LOOP = Problem(ProblemKind.CURSOR_LOOP, "round and round")
STUCK = Problem(ProblemKind.NO_PROGRESS, "nothing new")

CASES: dict[events.Event, Description] = {
    run_started(NOON): Description("run started", "Run started", DEBUG),
    # --- sweeps and batches ---
    sweep_started(): Description(
        "sweep started",
        "Full sweep started: reading all conversations",
        fields={"mode": "full", "back_to": "the oldest"},
    ),
    sweep_started(Mode.INCREMENTAL, walk_until=at(-600)): Description(
        "sweep started",
        "Incremental sweep started: reading back to 11:50:00 UTC",
        fields={"mode": "incremental", "back_to": "2026-03-01T11:50:00+00:00"},
    ),
    events.BatchStored(Position(Phase.WALK, "b", at(-60)), TALLY): Description(
        "batch stored",
        "Batch 3 stored: 50 new, 3 updated, 2 unchanged, 1 dead letter",
        fields=COUNTS | {"reached": "2026-03-01T11:59:00+00:00"},
    ),
    events.BatchStored(
        walking("b"), Tally(batches=3, updated=1, unchanged=1249, contacts=1, interaction_events=4)
    ): Description(
        "batch stored",
        "Batches 3 to 5 stored: 1 updated, 1,249 unchanged",
        fields={"updated": 1, "unchanged": 1249, "contacts": 1, "interaction_events": 4},
    ),
    events.BatchStored(catching_up(), Tally(batches=1, unchanged=50)): Description(
        "batch unchanged",
        "Batch 3: nothing new, 50 unchanged; the catch-up scan starts",
        DEBUG,
        fields={"unchanged": 50},
    ),
    events.BatchStored(Position(Phase.CATCH_UP, scan=Scan(2, NOON)), Tally(batches=1, unchanged=50)): Description(
        "batch unchanged",
        "Batch 3: nothing new, 50 unchanged; the catch-up scan starts again",
        DEBUG,
        fields={"unchanged": 50},
    ),
    events.BatchStored(catching_up("c2"), Tally(batches=1, order_violations=2)): Description(
        "batch unchanged", "Batch 3: nothing new", DEBUG, fields={"order_violations": 2}
    ),
    events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, unchanged=2, deleted=4, unreadable=2)): Description(
        "sweep completed",
        "Full sweep complete: 3 batches, 9 new, 2 unchanged, 4 deleted",
        fields={
            "mode": "full",
            "status": "complete",
            "seconds": 30.0,
            "batches": 3,
            "inserted": 9,
            "unchanged": 2,
            "deleted": 4,
            "unreadable": 2,
        },
    ),
    events.SweepCompleted(Mode.FULL, NOON, NOON, TALLY): Description(
        "sweep completed",
        f"Full sweep complete with dead letters: {IN_BRIEF}",
        fields={"mode": "full", "status": "complete_with_errors"} | IN_ALL,
    ),
    # --- failures ---
    events.FetchFailed(2, NETWORK, at(34.25)): Description(
        "fetch failed, retrying",
        "Batch 3 could not be read (attempt 2), next attempt at 12:00:34 UTC: it went wrong",
        WARNING,
        {"attempt": 2, "wait_seconds": 4.2} | WENT_WRONG,
    ),
    events.BatchFailed(Stage.FETCH, 3, NETWORK): Description(
        "batch given up",
        "Batch 3 was given up for this run after 3 attempts: it went wrong",
        WARNING,
        {"stage": "fetch", "attempts": 3} | WENT_WRONG,
    ),
    events.BatchShrunk(25, Detail.NESTED, problem(1)): Description(
        "batch size reduced",
        "Batch 3 is requested again, 25 conversations at a time: it went wrong (code 1)",
        fields={"asked_for": "25 conversations at a time", "problem": "it went wrong (code 1)"},
    ),
    events.RateLimited(Scope.APP, 1, at(30), at(7500), APP_LIMIT): Description(
        "rate limited",
        "Reached the app's rate limit, no calls until 14:05:00 UTC: it went wrong (code 4)",
        WARNING,
        {
            "scope": "app",
            "attempts": 1,
            "since": "2026-03-01T12:00:30+00:00",
            "until": "2026-03-01T14:05:00+00:00",
            "wait_seconds": 7470.0,
            "problem": "it went wrong (code 4)",
        },
        WAIT,
    ),
    events.RateLimited(Scope.PAGE, 3, at(-60), at(86400), RATE_LIMIT): Description(
        "rate limited",
        "Reached the page's rate limit 3 times since 11:59:00 UTC, no calls until 2026-03-02 12:00:00 UTC: "
        "it went wrong (code 613)",
        WARNING,
        {
            "scope": "page",
            "attempts": 3,
            "since": "2026-03-01T11:59:00+00:00",
            "until": "2026-03-02T12:00:00+00:00",
            "wait_seconds": 86370.0,
            "problem": "it went wrong (code 613)",
        },
        WAIT,
    ),
    events.FieldsLeftOut(("can_reply", "shares")): Description(
        "fields left out",
        "The API refuses fields by name: conversations are read without can_reply, shares",
        WARNING,
        {"left_out": "can_reply, shares"},
        "nothing is lost but these fields; they are tried again daily, at each start and with another version",
    ),
    events.FieldsLeftOut(): Description("all fields read again", "The API knows all requested fields again"),
    events.CursorLost(problem(2642)): Description(
        "cursor refused",
        "The cursor was refused, the walk restarts at the head of the inbox: it went wrong (code 2642)",
        WARNING,
        {"problem": "it went wrong (code 2642)"},
        "the walk restarts at the head of the inbox",
    ),
    events.CursorLost(LOOP, is_last=True): Description(
        "cursor refused",
        "The list leads nowhere, the walk restarts at the head of the inbox: round and round",
        WARNING,
        {"problem": "round and round"},
        "the walk restarts at the head of the inbox",
    ),
    events.BatchStored(Position(Phase.CATCH_UP), Tally(batches=1, unchanged=50), problem=LOOP): Description(
        "walk ended early",
        "The walk ends here, though the list goes on: round and round",
        WARNING,
        {"unchanged": 50, "problem": "round and round"},
        advice_on(LOOP, STREAM),
    ),
    events.SweepCompleted(Mode.FULL, NOON, NOON, TALLY, has_errors=True, problem=LOOP): Description(
        "sweep completed",
        f"Full sweep complete ({IN_BRIEF}), but in doubt, and deletes nothing: round and round",
        WARNING,
        {"mode": "full", "status": "complete_with_errors", **IN_ALL, "problem": "round and round"},
        advice_on(LOOP, STREAM),
    ),
    RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("b"), TALLY, STUCK): Description(
        "run ended early",
        f"Stopped at the time limit of a run ({IN_BRIEF}): nothing new; the next run continues there",
        WARNING,
        {"reason": "time_limit", "status": "paused", **IN_ALL, "problem": "nothing new"},
        advice_on(STUCK, STREAM),
    ),
    # --- dead letters ---
    **{
        events.DeadLetterOpened("d_1", stage, "t_1", "id: expected\nstr", at(900)): Description(
            "dead letter opened",
            f"{OPENINGS[stage]} and became a dead letter, next attempt at 12:15:00 UTC: id: expected str",
            WARNING,
            {"dead_letter": "d_1", "stage": stage.value, "subject": "t_1", "reason": "id: expected\nstr"},
            "its payload is kept; it is redriven automatically at 2026-03-01T12:15:00+00:00",
        )
        for stage in Stage
    },
    events.DeadLetterOpened("d_1", Stage.STORE, "t_1/row", "NUL in a text"): Description(
        "dead letter opened",
        "A row could not be stored and became a dead letter, no automatic redrive: NUL in a text",
        WARNING,
        {"dead_letter": "d_1", "stage": "store", "subject": "t_1/row", "reason": "NUL in a text"},
        "its payload is kept; it is not redriven automatically: see `milepost dead-letters show d_1`",
    ),
    events.RedriveFailed("d_1", 2, "still refused", at(330), Tally(batches=1, inserted=1)): Description(
        "redrive failed",
        "A dead letter could not be redriven (attempt 2), next attempt at 12:05:30 UTC: still refused",
        WARNING,
        {"dead_letter": "d_1", "attempts": 2, "reason": "still refused"},
        "it is redriven automatically at 2026-03-01T12:05:30+00:00",
    ),
    events.RedriveFailed("d_1", 10, "still refused", by=BY): Description(
        "redrive failed",
        f"A dead letter could not be redriven (attempt 10 via {BY}), no automatic redrive: still refused",
        WARNING,
        {"dead_letter": "d_1", "attempts": 10, "reason": "still refused"},
        "it is not redriven automatically: see `milepost dead-letters show d_1`",
    ),
    **{
        events.DeadLetterClosed("d_1", resolution): Description(
            "dead letter closed",
            CLOSINGS[resolution],
            fields={"dead_letter": "d_1", "resolution": resolution.value},
        )
        for resolution in Resolution
    },
    events.DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(inserted=1, interaction_events=4)): Description(
        "dead letter closed",
        "A dead letter was redriven successfully: 1 new",
        fields={"dead_letter": "d_1", "resolution": "redriven", "inserted": 1, "interaction_events": 4},
    ),
    events.DeadLetterClosed("d_1", Resolution.DISCARDED, reason="Ada asked for it", by=BY): Description(
        "dead letter closed",
        f"A dead letter was discarded via {BY}",
        fields={"dead_letter": "d_1", "resolution": "discarded"},
        note="Ada asked for it",
    ),
    # --- ends of runs ---
    **{
        RunEnded(RunStatus.PAUSED, reason, walking("b"), TALLY): Description(
            "run ended early",
            f"{ENDINGS[reason].what} ({IN_BRIEF}); {ENDINGS[reason].next}",
            INFO,
            {"reason": reason.value, "status": "paused"} | IN_ALL,
            ENDINGS[reason].next,
        )
        for reason in (Reason.TIME_LIMIT, Reason.BATCH_LIMIT, Reason.SHUTDOWN, Reason.REQUEST, Reason.REMOVED)
    },
    RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, walking("b"), TALLY, RATE_LIMIT): Description(
        "run ended early",
        f"Stopped at a rate limit ({IN_BRIEF}): it went wrong (code 613); {ENDINGS[Reason.RATE_LIMIT].next}",
        INFO,  # the limit itself was a warning
        {"reason": "rate_limit", "status": "paused"} | IN_ALL | {"problem": "it went wrong (code 613)"},
        WAIT,
    ),
    RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, walking("b"), problem=NETWORK): Description(
        "run failed",
        "Failed after all attempts (2 batches, 9 new): it went wrong; the next run tries again",
        ERROR,
        {"reason": "retries_exhausted", "status": "failed", "seconds": 30.0, "batches": 2, "inserted": 9} | WENT_WRONG,
        advice_on(NETWORK, STREAM),
    ),
    **{
        RunEnded(RunStatus.INTERRUPTED, reason): Description(
            "run interrupted",
            f"{ENDINGS[reason].what} (2 batches, 9 new); {ENDINGS[reason].next}",
            WARNING,
            {"reason": reason.value, "status": "interrupted", "seconds": 30.0, "batches": 2, "inserted": 9},
            ENDINGS[reason].next,
        )
        for reason in (Reason.PROCESS_DIED, Reason.BROKE_OFF)
    },
    RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN): Description(
        "run stopped",
        f"Stopped for authorization (2 batches, 9 new): it went wrong (code 190). What to do: {NEW_TOKEN}",
        ERROR,
        {
            "reason": "authorization",
            "status": "stopped",
            "seconds": 30.0,
            "batches": 2,
            "inserted": 9,
            "problem": "it went wrong (code 190)",
        },
        NEW_TOKEN,
    ),
    RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION): Description(
        "run stopped",
        "Stopped for the configuration (2 batches, 9 new); it must be fixed",
        ERROR,
        {"reason": "configuration", "status": "stopped", "seconds": 30.0, "batches": 2, "inserted": 9},
        "it must be fixed",
    ),
    # --- the store and the stream ---
    MessagesOwed((GAP, replace(GAP, gap_id="g_2", conversation_id="t_2"))): Description(
        "messages owed",
        "2 conversations have more new messages than the list shows: they are owed",
        fields={"conversations": ["t_1", "t_2"], "gaps": 2},
    ),
    MessagesOwed((replace(GAP, history_to=at(-9000)),)): Description(
        "messages owed",
        "1 conversation has older messages than the list shows, which are read in the background",
        DEBUG,
        {"conversations": ["t_1"], "gaps": 1, "histories": 1},
    ),
    MessagesOwed((GAP, replace(GAP, history_to=at(-9000)), replace(GAP, history_to=NOON))): Description(
        "messages owed",
        "1 conversation has more new messages than the list shows: they are owed; 2 conversations have older "
        "messages than the list shows; those of 1 are beyond the limit of sync.message_history",
        fields={"conversations": ["t_1", "t_1", "t_1"], "gaps": 3, "histories": 2},
    ),
    MessagesOwed((), HistoriesLeftOut(NOON, 60.0)): Description(
        "messages owed",
        "New conversations have older messages, all beyond the limit of sync.message_history",
        DEBUG,
        {"conversations": [], "gaps": 0},
    ),
    MessagesOwed((), HistoriesLeftOut(NOON, 60.0, search=HistorySearch(at(-9000), NOON))): Description(
        "messages owed",
        "Searching the stored conversations for older messages that are now owed",
        DEBUG,
        {"conversations": [], "gaps": 0},
    ),
    MessagesOwed((), HistoriesLeftOut(at(-9000), searched_to=at(-9000))): Description(
        "messages owed",
        "Searched the stored conversations for older messages that are now owed",
        DEBUG,
        {"conversations": [], "gaps": 0},
    ),
    MessagesRead(replace(GAP, history_to=at(-120)), 50, ending=GapEnding.HISTORY_LIMIT): Description(
        "messages read",
        "50 older messages of a conversation stored; they reach back to the limit of sync.message_history",
        DEBUG,
        OF_GAP | {"ending": "history_limit", "stored": 50, "stored_so_far": 0},
    ),
    MessagesRead(GAP, ending=GapEnding.MOVED): Description(
        "messages read",
        "0 older messages of a conversation stored; another page has the conversation now, and owes it",
        fields=OF_GAP | {"ending": "moved", "stored": 0, "stored_so_far": 0},
    ),
    MessagesRead(replace(GAP, stored=90), 50): Description(
        "messages read",
        "50 older messages of a conversation stored; more are owed",
        DEBUG,
        OF_GAP | {"stored": 50, "stored_so_far": 90},
    ),
    MessagesRead(GAP, 1, ending=GapEnding.CLOSED): Description(
        "messages read",
        "1 older message of a conversation stored; all that was owed is stored",
        fields=OF_GAP | {"ending": "closed", "stored": 1, "stored_so_far": 0},
    ),
    MessagesFailed(replace(GAP, attempts=1, retry_at=at(2)), NETWORK): Description(
        "messages not read",
        f"Older messages of a conversation could not be read; next attempt at 12:00:02 UTC: {NETWORK}",
        WARNING,
        OF_GAP | {"attempts": 1, "problem": str(NETWORK)},
    ),
    MessagesFailed(replace(GAP, attempts=3), NETWORK): Description(
        "messages not read",
        f"Older messages of a conversation could not be read; the next run tries again: {NETWORK}",
        WARNING,
        OF_GAP | {"attempts": 3, "problem": str(NETWORK)},
    ),
    MessagesFailed(GAP, NETWORK, GapEnding.DEAD_LETTER): Description(
        "messages not read",
        f"Older messages of a conversation could not be read; a dead letter keeps what is owed: {NETWORK}",
        WARNING,
        OF_GAP | {"ending": "dead_letter", "attempts": 0, "problem": str(NETWORK)},
    ),
    MessagesRead(replace(GAP, stored=90), 50, edited=1, unsent=2): Description(
        "messages read",
        "50 older messages of a conversation stored; more are owed",
        DEBUG,
        OF_GAP | {"stored": 50, "stored_so_far": 90, "edited": 1, "unsent": 2},
    ),
    MessagesRead(replace(GAP, stored=40), ending=GapEnding.WITHHELD): Description(
        "messages read",
        "0 older messages of a conversation stored; the API withholds the rest",
        fields=OF_GAP | {"ending": "withheld", "stored": 0, "stored_so_far": 40},
    ),
    MessagesMissed((MISSED,)): Description(
        "messages missed",
        "About 40 messages of a conversation cannot be read, from 11:00:00 UTC to 11:58:00 UTC: "
        "the API lists no older ones",
        WARNING,
        {
            "conversations": ["t_1"],
            "messages": 40,
            "from": "2026-03-01T11:00:00+00:00",
            "until": "2026-03-01T11:58:00+00:00",
            "reasons": ["window"],
        },
        "they are not asked for again",
    ),
    MessagesMissed((MISSED, Missed("t_2", MissedReason.NO_CONTENT, at(-60), at(-30), 2))): Description(
        "messages missed",
        "About 42 messages of 2 conversations cannot be read, from 11:00:00 UTC to 11:59:30 UTC: "
        "the API lists no older ones and the API lists them without content",
        WARNING,
        {
            "conversations": ["t_1", "t_2"],
            "messages": 42,
            "from": "2026-03-01T11:00:00+00:00",
            "until": "2026-03-01T11:59:30+00:00",
            "reasons": ["no_content", "window"],
        },
        "they are not asked for again",
    ),
    events.StoreReturned(61.04, 5): Description(
        "database available again",
        "The database is available again after 61 seconds and 5 attempts",
        fields={"away_seconds": 61.0, "attempts": 5},
    ),
    FactsApplied(edited=1, reactions=2, reads=1, outdated=3): Description(
        "facts applied",
        "Webhooks said: 1 edited message, 2 reactions, 1 conversation that was read",
        DEBUG,
        {"edited": 1, "reactions": 2, "reads": 1, "outdated": 3},
    ),
    FactsApplied(outdated=1): Description("facts applied", "Webhooks said: nothing new", DEBUG, {"outdated": 1}),
    events.StreamPaused(BY): Description(
        "stream paused",
        f"Paused via {BY} until it is resumed",
        WARNING,
        {"by": BY},
        "no run starts until it is resumed",
    ),
    events.StreamResumed(BY): Description("stream resumed", f"Resumed via {BY}", fields={"by": BY}),
    events.SyncRequested(BY): Description(
        "sync requested", f"Sync requested via {BY}", fields={"by": BY, "full": False}
    ),
    events.SyncRequested(BY, full=True): Description(
        "sync requested", f"Full sweep requested via {BY}", fields={"by": BY, "full": True}
    ),
    events.OwnIdChecked(OwnId(OwnIdState.EXPECTED)): Description(
        "own id found", "Our own id is in the threads", fields={"state": "expected"}
    ),
    events.OwnIdChecked(OwnId(OwnIdState.ANOTHER, "17841")): Description(
        "own id is another",
        "Our own id is in no thread, while 17841 is in each: that is taken as ours",
        WARNING,
        {"state": "another", "own_id": "17841"},
        "it is taken as ours, and the next sweep reads everything again; set instagram_account_id to it",
    ),
    events.OwnIdChecked(OwnId(OwnIdState.UNKNOWN)): Description(
        "own id unknown",
        "Our own id is in no thread, and it is unknown which participant is us",
        WARNING,
        {"state": "unknown"},
        SET_OWN_ID,
    ),
    events.TokenChecked(TokenHealth(is_valid=False)): Description(
        "token checked",
        "The token is no longer valid",
        WARNING,
        {"found": "the token is no longer valid"},
    ),
    events.TokenChecked(TokenHealth(is_valid=True)): Description(
        "token checked",
        "The token is valid, and never expires",
        fields={"found": "the token is valid, and never expires"},
    ),
    events.TokenChecked(TokenHealth(True, at(0), at(-86400))): Description(
        "token checked",
        "The token is valid until 2026-02-28",
        fields={"found": "the token is valid until 2026-02-28"},
    ),
    events.StreamRemoved("command line"): Description(
        "stream removed",
        "Removed via command line with all rows",
        WARNING,
        {"by": "command line"},
        "its rows are deleted; if it is configured again, it starts from scratch",
    ),
}


def described(event: events.Event, *, is_in_a_run: bool = True) -> Description:
    (entry,) = entries(event, after=BEFORE, recorded_at=at(30))
    return describe(entry, evolve(BEFORE, entry).run if is_in_a_run else None)


@pytest.mark.parametrize(("event", "description"), CASES.items(), ids=lambda value: type(value).__name__)
def test_an_entry_is_described_by_its_event_and_its_run(event: events.Event, description: Description) -> None:
    assert described(event) == description


def test_every_kind_of_event_and_every_reason_is_in_the_table() -> None:
    assert {type(event) for event in CASES} == set(events.TAGS)
    assert {event.reason for event in CASES if isinstance(event, RunEnded)} == set(Reason) == ENDINGS.keys()


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (
            events.BatchStored(walking("b"), Tally(batches=2, inserted=50, unchanged=1200)),
            "2 batches stored: 50 new, 1,200 unchanged",
        ),
        (events.BatchStored(walking("b"), Tally(batches=1)), "1 batch: nothing new"),
        (
            events.BatchFailed(Stage.FETCH, 3, NETWORK),
            "A batch was given up for this run after 3 attempts: it went wrong",
        ),
        (
            events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, updated=3)),
            "Full sweep complete: 1 batch, 3 updated",
        ),
        (RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN), "Stopped for a shutdown; the next start continues there"),
        (
            RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, None, Tally(batches=2, unchanged=100)),
            "Stopped for a shutdown (2 batches, 100 unchanged); the next start continues there",
        ),
    ],
)
def test_where_the_run_is_not_known_an_entry_is_described_by_itself(event: events.Event, sentence: str) -> None:
    assert described(event, is_in_a_run=False).sentence == sentence


def test_a_clock_that_was_set_back_makes_no_negative_wait() -> None:
    assert described(events.FetchFailed(1, NETWORK, at(2))).fields["wait_seconds"] == 0.0
    (entry,) = entries(RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN), after=BEFORE, recorded_at=at(-30))
    run = evolve(BEFORE, entry).run
    assert isinstance(run, Run)
    assert describe(entry, run).fields["seconds"] == 0.0


def test_foreign_text_stays_on_one_line() -> None:
    hostile = events.FetchFailed(1, Problem(ProblemKind.API, "first\nsecond\x1b[2J"), at(4))
    assert described(hostile).sentence.endswith(r": first second\x1b[2J")


@drawn(event=any_event, is_in_a_run=st.booleans())
def test_every_sentence_is_one_printable_line_without_what_an_operator_wrote(
    event: events.Event, *, is_in_a_run: bool
) -> None:
    description = described(event, is_in_a_run=is_in_a_run)

    assert description.sentence
    assert description.sentence.isprintable()
    if isinstance(event, events.DeadLetterClosed) and len(event.reason) > 3:
        assert event.reason not in f"{description.sentence}{description.hint}{description.fields}"
        assert description.note == event.reason
