"""The counters of webhooks: updates by field, requests that held none, and messages that no webhook announced."""

from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import structlog
from prometheus_client import Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from milepost.core.model import Stream
from milepost.core.webhooks import WebhookKind
from milepost.facebook.webhooks import ECHOES, FIELD_OF, UpdateResult

REQUEST = "request"  # in place of a field: the whole request
REQUEST_RESULTS = (
    *("handshake", "handshake_refused", "wrong_signature", "malformed", "too_large", "too_slow", "too_many"),
    *("store_away", "deletion_request"),
)
EXPIRED = "expired"
# From the start, so that `increase` sees the first: what alerts and the dashboard ask for.
_FROM_THE_START = [
    *((REQUEST, result) for result in REQUEST_RESULTS),
    *((field, result.value) for field in ("messages", ECHOES) for result in UpdateResult),
    ("messages", EXPIRED),
]


log = structlog.get_logger("milepost")


class WebhookCounter(Collector):
    """Counts updates by field and result, requests, and messages that no webhook announced.

    `totals` are the former, by field and result. `missing` returns, for each stream whose page's subscription is known,
    whether anything is missing in it.
    """

    def __init__(self, missing: Callable[[], Mapping[Stream, bool]]) -> None:
        self._missing = missing
        self.totals: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.missed = 0
        self._misses = Counter(
            "milepost_webhook_misses_total",
            "Messages that a sweep found and no webhook announced.",
            ("stream",),
            registry=None,
        )
        self._counter = Counter(
            "milepost_webhooks_total", "Webhooks by field and result.", ("field", "result"), registry=None
        )
        for labels in _FROM_THE_START:
            self._counter.labels(*labels)

    def collect(self) -> Iterable[Metric]:
        """Return the counters and the gauge."""
        subscribed = GaugeMetricFamily(
            "milepost_webhooks_subscribed", "1 if the page is subscribed to all that is needed.", labels=["stream"]
        )
        for stream, is_missing in self._missing().items():
            subscribed.add_metric([stream.key], not is_missing)
        return [*self._counter.collect(), *self._misses.collect(), subscribed]

    def expect(self, streams: Iterable[Stream]) -> None:
        """Have a count of misses for each of these streams from the start."""
        for stream in streams:
            self._misses.labels(stream.key)

    def count_misses(self, stream: Stream, count: int) -> None:
        """Count messages that no webhook announced."""
        self.missed += count
        self._misses.labels(stream.key).inc(count)

    def count(self, field: str, result: str, by: int = 1) -> None:
        """Count updates of a field."""
        self.totals[field, result] += by
        self._counter.labels(field, result).inc(by)

    def count_request(self, result: str) -> None:
        """Count a request that held no updates."""
        self.count(REQUEST, result)

    def expire(self, expired: Counted[WebhookKind]) -> None:
        """Count events whose messages were never listed, and log that facts are lost."""
        for kind, count in expired.items():
            self.count(FIELD_OF[kind], EXPIRED, count)
        facts = {kind.value: count for kind, count in expired.items() if kind.is_fact}
        if facts:
            log.info("facts expired", **facts, hint="no list has shown their messages in two days")
