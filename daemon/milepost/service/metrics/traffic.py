"""The metrics of outgoing deliveries and notices, and of incoming webhooks."""

from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import structlog
from prometheus_client import Counter, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from milepost.core.changes import Delivery, DeliveryResult, lag_seconds
from milepost.core.model import Stream
from milepost.core.webhooks import WebhookKind
from milepost.facebook.webhooks import ECHOES, FIELD_OF, UpdateResult
from milepost.service.notices import RESULTS


class DeliveryCounter(Collector):
    """Counts the requests to destinations. `standing` returns the state of each destination."""

    def __init__(self, standing: Callable[[], Mapping[str, Delivery]], now: Callable[[], datetime]) -> None:
        self._standing = standing
        self._now = now
        self._requests = Counted[tuple[str, DeliveryResult]]()

    def count(self, destination: str, result: DeliveryResult) -> None:
        """Count a request."""
        self._requests[destination, result] += 1

    def collect(self) -> Iterable[Metric]:
        """Return the counter and the gauge, for the destinations that there are now."""
        requests = CounterMetricFamily(
            "milepost_deliveries_total",
            "Requests to receivers by destination and result.",
            labels=["destination", "result"],
        )
        lag = GaugeMetricFamily(
            "milepost_delivery_lag_seconds",
            "Age of the oldest change that is not delivered; 0 if there is none.",
            labels=["destination"],
        )
        for name, delivery in self._standing().items():
            for result in DeliveryResult:  # from the start, so that `increase` sees the first count
                requests.add_metric([name, result.value], self._requests[name, result])
            lag.add_metric([name], lag_seconds(delivery, self._now()))
        return [requests, lag]


class NoticeCounter(Collector):
    """Counts notices by destination and result."""

    def __init__(self) -> None:
        self._counter = Counter(
            "milepost_notices_total",
            "Notices to people by destination and result.",
            ("destination", "result"),
            registry=None,
        )

    def collect(self) -> Iterable[Metric]:
        """Return the counter."""
        return self._counter.collect()

    def expect(self, destinations: Iterable[str]) -> None:
        """Create the counters of these destinations at the start, so that `increase` sees the first count."""
        for destination in destinations:
            for result in RESULTS:
                self._counter.labels(destination, result)

    def count(self, destination: str, result: str) -> None:
        """Count a notice."""
        self._counter.labels(destination, result).inc()


# --- webhooks ---------------------------------------------------------------------------------------------------------

REQUEST = "request"  # instead of a field's name, for counts of whole requests
WRONG_SIGNATURE = "wrong_signature"
REQUEST_RESULTS = (
    *("handshake", "handshake_refused", "unsigned", WRONG_SIGNATURE, "malformed", "too_large", "too_slow", "too_many"),
    *("store_away", "deletion_request"),
)
EXPIRED = "expired"
# Created at the start, so that `increase` sees the first count: the series that alerts and the dashboard query.
_FROM_THE_START = [
    *((REQUEST, result) for result in REQUEST_RESULTS),
    *((field, result.value) for field in ("messages", ECHOES) for result in UpdateResult),
    ("messages", EXPIRED),
]

log = structlog.get_logger("milepost")


class WebhookCounter(Collector):
    """Counts updates by field and result, requests, and messages that no webhook announced.

    `totals` are the counts by field and result; `refused` is how many requests in a row had an unknown signature.
    `missing` returns, for each stream whose page's subscription is known, whether the subscription lacks anything;
    `streams` those whose messages webhooks should announce. Both are called from another thread.
    """

    def __init__(self, missing: Callable[[], Mapping[Stream, bool]], streams: Callable[[], Iterable[Stream]]) -> None:
        self._missing = missing
        self._streams = streams
        self.totals: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.refused = 0
        self._misses = Counted[Stream]()
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
        misses = CounterMetricFamily(
            "milepost_webhook_misses_total", "Messages that a sweep found and no webhook announced.", labels=["stream"]
        )
        for stream in self._streams():
            misses.add_metric([stream.key], self._misses[stream])
        return [*self._counter.collect(), misses, subscribed]

    @property
    def missed(self) -> int:
        """How many messages no webhook announced."""
        return self._misses.total()

    def count_misses(self, stream: Stream, count: int) -> None:
        """Count messages that no webhook announced."""
        self._misses[stream] += count

    def count(self, field: str, result: str, by: int = 1) -> None:
        """Count updates of a field."""
        if field != REQUEST and result != EXPIRED:
            self.refused = 0
        self.totals[field, result] += by
        self._counter.labels(field, result).inc(by)

    def count_request(self, result: str) -> None:
        """Count a request that held no updates."""
        if result == WRONG_SIGNATURE:
            self.refused += 1
        self.count(REQUEST, result)

    def expire(self, expired: Counted[WebhookKind]) -> None:
        """Count events whose messages the API never listed, and log what is lost."""
        for kind, count in expired.items():
            self.count(FIELD_OF[kind], EXPIRED, count)
        facts = {kind.value: count for kind, count in expired.items() if kind.is_fact}
        if missing := expired[WebhookKind.MESSAGE]:
            hint = "no list has shown them in two days: those of streams that were read may be message requests or spam"
            log.info("messages expired", count=missing, hint=hint)
        if facts:
            log.info("facts expired", **facts, hint="no list has shown their messages in two days")
