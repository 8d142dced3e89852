"""Fixtures of the tests of the whole program."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.installation import Installation, PostgresqlInstallation
from kit.postgres import MIGRATED, fresh_database
from kit.systemd_service import Service, installed_layer, installed_service


@pytest.fixture
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """Return one with a SQLite database, or with the parametrised one (see `on_both_databases`)."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield Installation(tmp_path)
    else:
        template = None if request.param == "empty postgresql" else MIGRATED
        with fresh_database(request.getfixturevalue("postgres"), template=template) as database:
            yield PostgresqlInstallation(tmp_path, database)


@pytest.fixture
def another(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("another"))


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed files of the service; one layer for all test processes."""
    base = tmp_path_factory.getbasetemp()
    return installed_layer(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture
def service(tmp_path: Path, layer: Path) -> Iterator[Service]:
    """A booted systemd, in which Milepost is installed but not configured."""
    with installed_service(tmp_path, layer) as installed:
        yield installed
