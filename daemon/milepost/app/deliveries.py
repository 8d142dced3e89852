"""Deliveries: from the change feed to the destinations of the configuration."""

import os
import secrets
import socket
from collections.abc import Iterator

from milepost.app.build import Parts
from milepost.core.ports import ChangeReader
from milepost.deliveries.dispatcher import Dispatcher
from milepost.deliveries.worker import Outlets
from milepost.reporting.deliveries import delivery_issues
from milepost.reporting.health import Issue
from milepost.service.metrics.deliveries import DeliveryCounter


class Deliveries:
    """The parts that deliver, and what is known of how they get on."""

    def __init__(self, parts: Parts, changes: ChangeReader) -> None:
        clock = parts.clock
        self.counter = DeliveryCounter(lambda: self.dispatcher.states, clock.now)
        # Unique also where a process has the id of a dead one, in a container say.
        worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        outlets = Outlets(parts.store.deliveries, changes, clock, worker, self.counter.count)
        self.dispatcher = Dispatcher(lambda: parts.reloader.settings.deliveries, outlets)

    def issues(self) -> Iterator[Issue]:
        """Yield which destinations fail."""
        yield from delivery_issues(self.dispatcher.states.values())
