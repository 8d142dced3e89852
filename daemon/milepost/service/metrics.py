"""Metrics, kept true by folding what was committed: a reader of the feed that Prometheus scrapes.

Counts come from the entries alone, each of which carries all that happened since the one before it. So a batch that was
passed over is counted when an entry covers it, and nothing is counted twice.
"""

from datetime import datetime
from typing import assert_never

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.events import (
    BatchFailed,
    BatchStored,
    DeadLetterOpened,
    Entry,
    FetchFailed,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    StoreReturned,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.problems import Problem
from milepost.core.remedies import remedy
from milepost.engine.feed import Passed, Recorded, Signal, StoreRetried
from milepost.service.instruments import STORE_AWAY, Instruments, StreamInstruments
from milepost.service.stream_state import StreamState, state_at_rest, state_at_work

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of what `expose` gives
MAX_CODES = 100  # what a server answers must not grow the memory without end


class Metrics:
    """All metrics of the process, in a registry of their own."""

    def __init__(self) -> None:
        # The text format has no place for when a counter began: each would be one more series beside it.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated there
        self._registry = CollectorRegistry()
        self._every = Instruments(self._registry)
        self._streams: dict[str, StreamInstruments] = {}
        self._codes: set[str] = set()

    def recall(self, checkpoint: Checkpoint) -> None:
        """Set a stream's gauges to where it stands, before it is worked."""
        self._show(checkpoint, state_at_rest(checkpoint))

    def read(self, signal: Signal) -> None:
        """Count what a signal tells."""
        match signal:
            case Recorded(checkpoint=checkpoint):
                self._count(signal)
                self._show(checkpoint, state_at_work(checkpoint))
            case Passed(checkpoint=checkpoint, fetch_seconds=fetch_seconds):
                self._took(Stage.FETCH, fetch_seconds)
                self._show(checkpoint, StreamState.SYNCING)
            case StoreRetried(stream=key):
                stream = self._stream(key)
                stream.retries[STORE_AWAY].inc()
                _show_state(stream, StreamState.RETRYING)
            case unknown:
                assert_never(unknown)

    def expose(self) -> bytes:
        """Write all metrics in the text format of Prometheus. Safe to call from another thread."""
        return generate_latest(self._registry)

    def _stream(self, key: str) -> StreamInstruments:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = StreamInstruments(self._every, key)
        return stream

    def _show(self, checkpoint: Checkpoint, state: StreamState) -> None:
        stream = self._stream(checkpoint.stream)
        stream.dead_letters.set(checkpoint.open_dead_letters)
        stream.last_success.set(_timestamp(checkpoint.last_success_at))
        stream.checkpoint.set(_timestamp(checkpoint.updated_at))
        _show_state(stream, state)

    def _count(self, signal: Recorded) -> None:
        stream = self._stream(signal.checkpoint.stream)
        for entry in signal.entries:
            self._every.journal_entries[entry.type].inc()
            self._count_entry(stream, entry, signal)
        self._every.journal_append.observe(signal.commit_seconds)
        if signal.fetch_seconds is not None:
            self._took(Stage.FETCH, signal.fetch_seconds)

    def _count_entry(self, stream: StreamInstruments, entry: Entry, signal: Recorded) -> None:
        match entry.event:
            case BatchStored(tally=tally):
                self._count_tally(stream, tally, signal)
            case SweepCompleted(tally=tally):
                self._count_tally(stream, tally, signal)
                self._count_run(stream, signal.checkpoint.run)
            case RunEnded(tally=tally, problem=problem, reason=reason):
                self._count_tally(stream, tally, signal)
                self._count_run(stream, signal.checkpoint.run)
                if problem is not None and reason is not Reason.RETRIES_EXHAUSTED:  # BatchFailed has told of that one
                    self._count_problem(problem)
            case FetchFailed(problem=problem):
                stream.retries[Stage.FETCH.value, problem.kind.value].inc()
                self._count_problem(problem)
            case BatchFailed(stage=stage, problem=problem):
                stream.batches["failed"].inc()
                stream.failed_batches[stage].inc()
                self._count_problem(problem)
            case RunStarted() | SweepStarted() | DeadLetterOpened() | StoreReturned():
                pass
            case unknown:
                assert_never(unknown)

    def _count_tally(self, stream: StreamInstruments, tally: Tally, signal: Recorded) -> None:
        """Count what a tally covers. A batch without changes is passed over, so that at most its last one has any."""
        stored = int(tally.has_changes)
        stream.batches["stored"].inc(stored)
        stream.batches["unchanged"].inc(tally.batches - stored)
        stream.conversations["inserted"].inc(tally.inserted)
        stream.conversations["updated"].inc(tally.updated)
        stream.conversations["unchanged"].inc(tally.unchanged)
        stream.conversations["dead_lettered"].inc(tally.dead_lettered)
        stream.interaction_events.inc(tally.interaction_events)
        stream.order_violations.inc(tally.order_violations)
        if stored:
            self._took(Stage.STORE, signal.committed.rows_seconds)
            self._took(Stage.EVENTS, signal.committed.events_seconds)

    def _count_run(self, stream: StreamInstruments, run: Run | None) -> None:
        if run is None or run.ended_at is None:
            return
        stream.runs[run.status].inc()
        if run.status is not RunStatus.INTERRUPTED:  # nobody saw when that one ended
            seconds = (run.ended_at - run.started_at).total_seconds()
            self._every.run_duration.labels(run.status.value).observe(seconds)

    def _count_problem(self, problem: Problem) -> None:
        code = problem.kind.value if problem.code is None else str(problem.code)
        if code not in self._codes and len(self._codes) >= MAX_CODES:
            code = "other"
        self._codes.add(code)
        self._every.api_errors.labels(code, remedy(problem).value).inc()

    def _took(self, stage: Stage, seconds: float) -> None:
        self._every.batch_duration.labels(stage.value).observe(seconds)


def _show_state(stream: StreamInstruments, current: StreamState) -> None:
    for state, series in stream.states.items():
        series.set(state is current)


def _timestamp(instant: datetime | None) -> float:
    return 0.0 if instant is None else instant.timestamp()
