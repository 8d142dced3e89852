"""Leases on a real server: each belongs to one worker, and none stays with a worker that is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from procrastinate.schema import SchemaManager

from kit.pgbouncer import needs_pgbouncer, pooled
from kit.postgres import Database
from milepost.core.errors import StoreAway
from milepost.fleet.leases import Lease, StreamLeases, open_leases
from milepost.stores.postgresql.connection import connected
from milepost.stores.postgresql.reader import ALIVE_SECONDS, are_at_work
from milepost.stores.reader import load_statements
from milepost.stores.url import StoreUrl

BAKERY, BICYCLES = "messenger:1", "instagram:1"
BOTH = (BAKERY, BICYCLES)


@asynccontextmanager
async def leases_of(store_url: StoreUrl) -> AsyncIterator[StreamLeases]:
    """Join as a worker would."""
    sql = load_statements("postgresql", "statements", "queue")
    async with connected(store_url, sql) as database, open_leases(database) as leases:
        yield leases


def test_the_tables_of_the_queue_are_those_that_every_earlier_start_has_created() -> None:
    """They are created once: a version of Procrastinate that changes them is allowed only with a migration."""
    latest = max(path.stem for path in Path(SchemaManager.get_migrations_path()).glob("*.sql"))

    assert latest == "03.04.00_50_post_add_retry_failed_job_procedure"


@pytest.fixture
async def ours(database: Database) -> AsyncIterator[StreamLeases]:
    async with leases_of(database.store_url) as leases:
        yield leases


@pytest.fixture
async def theirs(database: Database, ours: StreamLeases) -> AsyncIterator[StreamLeases]:
    del ours  # joins first, and so creates the tables
    async with leases_of(database.store_url) as leases:
        yield leases


async def taken(leases: StreamLeases, *streams: str) -> Lease:
    lease = await leases.take(streams)
    assert lease is not None
    return lease


def fall_silent(database: Database, lease: Lease) -> None:
    """Age the last heartbeat of the worker that has the lease."""
    database.sql(
        "UPDATE procrastinate_workers SET last_heartbeat = now() - make_interval(secs => %s) WHERE id = %s",
        ALIVE_SECONDS + 1,
        lease.worker_id,
    )


def jobs(database: Database) -> list[tuple[str, str]]:
    found = database.sql("SELECT queue_name, status::text FROM procrastinate_jobs ORDER BY 1, 2")
    return [(stream, status) for stream, status in found]


async def test_a_stream_offered_by_several_is_leased_once_to_one_worker(
    ours: StreamLeases, theirs: StreamLeases
) -> None:
    await asyncio.gather(*(queue.offer(BOTH) for queue in (ours, theirs, ours, theirs)))

    first, second = await taken(ours, *BOTH), await taken(theirs, *BOTH)

    assert {first.stream, second.stream} == set(BOTH)
    await ours.offer(BOTH)
    assert await ours.take(BOTH) is None


async def test_nothing_is_left_of_an_ended_lease_and_the_stream_can_have_another(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    await ours.offer([BAKERY])
    await ours.end(await taken(ours, BAKERY))
    assert jobs(database) == []
    await theirs.offer([BAKERY])
    assert (await taken(ours, BAKERY)).stream == BAKERY


async def test_whether_another_worker_has_a_stream_is_known(ours: StreamLeases, theirs: StreamLeases) -> None:
    await ours.offer(BOTH)
    assert not await ours.is_held_elsewhere(BAKERY)
    lease = await taken(theirs, BAKERY)
    assert [await each.is_held_elsewhere(BAKERY) for each in (ours, theirs)] == [True, False]
    assert not await ours.is_held_elsewhere(BICYCLES)
    await theirs.end(lease)
    assert not await ours.is_held_elsewhere(BAKERY)


async def test_a_worker_takes_only_the_streams_that_it_names(ours: StreamLeases) -> None:
    await ours.offer([BAKERY])
    assert await ours.take([BICYCLES]) is None
    assert await ours.take([]) is None


async def test_the_leases_of_a_silent_worker_are_released_to_others(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    await ours.offer(BOTH)
    lost = await taken(ours, BAKERY)
    assert await theirs.recover() == []
    fall_silent(database, lost)

    assert await theirs.recover() == [BAKERY]
    assert (await taken(theirs, BAKERY)).job_id == lost.job_id


async def test_a_worker_declared_dead_returns_under_a_new_id_and_ends_no_lease_of_others(
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


async def test_a_lease_is_released_even_if_another_job_of_its_stream_is_queued(
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


async def test_a_lease_held_without_knowing_is_released(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    """The answer of the database was lost."""
    await ours.offer(BOTH)
    known, unknown = await taken(ours, BAKERY), await taken(ours, BICYCLES)

    await ours.release_all_but({known.job_id})

    assert jobs(database) == [(BICYCLES, "todo"), (BAKERY, "doing")]
    assert (await taken(theirs, *BOTH)).job_id == unknown.job_id


async def test_a_worker_counts_as_at_work_as_long_as_it_sends_heartbeats(database: Database) -> None:
    assert not await are_at_work(database.store_url)
    async with leases_of(database.store_url) as leases:
        assert await are_at_work(database.store_url)
        await leases.offer([BAKERY])
        fall_silent(database, await taken(leases, BAKERY))
        assert not await are_at_work(database.store_url)
        await leases.keep_alive()
        assert await are_at_work(database.store_url)
    assert not await are_at_work(database.store_url)


async def test_many_that_join_a_new_database_at_once_make_the_tables_once(database: Database) -> None:
    async with AsyncExitStack() as stack:
        joining = [stack.enter_async_context(leases_of(database.store_url)) for _ in range(4)]
        for queue in [await each for each in joining]:
            await queue.offer([BAKERY])
    assert jobs(database) == [(BAKERY, "todo")]


async def test_a_worker_leaves_even_if_the_database_is_away(database: Database) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(leases_of(database.store_url))
        with database.read_only():
            await stack.aclose()


async def test_a_queue_whose_database_is_away_raises_store_away(database: Database, ours: StreamLeases) -> None:
    with database.read_only(), pytest.raises(StoreAway):
        await ours.offer([BAKERY])
    await ours.offer([BAKERY])


@needs_pgbouncer
async def test_leases_are_shared_through_a_pooler(database: Database) -> None:
    with pooled(database) as pooler:
        async with leases_of(pooler.store_url) as ours, leases_of(pooler.store_url) as theirs:
            await asyncio.gather(ours.offer(BOTH), theirs.offer(BOTH))
            taken_leases = await asyncio.gather(taken(ours, *BOTH), taken(theirs, *BOTH))
            await asyncio.gather(ours.keep_alive(), theirs.keep_alive(), ours.recover(), theirs.recover())
            await asyncio.gather(*(queue.end(lease) for queue, lease in zip((ours, theirs), taken_leases, strict=True)))
    assert jobs(database) == []


async def test_the_worker_that_joined_first_is_the_first_until_it_leaves_or_falls_silent(
    database: Database, ours: StreamLeases, theirs: StreamLeases
) -> None:
    assert (await ours.is_first(), await theirs.is_first()) == (True, False)
    await ours.offer([BAKERY])
    fall_silent(database, await taken(ours, BAKERY))
    assert (await ours.is_first(), await theirs.is_first()) == (False, True)
    await ours.keep_alive()
    assert await ours.is_first()
    await ours.leave()
    assert (await ours.is_first(), await theirs.is_first()) == (False, True)
