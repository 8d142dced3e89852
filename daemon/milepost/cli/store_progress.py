"""How a copy comes along: a bar for each table on a terminal, a line for each elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Never

import click
from tqdm import tqdm

from milepost.stores.moving_walk import Step, Tell

LINE_SECONDS = 10.0


@contextmanager
def shown() -> Iterator[Tell]:
    """Show on stderr during the block what is told."""
    if not sys.stderr.isatty():
        yield _Lines().tell
        return
    bars = _Bars()
    try:
        yield bars.tell
    finally:
        bars.close()


class _Bars:
    """One bar, for the table at hand."""

    def __init__(self) -> None:
        tqdm.monitor_interval = 0  # no thread of its own
        self._bar: tqdm[Never] | None = None

    def tell(self, step: Step) -> None:
        if self._bar is None:
            self._bar = tqdm(desc=f"{_doing(step):<38}", unit=" rows", total=step.of, file=sys.stderr, leave=False)
        self._bar.total = max(step.of, step.rows)
        self._bar.update(step.rows - self._bar.n)
        if step.is_done:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lines:
    """A line when a table is done, and one now and then where that takes long."""

    def __init__(self) -> None:
        self._told_at = monotonic()

    def tell(self, step: Step) -> None:
        now = monotonic()
        if step.is_done or now - self._told_at >= LINE_SECONDS:
            self._told_at = now
            written = f", {step.written:,} of them written" if step.written else ""
            click.echo(f"{_doing(step)}: {step.rows:,} of {max(step.of, step.rows):,} rows{written}", err=True)


def _doing(step: Step) -> str:
    return f"{step.doing} {step.table}"
