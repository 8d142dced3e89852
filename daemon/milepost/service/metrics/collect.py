"""Metrics, kept true by folding what was committed: a reader of the feed that Prometheus scrapes.

Counts come from the entries alone, each of which carries all that happened since the one before it. So a batch that was
passed over is counted when an entry covers it, and nothing is counted twice.
"""

import math
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import assert_never

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics, generate_latest
from prometheus_client.registry import Collector

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Entry,
    FetchFailed,
    RateLimited,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    StoreReturned,
    StreamPaused,
    StreamRemoved,
    StreamResumed,
    SweepCompleted,
    SweepStarted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.model import Scope, Stream, TokenHealth
from milepost.core.ports import Usage
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy
from milepost.engine.feed import Notice, Recorded, StoreRetried, UnchangedRead, UsageReported
from milepost.reporting.status import State, state_of
from milepost.service.metrics.disk import Disk
from milepost.service.metrics.instruments import STORE_AWAY, Instruments, StreamInstruments
from milepost.service.stream_state import StreamStates

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
        self._states = StreamStates()
        self._versions: dict[str, int] = {}
        self._ratios: dict[tuple[Scope, str], dict[str, float]] = {}  # by page
        self._codes: set[str] = set()

    def describe(self, interval_seconds: Callable[[], float], database: Path | None) -> None:
        """Describe the installation too: how often streams are worked, its clock, and the room on the disk."""
        interval = Gauge("milepost_sync_interval_seconds", "How often each stream is worked.", registry=self._registry)
        interval.set_function(interval_seconds)  # a reload may change it
        clock = Gauge("milepost_clock_timestamp_seconds", "The time by this machine's clock.", registry=self._registry)
        clock.set_function(time.time)
        if database is not None:
            self._registry.register(Disk(database.absolute().parent))

    def register(self, collector: Collector) -> None:
        """Show what somebody else counts."""
        self._registry.register(collector)

    def load(self, checkpoint: Checkpoint) -> None:
        """Set a stream's gauges to where it stands, before it is worked."""
        self._show(checkpoint, state_of(checkpoint, is_at_work=False))

    def learn(self, notice: Notice) -> None:
        """Show where a stream stands by its journal, whoever worked it; nothing of it is this process's work."""
        if isinstance(notice, Recorded) and notice.checkpoint.version > self._versions.get(notice.checkpoint.stream, 0):
            if notice.checkpoint.removed_at is not None:
                self._drop(notice.checkpoint)
            else:
                self._show(notice.checkpoint, state_of(notice.checkpoint, is_at_work=True))

    def read(self, notice: Notice) -> None:
        """Count what a signal tells."""
        match notice:
            case Recorded(checkpoint=checkpoint):
                self._count(notice)
                self._show(checkpoint, state_of(checkpoint, is_at_work=True))
            case UnchangedRead(checkpoint=checkpoint, fetch_seconds=fetch_seconds):
                self._took(Stage.FETCH, fetch_seconds)
                self._show(checkpoint, State.SYNCING)
            case StoreRetried(stream=key):
                stream = self._stream(key)
                stream.retries[STORE_AWAY].inc()
                _show_state(stream, State.RETRYING)
            case UsageReported(stream=key, usages=usages):
                self._show_usages(Stream.parse(key), usages)
            case unknown:
                assert_never(unknown)

    def expose(self) -> bytes:
        """Write all metrics in the text format of Prometheus. Safe to call from another thread."""
        of_streams = "".join(family.write() for family in self._every.of_streams.all)
        return generate_latest(self._registry) + of_streams.encode()

    def _stream(self, key: str) -> StreamInstruments:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = StreamInstruments(self._every.of_streams, key)
        return stream

    def _show(self, checkpoint: Checkpoint, state: State) -> None:
        stream = self._stream(checkpoint.stream)
        self._versions[checkpoint.stream] = checkpoint.version
        stream.dead_letters.set(checkpoint.open_dead_letters)
        stream.last_success.set(_timestamp(checkpoint.last_success_at))
        stream.checkpoint.set(_timestamp(checkpoint.updated_at))
        stream.token_expiry.set(_expiry(checkpoint.token))
        failure_streak = checkpoint.failure_streak  # outlasts the runs that try whether it is over
        for reason, series in stream.stopped.items():
            series.set(failure_streak is not None and failure_streak.reason is reason)
        for key, told in self._states.learn(checkpoint, state):
            _show_state(self._stream(key), told)

    def _drop(self, checkpoint: Checkpoint) -> None:
        """Show a removed stream no more, until there is something of it again."""
        self._versions[checkpoint.stream] = checkpoint.version
        self._states.forget(checkpoint.stream)
        if self._streams.pop(checkpoint.stream, None) is not None:
            self._every.of_streams.drop(checkpoint.stream)

    def _show_usages(self, stream: Stream, usages: tuple[Usage, ...]) -> None:
        """Show the fullest page's latest ratio; the app's budget is the same one for all, and so the latest counts."""
        for usage in usages:
            ratios = self._ratios.setdefault((usage.scope, usage.kind), {})
            ratios["" if usage.scope is Scope.APP else stream.page_id] = usage.ratio
            self._every.usage.labels(usage.scope.value, usage.kind).set(max(ratios.values()))

    def _count(self, notice: Recorded) -> None:
        stream = self._stream(notice.checkpoint.stream)
        for entry in notice.entries:
            self._every.journal_entries[entry.type].inc()
            self._count_entry(stream, entry, notice)
        self._every.journal_append.observe(notice.commit_seconds)
        if notice.fetch_seconds is not None:
            self._took(Stage.FETCH, notice.fetch_seconds)

    def _count_entry(self, stream: StreamInstruments, entry: Entry, notice: Recorded) -> None:
        match entry.event:
            case BatchStored(tally=tally):
                self._count_batches(stream, tally, notice)
            case SweepCompleted(tally=tally) | RunEnded(tally=tally):
                self._count_batches(stream, tally, notice)
                self._count_run(stream, notice.checkpoint.run)
                self._count_stop(entry.event)
            case FetchFailed() | BatchFailed() | RateLimited() | BatchShrunk() | CursorLost() as event:
                self._count_refusal(stream, event, entry.recorded_at)
            case DeadLetterOpened():
                stream.conversations["dead_lettered"].inc()
            case DeadLetterClosed(resolution=resolution, tally=tally):
                _count_rows(stream, tally)
                stream.redrives["redriven"].inc(resolution is Resolution.REDRIVEN)
            case RedriveFailed(tally=tally):
                _count_rows(stream, tally)
                stream.redrives["failed"].inc()
            case RunStarted() | SweepStarted() | StoreReturned():
                pass
            case StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked() | StreamRemoved():
                pass
            case unknown:
                assert_never(unknown)

    def _count_refusal(
        self,
        stream: StreamInstruments,
        event: FetchFailed | BatchFailed | RateLimited | BatchShrunk | CursorLost,
        recorded_at: datetime,
    ) -> None:
        """Count an answer that was an error, by what was done about it."""
        match event:
            case FetchFailed(problem=problem):
                stream.retries[Stage.FETCH.value, problem.kind.value].inc()
                self._count_problem(problem, Remedy.RETRY)
            case BatchFailed(stage=stage, problem=problem):
                stream.batches["failed"].inc()
                stream.failed_batches[stage].inc()
                self._count_problem(problem, Remedy.RETRY)
            case RateLimited(scope=scope, until=until, problem=problem):
                self._every.rate_limit_wait[scope].inc(max(0.0, (until - recorded_at).total_seconds()))
                self._count_problem(problem, Remedy.WAIT)
            case BatchShrunk(problem=problem):
                self._count_problem(problem, Remedy.SHRINK)
            case CursorLost(problem=problem):
                self._count_problem(problem, Remedy.RESET)

    def _count_stop(self, ended: SweepCompleted | RunEnded) -> None:
        """Count the refusal that stopped a stream. Runs that end for another one have told of it in an entry before."""
        match ended:
            case RunEnded(reason=Reason.AUTHORIZATION, problem=Problem() as problem):
                self._count_problem(problem, Remedy.STOP_AUTHORIZATION)
            case RunEnded(reason=Reason.CONFIGURATION, problem=Problem() as problem):
                self._count_problem(problem, Remedy.STOP_CONFIGURATION)
            case _:
                pass

    def _count_batches(self, stream: StreamInstruments, tally: Tally, notice: Recorded) -> None:
        """Count what a tally covers. A batch without changes is passed over, so that at most its last one has any."""
        stored = int(tally.has_changes)
        stream.batches["stored"].inc(stored)
        stream.batches["unchanged"].inc(tally.batches - stored)
        _count_rows(stream, tally)
        if stored:
            self._took(Stage.STORE, notice.committed.rows_seconds)
            self._took(Stage.EVENTS, notice.committed.events_seconds)
            for stage in {Stage.STORE, Stage.EVENTS} & _stages_of_letters(notice):
                stream.failed_batches[stage].inc()

    def _count_run(self, stream: StreamInstruments, run: Run | None) -> None:
        if run is None or run.ended_at is None:
            return
        stream.runs[run.status].inc()
        if run.status is not RunStatus.INTERRUPTED:  # nobody saw when that one ended
            seconds = max(0.0, (run.ended_at - run.started_at).total_seconds())  # the clock may have been set back
            self._every.run_duration.labels(run.status.value).observe(seconds)

    def _count_problem(self, problem: Problem, remedy: Remedy) -> None:
        code = problem.kind.value if problem.code is None else str(problem.code)
        if code not in self._codes and len(self._codes) >= MAX_CODES:
            code = "other"
        self._codes.add(code)
        self._every.api_errors.labels(code, remedy.value).inc()

    def _took(self, stage: Stage, seconds: float) -> None:
        self._every.batch_duration.labels(stage.value).observe(seconds)


def _stages_of_letters(notice: Recorded) -> set[Stage]:
    """Say at which stages something of the batch became a dead letter."""
    return {entry.event.stage for entry in notice.entries if isinstance(entry.event, DeadLetterOpened)}


def _count_rows(stream: StreamInstruments, tally: Tally) -> None:
    """Count what became of conversations. Dead letters are counted where they are opened, which a redrive does too."""
    stream.conversations["inserted"].inc(tally.inserted)
    stream.conversations["updated"].inc(tally.updated)
    stream.conversations["unchanged"].inc(tally.unchanged)
    stream.conversations["deleted"].inc(tally.deleted)
    stream.interaction_events.inc(tally.interaction_events)
    stream.order_violations.inc(tally.order_violations)


def _show_state(stream: StreamInstruments, current: State) -> None:
    for state, series in stream.states.items():
        series.set(state is current)


def _expiry(token: TokenHealth | None) -> float | None:
    if token is None:  # nobody has asked yet
        return None
    if not token.is_valid:
        return 0.0
    return math.inf if token.ends_at is None else token.ends_at.timestamp()


def _timestamp(instant: datetime | None) -> float:
    return 0.0 if instant is None else instant.timestamp()
