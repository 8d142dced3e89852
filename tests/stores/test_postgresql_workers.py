"""Several workers on one PostgreSQL: one order of the journal, one writer for each stream, and no deadlocks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from contracts.store_contract import some_rows
from kit.binary import until
from kit.builders import STREAM
from kit.flaky_proxy import breakable_line
from kit.postgres import Database
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import VersionConflict
from milepost.core.ports import Committed
from milepost.stores.open import forget
from milepost.stores.postgresql import reader as hearing
from milepost.stores.postgresql.reader import listening, open_postgresql_reader
from milepost.stores.postgresql.store import PostgresqlStore, open_postgresql
from stores.histories import commit_after, next_commit, stream

WORKERS = 4
STREAMS_EACH = 6
COMMITS_EACH = 8


@pytest.fixture
async def workers(database: Database) -> AsyncIterator[list[PostgresqlStore]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_postgresql(database.store_url)) for _ in range(WORKERS)]


async def live(store: PostgresqlStore, number: int) -> None:
    checkpoint = await store.load(stream(number))
    for _ in range(COMMITS_EACH):
        following = next_commit(checkpoint)
        assert isinstance(await store.commit(following), Committed)
        checkpoint = following.checkpoint


async def test_a_follower_misses_no_entry_whichever_worker_wrote_it(
    database: Database, workers: list[PostgresqlStore]
) -> None:
    """An entry that is committed later never has the smaller seq."""
    read: list[int] = []
    working = True

    async def follow() -> None:
        async with open_postgresql_reader(database.store_url) as journal_reader:
            while working or await journal_reader.entries(after=len(read), limit=1):
                placed = await journal_reader.entries(after=read[-1] if read else 0, limit=50)
                read.extend(each.seq for each in placed)

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow())
        async with asyncio.TaskGroup() as lives:
            for number in range(WORKERS * STREAMS_EACH):
                lives.create_task(live(workers[number % WORKERS], number))
        working = False
        await following

    (entries,) = database.sql("SELECT count(*), max(seq) FROM journal")
    assert read == list(range(1, entries[0] + 1))
    assert entries[0] == entries[1]


async def test_one_of_many_workers_of_a_stream_commits_and_the_others_get_a_conflict(
    database: Database, workers: list[PostgresqlStore]
) -> None:
    unborn = Checkpoint(STREAM)
    rivals = [commit_after(unborn, changes=some_rows(f"{n}"), run_id=f"run-{n}") for n in range(4 * WORKERS)]

    answers = await asyncio.gather(
        *(workers[n % WORKERS].commit(each) for n, each in enumerate(rivals)), return_exceptions=True
    )

    assert sum(isinstance(answer, Committed) for answer in answers) == 1
    assert sum(isinstance(answer, VersionConflict) for answer in answers) == len(rivals) - 1
    assert database.sql("SELECT count(*) FROM conversations") == [(1,)]


async def test_rows_that_two_streams_share_cause_no_deadlock(
    database: Database, workers: list[PostgresqlStore]
) -> None:
    """The API does not promise that a thread belongs to one page only. Writers take rows in one order, or retry."""
    engine = [some_rows(f"{n}") for n in range(40)]

    async def write(number: int) -> None:
        mine = engine if number % 2 else engine[::-1]
        changes = some_rows("none")
        for each in mine:
            changes = type(changes)(
                changes.conversations + each.conversations,
                changes.contacts + each.contacts,
                changes.interaction_events + each.interaction_events,
            )
        checkpoint = Checkpoint(stream(number))
        for _ in range(5):
            following = commit_after(checkpoint, changes=changes)
            assert isinstance(await workers[number % WORKERS].commit(following), Committed)
            checkpoint = following.checkpoint

    async with asyncio.timeout(60):
        await asyncio.gather(*(write(number) for number in range(2 * WORKERS)))

    assert database.sql("SELECT count(*) FROM conversations") == [(41,)]


async def test_a_rebuild_and_an_erasure_only_delay_workers(database: Database, workers: list[PostgresqlStore]) -> None:
    async def disturb() -> None:
        async with open_postgresql_reader(database.store_url) as journal_reader:
            for number in range(6):
                await journal_reader.rebuild()
                await forget(database.store_url, stream(number), "c_1")
                await journal_reader.verify()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(disturb())
        for number in range(WORKERS * STREAMS_EACH):
            tasks.create_task(live(workers[number % WORKERS], number))

    async with open_postgresql_reader(database.store_url) as journal_reader:
        assert (await journal_reader.verify()).streams == WORKERS * STREAMS_EACH


async def test_a_listener_is_called_for_a_commit(database: Database, workers: list[PostgresqlStore]) -> None:
    called = asyncio.Event()
    async with listening(database.store_url, called.set), asyncio.timeout(60):
        await called.wait()  # once at first: to look for earlier commits
        called.clear()

        await live(workers[0], 1)
        await called.wait()

        database.terminate_backends()
        called.clear()
        await called.wait()  # again when the connection is back


async def test_a_listener_hangs_up_on_a_server_that_does_not_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LISTEN_SECONDS", "ANSWER_SECONDS", "RECONNECT_SECONDS"):
        monkeypatch.setattr(hearing, name, 0.05)
    called = asyncio.Event()
    async with breakable_line(database) as line, listening(line.store_url, called.set), asyncio.timeout(60):
        await called.wait()
        line.fall_silent()
        called.clear()
        await until(lambda: line.clients > 1)

        line.speak_again()

        await called.wait()
