"""Databases for the tests of the SQLite store, and pairs of databases for those of `store copy`."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.postgres import Server
from milepost.stores.sqlite.files import create_private
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.url import StoreUrl
from stores.copies import WAYS, Pair, made
from stores.databases import AnyDatabase, Databases, databases
from stores.store_dump import PostgresDump, SqliteDump, StoreDump


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an empty database of this program's schema, to be copied: each migration waits for the disk."""
    path = tmp_path_factory.mktemp("migrated") / "milepost.db"
    create_private(path)
    migrate(path)
    return path


@pytest.fixture
def path(tmp_path: Path, migrated: Path) -> Path:
    """Return a fresh database, migrated and empty."""
    return Path(shutil.copy(migrated, tmp_path))


@pytest.fixture(params=["sqlite", "postgresql"])
def kept(request: pytest.FixtureRequest) -> StoreDump:
    """Return a fresh database of either kind, migrated and empty."""
    if request.param == "sqlite":
        return SqliteDump(request.getfixturevalue("path"))
    return PostgresDump(request.getfixturevalue("database"))


@pytest.fixture
def maker(tmp_path: Path, postgres: Server) -> Iterator[Databases]:
    with databases(tmp_path, postgres) as maker:
        yield maker


@pytest.fixture(scope="session")
def with_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a database with rows in every table, to be copied."""
    database = AnyDatabase(StoreUrl(f"sqlite:///{tmp_path_factory.mktemp('filled')}/milepost.db"))
    asyncio.run(database.fill())
    return database.file


@pytest.fixture(params=WAYS, ids=" to ".join)
def pair(request: pytest.FixtureRequest, maker: Databases, with_rows: Path) -> Pair:
    """Return a database with rows in every table, and one that is not made yet."""
    return made(maker, with_rows, *request.param)


@pytest.fixture
def into_postgresql(maker: Databases, with_rows: Path) -> Pair:
    return made(maker, with_rows, "sqlite", "postgresql")


@pytest.fixture
def into_sqlite(maker: Databases, with_rows: Path) -> Pair:
    return made(maker, with_rows, "postgresql", "sqlite")


@pytest.fixture
def source(pair: Pair) -> AnyDatabase:
    return pair[0]


@pytest.fixture
def target(pair: Pair) -> AnyDatabase:
    return pair[1]
