"""A file that exists whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from milepost.stores.sqlite.files import LOCK, SHM, WAL, beside

OWNER_ONLY = 0o600


@contextmanager
def atomic_file(path: Path, *, force: bool, database: Path | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that replaces it when the block succeeds, and is removed when it fails.

    Only its owner may ever open it, because it holds personal data.

    Raises click.UsageError if `path` exists and may not be overwritten, as the `database` never may; OSError if it
    cannot be written.
    """
    path = path.resolve()  # so that a link stays and its target is replaced
    if database is not None and path in {beside(database.resolve(), suffix) for suffix in ("", WAL, SHM, LOCK)}:
        raise click.UsageError(f"{path} belongs to the database itself; write to another file")
    _check_free(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "xb", opener=_open_for_owner) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _check_free(path, force=force)
        temporary.replace(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, OWNER_ONLY)


def _check_free(path: Path, *, force: bool) -> None:
    if path.exists() and not path.is_file():
        raise click.UsageError(f"{path} is not a regular file")
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists; --force overwrites it")


def _sync_directory(directory: Path) -> None:
    """Sync the directory, so that the file's name survives a power cut as its content does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
