"""An unprivileged user: nothing is refused to root, so permissions are tested as somebody else."""

import os
import subprocess
import sys

import pytest

NOBODY = "nobody"


def unprivileged() -> str | None:
    """Return the user to run the program as, or None for ourselves if we are not root.

    Skips the test if that user cannot run this Python, for example because it is in root's home.
    """
    if os.geteuid() != 0:
        return None
    try:
        subprocess.run([sys.executable, "-c", "import milepost"], user=NOBODY, cwd="/", check=True, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the user {NOBODY} cannot run {sys.executable}: {error}")
    return NOBODY
