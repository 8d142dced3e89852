"""What Prometheus scrapes: counters of this process's work, and gauges set from the live view at each scrape."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from milepost.core.checkpoint import Checkpoint
from milepost.core.doubts import doubt_about
from milepost.core.model import OwnIdState
from milepost.engine.feed import Notice
from milepost.reporting.live import LiveStreams
from milepost.reporting.status import State
from milepost.service.metrics.counters import Counters
from milepost.service.metrics.instruments import Instruments, StreamSeries

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of what `expose` returns


class Metrics:
    """All metrics of the process, in a registry of their own."""

    def __init__(self, live: LiveStreams, steady: Callable[[], float] = time.monotonic) -> None:
        # The text format has no field for when a counter began: each would have one more series for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated there
        self._registry = CollectorRegistry()
        self._instruments = Instruments(self._registry)
        self._counters = Counters(self._instruments, steady)
        self._live = live
        self._page_names: Callable[[], Mapping[str, str]] = dict

    def add_page_names(self, page_names: Callable[[], Mapping[str, str]]) -> None:
        """Name the streams after their pages: `page_names` returns the names by id, "" where one is unknown."""
        self._page_names = page_names

    def add_installation(self, interval_seconds: Callable[[], float], database: Path | None) -> None:
        """Add the gauges of the installation: the sync interval, the clock, and what the database takes of its disk."""
        interval = Gauge("milepost_sync_interval_seconds", "Interval between syncs.", registry=self._registry)
        interval.set_function(interval_seconds)  # a reload may change it
        clock = Gauge("milepost_clock_timestamp_seconds", "Time of this machine's clock.", registry=self._registry)
        clock.set_function(time.time)
        if database is not None:
            self._registry.register(_Disk(database.absolute()))

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
        self._register_if_known("discovery_up", "1 if the latest discovery of pages succeeded.", discovery_up)

    def add_store_size(self, size_bytes: Callable[[], int | None]) -> None:
        """Add the gauge of the database's size, which is None while it is unknown."""
        self._register_if_known("store_size_bytes", "Size of the database: tables and indexes.", size_bytes)

    def _register_if_known(self, name: str, documentation: str, value: Callable[[], float | None]) -> None:
        self._registry.register(_IfKnown(f"milepost_{name}", documentation, value))

    def register(self, collector: Collector) -> None:
        """Add the metrics of another collector."""
        self._registry.register(collector)

    def read(self, notice: Notice) -> None:
        """Count what a notice reports."""
        self._counters.read(notice)

    def expose(self) -> bytes:
        """Return all metrics in the text format of Prometheus. May be called from another thread."""
        self._counters.set_usages()
        page_names = self._page_names()
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
    failure_streak = checkpoint.failure_streak  # outlasts the runs that probe whether it is over
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
    """A gauge. There is none while its value is None."""

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
    """Gauges of a database's files and their file system. There are none if those cannot be queried."""

    def __init__(self, database: Path) -> None:
        self._folder = database.parent
        self._wal = database.with_name(f"{database.name}-wal")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges. It blocks, and so must not run in the event loop."""
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
