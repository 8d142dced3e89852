"""Programs that some tests need and Debian has: without one they are skipped, and say which package brings it."""

import shutil

import pytest


def without(program: str, *packages: str) -> str | None:
    """Say why tests with a program are skipped; None where it is there. Its package has its name, if none is given."""
    if shutil.which(program) is not None:
        return None
    return f"{program} is missing: apt-get install --no-install-recommends {' '.join(packages or (program,))}"


def needs(program: str, *packages: str) -> pytest.MarkDecorator:
    """Skip what is marked with this where the program is missing."""
    reason = without(program, *packages)
    return pytest.mark.skipif(reason is not None, reason=reason or "")


def demand(program: str, *packages: str) -> None:
    """Skip the test where the program is missing."""
    reason = without(program, *packages)
    if reason is not None:
        pytest.skip(reason)
