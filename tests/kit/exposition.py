"""The daemon's exported metrics, each with a value, and a parser to read them back."""

from pathlib import Path

from msgspec.structs import replace
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from kit.builders import NETWORK, NOON, RATE_LIMIT, STREAM, at, run_started
from kit.notices import recorded, store_retried, usage_told
from milepost.core import events
from milepost.core.changes import Delivery, DeliveryResult
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Stream, TokenHealth
from milepost.core.ports import Usage
from milepost.core.position import Mode
from milepost.core.problems import Scope
from milepost.engine.feed import Notice, Recorded, UnchangedRead
from milepost.reporting.live import LiveStreams
from milepost.service.limits import WrongTokens
from milepost.service.metrics.collect import Metrics
from milepost.service.metrics.traffic import DeliveryCounter, NoticeCounter, WebhookCounter

KINDS = ("call_count", "total_time", "total_cputime")


class Exposition:
    """A daemon's metrics and its live view, which read the same notices, at noon."""

    def __init__(self) -> None:
        self.live = LiveStreams(lambda: NOON)
        self.steady = 0.0
        self.metrics = Metrics(self.live, lambda: self.steady)
        self._versions: dict[Stream, int] = {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint, as a start does."""
        self._versions[checkpoint.stream] = checkpoint.version
        self.live.load(checkpoint)

    def read(self, *notices: Notice) -> None:
        """Read notices of this daemon's own work."""
        for notice in notices:
            self.follow(notice)
            self.metrics.read(notice)

    def follow(self, notice: Notice) -> None:
        """Read a notice of another worker's work.

        Tests invent the checkpoint of each notice; here the checkpoints get versions as in a journal.
        """
        if isinstance(notice, Recorded):
            key = notice.checkpoint.stream
            version = self._versions[key] = max(notice.checkpoint.version, self._versions.get(key, 0) + 1)
            self.live.read(replace(notice, checkpoint=replace(notice.checkpoint, version=version)))
        elif isinstance(notice, UnchangedRead):
            version = self._versions.get(notice.checkpoint.stream, notice.checkpoint.version)
            self.live.read(replace(notice, checkpoint=replace(notice.checkpoint, version=version)))
        else:
            self.live.read(notice)

    def expose(self) -> bytes:
        """Return the response to a scrape."""
        return self.metrics.expose()


def everything() -> Exposition:
    """Return an exposition in which every metric has a value."""
    tally = events.Tally(
        batches=2,
        inserted=1,
        updated=1,
        unchanged=1,
        dead_lettered=1,
        interaction_events=1,
        order_violations=1,
        replaced_characters=1,
    )
    exposition = Exposition()
    exposition.metrics.page_names = lambda: {STREAM.page_id: "Corner Bakery"}
    exposition.metrics.add_installation(lambda: 300.0, Path("milepost.db"))
    exposition.metrics.add_store_size(lambda: 8_192)
    exposition.metrics.add_health(lambda: True, lambda: True, lambda: True, lambda: 1, lambda: 0.0)
    exposition.metrics.register(WrongTokens())
    exposition.metrics.register(WebhookCounter(lambda: {STREAM: False}, lambda: [STREAM]))
    deliveries = DeliveryCounter(lambda: {"crm": Delivery("crm", 7, behind_since=at(-60))}, lambda: NOON)
    deliveries.count("crm", DeliveryResult.REFUSED)
    exposition.metrics.register(deliveries)
    notices = NoticeCounter()
    notices.expect(["json://127.0.0.1"])
    exposition.metrics.register(notices)
    exposition.read(
        recorded(run_started(), events.FetchFailed(1, NETWORK, at(2))),
        recorded(
            run_started(),
            events.BatchFailed(events.Stage.FETCH, 3, NETWORK),
            events.RunEnded(events.RunStatus.FAILED, events.Reason.RETRIES_EXHAUSTED, problem=NETWORK),
        ),
        recorded(events.SweepCompleted(Mode.FULL, NOON, at(-90), tally)),
        recorded(run_started(), events.RateLimited(Scope.PAGE, 1, NOON, at(90), RATE_LIMIT)),
        recorded(events.DeadLetterClosed("a", events.Resolution.REDRIVEN)),
        recorded(events.TokenChecked(TokenHealth(is_valid=True, expires_at=NOON))),
        store_retried(),
        usage_told(*(Usage(scope, kind, 0.5) for scope in Scope for kind in KINDS)),
    )
    return exposition


def families(exposed: bytes) -> list[Metric]:
    """Parse the exposed text with Prometheus's own client library."""
    return list(text_string_to_metric_families(exposed.decode()))
