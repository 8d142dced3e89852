"""The size of a database: of our rows, with their indexes."""

import pytest

from milepost.stores.open import open_store
from stores.databases import AnyDatabase, Databases

LARGE = 5_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, maker: Databases) -> AnyDatabase:
    return maker.build(request.param)


async def size_of(database: AnyDatabase) -> int:
    async with open_store(database.store_url) as store:
        return await store.size_bytes()


async def test_the_size_grows_with_the_rows(database: AnyDatabase) -> None:
    empty = await size_of(database)
    await database.fill()
    assert 0 < empty < await size_of(database) < LARGE


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_tables_of_others_in_the_same_database_do_not_count(database: AnyDatabase) -> None:
    before = await size_of(database)
    database.execute("CREATE TABLE public.others AS SELECT md5(n::text) AS text FROM generate_series(1, 100000) AS n")
    assert await size_of(database) - before < LARGE // 10
