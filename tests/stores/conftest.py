"""Databases for the tests of the SQLite store."""

import shutil
from pathlib import Path

import pytest

from milepost.stores.sqlite.files import create_private
from milepost.stores.sqlite.migrate import migrate


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
