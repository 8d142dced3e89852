"""What each command loads: nothing heavy that it may not need."""

import subprocess
import sys

import pytest

HEAVY = {"aiohttp", "prometheus_client", "structlog", "tqdm"}


@pytest.mark.parametrize("name", ["status", "journal", "config"])
def test_commands_that_only_look_load_nothing_heavy(name: str) -> None:
    program = f"import sys, milepost.cli.{name}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    assert "milepost.settings" in loaded
    assert not HEAVY & set(loaded)
