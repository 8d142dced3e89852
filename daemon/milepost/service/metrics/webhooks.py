"""The counter of webhooks: of updates by field, and of requests that held none."""

from collections.abc import Iterable

from prometheus_client import Counter, Metric
from prometheus_client.registry import Collector

from milepost.facebook.webhooks import ECHOES, UpdateResult

REQUEST = "request"  # in place of a field: the whole request
REQUEST_RESULTS = (
    *("handshake", "handshake_refused", "wrong_signature", "malformed", "too_large", "too_slow", "too_many"),
    "store_away",
)
EXPIRED = "expired"
# From the start, so that `increase` sees the first: what alerts and the dashboard ask for.
_FROM_THE_START = [
    *((REQUEST, result) for result in REQUEST_RESULTS),
    *((field, result.value) for field in ("messages", ECHOES) for result in UpdateResult),
    ("messages", EXPIRED),
]


class WebhookCounter(Collector):
    """Counts updates by field and result, and requests."""

    def __init__(self) -> None:
        self._counter = Counter(
            "milepost_webhooks_total", "Webhooks by field and result.", ("field", "result"), registry=None
        )
        for labels in _FROM_THE_START:
            self._counter.labels(*labels)

    def collect(self) -> Iterable[Metric]:
        """Return the counter."""
        return self._counter.collect()

    def count(self, field: str, result: str, by: int = 1) -> None:
        """Count updates of a field."""
        self._counter.labels(field, result).inc(by)

    def count_request(self, result: str) -> None:
        """Count a request that held no updates."""
        self.count(REQUEST, result)

    def expire(self, count: int) -> None:
        """Count events whose messages were never listed."""
        self.count("messages", EXPIRED, count)
