"""What the tests of the whole program share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.installation import Installation
from kit.service import Service, installed_layer, installed_service


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest.fixture
def another(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("another"))


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the installation of the service leaves; one for all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    return installed_layer(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture
def service(tmp_path: Path, layer: Path) -> Iterator[Service]:
    """A booted systemd, in which Milepost is installed and not yet configured."""
    with installed_service(tmp_path, layer) as installed:
        yield installed
