"""The live display of a sync: one line for each stream, drawn by tqdm on a terminal."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Never, TextIO, assert_never

from tqdm import tqdm

from milepost.cli.terminal import clipped, width_of
from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.events import NO_TALLY, Tally
from milepost.core.model import Stream
from milepost.core.retry import by_page
from milepost.engine.feed import Notice, Recorded, SlotWaited, StoreRetried, UnchangedRead, UsageReported
from milepost.reporting.humanize import clock, counted, in_words, on_one_line
from milepost.reporting.status import State, held_up, limit_on, rate_limits_of, state_of
from milepost.reporting.views import open_sweep

NAME_WIDTH = 27  # the width of a key
STATE_WIDTH = len("catch-up")
BAR_WIDTH = 12
EXTENT_WIDTH = len("1,000,000 conversations")


class Progress:
    """A reader of the feed that keeps one line for each stream.

    `name` returns the name of a stream for its line.
    """

    def __init__(
        self, now: Callable[[], datetime], out: TextIO, name: Callable[[Stream], str] = lambda stream: stream.key
    ) -> None:
        self._now = now
        self._out = out
        self._name = name
        self._bars: dict[Stream, tqdm[Never]] = {}
        self._checkpoints: dict[Stream, Checkpoint] = {}

    def read(self, notice: Notice) -> None:
        """Update the line of the stream; update all lines when a rate limit that may hold up others begins or ends."""
        match notice:
            case Recorded(checkpoint=checkpoint) | UnchangedRead(checkpoint=checkpoint):
                self.show(checkpoint)
            case StoreRetried(stream=stream, away_seconds=away_seconds):
                reason = on_one_line(notice.reason)
                away = f"the database has been unavailable for {away_seconds:.0f} s: {reason}"
                self._draw(stream, f"{_padded(self._name(stream))}  {away}")
            case UsageReported() | SlotWaited():
                pass
            case unknown:
                assert_never(unknown)

    def show(self, checkpoint: Checkpoint) -> None:
        """Update the line of a stream, and those of the streams that its rate limit concerns."""
        before = self._checkpoints.get(checkpoint.stream)
        self._checkpoints[checkpoint.stream] = checkpoint
        has_new_limit = checkpoint.rate_limit != (before.rate_limit if before is not None else None)
        now, near = self._now(), by_page(rate_limits_of(self._checkpoints.values()))
        for each in self._checkpoints.values() if has_new_limit else [checkpoint]:
            name = self._name(each.stream)
            self._draw(each.stream, line(each, now, near(each.stream), name))

    def close(self) -> None:
        """Stop updating; the lines stay on the terminal."""
        for bar in self._bars.values():
            bar.close()

    def _draw(self, stream: Stream, text: str) -> None:
        if stream not in self._bars:
            self._bars[stream] = tqdm(
                bar_format="{desc}", position=len(self._bars), file=self._out, dynamic_ncols=True, mininterval=0.1
            )
        self._bars[stream].set_description_str(text)


def line(checkpoint: Checkpoint, now: datetime, rate_limits: Mapping[Stream, RateLimit], name: str) -> str:
    """Return the progress of a stream's run in one line.

    Its activity or what it waits for comes first, because a narrow terminal cuts lines off; then its progress, with a
    bar if the number of conversations is known.
    """
    run, passed = checkpoint.run, checkpoint.unrecorded
    if run is not None and run.ended_at is not None and passed != NO_TALLY:
        run = None  # this run has ended, and the current one is not in the journal yet
    tally = passed + (run.tally if run is not None else NO_TALLY)
    state = "starting" if tally == NO_TALLY and run is None else _state(checkpoint, now, rate_limits)
    parts = [_padded(name), f"{state:<{STATE_WIDTH}}", _extent(checkpoint, tally)]
    if run is not None and run.ended_at is None:
        seconds = (now - run.started_at).total_seconds()
        parts.append(f"{tally.conversations / seconds if seconds > 0 else 0.0:,.0f}/s")
    if run is not None and run.retries:
        parts.append(counted(run.retries, "retry", "retries"))
    return "  ".join(parts).rstrip()


def _extent(checkpoint: Checkpoint, tally: Tally) -> str:
    """Return the progress of a sweep: a bar for a repeated full sweep, otherwise the number of conversations."""
    sweep = open_sweep(checkpoint)
    if sweep is None or not sweep.expected:
        return f"{counted(tally.conversations, 'conversation'):<{EXTENT_WIDTH}}"
    read, expected = sweep.conversations, sweep.expected
    share = min(read / expected, 1.0)  # an estimate: more may have arrived, and the catch-up scan reads some again
    full = int(share * BAR_WIDTH)
    bar = "█" * full + "░" * (BAR_WIDTH - full)
    return f"{bar} {share:>4.0%}  {f'{read:,} of {expected:,}' if read <= expected else counted(read, 'conversation')}"


def _padded(name: str) -> str:
    width = NAME_WIDTH - width_of(name)
    return f"{name}{' ' * width}" if width >= 0 else clipped(name, NAME_WIDTH)


def _state(checkpoint: Checkpoint, now: datetime, rate_limits: Mapping[Stream, RateLimit]) -> str:
    state = state_of(checkpoint, is_at_work=True)
    hold = limit_on(checkpoint.stream, rate_limits, now)
    if hold is not None and hold.until is not None and held_up(state) is State.RATE_LIMITED:
        return f"waits for {hold.waits_for} until {clock(hold.until, now)}"
    if state is State.RETRYING and checkpoint.retry is not None:
        return f"retrying: {on_one_line(checkpoint.retry.problem)}"
    if state is State.SYNCING:
        return "starting" if checkpoint.sweep is None else checkpoint.sweep.position.phase.value.replace("_", "-")
    return in_words(state)


class BesideBars(io.TextIOBase):
    """Replaces stderr while bars are drawn, and writes above them. It has no file descriptor of its own."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Write above the bars."""
        tqdm.write(text, file=self._out, end="")
        return len(text)

    def isatty(self) -> bool:
        """Return whether the output is a terminal, which may support colours."""
        return self._out.isatty()


@contextmanager
def progress_on_terminal(out: TextIO, name: Callable[[Stream], str]) -> Iterator[Progress]:
    """Draw the progress on `out` during the block. `name` returns the name of a stream."""
    tqdm.monitor_interval = 0  # no thread of its own
    progress = Progress(lambda: datetime.now(UTC), out, name)
    try:
        yield progress
    finally:
        progress.close()
