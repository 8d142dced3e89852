"""Stops commands that would run for ever: at Ctrl-C or SIGTERM, or when the reader of their output has gone."""

import asyncio
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import click

STOPPING = (signal.SIGINT, signal.SIGTERM)
POLL_SECONDS = 0.5


def stopped_by_signals(out: TextIO | None = None) -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set, for as long as the running loop lasts.

    If `out` is a pipe, the exit of its reader sets it as well. A command that seldom writes would notice it late.
    """
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, stopped.set)
    if out is not None and (descriptor := _pipe(out)) is not None:
        loop.add_reader(descriptor, stopped.set)  # the writing end becomes readable only when the reader has gone
    return stopped


def _pipe(out: TextIO) -> int | None:
    try:
        descriptor = out.fileno()
    except OSError:  # not a file
        return None
    return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None


async def wait_to_poll(stopped: asyncio.Event) -> None:
    """Wait until the next poll of the database is due, or until `stopped` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await stopped.wait()


@contextmanager
def interruptible_by_signals(error: Callable[[], Exception] = click.Abort) -> Iterator[None]:
    """Let SIGINT and SIGTERM cancel the running task, so that it cleans up, and raise `error`."""
    task = asyncio.current_task()
    if task is not None:
        for number in STOPPING:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        raise error() from None
