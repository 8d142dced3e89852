"""Generates a journal of any length, as years of syncing would leave it, in seconds, with the core itself.

The streams take turns. Nine sweeps of ten find nothing new, which is one entry; the others are sweeps of many batches,
with an occasional retry, a stop at the batch limit, and a dead letter per hundred batches.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchStored,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.journal import Codec, dead_letter_after
from milepost.core.model import Stream
from milepost.core.ports import Commit
from milepost.core.position import Mode, Phase, Position
from milepost.core.problems import Problem, ProblemKind
from milepost.core.records import Record, prepare
from milepost.stores import rows
from milepost.stores.reader import load_statements
from milepost.stores.sqlite.migrate import migrate

BEGAN_AT = datetime(2025, 2, 1, tzinfo=UTC)  # after the newest row of the benchmark's inboxes
SWEEPS_TO_A_BUSY_ONE = 10
MAX_BATCHES_OF_A_RUN = 50
NOTHING_NEW = Tally(batches=1, unchanged=50)
OUTAGE = Problem(ProblemKind.NETWORK, "the server closed the connection without an answer")


class RunEvents(Struct, frozen=True):
    """The events of one run, grouped by commit."""

    run_id: str
    groups: Sequence[tuple[Event, ...]]


def _sweep(number: int, at: datetime, jitter: Random, *, is_first: bool) -> Iterator[RunEvents]:
    """Yield the runs of a sweep: one that finds nothing, or several that read batches to the end."""
    if not is_first and jitter.randrange(SWEEPS_TO_A_BUSY_ONE):
        yield RunEvents(_run_id(number, 0), [(SweepCompleted(Mode.INCREMENTAL, at, at, NOTHING_NEW),)])
        return
    mode = Mode.FULL if is_first else Mode.INCREMENTAL
    left = jitter.randrange(2, 10 if is_first else 120)
    opening: tuple[Event, ...] = (RunStarted(at), SweepStarted(mode, at, at - timedelta(minutes=10)))
    for part in count():
        groups = [_batch(jitter) for _ in range(min(left, MAX_BATCHES_OF_A_RUN))]
        left -= len(groups)
        ended: Event = SweepCompleted(mode, at, at, NOTHING_NEW)
        if left:
            ended = RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, Position(Phase.WALK, _cursor(jitter)))
        yield RunEvents(_run_id(number, part), [(*opening, *groups[0]), *groups[1:], (ended,)])
        if not left:
            return
        opening = (RunStarted(at),)


def _batch(jitter: Random) -> tuple[Event, ...]:
    stored = BatchStored(
        Position(Phase.WALK, _cursor(jitter)), Tally(batches=1, inserted=50, contacts=50, interaction_events=320)
    )
    chance = jitter.random()
    if chance < 0.05:
        return (FetchFailed(1, OUTAGE, BEGAN_AT), stored)
    if chance < 0.06:
        dead_letter = DeadLetterOpened(f"{jitter.getrandbits(64):016x}", Stage.FETCH, "t_1", "updated_time is missing")
        return (dead_letter, stored)
    return (stored,)


def _cursor(jitter: Random) -> str:
    return f"QVFIUm{jitter.getrandbits(512):x}"


def _run_id(number: int, part: int) -> str:
    return f"{number:024x}-{part:02x}"


def _history(streams: Sequence[Stream]) -> Iterator[list[Commit]]:
    """Yield commits without end, sweep by sweep."""
    codec, jitter = Codec(), Random(7)  # noqa: S311 -- the same history every time
    checkpoints = {stream: Checkpoint(stream) for stream in streams}
    for number in count():
        stream = streams[number % len(streams)]
        at = BEGAN_AT + timedelta(seconds=6 * number)
        commits = []
        for run in _sweep(number, at, jitter, is_first=number < len(streams)):
            for group in run.groups:
                commit = prepare(checkpoints[stream], Record(group), run.run_id, at, codec)
                checkpoints[stream] = commit.checkpoint
                commits.append(commit)
        yield commits


def write_history(path: Path, entries: int, streams: Sequence[Stream]) -> None:
    """Create a database at `path` whose journal has that many entries, plus those that complete the last sweep."""
    migrate(path)
    sql, written = load_statements("sqlite"), 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for commits in _history(streams):
            _write(connection, sql, commits)
            written += sum(len(commit.entries) for commit in commits)
            if written >= entries:
                break
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _write(connection: sqlite3.Connection, sql: dict[str, str], commits: list[Commit]) -> None:
    entries = [entry for commit in commits for entry in commit.entries]
    checkpoints = {commit.checkpoint.stream: commit.checkpoint for commit in commits}
    runs = {run.run_id: (commit.checkpoint.stream, run) for commit in commits if (run := commit.run)}
    connection.executemany(sql["insert_entries"], map(rows.entry_tuple, entries))
    # None of the dead letters is ever closed.
    dead_letters = [
        dead_letter for entry in entries if (dead_letter := dead_letter_after(entry, before=lambda _: None))
    ]
    connection.executemany(sql["upsert_dead_letter"], map(rows.dead_letter_tuple, dead_letters))
    connection.executemany(sql["upsert_checkpoint"], map(rows.checkpoint_tuple, checkpoints.values()))
    connection.executemany(sql["upsert_run"], [rows.run_tuple(stream, run) for stream, run in runs.values()])
