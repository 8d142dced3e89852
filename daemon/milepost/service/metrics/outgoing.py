"""The metrics of what is sent out: deliveries and notices by destination and result, and how far deliveries are."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from prometheus_client import Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from milepost.core.deliveries import Delivery, DeliveryResult, lag_seconds
from milepost.notify.sender import RESULTS


class DeliveryCounter(Collector):
    """Counts requests. `standing` returns where each destination stands."""

    def __init__(self, standing: Callable[[], Mapping[str, Delivery]], now: Callable[[], datetime]) -> None:
        self._standing = standing
        self._now = now
        self._requests = Counter(
            "milepost_deliveries_total",
            "Requests to receivers by destination and result.",
            ("destination", "result"),
            registry=None,
        )

    def count(self, destination: str, result: DeliveryResult) -> None:
        """Count a request."""
        self._requests.labels(destination, result.value).inc()

    def collect(self) -> Iterable[Metric]:
        """Return the counter and the gauge."""
        lag = GaugeMetricFamily(
            "milepost_delivery_lag_seconds",
            "Time for which the oldest change that is not delivered has been waiting; 0 if there is none.",
            labels=["destination"],
        )
        for name, delivery in self._standing().items():
            for result in DeliveryResult:  # from the start, so that `increase` sees the first
                self._requests.labels(name, result.value)
            lag.add_metric([name], lag_seconds(delivery, self._now()))
        return [*self._requests.collect(), lag]


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
        """Have every count of these destinations from the start, so that `increase` sees the first."""
        for destination in destinations:
            for result in RESULTS:
                self._counter.labels(destination, result)

    def count(self, destination: str, result: str) -> None:
        """Count a notice."""
        self._counter.labels(destination, result).inc()
