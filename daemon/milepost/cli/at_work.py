"""Whether a Milepost works on a database now: what the journal cannot say, because a dead process writes nothing."""

import fcntl
import os
from pathlib import Path


def is_at_work(database: Path) -> bool:
    """Look whether a process holds the database's lock (see stores/exclusive.py).

    True also where this user may not look: the journal is then taken at its word.
    """
    try:
        descriptor = os.open(database.with_name(database.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
