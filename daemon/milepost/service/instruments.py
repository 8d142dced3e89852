"""Every metric there is: its name, its help and its labels. docs/metrics.md is compared with them by a test.

The conventions are those of Prometheus ("Metric and label naming", "Histograms and summaries"): base units, counters
that end in _total, and no label on a histogram that multiplies its buckets by the number of streams.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from milepost import __version__
from milepost.core.events import TAGS, RunStatus, Stage
from milepost.core.model import Scope
from milepost.core.problems import ProblemKind
from milepost.core.standing import State

BATCH_OUTCOMES = ("stored", "unchanged", "failed")
CONVERSATION_RESULTS = ("inserted", "updated", "unchanged", "deleted", "dead_lettered")
REDRIVE_RESULTS = ("redriven", "failed")
STORE_AWAY = (Stage.STORE.value, "away")
RETRIES = (*((Stage.FETCH.value, kind.value) for kind in ProblemKind), STORE_AWAY)
ENDINGS: tuple[RunStatus, ...] = tuple(status for status in RunStatus if status is not RunStatus.RUNNING)

COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (*COMMIT_BUCKETS, 30.0, 60.0)  # as far as sync.request_timeout usually goes
RUN_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 270.0, 300.0, 600.0, 1800.0, 3600.0)


class Instruments:
    """The metrics, registered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"milepost_{name}", meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"milepost_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"milepost_{name}", meaning, labels, registry=registry, buckets=buckets)

        self.batches = counter("batches_total", "Batches by what came of them.", "stream", "outcome")
        self.retries = counter("retries_total", "Attempts that failed and are made again.", "stream", "stage", "reason")
        self.failed_batches = counter("failed_batches_total", "Batches that failed, by where.", "stream", "stage")
        self.runs = counter("runs_total", "Runs that ended, by how.", "stream", "status")
        self.conversations = counter("conversations_total", "Conversations by what came of them.", "stream", "result")
        self.interaction_events = counter("interaction_events_total", "Interaction events written.", "stream")
        self.order_violations = counter("order_violations_total", "Conversations that came out of order.", "stream")
        self.redrives = counter("redrives_total", "Dead letters that were tried again.", "stream", "result")
        self.api_errors = counter("api_errors_total", "Answers that were errors, by what was done.", "code", "remedy")
        rate_limit_wait = counter("rate_limit_wait_seconds_total", "How long calls had to wait for limits.", "scope")
        self.rate_limit_wait = {scope: rate_limit_wait.labels(scope.value) for scope in Scope}
        journal_entries = counter("journal_entries_total", "Entries appended to the journal.", "type")
        self.journal_entries = {tag: journal_entries.labels(tag) for tag in TAGS.values()}

        self.dead_letters = gauge("dead_letters", "Dead letters that are open now.", "stream")
        self.last_success = gauge(
            "last_success_timestamp_seconds", "When a sweep was last completed; 0 is never.", "stream"
        )
        self.token_expiry = gauge(
            "token_expiry_timestamp_seconds",
            "When the token ends; +Inf is never, 0 means that it is not valid.",
            "stream",
        )
        self.checkpoint = gauge("checkpoint_timestamp_seconds", "When the checkpoint last moved; 0 is never.", "stream")
        self.stream_state = gauge("stream_state", "1 for the state that the stream is in.", "stream", "state")
        self.usage = gauge("rate_limit_usage_ratio", "How much of a budget is used up; 1 is all.", "scope", "kind")

        self.batch_duration = histogram(
            "batch_duration_seconds", "How long each stage of a batch took.", BATCH_BUCKETS, "stage"
        )
        self.run_duration = histogram("run_duration_seconds", "How long runs took.", RUN_BUCKETS, "status")
        self.journal_append = histogram(
            "journal_append_duration_seconds", "How long commits to the journal took.", COMMIT_BUCKETS
        )

        Info("milepost_build", "The version that runs.", registry=registry).info({"version": __version__})
        ProcessCollector(registry=registry)


class StreamInstruments:
    """One stream's series, looked up once and there from the start.

    A series that began with its first count would hide that count from `rate` and `increase`.
    """

    def __init__(self, every: Instruments, stream: str) -> None:
        self.batches = {outcome: every.batches.labels(stream, outcome) for outcome in BATCH_OUTCOMES}
        self.retries = {retry: every.retries.labels(stream, *retry) for retry in RETRIES}
        self.failed_batches = {stage: every.failed_batches.labels(stream, stage.value) for stage in Stage}
        self.runs = {status: every.runs.labels(stream, status.value) for status in ENDINGS}
        self.conversations = {result: every.conversations.labels(stream, result) for result in CONVERSATION_RESULTS}
        self.interaction_events = every.interaction_events.labels(stream)
        self.redrives = {result: every.redrives.labels(stream, result) for result in REDRIVE_RESULTS}
        self.order_violations = every.order_violations.labels(stream)
        self.dead_letters = every.dead_letters.labels(stream)
        self.last_success = every.last_success.labels(stream)
        self.checkpoint = every.checkpoint.labels(stream)
        self.states = {state: every.stream_state.labels(stream, state.value) for state in State}
