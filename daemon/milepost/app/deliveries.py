"""Deliveries: from the change feed to the destinations of the configuration."""

import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping

from milepost.app.build import Parts
from milepost.core.changes import ChangeReader
from milepost.core.deliveries import Delivery, DeliveryState, state_of
from milepost.deliveries.worker import Dispatcher, Outlets
from milepost.reporting.health import DeliveryView, Issue, IssueKind, delivery_view
from milepost.service.metrics.traffic import DeliveryCounter

SOME_FAILURES = 3  # a single one is retried a second later
BROKEN_ADVICE = "begun again once a minute; the log says more"
ADVICE = "nothing is lost: they are retried for as long as it takes; `milepost deliveries list` shows each"


class Deliveries:
    """The parts that deliver, and what is known of how they are doing."""

    def __init__(self, parts: Parts, changes: ChangeReader) -> None:
        self._now = parts.clock.now
        self.counter = DeliveryCounter(lambda: self.dispatcher.states, self._now)
        # Unique also where a process has the id of a dead one, in a container say.
        worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        outlets = Outlets(parts.store.deliveries, changes, parts.clock, worker, self.counter.count)
        self.dispatcher = Dispatcher(lambda: parts.reloader.settings.deliveries, outlets)

    def views(self) -> tuple[DeliveryView, ...]:
        """Return where the destinations stood a few seconds ago."""
        states = self.dispatcher.states
        return tuple(delivery_view(each, states.keys(), self._now()) for each in states.values())

    def issues(self) -> Iterator[Issue]:
        """Yield that deliveries fail, if any do."""
        yield from issues_of(self.dispatcher.states.values(), self.dispatcher.broken())


def issues_of(deliveries: Iterable[Delivery], broken: Mapping[str, str]) -> Iterator[Issue]:
    """Yield that some of these deliveries fail, and that those that are `broken` are not made, if there are any."""
    for name, error in broken.items():
        yield Issue(IssueKind.DELIVERIES, f"deliveries to {name} are not made", None, error, BROKEN_ADVICE)
    failing = [
        each for each in deliveries if state_of(each) is DeliveryState.FAILING and each.failures >= SOME_FAILURES
    ]
    if failing:
        what = f"deliveries to {', '.join(each.destination for each in failing)} fail"
        since = min(each.failing_since for each in failing if each.failing_since is not None)
        reason = "; ".join(f"{each.destination}: {each.problem}" for each in failing)
        yield Issue(IssueKind.DELIVERIES, what, since, reason, ADVICE)
