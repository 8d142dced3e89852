"""Stops what would run for ever: at Ctrl-C or SIGTERM, or when nobody reads any more."""

import asyncio
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click


def stopped_by_signals() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set, for as long as the running loop lasts."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def stop_at_closed_pipe(out: TextIO, stopped: asyncio.Event) -> None:
    """Set the event when `out` is a pipe whose reader exits, which rare writes would be slow to notice."""
    try:
        descriptor = out.fileno()
    except OSError:  # not a file
        return
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        # The writing end only becomes readable by an error.
        asyncio.get_running_loop().add_reader(descriptor, stopped.set)


@contextmanager
def aborted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM cancel the running task as Ctrl-C does, so that it cleans up."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        raise click.Abort from None


@contextmanager
def interruptible_by_signals(error: Callable[[], Exception]) -> Iterator[None]:
    """Let SIGINT and SIGTERM cancel the running task, so that it cleans up, and raise `error`."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        raise error() from None
