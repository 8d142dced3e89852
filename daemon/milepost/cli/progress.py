"""The live display of a sync: one line a stream, drawn by tqdm on a terminal."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Never, TextIO

from tqdm import tqdm

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.events import RunStatus, Tally
from milepost.engine.feed import Passed, Recorded, Signal, StoreRetried


class Progress:
    """A reader of the feed that keeps one line for each stream it hears of."""

    def __init__(self, now: Callable[[], datetime], out: TextIO) -> None:
        self._now = now
        self._out = out
        self._bars: dict[str, tqdm[Never]] = {}

    def read(self, signal: Signal) -> None:
        """Bring the stream's line up to date."""
        match signal:
            case Recorded(checkpoint=checkpoint) | Passed(checkpoint=checkpoint):
                self._show(checkpoint.stream, line(checkpoint, self._now()))
            case StoreRetried(stream=stream, away_seconds=away_seconds):
                self._show(stream, f"{stream}  the store has been away for {away_seconds:.0f} s: {signal.reason}")

    def close(self) -> None:
        """Leave the lines as they are."""
        for bar in self._bars.values():
            bar.close()

    def _show(self, stream: str, text: str) -> None:
        if stream not in self._bars:
            self._bars[stream] = tqdm(
                bar_format="{desc}", position=len(self._bars), file=self._out, dynamic_ncols=True, mininterval=0.1
            )
        self._bars[stream].set_description_str(text)


def line(checkpoint: Checkpoint, now: datetime) -> str:
    """Say in one line how a stream's run comes along: batches, conversations, rate, retries."""
    run = checkpoint.run
    tally = checkpoint.unrecorded + (run.tally if run is not None else Tally())
    text = f"{checkpoint.stream:<32} {tally.batches:>5} batches {tally.conversations:>8,} conversations"
    if run is None:
        return text
    seconds = ((run.ended_at or now) - run.started_at).total_seconds()
    rate = tally.conversations / seconds if seconds > 0 else 0.0
    return f"{text} {rate:>7,.0f}/s {run.retries:>3} retries  {_state(checkpoint, run)}"


def _state(checkpoint: Checkpoint, run: Run) -> str:
    if run.status is not RunStatus.RUNNING:
        return run.status.value.replace("_", " ")
    if checkpoint.trouble is not None:
        return f"retrying: {checkpoint.trouble.problem}"
    if checkpoint.sweep is None:
        return "starting"
    return checkpoint.sweep.position.phase.value.replace("_", "-")


class BesideBars(io.TextIOBase):
    """Stands in for stderr while bars are drawn: what is written goes above them. It has no descriptor of its own."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Write above the bars."""
        tqdm.write(text, file=self._out, end="")
        return len(text)

    def isatty(self) -> bool:
        """Colours are as welcome as on the terminal itself."""
        return self._out.isatty()


@contextmanager
def progress_on_terminal(out: TextIO) -> Iterator[Progress]:
    """Draw on `out` until the end of the block."""
    tqdm.monitor_interval = 0  # no thread of its own
    progress = Progress(lambda: datetime.now(UTC), out)
    try:
        yield progress
    finally:
        progress.close()
