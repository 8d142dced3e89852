"""Lives of streams as commits, for the tests of stores. The number of a version determines what it holds."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from msgspec.structs import replace

from kit.builders import CODEC, NOON, STREAM, at, sweep_started, walking
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchStored,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    SweepCompleted,
    Tally,
)
from milepost.core.model import (
    Changes,
    ContactRow,
    ConversationRow,
    DeadLetterPayload,
    InteractionEventRow,
    PageRow,
    Platform,
    Stream,
)
from milepost.core.ports import Commit, Store
from milepost.core.position import Gap, GapEnding, MessagesFailed, MessagesOwed, MessagesRead, Mode
from milepost.core.problems import Problem, ProblemKind
from milepost.core.records import Record, prepare

BATCHES_PER_RUN = 4
GONE = Problem(ProblemKind.API, "it does not exist", http_status=400, code=100, subcode=33)
NO_CHANGES = Changes()


def stream(number: int) -> Stream:
    return Stream(Platform.MESSENGER, f"page-{number}")


def commit_after(
    checkpoint: Checkpoint, *events: Event, changes: Changes = NO_CHANGES, run_id: str = "run-1", now: datetime = NOON
) -> Commit:
    return prepare(checkpoint, Record(events or (RunStarted(now),), changes), run_id, now, CODEC)


# --- rows -------------------------------------------------------------------------------------------------------------


def conversation_row(  # noqa: PLR0913  (a row has columns)
    conversation_id: str = "t_1",
    *,
    of: Stream = STREAM,
    contact_id: str | None = "c_1",
    snippet: str | None = "hello",
    message_count: int | None = 1,
    synced_at: datetime = NOON,
    first_synced_at: datetime | None = None,
) -> ConversationRow:
    return ConversationRow(
        conversation_id,
        of.platform.value,
        of.page_id,
        contact_id,
        f"/inbox/{conversation_id}/",
        snippet,
        message_count,
        0,
        can_reply=True,
        updated_time=synced_at,
        first_synced_at=first_synced_at or synced_at,
        synced_at=synced_at,
    )


def page_row(
    *, of: Stream = STREAM, name: str | None = "Corner Bakery", username: str | None = None, seen_at: datetime = NOON
) -> PageRow:
    return PageRow(of.platform.value, of.page_id, name, username, seen_at, seen_at)


def contact_row(
    contact_id: str = "c_1",
    *,
    of: Stream = STREAM,
    name: str | None = "Ada",
    username: str | None = None,
    updated_at: datetime = NOON,
    first_seen_at: datetime | None = None,
) -> ContactRow:
    first_seen_at = first_seen_at or updated_at
    return ContactRow(of.platform.value, of.page_id, contact_id, name, username, first_seen_at, updated_at, updated_at)


def event_row(
    event_id: str = "m_1",
    *,
    of: Stream = STREAM,
    conversation_id: str = "t_1",
    direction: str = "in",
    text: str | None = "hello",
) -> InteractionEventRow:
    return InteractionEventRow(
        event_id, conversation_id, of.platform.value, of.page_id, "c_1", direction, "message", text, None, NOON
    )


# --- lives ------------------------------------------------------------------------------------------------------------


def next_commit(checkpoint: Checkpoint) -> Commit:
    """Continue a life: a run of a few batches that ends at a limit; every third completes its sweep.

    Each batch leaves a dead letter and a gap. At the end of a run, one dead letter is redriven in vain and another one
    is closed; one gap is read in part, and another one is closed.
    """
    now = NOON + timedelta(seconds=checkpoint.version)
    run = checkpoint.run
    if run is None or run.ended_at is not None:
        run_id = f"{checkpoint.stream}-{checkpoint.version}"
        opening: tuple[Event, ...] = (RunStarted(now),)
        if checkpoint.sweep is None:
            opening = (*opening, sweep_started(walk_started_at=now))
        batches = 0
    else:
        run_id, opening, batches = run.run_id, (), run.tally.batches
    if batches < BATCHES_PER_RUN:
        return _batch(checkpoint, opening, run_id, now)
    tally = Tally(batches=1, unchanged=2)
    if checkpoint.sweep is not None and checkpoint.sweep.tally.batches >= 3 * BATCHES_PER_RUN:
        walk_started_at = checkpoint.sweep.walk_started_at
        ending: Event = SweepCompleted(Mode.FULL, walk_started_at, now, tally)
    else:
        ending = RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("limit"), tally)
    last, before_last = (checkpoint.version - since for since in (2, 5))
    closed = DeadLetterClosed(
        letter_of(checkpoint.stream.key, before_last),
        (Resolution.REDRIVEN, Resolution.DISCARDED)[checkpoint.version % 3 % 2],
    )
    failed = RedriveFailed(letter_of(checkpoint.stream.key, last), 1, "still: expected str", now + timedelta(hours=1))
    gap = gap_of(checkpoint.stream.key, last)
    read = MessagesRead(replace(gap, reached_at=at(-9), cursor=None, stored=50, attempts=1, retry_at=at(9)), 50)
    gone = MessagesFailed(gap_of(checkpoint.stream.key, before_last), GONE, GapEnding.GONE)
    return commit_after(checkpoint, failed, closed, ending, read, gone, run_id=run_id, now=now)


def _batch(checkpoint: Checkpoint, opening: tuple[Event, ...], run_id: str, now: datetime) -> Commit:
    version = checkpoint.version + len(opening) + 1
    dead_letter = DeadLetterOpened(
        letter_of(checkpoint.stream.key, version), Stage.FETCH, f"t_{version}", "id: expected str", now, f"{version:x}"
    )
    stored = BatchStored(walking(f"cursor-{version}"), Tally(batches=1, inserted=2, dead_lettered=1))
    changes = rows_of_batch(checkpoint.stream, version)
    owed = MessagesOwed((gap_of(checkpoint.stream.key, version),))
    return commit_after(checkpoint, *opening, dead_letter, stored, owed, changes=changes, run_id=run_id, now=now)


def rows_of_batch(of: Stream, version: int) -> Changes:
    """Return the rows that come with the dead letter of this version, and with the batch after it."""
    names = [f"{of.key}/{version}/{store_url}" for store_url in range(2)]
    return Changes(
        tuple(conversation_row(name, of=of, contact_id=name, synced_at=at(version)) for name in names),
        tuple(contact_row(name, of=of, updated_at=at(version)) for name in names),
        tuple(event_row(name, of=of, conversation_id=name) for name in names),
        (DeadLetterPayload(letter_of(of.key, version), "{}"),),
        page=page_row(of=of, seen_at=at(version)),
    )


def letter_of(stream_key: str, version: int) -> str:
    """Name the dead letter that is opened by the entry of this version."""
    return f"{stream_key}/{version}"


def gap_of(stream_key: str, version: int) -> Gap:
    """Return the gap that is found with the dead letter of this version."""
    return Gap(
        f"{stream_key}/gap/{version}", f"t_{version}", at(version), at(version), at(-1), at(-60), f"after {version}"
    )


def life(of: Stream, commits: int) -> Iterator[Commit]:
    """Yield the first commits of a stream's life."""
    checkpoint = Checkpoint(of)
    for _ in range(commits):
        commit = next_commit(checkpoint)
        yield commit
        checkpoint = commit.checkpoint


async def live(store: Store, of: Stream, commits: int) -> Checkpoint:
    """Continue a stream's life in a store, and return its checkpoint."""
    checkpoint = await store.load(of)
    for _ in range(commits):
        following = next_commit(checkpoint)
        await store.commit(following)
        checkpoint = following.checkpoint
    return checkpoint


ROWS = Changes((conversation_row(),), (contact_row(),), (event_row("m_1"), event_row("m_2")))


async def write(store: Store, changes: Changes, of: Stream = STREAM) -> int:
    """Commit changes of a stream, and return the version that names them."""
    commit = commit_after(await store.load(of), changes=changes)
    await store.commit(commit)
    return commit.checkpoint.version
