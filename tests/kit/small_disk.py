"""A small disk to fill: a tmpfs of a given size."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small disk in the folder during the block. Skips the test if nothing can be mounted."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here, which takes root: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        if disk.is_mount():  # the test may have taken it away
            unmount(disk)


def remount(disk: Path, options: str) -> None:
    """Change how a small disk is mounted: `ro`, `rw`, or `nr_inodes=3`, which counts its directory."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def show_elsewhere(disk: Path, folder: Path) -> None:
    """Mount the same disk in another folder as well."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(disk), str(folder)], check=True)


def unmount(disk: Path) -> None:
    """Take the disk away, even from processes that have files open on it."""
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
