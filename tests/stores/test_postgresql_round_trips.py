"""What a batch costs: one statement for each table, however many rows and commits there are, and few round trips."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, walking
from kit.postgres import Database, on_both_releases
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchStored,
    DeadLetterClosed,
    DeadLetterOpened,
    Resolution,
    RunStarted,
    Stage,
    Tally,
)
from milepost.core.model import Changes, DeadLetterPayload, Keys, Stream
from milepost.core.ports import Commit, Committed
from milepost.core.position import Gap, GapEnding, MessagesOwed, MessagesRead
from milepost.stores.open import open_reader
from milepost.stores.postgresql import connection as connecting
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.postgresql.connection import MAX_CONNECTIONS, Connection
from milepost.stores.postgresql.store import PostgresqlStore, open_postgresql
from milepost.stores.reader import Parameters
from stores.histories import commit_after, contact_row, conversation_row, event_row, page_row, stream
from stores.store_dump import PostgresDump

SIZE = 20
STREAMS = 5

pytestmark = on_both_releases


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresqlStore]:
    async with open_postgresql(database.store_url) as store:
        yield store


def names(of: Stream, kind: str) -> list[str]:
    return [f"{kind}_{of.page_id}_{number}" for number in range(SIZE)]


def gap(of: Stream, number: int) -> Gap:
    return Gap(f"g_{of.page_id}_{number}", names(of, "t")[number], NOON, NOON, NOON, NOON, history_to=NOON)


def first_batch(of: Stream) -> Commit:
    """Return a first batch: each conversation owes its history, and every other one is a dead letter as well."""
    threads = names(of, "t")
    letters = [f"d_{each}" for each in threads[::2]]
    changes = Changes(
        tuple(conversation_row(each, of=of) for each in threads),
        tuple(contact_row(each, of=of) for each in names(of, "c")),
        tuple(event_row(f"m_{each}", of=of, conversation_id=each) for each in threads),
        tuple(DeadLetterPayload(each, "{}") for each in letters),
        page=page_row(of=of),
    )
    opened = (DeadLetterOpened(each, Stage.STORE, each, "") for each in letters)
    owed = MessagesOwed(tuple(gap(of, number) for number in range(SIZE)))
    stored = BatchStored(walking("next"), Tally(batches=1, inserted=SIZE))
    return commit_after(Checkpoint(of), RunStarted(NOON), *opened, owed, stored, changes=changes)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the names of the statements that are executed to write, counted."""
    counted, execute = Counter[str](), PostgresqlWriter.execute

    async def counting(writer: PostgresqlWriter, statement: str, parameters: Parameters = ()) -> object:
        counted[statement] += 1
        return await execute(writer, statement, parameters)

    monkeypatch.setattr(PostgresqlWriter, "execute", counting)
    return counted


async def test_a_group_of_commits_is_written_by_one_statement_for_each_table(
    database: Database, store: PostgresqlStore, executed: Counter[str]
) -> None:
    commits = [first_batch(stream(number)) for number in range(STREAMS)]
    first = asyncio.ensure_future(store.commit(first_batch(STREAM)))  # the others wait for it, and become a group
    answers = await asyncio.gather(*(store.commit(each) for each in commits))
    assert isinstance(await first, Committed)

    groups = 2
    assert executed.pop("moment") == 2 * groups  # before the rows and before the events
    assert executed
    assert set(executed.values()) == {groups}
    assert all(isinstance(each, Committed) for each in answers)
    tables = PostgresDump(database).tables()
    assert tables.checkpoints == tables.refold()
    assert len(tables.checkpoints) == 1 + STREAMS
    assert database.sql("SELECT count(*), count(DISTINCT stream) FROM message_backlog") == [
        ((1 + STREAMS) * SIZE, 1 + STREAMS)
    ]
    assert database.sql("SELECT count(*) FROM pages") == [(1 + STREAMS,)]


async def test_gaps_that_end_together_are_deleted_by_one_statement(
    database: Database, store: PostgresqlStore, executed: Counter[str]
) -> None:
    first = first_batch(STREAM)
    await store.commit(first)
    executed.clear()
    ended = [MessagesRead(gap(STREAM, number), ending=GapEnding.GONE) for number in range(SIZE - 1)]
    await store.commit(commit_after(first.checkpoint, *ended))

    assert executed["delete_gap"] == 1
    assert executed["upsert_gap"] == 0
    assert database.sql("SELECT gap_id FROM message_backlog") == [(gap(STREAM, SIZE - 1).gap_id,)]


async def test_commits_that_follow_one_another_are_written_as_if_each_had_been_alone(
    database: Database, store: PostgresqlStore, executed: Counter[str]
) -> None:
    """The later commit wins for the same gap, dead letter, message or page."""
    first = first_batch(STREAM)
    letters = [each.dead_letter_id for each in first.changes.payloads]
    second = commit_after(
        first.checkpoint,
        *(DeadLetterClosed(each, Resolution.REDRIVEN) for each in letters[1:]),
        MessagesRead(gap(STREAM, 0), ending=GapEnding.GONE),
        MessagesRead(gap(STREAM, 1), ending=GapEnding.GONE),
        MessagesRead(replace(gap(STREAM, 2), stored=7)),
        changes=Changes(
            (conversation_row("another"),),
            revised=(event_row("m_revised"),),
            page=page_row(username="bakery", name=None),
        ),
    )
    third = commit_after(
        second.checkpoint,
        MessagesOwed((gap(STREAM, 1),)),
        changes=Changes(
            revised=(event_row(f"m_{names(STREAM, 't')[0]}", text="last"),),
            page=page_row(name=None, seen_at=NOON + timedelta(hours=1)),
        ),
    )

    answers = await store.commit_all((first, second, third))

    entries = [len(each.entries) for each in (first, second, third)]
    assert [answer.first_seq for answer in answers if isinstance(answer, Committed)] == [
        1,
        1 + entries[0],
        1 + entries[0] + entries[1],
    ]
    executed.pop("moment")
    assert set(executed.values()) == {1}
    tables = PostgresDump(database).tables()
    assert tables.checkpoints == tables.refold()
    gaps = database.sql("SELECT gap_id, stored FROM message_backlog ORDER BY gap_id")
    assert dict(gaps) == {gap(STREAM, number).gap_id: 7 if number == 2 else 0 for number in range(1, SIZE)}
    assert database.sql("SELECT dead_letter_id FROM dead_letter_payloads") == [(letters[0],)]
    assert database.sql("SELECT count(*) FROM dead_letters WHERE closed_at IS NULL") == [(1,)]
    assert database.sql("SELECT text FROM contact_interaction_events WHERE text <> 'hello'") == [("last",)]
    assert database.sql("SELECT name, username, first_seen_at < last_seen_at FROM pages") == [
        ("Corner Bakery", "bakery", True)
    ]
    async with open_reader(database.store_url) as reader:
        assert (await reader.verify()).entries == sum(entries)


async def test_a_batch_takes_three_round_trips(
    store: PostgresqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reads what is known, one reads again under the locks, and one writes."""
    first = first_batch(STREAM)
    await store.commit(first)
    monkeypatch.setattr(connecting, "TRUSTED_SECONDS", math.inf)
    for _ in range(MAX_CONNECTIONS):  # each has answered, so that none is checked
        await store.known(Keys(STREAM))
    second = commit_after(first.checkpoint, BatchStored(walking("next"), Tally(batches=1)), changes=Changes())
    threads = tuple(names(STREAM, "t"))
    events = tuple(f"m_{each}" for each in threads)
    keys = Keys(STREAM, threads, tuple(names(STREAM, "c")), events, threads, full_sweep_at=NOON, counts_stored=True)

    with (tmp_path / "trace").open("w+") as trace:
        getconn = store.database.pool.getconn

        async def traced() -> Connection:
            connection = await getconn()
            connection.pgconn.trace(trace.fileno())
            return connection

        monkeypatch.setattr(store.database.pool, "getconn", traced)
        known = await store.known(keys)
        await store.commit(replace(second, known=known))
        await store.database.pool.close()
        trace.seek(0)
        waits = [line for line in trace if "\tF\t" in line and ("\tSync" in line or "\tQuery" in line)]

    assert len(known.conversations) == SIZE
    assert len(waits) == 3


async def test_a_session_that_the_server_ended_a_moment_ago_is_replaced(
    database: Database, store: PostgresqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "TRUSTED_SECONDS", math.inf)
    first = first_batch(STREAM)
    await store.commit(first)
    for _ in range(MAX_CONNECTIONS):
        await store.known(Keys(STREAM))

    assert database.server.terminate_backends(database.name)

    second = commit_after(first.checkpoint, BatchStored(walking("next"), Tally(batches=1)))
    assert isinstance(await store.commit(second), Committed)
