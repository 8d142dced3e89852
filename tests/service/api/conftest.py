"""A database with a history, created once and copied for each test."""

import asyncio
import shutil
from pathlib import Path

import pytest

from service.api.served import fill


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api") / "milepost.db"
    asyncio.run(fill(path))
    return path


@pytest.fixture
def database(tmp_path: Path, filled: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "milepost.db"))
