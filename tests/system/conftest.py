"""What the tests of the whole program share."""

from pathlib import Path

import pytest

from kit.installation import Installation


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)
