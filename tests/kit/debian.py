"""Programs that some tests need: without one, the tests are skipped, naming the Debian package that provides it."""

import shutil

import pytest


def without(program: str, *packages: str) -> str | None:
    """Return why tests that need a program are skipped, or None if it is installed.

    The package has the program's name by default.
    """
    if shutil.which(program) is not None:
        return None
    return f"{program} is missing: apt-get install --no-install-recommends {' '.join(packages or (program,))}"


def needs(program: str, *packages: str) -> pytest.MarkDecorator:
    """Return a mark that skips tests if the program is missing."""
    reason = without(program, *packages)
    return pytest.mark.skipif(reason is not None, reason=reason or "")


def demand(program: str, *packages: str) -> None:
    """Skip the test if the program is missing."""
    reason = without(program, *packages)
    if reason is not None:
        pytest.skip(reason)
