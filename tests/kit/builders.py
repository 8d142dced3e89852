"""Builds values of the core in one line each, for tests that depend on one or two of their fields."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Entry, Event, Reason, RunStarted, StreamRemoved, SweepStarted, Tally
from milepost.core.evolve import fold
from milepost.core.journal import Codec, seal
from milepost.core.model import (
    Batch,
    Contact,
    Conversation,
    Direction,
    Interaction,
    MessagePage,
    Platform,
    RefusedRow,
    Stream,
    Unreadable,
)
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import Fetched, MessagesFetched, Refused
from milepost.core.position import Gap, Missed, MissedReason, Mode, Phase, Position
from milepost.core.problems import Problem, ProblemKind
from milepost.core.records import Context

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STREAM = Stream(Platform.MESSENGER, "1234567890")
RUN_ID = "run-1"
POLICY = Policy()
CODEC = Codec()


def removals(entries: Iterable[Entry]) -> dict[Stream, int]:
    """Return the version of each stream's latest removal."""
    return {entry.stream: entry.version for entry in entries if isinstance(entry.event, StreamRemoved)}


def at(seconds: float) -> datetime:
    """Return the instant that many seconds after noon, before it if negative."""
    return NOON + timedelta(seconds=seconds)


# --- what a source returns --------------------------------------------------------------------------------------------


def contact(contact_id: str = "c_1", name: str | None = "Ada", username: str | None = None) -> Contact:
    return Contact(contact_id, name, username)


def message(event_id: str = "m_1", occurred_at: datetime = NOON, text: str | None = "hello") -> Interaction:
    return Interaction(event_id, Direction.IN, "message", occurred_at, text=text)


def conversation(
    conversation_id: str = "t_1",
    updated_time: datetime = NOON,
    *,
    of: Contact | None = None,
    messages: Sequence[Interaction] = (),
    snippet: str | None = None,
    message_count: int | None = None,
) -> Conversation:
    """Return a conversation; without messages it has none, by its count."""
    return Conversation(
        conversation_id,
        updated_time,
        contact=of,
        snippet=snippet,
        message_count=message_count if messages or message_count is not None else 0,
        interactions=tuple(messages),
    )


def unreadable(subject: str = "t_bad", reason: str = "id: expected str", payload: str = "{}") -> Unreadable:
    return Unreadable(subject, reason, payload)


def batch(*items: Conversation | Unreadable, next_cursor: str | None = None) -> Batch:
    return Batch(
        tuple(item for item in items if isinstance(item, Conversation)),
        next_cursor,
        tuple(item for item in items if isinstance(item, Unreadable)),
    )


def fetched(
    *items: Conversation | Unreadable, next_cursor: str | None = None, asked_at: datetime = NOON, took: float = 0.1
) -> Fetched:
    return Fetched(batch(*items, next_cursor=next_cursor), asked_at, took)


def problem(
    code: int | None = None,
    kind: ProblemKind = ProblemKind.API,
    *,
    http_status: int | None = None,
    subcode: int | None = None,
    is_transient: bool | None = None,
    wait_seconds: float | None = None,
) -> Problem:
    return Problem(kind, "it went wrong", http_status, code, subcode, is_transient, wait_seconds)


NETWORK = problem(kind=ProblemKind.NETWORK)
RATE_LIMIT = problem(613)
APP_LIMIT = problem(4)
DEAD_TOKEN = problem(190)
BAD_VERSION = problem(2635)
DEAD_CURSOR = problem(2642)
UNKNOWN = problem(1)
TOO_HEAVY = Problem(ProblemKind.API, "Please reduce the amount of data you're asking for", http_status=500, code=1)


MISSED = Missed("t_1", MissedReason.WINDOW, at(-3600), at(-120), 40, is_estimate=True)
GAP = Gap("g_1", "t_1", NOON, at(-60), at(-120), at(-3600), cursor="older")


def messages_fetched(
    *messages: Interaction, next_cursor: str | None = None, unreadable: Sequence[Unreadable] = ()
) -> MessagesFetched:
    return MessagesFetched(MessagePage(messages, next_cursor, tuple(unreadable)), NOON, 0.1)


def refused(what: Problem = NETWORK, took: float = 0.1) -> Refused:
    return Refused(what, took)


# --- a run and its context -------------------------------------------------------------------------------------------


def budget(
    run_id: str = RUN_ID,
    *,
    started_at: datetime = NOON,
    deadline_at: datetime = NOON + timedelta(seconds=270),
    max_batches: int = 500,
    wants_full: bool = False,
    stops_for: Reason | None = None,
) -> RunBudget:
    return RunBudget(run_id, started_at, deadline_at, max_batches, wants_full, stops_for)


def context(
    now: datetime = NOON,
    *,
    jitter: float = 0.5,
    during: RunBudget | None = None,
    policy: Policy = POLICY,
    refused_rows: Sequence[RefusedRow] = (),
) -> Context:
    return Context(now, jitter, during or budget(), policy, tuple(refused_rows))


# --- the past of a stream ---------------------------------------------------------------------------------------------


def checkpoint_of(stream: Stream = STREAM) -> Checkpoint:
    """Return the checkpoint of a stream without a past."""
    return Checkpoint(stream)


def entries(
    *events: Event, after: Checkpoint | None = None, run_id: str | None = RUN_ID, recorded_at: datetime = NOON
) -> tuple[Entry, ...]:
    """Return sealed entries that follow a checkpoint."""
    return seal(after or checkpoint_of(), events, run_id, recorded_at, CODEC)


def given(
    *events: Event, after: Checkpoint | None = None, run_id: str | None = RUN_ID, recorded_at: datetime = NOON
) -> Checkpoint:
    """Return the checkpoint after these events of one run."""
    before = after or checkpoint_of()
    return fold(entries(*events, after=before, run_id=run_id, recorded_at=recorded_at), before)


def run_started(started_at: datetime = NOON) -> RunStarted:
    return RunStarted(started_at)


def sweep_started(
    mode: Mode = Mode.FULL, walk_started_at: datetime = NOON, walk_until: datetime | None = None
) -> SweepStarted:
    overlap = timedelta(seconds=POLICY.watermark_overlap_seconds)
    return SweepStarted(mode, walk_started_at, walk_started_at - overlap, walk_until)


def walking(
    cursor: str | None = None, reached_at: datetime | None = None, *, head_read_at: datetime | None = None
) -> Position:
    return Position(Phase.WALK, cursor, reached_at, head_read_at=head_read_at)


def catching_up(
    cursor: str | None = None, reached_at: datetime | None = None, *, head_read_at: datetime | None = None
) -> Position:
    return Position(Phase.CATCH_UP, cursor, reached_at, head_read_at=head_read_at)


def total(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of tallies."""
    return sum(tallies, start=Tally())
