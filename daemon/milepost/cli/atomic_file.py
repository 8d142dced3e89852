"""A file that is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

OWNER_ONLY = 0o600


@contextmanager
def whole_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends well, and is removed when it does not.

    Nobody but its owner may open it, from the first moment on: what is written here is about people.

    Raises click.UsageError where `path` exists and is not to be overwritten, OSError where it cannot be written.
    """
    path = path.resolve()  # a link stays, and what it leads to is replaced
    _demand_free(path, force=force)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "xb", opener=_open_for_owner) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _demand_free(path, force=force)
        unfinished.replace(path)
        _bring_to_disk(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, OWNER_ONLY)


def _demand_free(path: Path, *, force: bool) -> None:
    if path.exists() and not path.is_file():
        raise click.UsageError(f"{path} is no regular file")
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists; --force overwrites it")


def _bring_to_disk(directory: Path) -> None:
    """Make the file's name outlive a power cut, as what is in it does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
