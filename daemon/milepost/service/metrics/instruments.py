"""Every metric there is: its name, its help and its labels. docs/metrics.md is compared with them by a test.

What has a series for each stream is a family of ours, because of their number; all else is `prometheus_client`'s.

The conventions are those of Prometheus ("Metric and label naming", "Histograms and summaries"): base units, counters
that end in _total, and no label on a histogram that multiplies its buckets by the number of streams.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from milepost import __version__
from milepost.core.events import TAGS, Reason, RunStatus, Stage
from milepost.core.model import Scope
from milepost.core.problems import ProblemKind
from milepost.reporting.status import State
from milepost.service.metrics.series import Family

BATCH_OUTCOMES = ("stored", "unchanged", "failed")
CONVERSATION_RESULTS = ("inserted", "updated", "unchanged", "deleted", "dead_lettered")
REDRIVE_RESULTS = ("redriven", "failed")
STORE_AWAY = (Stage.STORE.value, "away")
RETRIES = (*((Stage.FETCH.value, kind.value) for kind in ProblemKind), STORE_AWAY)
STOPS = (Reason.AUTHORIZATION, Reason.CONFIGURATION)
ENDINGS: tuple[RunStatus, ...] = tuple(status for status in RunStatus if status is not RunStatus.RUNNING)

COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (*COMMIT_BUCKETS, 30.0, 60.0)  # as far as sync.request_timeout usually goes
RUN_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 270.0, 300.0, 600.0, 1800.0, 3600.0)


class Instruments:
    """The metrics, those of the process registered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"milepost_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"milepost_{name}", meaning, labels, registry=registry, buckets=buckets)

        self.api_errors = counter("api_errors_total", "Answers that were errors, by what was done.", "code", "remedy")
        rate_limit_wait = counter("rate_limit_wait_seconds_total", "How long calls had to wait for limits.", "scope")
        self.rate_limit_wait = {scope: rate_limit_wait.labels(scope.value) for scope in Scope}
        journal_entries = counter("journal_entries_total", "Entries appended to the journal.", "type")
        self.journal_entries = {tag: journal_entries.labels(tag) for tag in TAGS.values()}
        self.usage = Gauge(
            "milepost_rate_limit_usage_ratio",
            "How much of a budget is used up; 1 is all.",
            ("scope", "kind"),
            registry=registry,
        )
        self.batch_duration = histogram(
            "batch_duration_seconds", "How long each stage of a batch took.", BATCH_BUCKETS, "stage"
        )
        self.run_duration = histogram("run_duration_seconds", "How long runs took.", RUN_BUCKETS, "status")
        self.journal_append = histogram(
            "journal_append_duration_seconds", "How long commits to the journal took.", COMMIT_BUCKETS
        )
        Info("milepost_build", "The version that runs.", registry=registry).info({"version": __version__})
        ProcessCollector(registry=registry)
        self.of_streams = StreamFamilies()


class StreamFamilies:
    """The metrics that have a series, or some, for each stream."""

    def __init__(self) -> None:
        self.all: list[Family] = []

        def family(kind: str, name: str, meaning: str, *labels: str) -> Family:
            self.all.append(Family(kind, f"milepost_{name}", meaning, "stream", *labels))
            return self.all[-1]

        self.batches = family("counter", "batches_total", "Batches by what came of them.", "outcome")
        self.retries = family("counter", "retries_total", "Attempts that failed and are made again.", "stage", "reason")
        self.failed_batches = family("counter", "failed_batches_total", "Batches that failed, by where.", "stage")
        self.runs = family("counter", "runs_total", "Runs that ended, by how.", "status")
        self.conversations = family("counter", "conversations_total", "Conversations by what came of them.", "result")
        self.interaction_events = family("counter", "interaction_events_total", "Interaction events written.")
        self.order_violations = family("counter", "order_violations_total", "Conversations that came out of order.")
        self.redrives = family("counter", "redrives_total", "Dead letters that were tried again.", "result")
        self.dead_letters = family("gauge", "dead_letters", "Dead letters that are open now.")
        self.last_success = family(
            "gauge", "last_success_timestamp_seconds", "When a sweep was last completed; 0 is never."
        )
        self.checkpoint = family("gauge", "checkpoint_timestamp_seconds", "When the checkpoint last moved; 0 is never.")
        self.token_expiry = family(
            "gauge",
            "token_expiry_timestamp_seconds",
            "When the token ends; +Inf is never, 0 means that it is not valid.",
        )
        self.states = family("gauge", "stream_state", "1 for the state that the stream is in.", "state")
        self.stopped = family(
            "gauge", "stream_stopped", "1 from when a stream was stopped until it is read again.", "reason"
        )

    def drop(self, stream: str) -> None:
        """Expose nothing of a stream any more."""
        for family in self.all:
            family.drop("stream", stream)


class StreamInstruments:
    """One stream's series, looked up once and there from the start, but for what nobody knows then.

    A series that began with its first count would hide that count from `rate` and `increase`.
    """

    def __init__(self, every: StreamFamilies, stream: str) -> None:
        self.batches = {outcome: every.batches.add(stream, outcome) for outcome in BATCH_OUTCOMES}
        self.retries = {retry: every.retries.add(stream, *retry) for retry in RETRIES}
        self.failed_batches = {stage: every.failed_batches.add(stream, stage.value) for stage in Stage}
        self.runs = {status: every.runs.add(stream, status.value) for status in ENDINGS}
        self.conversations = {result: every.conversations.add(stream, result) for result in CONVERSATION_RESULTS}
        self.interaction_events = every.interaction_events.add(stream)
        self.redrives = {result: every.redrives.add(stream, result) for result in REDRIVE_RESULTS}
        self.order_violations = every.order_violations.add(stream)
        self.dead_letters = every.dead_letters.add(stream)
        self.last_success = every.last_success.add(stream)
        self.checkpoint = every.checkpoint.add(stream)
        self.token_expiry = every.token_expiry.add(stream, value=None)
        self.states = {state: every.states.add(stream, state.value) for state in State}
        self.stopped = {reason: every.stopped.add(stream, reason.value) for reason in STOPS}
