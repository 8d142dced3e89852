"""What all tests share: Hypothesis draws the same examples every time, and no test leaves its mark on the process."""

import logging
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

settings.register_profile("milepost", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("milepost")


@pytest.fixture(autouse=True)
def process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what a test, or a command that it runs, sets for the process: all that `configure` of the logs does."""
    root = logging.getLogger()
    for place, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"), (root, "level")):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(root, "handlers", [])
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
