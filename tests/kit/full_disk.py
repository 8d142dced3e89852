"""An installation whose disk a first sweep fills up."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.installation import Installation
from kit.small_disk import small_disk

ROOM_BYTES = 3 * 2**19


@contextmanager
def installed_on_small_disk(folder: Path) -> Iterator[Installation]:
    """Yield an installation whose database is on a disk with ballast that leaves a megabyte and a half."""
    with small_disk(folder, "64m") as disk:
        ballast_of(disk).write_bytes(bytes(shutil.disk_usage(disk).free - ROOM_BYTES))
        installation = Installation(folder)
        installation.database = disk / "milepost.db"
        yield installation


def ballast_of(disk: Path) -> Path:
    """Return the file that fills the disk. Deleting it makes room."""
    return disk / "ballast"
