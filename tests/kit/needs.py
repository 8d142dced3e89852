"""What tests need: a program, somebody to whom things are refused, or the time of the long run.

Without a program the tests are skipped, naming the Debian package that provides it.
"""

import os
import shutil
import subprocess
import sys

import pytest
from _pytest.mark import ParameterSet


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


NOBODY = "nobody"


def unprivileged() -> str | None:
    """Return the user to run the program as, or None for ourselves if we are not root, to whom nothing is refused.

    Skips the test if that user cannot run this Python, for example because it is in root's home.
    """
    if os.geteuid() != 0:
        return None
    try:
        subprocess.run([sys.executable, "-c", "import milepost"], user=NOBODY, cwd="/", check=True, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the user {NOBODY} cannot run {sys.executable}: {error}")
    return NOBODY


def long_only(*values: object) -> list[ParameterSet]:
    """Return values of a parameter for which a test runs in the long run only (`pytest -m long`, as in .ci/run)."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]
