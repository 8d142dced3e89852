"""What all tests share: Hypothesis draws the same examples every time, and no test leaves its mark on the process."""

import gc
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest
import structlog
from hypothesis import settings

from kit.postgres import Database, Server, Servers, fresh_database

settings.register_profile("milepost", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("milepost")

sys.dont_write_bytecode = False  # where that is set, each of hundreds of processes compiles what it imports
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def workers_in_all() -> int:
    """Return how many processes share the tests."""
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each worker process begin with other files: what one has compiled, the others need not compile again."""
    report = yield
    if isinstance(collector, pytest.Directory):
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        first = len(report.result) * worker // workers_in_all()
        report.result = report.result[first:] + report.result[:first]
    return report


@pytest.hookimpl(trylast=True)  # when the others are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests early, those with a timeout of their own: begun last, each would run alone.

    They are spread over the worker processes, each of which begins with an equal share of the tests, in one order, and
    over the first half of each share: most of them wait, and while all workers do so at once, nobody works.
    """
    workers = workers_in_all()
    if workers > 1:
        items.sort(key=lambda item: item.path)
    longest = [item for item in items if item.get_closest_marker("timeout")]
    others = [item for item in items if not item.get_closest_marker("timeout")]
    bounds = [len(others) * worker // workers for worker in range(workers + 1)]
    items[:] = [
        item
        for worker, (start, end) in enumerate(pairwise(bounds))
        for item in spread(longest[worker::workers], others[start:end])
    ]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the collections of garbage, now and later, what thousands of collected tests have in memory to the end."""
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


def spread(longest: list[pytest.Item], others: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the longest tests at even distances among the first half of the others, beginning with one of them."""
    distance = len(others) // (2 * len(longest)) if longest else 0
    for place, item in enumerate(longest):
        yield item
        yield from others[place * distance : (place + 1) * distance]
    yield from others[len(longest) * distance :]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report once each reason for which tests were skipped, with what would bring them back."""
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(told[2].removeprefix("Skipped: ") for told in skipped if isinstance(told, tuple))
    if reasons:
        terminalreporter.section("skipped")
    for reason, tests in reasons.most_common():
        terminalreporter.write_line(f"SKIPPED [{tests}] {reason}")


@pytest.fixture(autouse=True)
def process_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what a test, or a command that it runs, sets for the process: all that `configure` of the logs does."""
    root = logging.getLogger()
    for place, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"), (root, "level")):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.delenv("COLUMNS", raising=False)  # which pytest's workers have: there is no terminal to fit
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Servers]:
    """Yield the PostgreSQL servers of this process, which are stopped at its end."""
    with ExitStack() as stack:
        yield Servers(stack.enter_context)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, postgres_servers: Servers) -> Server:
    """Return a running PostgreSQL: the newest, or the release that a test is parametrised with (`on_both_releases`)."""
    return postgres_servers.of(getattr(request, "param", "newest"))


@pytest.fixture
def database(postgres: Server) -> Iterator[Database]:
    """Yield a fresh PostgreSQL database, migrated and empty."""
    with fresh_database(postgres) as database:
        yield database
