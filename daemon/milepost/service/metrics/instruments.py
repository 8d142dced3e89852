"""Every metric: its name, help and labels. A test compares them with docs/metrics.md.

Metrics with series for each stream (about 45 a stream) use our own Family; `prometheus_client` has the rest.

The conventions are those of Prometheus ("Metric and label naming", "Histograms and summaries"): base units, counters
that end in _total, and no label on a histogram that multiplies its buckets by the number of streams.
"""

from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from milepost import __version__
from milepost.core import doubts
from milepost.core.events import TAGS, Reason, RunStatus, Stage
from milepost.core.model import Stream
from milepost.core.problems import ProblemKind, Scope
from milepost.reporting.status import State

BATCH_OUTCOMES = ("stored", "unchanged", "failed")
CONVERSATION_RESULTS = ("inserted", "updated", "unchanged", "moved", "deleted", "dead_lettered")
REDRIVE_RESULTS = ("redriven", "failed")
NEVER_RETRIED = frozenset(doubts.KINDS) - {ProblemKind.CURSOR_LOOP, ProblemKind.EMPTY_INBOX}
STORE_AWAY = (Stage.STORE.value, "away")
RETRIES = (*((Stage.FETCH.value, kind.value) for kind in ProblemKind if kind not in NEVER_RETRIED), STORE_AWAY)
DOUBTS = doubts.KINDS
STOPS = (Reason.AUTHORIZATION, Reason.CONFIGURATION)
ENDINGS: tuple[RunStatus, ...] = tuple(status for status in RunStatus if status is not RunStatus.RUNNING)

COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (*COMMIT_BUCKETS, 30.0, 60.0)  # as far as source.request_timeout usually goes
RUN_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 270.0, 300.0, 600.0, 1800.0, 3600.0)
DELAY_BUCKETS = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 43200.0, 86400.0)


class Instruments:
    """The metrics of the process, in the registry, and those of the streams."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"milepost_{name}", documentation, labels, registry=registry)

        def histogram(name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"milepost_{name}", documentation, labels, registry=registry, buckets=buckets)

        self.api_errors = counter("api_errors_total", "API errors by code and remedy.", "code", "remedy")
        rate_limit_wait = counter(
            "rate_limit_wait_seconds_total", "How long rate limits were expected to last.", "scope"
        )
        self.rate_limit_wait = {scope: rate_limit_wait.labels(scope.value) for scope in Scope}
        journal_entries = counter("journal_entries_total", "Entries appended to the journal.", "type")
        self.journal_entries = {tag: journal_entries.labels(tag) for tag in TAGS.values()}
        self.usage = Gauge(
            "milepost_rate_limit_usage_ratio",
            "Used share of a rate limit's budget; 1 is all of it.",
            ("scope", "kind"),
            registry=registry,
        )
        self.batch_duration = histogram(
            "batch_duration_seconds", "Duration of each stage of a batch.", BATCH_BUCKETS, "stage"
        )
        self.run_duration = histogram("run_duration_seconds", "Duration of runs.", RUN_BUCKETS, "status")
        self.journal_append = histogram(
            "journal_append_duration_seconds", "Duration of commits to the journal.", COMMIT_BUCKETS
        )
        self.message_delay = histogram(
            "message_delay_seconds", "From when a message was sent until it is stored.", DELAY_BUCKETS
        )
        self.slot_wait = histogram("slot_wait_seconds", "Time that streams waited for a slot.", RUN_BUCKETS)
        Info("milepost_build", "The running version.", registry=registry).info({"version": __version__})
        ProcessCollector(registry=registry)
        self.of_streams = StreamFamilies()
        self._streams: dict[str, StreamSeries] = {}
        self._creating = Lock()  # the event loop counts while a thread exposes

    def of_stream(self, key: str) -> "StreamSeries":
        """Return the series of a stream, creating them on the first call."""
        series = self._streams.get(key)
        if series is None:
            with self._creating:
                series = self._streams.get(key) or StreamSeries(self.of_streams, key)
                self._streams[key] = series
        return series

    def name_stream(self, stream: Stream, page_name: str) -> None:
        """Expose the name of a stream's page, replacing an earlier name."""
        series = self.of_stream(stream.key)
        with self._creating:
            if series.page_name != page_name:
                self.of_streams.info.drop(stream.key)
                self.of_streams.info.add(stream.key, stream.platform.value, stream.page_id, page_name, value=1.0)
                series.page_name = page_name

    def drop_stream(self, key: str) -> None:
        """Remove the series of a stream."""
        with self._creating:
            if self._streams.pop(key, None) is not None:
                for family in self.of_streams.all:
                    family.drop(key)


class StreamFamilies:
    """The metrics with series for each stream."""

    def __init__(self) -> None:
        self.all: list[Family] = []

        def family(kind: str, name: str, documentation: str, *labels: str) -> Family:
            self.all.append(Family(kind, f"milepost_{name}", documentation, "stream", *labels))
            return self.all[-1]

        self.batches = family("counter", "batches_total", "Batches by outcome.", "outcome")
        self.retries = family("counter", "retries_total", "Failed attempts that are retried.", "stage", "reason")
        self.failed_batches = family("counter", "failed_batches_total", "Failed batches by stage.", "stage")
        self.runs = family("counter", "runs_total", "Completed runs by status.", "status")
        self.conversations = family("counter", "conversations_total", "Conversations by result.", "result")
        self.interaction_events = family("counter", "interaction_events_total", "Interaction events written.")
        self.messages_missed = family("counter", "messages_missed_total", "Messages that the API withholds.")
        self.history_missed = family(
            "counter", "message_history_missed_total", "Messages of histories that the API withholds."
        )
        self.order_violations = family("counter", "order_violations_total", "Conversations listed out of order.")
        self.replaced_characters = family(
            "counter", "replaced_characters_total", "Characters that no database can store, replaced by U+FFFD."
        )
        self.redrives = family("counter", "redrives_total", "Redrives of dead letters by result.", "result")
        self.dead_letters = family("gauge", "dead_letters", "Open dead letters.")
        self.message_backlog = family(
            "gauge", "message_backlog", "Conversations with older messages that are still to be read."
        )
        self.history_backlog = family(
            "gauge", "message_history_backlog", "Conversations whose histories are still to be read."
        )
        self.last_success = family(
            "gauge", "last_success_timestamp_seconds", "Time of the last completed sweep; 0 is never."
        )
        self.checkpoint = family(
            "gauge", "checkpoint_timestamp_seconds", "Time when the checkpoint last moved; 0 is never."
        )
        self.token_expiry = family(
            "gauge", "token_expiry_timestamp_seconds", "Time when the valid token expires; +Inf is never."
        )
        self.token_valid = family("gauge", "token_valid", "1 if the token is valid, 0 if it is not.")
        self.own_id_unknown = family(
            "gauge", "own_id_unknown", "1 if our own id is in no thread and it is unknown which participant is us."
        )
        self.info = family(
            "gauge",
            "stream_info",
            "1, labelled with the name of the stream's page.",
            "platform",
            "page_id",
            "page_name",
        )
        self.page_usage = family(
            "gauge", "stream_rate_limit_usage_ratio", "Used share of the page's fullest budget; 1 is all of it."
        )
        self.states = family("gauge", "stream_state", "1 for the current state of the stream.", "state")
        self.stopped = family(
            "gauge", "stream_stopped", "1 while the stream is stopped, until it is read again.", "reason"
        )
        self.in_doubt = family(
            "gauge", "stream_in_doubt", "1 while the answers of the list are not relied on.", "reason"
        )


class StreamSeries:
    """The series of one stream. All are created at once, except for gauges whose value is unknown.

    If a counter appeared only with its first count, `rate` and `increase` would not see that count.
    """

    def __init__(self, every: StreamFamilies, stream: str) -> None:
        self.batches = {outcome: every.batches.add(stream, outcome) for outcome in BATCH_OUTCOMES}
        self.retries = {retry: every.retries.add(stream, *retry) for retry in RETRIES}
        self.failed_batches = {stage: every.failed_batches.add(stream, stage.value) for stage in Stage}
        self.runs = {status: every.runs.add(stream, status.value) for status in ENDINGS}
        self.conversations = {result: every.conversations.add(stream, result) for result in CONVERSATION_RESULTS}
        self.interaction_events = every.interaction_events.add(stream)
        self.messages_missed = every.messages_missed.add(stream)
        self.history_missed = every.history_missed.add(stream)
        self.redrives = {result: every.redrives.add(stream, result) for result in REDRIVE_RESULTS}
        self.order_violations = every.order_violations.add(stream)
        self.replaced_characters = every.replaced_characters.add(stream)
        self.dead_letters = every.dead_letters.add(stream)
        self.message_backlog = every.message_backlog.add(stream)
        self.history_backlog = every.history_backlog.add(stream)
        self.last_success = every.last_success.add(stream)
        self.checkpoint = every.checkpoint.add(stream)
        self.token_expiry = every.token_expiry.add(stream, value=None)
        self.token_valid = every.token_valid.add(stream, value=None)
        self.own_id_unknown = every.own_id_unknown.add(stream)
        self.page_name: str | None = None  # of the series of `stream_info`, once there is one
        self.page_usage = every.page_usage.add(stream, value=None)
        self.states = {state: every.states.add(stream, state.value) for state in State}
        self.stopped = {reason: every.stopped.add(stream, reason.value) for reason in STOPS}
        self.in_doubt = {kind: every.in_doubt.add(stream, kind.value) for kind in DOUBTS}


# --- series that are fast to write ------------------------------------------------------------------------------------

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Series:
    """A number with its name and labels. It is exposed while it is not None."""

    __slots__ = ("head", "value")

    def __init__(self, head: str, value: float | None) -> None:
        self.head = head
        self.value = value

    def inc(self, by: float = 1.0) -> None:
        """Add to a counter."""
        self.value = (self.value or 0.0) + by

    def set(self, value: float | None) -> None:
        """Set a gauge; None hides it."""
        self.value = None if value is None else float(value)


class Family:
    """A metric of the streams: all its series, in the text format of Prometheus.

    `prometheus_client` renders the labels of every series anew for each scrape, which takes four times as long with a
    thousand streams. Here the text before each value is made once, and a scrape only joins strings.

    One thread may write it out while another counts.
    """

    def __init__(self, kind: str, name: str, documentation: str, *labels: str) -> None:
        self.name = name
        self._labels = labels
        self._heading = f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"
        self._series: list[Series] = []

    def add(self, *values: str, value: float | None = 0.0) -> Series:
        """Add a series with these label values; there must be no other with the same."""
        pairs = sorted(zip(self._labels, values, strict=True))
        labels = ",".join(_pair(label, each) for label, each in pairs)
        series = Series(f"{self.name}{{{labels}}} ", value)
        self._series.append(series)
        return series

    def drop(self, stream: str) -> None:
        """Remove every series of a stream."""
        pair = _pair("stream", stream)
        self._series = [each for each in self._series if pair not in each.head]

    def write(self) -> str:
        """Return the metric in the text format."""
        lines = [f"{each.head}{value}\n" for each in self._series if (value := each.value) is not None]
        return self._heading + "".join(lines)


def _pair(label: str, value: str) -> str:
    return f'{label}="{value.translate(_ESCAPED)}"'
