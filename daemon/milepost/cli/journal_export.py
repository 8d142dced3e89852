"""Writes the journal out as JSON Lines, a page at a time, into a file that is there whole or not at all."""

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from milepost.cli.journal_line import as_json
from milepost.core.errors import MilepostError
from milepost.stores.archive import Archive

MAX_READ = 1_000


async def write_out(archive: Archive, out: BinaryIO, stopped: asyncio.Event) -> int:
    """Write every entry that there is now, and give their number. Raises click.Abort once `stopped` is set."""
    newest = await archive.latest(limit=1)
    last_seq, after, written = newest[-1].seq if newest else 0, 0, 0
    while after < last_seq:
        if stopped.is_set():
            raise click.Abort
        placed = [each for each in await archive.entries(after=after, limit=MAX_READ) if each.seq <= last_seq]
        out.write(b"".join(map(as_json, placed)))
        after = placed[-1].seq
        written += len(placed)
    out.flush()
    return written


@contextmanager
def whole_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends well, and is removed when it does not.

    Raises click.UsageError where `path` exists and is not to be overwritten, MilepostError where it cannot be written.
    """
    path = path.resolve()  # a link stays, and what it leads to is replaced
    _demand_free(path, force=force)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _demand_free(path, force=force)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _demand_free(path: Path, *, force: bool) -> None:
    if path.exists() and not path.is_file():
        raise click.UsageError(f"{path} is no regular file; `-` writes to stdout, to be redirected anywhere")
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists; --force overwrites it")


@contextmanager
def write_errors_told(where: str) -> Iterator[None]:
    """Tell the user when `where` cannot be written. A closed pipe is left to click, which ends in silence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise MilepostError(
            f"{where} cannot be written: {error.strerror}",
            hint="make room, or write it elsewhere: `milepost journal export FILE`",
        ) from error
