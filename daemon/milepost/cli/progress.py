"""The live display of a sync: one line for each stream, drawn by tqdm on a terminal."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Never, TextIO, assert_never

from tqdm import tqdm

from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.events import NO_TALLY
from milepost.core.model import Stream
from milepost.core.rate_limits import by_page
from milepost.engine.feed import Notice, Recorded, SlotWaited, StoreRetried, UnchangedRead, UsageReported
from milepost.reporting.humanize import clock, in_words, on_one_line
from milepost.reporting.status import State, held_up, limit_on, rate_limits_of, state_of


class Progress:
    """A reader of the feed that keeps one line for each stream."""

    def __init__(self, now: Callable[[], datetime], out: TextIO) -> None:
        self._now = now
        self._out = out
        self._bars: dict[Stream, tqdm[Never]] = {}
        self._checkpoints: dict[Stream, Checkpoint] = {}

    def read(self, notice: Notice) -> None:
        """Update the line of the stream, and all lines where a rate limit begins or ends that may hold up others."""
        match notice:
            case Recorded(checkpoint=checkpoint) | UnchangedRead(checkpoint=checkpoint):
                before = self._checkpoints.get(checkpoint.stream)
                self._checkpoints[checkpoint.stream] = checkpoint
                has_new_limit = checkpoint.rate_limit != (before.rate_limit if before is not None else None)
                self._draw(self._checkpoints.values() if has_new_limit else [checkpoint])
            case StoreRetried(stream=stream, away_seconds=away_seconds):
                reason = on_one_line(notice.reason)
                self._show(stream, f"{stream}  the database has been unavailable for {away_seconds:.0f} s: {reason}")
            case UsageReported() | SlotWaited():
                pass
            case unknown:
                assert_never(unknown)

    def close(self) -> None:
        """Leave the lines as they are."""
        for bar in self._bars.values():
            bar.close()

    def _draw(self, checkpoints: Iterable[Checkpoint]) -> None:
        now, near = self._now(), by_page(rate_limits_of(self._checkpoints.values()))
        for checkpoint in checkpoints:
            self._show(checkpoint.stream, line(checkpoint, now, near(checkpoint.stream)))

    def _show(self, stream: Stream, text: str) -> None:
        if stream not in self._bars:
            self._bars[stream] = tqdm(
                bar_format="{desc}", position=len(self._bars), file=self._out, dynamic_ncols=True, mininterval=0.1
            )
        self._bars[stream].set_description_str(text)


def line(checkpoint: Checkpoint, now: datetime, rate_limits: Mapping[Stream, RateLimit]) -> str:
    """Return the progress of a stream's run in one line: batches, conversations, rate, retries, state."""
    run, passed = checkpoint.run, checkpoint.unrecorded
    if run is not None and run.ended_at is not None and passed != NO_TALLY:
        run = None  # it has ended, and the current one is not on record yet
    tally = passed + (run.tally if run is not None else NO_TALLY)
    text = f"{checkpoint.stream.key:<32} {tally.batches:>5} batches {tally.conversations:>8,} conversations"
    if run is None:
        return text
    seconds = ((run.ended_at or now) - run.started_at).total_seconds()
    rate = tally.conversations / seconds if seconds > 0 else 0.0
    return f"{text} {rate:>7,.0f}/s {run.retries:>3} retries  {_state(checkpoint, now, rate_limits)}"


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
    """Replaces stderr while bars are drawn: what is written goes above them. It has no descriptor of its own."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Write above the bars."""
        tqdm.write(text, file=self._out, end="")
        return len(text)

    def isatty(self) -> bool:
        """Return whether the terminal takes colours."""
        return self._out.isatty()


@contextmanager
def progress_on_terminal(out: TextIO) -> Iterator[Progress]:
    """Draw the progress on `out` during the block."""
    tqdm.monitor_interval = 0  # no thread of its own
    progress = Progress(lambda: datetime.now(UTC), out)
    try:
        yield progress
    finally:
        progress.close()
