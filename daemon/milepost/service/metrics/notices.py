"""The counter of notices to people."""

from collections.abc import Iterable

from prometheus_client import Counter, Metric
from prometheus_client.registry import Collector

from milepost.notify.sender import RESULTS


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
