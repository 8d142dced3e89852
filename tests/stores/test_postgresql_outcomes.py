"""A connection that breaks in the middle of a commit: the outcome is settled by reading."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest

from kit.builders import NOON, STREAM, budget
from kit.engine_doubles import Inbox, subscribed
from kit.flaky_proxy import Cut, Line, breakable_line
from kit.postgres import Database
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import OutcomeUnknown, StoreAway
from milepost.core.events import RunStarted, RunStatus
from milepost.core.plan import Policy
from milepost.core.ports import Commit, Committed, Rejected
from milepost.engine.clock import SystemClock
from milepost.engine.context import EngineContext, Mailbox, Slots
from milepost.engine.feed import Feed, Recorded
from milepost.engine.interrupt import Stop
from milepost.engine.rate_limits import RateLimits
from milepost.engine.run import run_stream
from milepost.stores.open import open_store
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.store import OpenStore
from stores.histories import commit_after, next_commit, stream
from stores.store_dump import PostgresDump

JOURNAL_LOCK = "SELECT pg_advisory_lock(hashtextextended('milepost journal', 0))"


@pytest.fixture
async def line(database: Database) -> AsyncIterator[Line]:
    async with breakable_line(database) as line:
        yield line


@pytest.fixture
async def store(line: Line) -> AsyncIterator[OpenStore]:
    async with open_store(line.store_url) as store:
        yield store


@contextmanager
def nobody_commits(database: Database) -> Iterator[None]:
    """Hold the lock that every commit takes last."""
    with database.connect() as connection:
        connection.execute(JOURNAL_LOCK)
        yield


async def waiting(database: Database, *, backends: int = 1) -> None:
    """Wait until so many backends wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    async with asyncio.timeout(60):
        while database.sql(query)[0][0] < backends:  # noqa: ASYNC110  (another process)
            await asyncio.sleep(0.01)


async def run_of(store: OpenStore, feed: Feed, inbox: Inbox) -> Checkpoint:
    """Run the stream until its sweep is complete."""
    clock = SystemClock()
    policy = Policy(batch_size=1, base_delay_seconds=0.01, max_delay_seconds=0.01)
    rate_limits = RateLimits(clock, feed, floor_seconds=60.0)
    engine = EngineContext(store, clock, feed, Stop(), policy, rate_limits, Slots(1))
    async with engine.slots.hold(STREAM):
        now = clock.now()
        return await run_stream(
            engine, STREAM, inbox, budget(started_at=now, deadline_at=now + timedelta(minutes=2)), Mailbox()
        )


@pytest.mark.parametrize(("cut", "is_stored"), [(Cut.BEFORE, False), (Cut.AFTER, True)])
async def test_a_commit_over_a_broken_connection_is_stored_whole_or_not_at_all_and_can_be_settled(
    database: Database, line: Line, store: OpenStore, cut: Cut, is_stored: bool
) -> None:
    first = next_commit(Checkpoint(STREAM))
    assert isinstance(await store.commit(first), Committed)
    second = next_commit(first.checkpoint)

    line.cut_next_commit(cut)
    with pytest.raises(OutcomeUnknown) as raised:
        await store.commit(second)

    assert "in the middle of a commit" in raised.value.message
    assert database.password not in str(raised.value)
    settled = await store.settle(second)
    assert settled == (Committed(len(first.entries) + 1, 0.0, 0.0) if is_stored else None)
    stored = second if is_stored else first
    assert await store.load(STREAM) == stored.checkpoint
    tables = PostgresDump(database).tables()
    assert tables.checkpoints == tables.refold() == {STREAM.key: stored.checkpoint}
    if not is_stored:
        assert isinstance(await store.commit(second), Committed)


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_the_outcome_is_unknown_to_a_whole_group_and_each_commit_is_settled(
    database: Database, line: Line, store: OpenStore, cut: Cut
) -> None:
    commits = [next_commit(Checkpoint(stream(number))) for number in range(30)]

    with nobody_commits(database):
        first = asyncio.ensure_future(store.commit(next_commit(Checkpoint(STREAM))))  # the others wait for it
        await waiting(database)
        group = asyncio.gather(*(store.commit(each) for each in commits), return_exceptions=True)
        await asyncio.sleep(0)
    await first
    line.cut_next_commit(cut)
    answers = await group

    assert all(isinstance(each, OutcomeUnknown) for each in answers), answers
    settled = [await store.settle(each) for each in commits]
    assert {each is not None for each in settled} == {cut is Cut.AFTER}
    if cut is Cut.AFTER:
        seqs = {row.seq: row.hash for row in PostgresDump(database).tables().journal}
        for each, where in zip(commits, settled, strict=True):
            assert where is not None
            assert seqs[where.first_seq] == each.entries[0].hash


@pytest.mark.parametrize("comes_through", [True, False])
async def test_a_transaction_that_has_not_ended_yet_is_waited_for(
    database: Database, line: Line, store: OpenStore, comes_through: bool
) -> None:
    """The server goes on with a commit whose client is gone; settling it waits for the outcome."""
    commit = next_commit(Checkpoint(STREAM))
    with nobody_commits(database):
        line.cut_next_commit(Cut.MEANWHILE)
        with pytest.raises(OutcomeUnknown):
            await store.commit(commit)
        settling = asyncio.ensure_future(store.settle(commit))
        await waiting(database, backends=2)
        assert not settling.done()
        if not comes_through:
            writer = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            database.sql(f"{writer} AND mode = 'ExclusiveLock' AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted)")

    assert (await settling is not None) == comes_through
    assert (await store.load(STREAM)).version == (commit.checkpoint.version if comes_through else 0)


async def test_a_connection_that_breaks_before_the_rows_are_written_is_an_absence(
    database: Database, line: Line, store: OpenStore
) -> None:
    """Nothing can have been stored: there is nothing to settle."""
    with database.connect() as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('milepost commits', 0))")
        committing = asyncio.ensure_future(store.commit(next_commit(Checkpoint(STREAM))))
        await waiting(database)
        await line.hang_up()
        with pytest.raises(StoreAway) as raised:
            await committing

    assert not isinstance(raised.value, OutcomeUnknown)
    assert isinstance(await store.commit(next_commit(Checkpoint(STREAM))), Committed)


async def test_the_outcome_is_unknown_if_a_connection_only_seems_sound(
    store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Psycopg may raise an error of its own before it has read the end of the connection."""
    write = PostgresqlWriter.write

    async def stored_and_then(*arguments: object) -> object:
        await write(*arguments)  # type: ignore[arg-type]
        raise psycopg.OperationalError("cannot exit pipeline mode while busy")

    monkeypatch.setattr(PostgresqlWriter, "write", stored_and_then)
    commit = next_commit(Checkpoint(STREAM))

    with pytest.raises(OutcomeUnknown):
        await store.commit(commit)

    assert await store.settle(commit) == Committed(1, 0.0, 0.0)


@pytest.mark.parametrize("error", [psycopg.errors.AdminShutdown, psycopg.errors.UniqueViolation, psycopg.DataError])
async def test_an_error_of_a_statement_proves_nothing_once_the_connection_is_gone(
    store: OpenStore, monkeypatch: pytest.MonkeyPatch, error: type[psycopg.Error]
) -> None:
    """The error may have come after the commit. No row is at fault, and none becomes a dead letter."""
    write = PostgresqlWriter.write

    async def stored_and_then(writer: PostgresqlWriter, *arguments: object) -> None:
        await write(writer, *arguments)  # type: ignore[arg-type]
        await writer.connection.close()
        raise error("said by whoever ended the connection")

    monkeypatch.setattr(PostgresqlWriter, "write", stored_and_then)
    commit = next_commit(Checkpoint(STREAM))

    with pytest.raises(OutcomeUnknown):
        await store.commit(commit)

    assert await store.settle(commit) == Committed(1, 0.0, 0.0)


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.MEANWHILE])
async def test_a_run_whose_commits_are_all_cut_off_stores_and_reports_every_entry_once(
    database: Database, line: Line, store: OpenStore, cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_all, cut_off = store.commit_all, set[int]()

    async def commit_over_a_bad_line(commits: Sequence[Commit]) -> Sequence[Committed | Rejected]:
        version = commits[0].entries[0].version
        if version not in cut_off:
            cut_off.add(version)
            line.cut_next_commit(cut)
        return await commit_all(commits)

    monkeypatch.setattr(store, "commit_all", commit_over_a_bad_line)
    feed, inbox = Feed(), Inbox(3)
    notices = subscribed(feed)
    checkpoint = await run_of(store, feed, inbox)

    assert line.cuts[cut] == len(cut_off) >= 2  # batches that were ready at the same time have one commit
    assert checkpoint.run is not None
    assert (checkpoint.run.status, checkpoint.run.tally.inserted) == (RunStatus.COMPLETE, 3)
    assert inbox.cursors == [None, "1", "2"] * 2, "nothing is read again but by the catch-up scan"
    recorded = [notice for notice in notices if isinstance(notice, Recorded)]
    journal = PostgresDump(database).tables().journal
    assert [row.hash for row in journal] == [entry.hash for notice in recorded for entry in notice.entries]
    assert [row.seq for row in journal if row.hash in {notice.entries[0].hash for notice in recorded}] == [
        notice.committed.first_seq for notice in recorded
    ]


async def test_a_run_begins_only_once_the_last_commit_of_a_killed_process_is_over(
    database: Database, line: Line, store: OpenStore
) -> None:
    """Otherwise it would take the killed process for one that took the stream over, and fail."""
    killed = commit_after(Checkpoint(STREAM), RunStarted(NOON), run_id="of the killed process")
    async with open_store(database.store_url) as successor:
        with nobody_commits(database):
            line.cut_next_commit(Cut.MEANWHILE)
            with pytest.raises(OutcomeUnknown):
                await store.commit(killed)
            running = asyncio.ensure_future(run_of(successor, Feed(), Inbox(3)))
            await waiting(database, backends=2)
        checkpoint = await running

    assert checkpoint.run is not None
    assert checkpoint.run.status is RunStatus.COMPLETE
    statuses = database.sql("SELECT status, reason FROM runs ORDER BY started_at")
    assert statuses == [("interrupted", "process_died"), ("complete", None)]
