"""Another user, who may do less: root is refused nothing, so what lacks rights is tested as somebody else."""

import os
import subprocess
import sys

import pytest

NOBODY = "nobody"


def unprivileged() -> str | None:
    """Name the user to run the program as; None for ourselves, where we are not root.

    Skips the test where that user cannot run this Python: one that lies in root's home, say.
    """
    if os.geteuid() != 0:
        return None
    try:
        subprocess.run([sys.executable, "-c", "import milepost"], user=NOBODY, cwd="/", check=True, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the user {NOBODY} cannot run {sys.executable}: {error}")
    return NOBODY
