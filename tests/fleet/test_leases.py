"""The queue of turns, on a real server: each is one worker's, and none stays with a worker that is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from kit.pgbouncer import needs_pgbouncer, pooled
from kit.postgres import Database
from milepost.core.errors import StoreAway
from milepost.fleet.leases import Lease, StreamLeases, open_queue
from milepost.stores.postgresql.connection import connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.notify import ALIVE_SECONDS, are_at_work
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl

BAKERY, BICYCLES = "messenger:1", "instagram:1"
BOTH = (BAKERY, BICYCLES)


@asynccontextmanager
async def queue_of(store_url: StoreUrl) -> AsyncIterator[StreamLeases]:
    """Join as a worker would."""
    sql = load_statements("postgresql") | load_statements("postgresql", "queue")
    async with connected(dsn_of(store_url), sql) as database, open_queue(database) as queue:
        yield queue


@pytest.fixture
async def ours(database: Database) -> AsyncIterator[StreamLeases]:
    async with queue_of(database.store_url) as queue:
        yield queue


@pytest.fixture
async def theirs(database: Database, ours: StreamLeases) -> AsyncIterator[StreamLeases]:
    del ours  # joins first, and so made the tables
    async with queue_of(database.store_url) as queue:
        yield queue


async def taken(queue: StreamLeases, *streams: str) -> Lease:
    lease = await queue.take(streams)
    assert lease is not None
    return lease


def fall_silent(database: Database, lease: Lease) -> None:
    """Let the worker that has the turn have given no sign of life for too long."""
    database.sql(
        "UPDATE procrastinate_workers SET last_heartbeat = now() - make_interval(secs => %s) WHERE id = %s",
        ALIVE_SECONDS + 1,
        lease.worker_id,
    )


def jobs(database: Database) -> list[tuple[str, str]]:
    found = database.sql("SELECT queue_name, status::text FROM procrastinate_jobs ORDER BY 1, 2")
    return [(stream, status) for stream, status in found]


async def test_a_stream_that_is_offered_by_several_is_one_turn_of_one_worker(
    ours: StreamLeases, theirs: StreamLeases
) -> None:
    await asyncio.gather(*(queue.offer(BOTH) for queue in (ours, theirs, ours, theirs)))

    first, second = await taken(ours, *BOTH), await taken(theirs, *BOTH)

    assert {first.stream, second.stream} == set(BOTH)
    await ours.offer(BOTH)
    assert await ours.take(BOTH) is None


async def test_nothing_is_left_of_a_turn_that_is_over_and_the_stream_has_another(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    await ours.offer([BAKERY])
    await ours.end(await taken(ours, BAKERY))
    assert jobs(database) == []
    await theirs.offer([BAKERY])
    assert (await taken(ours, BAKERY)).stream == BAKERY


async def test_a_worker_takes_only_streams_that_it_knows_and_is_free_for(ours: StreamLeases) -> None:
    await ours.offer([BAKERY])
    assert await ours.take([BICYCLES]) is None
    assert await ours.take([]) is None


async def test_the_turns_of_a_worker_that_fell_silent_are_given_to_others(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    await ours.offer(BOTH)
    lost = await taken(ours, BAKERY)
    assert await theirs.recover() == []
    fall_silent(database, lost)

    assert await theirs.recover() == [BAKERY]
    assert (await taken(theirs, BAKERY)).job_id == lost.job_id


async def test_who_was_taken_for_dead_comes_back_as_another_and_ends_no_turn_of_others(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    await ours.offer(BOTH)
    lost = await taken(ours, BAKERY)
    fall_silent(database, lost)
    await theirs.recover()
    new = await taken(theirs, BAKERY)

    await ours.keep_alive()
    await ours.end(lost)

    assert jobs(database) == [(BICYCLES, "todo"), (BAKERY, "doing")]
    assert (await taken(ours, BICYCLES)).worker_id not in {lost.worker_id, new.worker_id}


async def test_a_turn_is_given_to_others_even_if_another_turn_of_its_stream_waits(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    """Two workers may have looked at the same time which streams have none."""
    await ours.offer([BAKERY])
    lost = await taken(ours, BAKERY)
    database.sql(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock)"
        " SELECT queue_name, task_name, lock, queueing_lock FROM procrastinate_jobs"
    )
    fall_silent(database, lost)

    assert await theirs.recover() == [BAKERY]

    assert jobs(database) == [(BAKERY, "todo")]
    assert (await taken(theirs, BAKERY)).job_id != lost.job_id


async def test_a_turn_that_a_worker_has_without_knowing_is_given_back(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    """The answer of the database was lost: it says whose turn it is, or that it is over."""
    await ours.offer(BOTH)
    known, unknown = await taken(ours, BAKERY), await taken(ours, BICYCLES)

    await ours.give_back_all_but({known.job_id})

    assert jobs(database) == [(BICYCLES, "todo"), (BAKERY, "doing")]
    assert (await taken(theirs, *BOTH)).job_id == unknown.job_id


async def test_a_worker_counts_as_at_work_as_long_as_it_gives_signs_of_life(database: Database) -> None:
    assert not await are_at_work(database.store_url)
    async with queue_of(database.store_url) as queue:
        assert await are_at_work(database.store_url)
        await queue.offer([BAKERY])
        fall_silent(database, await taken(queue, BAKERY))
        assert not await are_at_work(database.store_url)
        await queue.keep_alive()
        assert await are_at_work(database.store_url)
    assert not await are_at_work(database.store_url)


async def test_many_that_join_a_new_database_at_once_make_the_tables_once(database: Database) -> None:
    async with AsyncExitStack() as stack:
        joining = [stack.enter_async_context(queue_of(database.store_url)) for _ in range(4)]
        for queue in [await each for each in joining]:
            await queue.offer([BAKERY])
    assert jobs(database) == [(BAKERY, "todo")]


async def test_a_worker_leaves_even_if_the_database_is_away(database: Database) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(queue_of(database.store_url))
        with database.read_only():
            await stack.aclose()


async def test_a_queue_whose_database_is_away_says_so(database: Database, ours: StreamLeases) -> None:
    with database.read_only(), pytest.raises(StoreAway):
        await ours.offer([BAKERY])
    await ours.offer([BAKERY])


@needs_pgbouncer
async def test_turns_are_shared_through_a_pooler(database: Database) -> None:
    with pooled(database) as pooler:
        async with queue_of(pooler.store_url) as ours, queue_of(pooler.store_url) as theirs:
            await asyncio.gather(ours.offer(BOTH), theirs.offer(BOTH))
            slots = await asyncio.gather(taken(ours, *BOTH), taken(theirs, *BOTH))
            await asyncio.gather(ours.keep_alive(), theirs.keep_alive(), ours.recover(), theirs.recover())
            await asyncio.gather(*(queue.end(lease) for queue, lease in zip((ours, theirs), slots, strict=True)))
    assert jobs(database) == []
