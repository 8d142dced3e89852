"""What Prometheus scrapes: counters of this process's work, and gauges set from the live view at each scrape."""

import asyncio
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import assert_never

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from milepost.core import events
from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.doubts import doubt_about
from milepost.core.events import Entry, Reason, Resolution, RunStatus, Stage, Tally
from milepost.core.model import OwnIdState, Stream
from milepost.core.ports import Usage
from milepost.core.position import MessagesFailed, MessagesMissed, MessagesOwed, MessagesRead
from milepost.core.problems import Problem, Remedy, Scope, rule_for
from milepost.core.webhooks import FactsApplied
from milepost.engine.feed import Notice, Recorded, SlotWaited, StoreRetried, UnchangedRead, UsageReported
from milepost.reporting.live import LiveStreams
from milepost.reporting.status import State
from milepost.service.metrics.instruments import STORE_AWAY, Instruments, StreamSeries

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of what `expose` returns


class Metrics:
    """All metrics of the process, in a registry of their own.

    `read` counts what a notice reports, and `register` adds another collector. `page_names` returns the names of the
    streams' pages by id, "" for an unknown one.
    """

    def __init__(self, live: LiveStreams, steady: Callable[[], float] = time.monotonic) -> None:
        # The text format has no field for the creation time of a counter: each counter would get one more series.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated there
        self._registry = CollectorRegistry()
        self._instruments = Instruments(self._registry)
        self._counters = Counters(self._instruments, steady)
        self._live = live
        self.page_names: Callable[[], Mapping[str, str]] = dict
        self.read, self.register = self._counters.read, self._registry.register

    def add_installation(self, interval_seconds: Callable[[], float], database: Path | None) -> None:
        """Add the gauges of the installation: the sync interval, the clock, and the disk usage of the database."""
        interval = Gauge("milepost_sync_interval_seconds", "Interval between syncs.", registry=self._registry)
        interval.set_function(interval_seconds)  # a reload may change it
        clock = Gauge("milepost_clock_timestamp_seconds", "Time of this machine's clock.", registry=self._registry)
        clock.set_function(time.time)
        if database is not None:
            self.register(_Disk(database.absolute()))

    def add_health(
        self,
        store_up: Callable[[], bool],
        discovery_up: Callable[[], bool | None],
        reload_successful: Callable[[], bool],
        streams_due: Callable[[], int],
        api_clock_offset_seconds: Callable[[], float],
    ) -> None:
        """Add the gauges of the daemon as a whole. `discovery_up` is None while discovery is off."""

        def gauge(name: str, documentation: str, value: Callable[[], float]) -> None:
            Gauge(f"milepost_{name}", documentation, registry=self._registry).set_function(value)

        gauge("store_up", "1 while the database can be read and written, 0 while it cannot.", store_up)
        gauge("config_reload_successful", "0 if the latest reload was refused.", reload_successful)
        gauge("streams_due", "Streams that wait for a slot.", streams_due)
        ahead = "Seconds by which this machine's clock is ahead of the API's, by the Date of the latest response."
        gauge("api_clock_offset_seconds", ahead, api_clock_offset_seconds)
        succeeded = "1 if the latest discovery of pages succeeded."
        self.register(_IfKnown("milepost_discovery_up", succeeded, discovery_up))

    def add_store_size(self, size_bytes: Callable[[], int | None]) -> None:
        """Add the gauge of the database's size, which is None while it is unknown."""
        self.register(_IfKnown("milepost_store_size_bytes", "Size of the database: tables and indexes.", size_bytes))

    def expose(self) -> bytes:
        """Return all metrics in the text format of Prometheus. May be called from another thread."""
        self._counters.set_usages()
        page_names = self.page_names()
        for checkpoint, state in self._live.states():
            stream = checkpoint.stream
            series = self._instruments.of_stream(stream.key)
            _set_gauges(series, checkpoint, state)
            series.page_usage.set(self._counters.page_usage(stream.page_id))
            self._instruments.name_stream(stream, page_names.get(stream.page_id) or stream.page_id)
        for stream in self._live.removed():
            self._instruments.drop_stream(stream.key)
        of_streams = "".join(family.write() for family in self._instruments.of_streams.all)
        return generate_latest(self._registry) + of_streams.encode()


def exposition(expose: Callable[[], bytes]) -> Sequence[web.AbstractRouteDef]:
    """Return the route /metrics, which answers with what `expose` returns."""
    one_at_a_time = asyncio.Lock()  # each exposition takes memory and time

    async def metrics(_: web.Request) -> web.Response:
        async with one_at_a_time:
            # In a thread, because it makes file system calls, and takes 20 ms with a thousand streams.
            body = await asyncio.to_thread(expose)
        response = web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
        response.enable_compression()
        return response

    return [web.get("/metrics", metrics)]


def _set_gauges(series: StreamSeries, checkpoint: Checkpoint, current: State) -> None:
    series.dead_letters.set(checkpoint.open_dead_letters)
    series.message_backlog.set(checkpoint.backlog)
    series.history_backlog.set(checkpoint.history.left if checkpoint.history is not None else 0)
    series.last_success.set(_timestamp(checkpoint.last_success_at))
    series.checkpoint.set(_timestamp(checkpoint.updated_at))
    token = checkpoint.token  # None: not checked yet
    series.token_valid.set(None if token is None else token.is_valid)
    if token is None or not token.is_valid:
        series.token_expiry.set(None)
    else:
        series.token_expiry.set(math.inf if token.ends_at is None else token.ends_at.timestamp())
    own_id = checkpoint.own_id
    series.own_id_unknown.set(own_id is not None and own_id.state is OwnIdState.UNKNOWN)
    failure_streak = checkpoint.failure_streak  # it outlasts the runs that probe whether the failure is over
    for reason, stopped in series.stopped.items():
        stopped.set(failure_streak is not None and failure_streak.reason is reason)
    problem = doubt_about(checkpoint)
    for kind, in_doubt in series.in_doubt.items():
        in_doubt.set(problem is not None and problem.kind is kind)
    for state, shown in series.states.items():
        shown.set(state is current)


def _timestamp(instant: datetime | None) -> float:
    return 0.0 if instant is None else instant.timestamp()


class _IfKnown(Collector):
    """A gauge that is left out while its value is None."""

    def __init__(self, name: str, documentation: str, value: Callable[[], float | None]) -> None:
        self._name = name
        self._documentation = documentation
        self._value = value

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauge."""
        value = self._value()
        if value is not None:
            yield GaugeMetricFamily(self._name, self._documentation, value)


class _Disk(Collector):
    """Gauges of a database's files and their file system. They are left out if the system calls fail."""

    def __init__(self, database: Path) -> None:
        self._folder = database.parent
        self._wal = database.with_name(f"{database.name}-wal")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges. This blocks, so it must not run in the event loop."""
        try:
            usage = shutil.disk_usage(self._folder)
            wal_bytes = self._wal.stat().st_size if self._wal.exists() else 0
        except OSError:
            return
        yield GaugeMetricFamily(
            "milepost_store_wal_size_bytes", "Size of the write-ahead log beside the database.", wal_bytes
        )
        yield GaugeMetricFamily(
            "milepost_store_disk_size_bytes", "Size of the file system that holds the database.", usage.total
        )
        yield GaugeMetricFamily(
            "milepost_store_disk_free_bytes", "Space on it that Milepost may still use.", usage.free
        )


# --- counters ---------------------------------------------------------------------------------------------------------

USAGE_SECONDS = 3600.0  # the platform counts the calls of a rolling hour (Meta, "Rate limits")
MAX_CODES = 100  # bounds memory, whatever codes a server makes up

_STOPS = {Reason.AUTHORIZATION: Remedy.STOP_AUTHORIZATION, Reason.CONFIGURATION: Remedy.STOP_CONFIGURATION}
_Failure = (
    events.FetchFailed | events.BatchFailed | events.RateLimited | events.BatchShrunk | events.CursorLost
)  # fmt: skip


class Counters:
    """The counters and histograms of this process's own work: a fold of committed entries.

    Each entry covers everything since the previous one. So a batch that changed nothing is counted with the next entry,
    and nothing is counted twice.
    """

    def __init__(self, instruments: Instruments, steady: Callable[[], float]) -> None:
        self._instruments = instruments
        self._steady = steady
        self._ratios: dict[tuple[Scope, str], dict[str, tuple[float, float]]] = {}  # by page, with when
        self._codes: set[str] = set()

    def read(self, notice: Notice) -> None:
        """Count what a notice reports."""
        match notice:
            case Recorded():
                self._count(notice)
            case UnchangedRead(fetch_seconds=fetch_seconds):
                self._observe(Stage.FETCH, fetch_seconds)
            case StoreRetried(stream=stream):
                self._instruments.of_stream(stream.key).retries[STORE_AWAY].inc()
            case UsageReported(stream=stream, usages=usages):
                self._note_usages(stream, usages)
            case SlotWaited(seconds=seconds):
                self._instruments.slot_wait.observe(seconds)
            case unknown:
                assert_never(unknown)

    def _note_usages(self, stream: Stream, usages: tuple[Usage, ...]) -> None:
        """Keep each budget's latest ratio. The gauge shows the fullest page; all streams share the app's budget."""
        for usage in usages:
            ratios = self._ratios.setdefault((usage.scope, usage.kind), {})
            ratios["" if usage.scope is Scope.APP else stream.page_id] = (usage.ratio, self._steady())

    def set_usages(self) -> None:
        """Set the gauges of the budgets to the ratios reported within an hour. May be called from another thread."""
        now = self._steady()
        for (scope, kind), ratios in self._ratios.copy().items():
            recent = [ratio for ratio, at in list(ratios.values()) if now - at < USAGE_SECONDS]
            if recent:
                self._instruments.usage.labels(scope.value, kind).set(max(recent))
            else:
                self._instruments.usage.remove(scope.value, kind)

    def page_usage(self, page_id: str) -> float | None:
        """Return the ratio of a page's fullest budget; None if none was reported within an hour."""
        now = self._steady()
        of_page = [ratios.get(page_id) for (scope, _), ratios in self._ratios.copy().items() if scope is not Scope.APP]
        return max((ratio for ratio, at in filter(None, of_page) if now - at < USAGE_SECONDS), default=None)

    def _count(self, notice: Recorded) -> None:
        series = self._instruments.of_stream(notice.checkpoint.stream.key)
        for entry in notice.entries:
            self._instruments.journal_entries[entry.type].inc()
            self._count_entry(series, entry, notice)
        for sent_at in notice.arrived:
            delay = notice.entries[-1].recorded_at - sent_at
            self._instruments.message_delay.observe(max(0.0, delay.total_seconds()))  # clocks may differ
        self._instruments.journal_append.observe(notice.commit_seconds)
        if notice.fetch_seconds is not None:
            self._observe(Stage.FETCH, notice.fetch_seconds)

    def _count_entry(  # noqa: C901  (one case for each kind of event)
        self, series: StreamSeries, entry: Entry, notice: Recorded
    ) -> None:
        match entry.event:
            case events.BatchStored(tally=tally):
                self._count_batches(series, tally, notice)
            case events.SweepCompleted(tally=tally) | events.RunEnded(tally=tally):
                self._count_batches(series, tally, notice)
                self._count_run(series, notice.checkpoint.run)
                self._count_stop(entry.event)
            case events.FetchFailed() | events.BatchFailed() | events.RateLimited() as event:
                self._count_failure(series, event, entry.recorded_at)
            case events.BatchShrunk() | events.CursorLost() as event:
                self._count_failure(series, event, entry.recorded_at)
            case events.DeadLetterOpened():
                series.conversations["dead_lettered"].inc()
            case events.DeadLetterClosed(resolution=resolution, tally=tally):
                _count_rows(series, tally)
                series.redrives["redriven"].inc(resolution is Resolution.REDRIVEN)
            case events.RedriveFailed(tally=tally):
                _count_rows(series, tally)
                series.redrives["failed"].inc()
            case MessagesRead(stored=stored):
                series.interaction_events.inc(stored)
            case MessagesFailed(problem=problem):
                self._count_error(problem, rule_for(problem, has_cursor=True).remedy)
            case MessagesMissed(messages=messages, of_histories=of_histories):
                series.messages_missed.inc(messages)
                series.history_missed.inc(of_histories)
            case (
                events.RunStarted()
                | events.SweepStarted()
                | events.FieldsLeftOut()
                | events.StoreReturned()
                | events.StreamPaused()
                | events.StreamResumed()
                | events.SyncRequested()
                | events.TokenChecked()
                | events.OwnIdChecked()
                | events.StreamRemoved()
                | MessagesOwed()
                | FactsApplied()
            ):
                pass
            case unknown:
                assert_never(unknown)

    def _count_failure(self, series: StreamSeries, event: _Failure, recorded_at: datetime) -> None:
        match event:
            case events.FetchFailed(problem=problem):
                series.retries[Stage.FETCH.value, problem.kind.value].inc()
                self._count_error(problem, Remedy.RETRY)
            case events.BatchFailed(stage=stage, problem=problem):
                series.batches["failed"].inc()
                series.failed_batches[stage].inc()
                self._count_error(problem, Remedy.RETRY)
            case events.RateLimited(scope=scope, until=until, problem=problem):
                self._instruments.rate_limit_wait[scope].inc(max(0.0, (until - recorded_at).total_seconds()))
                self._count_error(problem, Remedy.WAIT)
            case events.BatchShrunk(problem=problem):
                self._count_error(problem, Remedy.SHRINK)
            case events.CursorLost(problem=problem):
                self._count_error(problem, Remedy.RESET)

    def _count_batches(self, series: StreamSeries, tally: Tally, notice: Recorded) -> None:
        """Count the batches of a tally. Batches without changes have no entry, so at most the last one has changes."""
        stored = int(tally.has_changes)
        series.batches["stored"].inc(stored)
        series.batches["unchanged"].inc(tally.batches - stored)
        _count_rows(series, tally)
        if stored:
            self._observe(Stage.STORE, notice.committed.rows_seconds)
            self._observe(Stage.EVENTS, notice.committed.events_seconds)
            for stage in {Stage.STORE, Stage.EVENTS} & _stages_of_dead_letters(notice):
                series.failed_batches[stage].inc()

    def _count_run(self, series: StreamSeries, run: Run | None) -> None:
        if run is None or run.ended_at is None:
            return
        series.runs[run.status].inc()
        if run.status is not RunStatus.INTERRUPTED:  # when it really ended is unknown
            seconds = max(0.0, (run.ended_at - run.started_at).total_seconds())  # the clock may have been set back
            self._instruments.run_duration.labels(run.status.value).observe(seconds)

    def _count_stop(self, ended: events.SweepCompleted | events.RunEnded) -> None:
        """Count the error that stopped a stream. Every other error that ends a run has an earlier entry of its own."""
        if isinstance(ended, events.RunEnded) and ended.reason in _STOPS and ended.problem is not None:
            self._count_error(ended.problem, _STOPS[ended.reason])

    def _count_error(self, problem: Problem, remedy: Remedy) -> None:
        code = problem.kind.value if problem.code is None else str(problem.code)
        if code not in self._codes and len(self._codes) >= MAX_CODES:
            code = "other"
        self._codes.add(code)
        self._instruments.api_errors.labels(code, remedy.value).inc()

    def _observe(self, stage: Stage, seconds: float) -> None:
        self._instruments.batch_duration.labels(stage.value).observe(seconds)


def _stages_of_dead_letters(notice: Recorded) -> set[Stage]:
    return {entry.event.stage for entry in notice.entries if isinstance(entry.event, events.DeadLetterOpened)}


def _count_rows(series: StreamSeries, tally: Tally) -> None:
    """Count conversations by result. Dead letters are counted when a batch or a redrive opens them."""
    for result in ("inserted", "updated", "unchanged", "moved", "deleted"):
        series.conversations[result].inc(getattr(tally, result))
    series.interaction_events.inc(tally.interaction_events)
    series.order_violations.inc(tally.order_violations)
    series.replaced_characters.inc(tally.replaced_characters)
