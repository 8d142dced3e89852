"""Takes in the bodies of webhook requests: their events are stored together with those of other requests."""

from collections.abc import Callable, Sequence
from datetime import datetime

from milepost.core.webhooks import WebhookEvent, WebhookInbox
from milepost.facebook.webhooks import Route, Update, UpdateResult, updates_in
from milepost.service.metrics.webhooks import WebhookCounter
from milepost.stores.group_commit import GroupCommit

MAX_GROUP = 200  # requests whose events share a transaction

Events = tuple[WebhookEvent, ...]


class WebhookIntake:
    """Stores the events of requests durably, and counts what came of each update.

    `arrived` is called when there is something new; `latest_at` is when the latest body was taken.
    """

    def __init__(
        self,
        inbox: WebhookInbox,
        route: Route,
        counter: WebhookCounter,
        now: Callable[[], datetime],
        arrived: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._route = route
        self._counter = counter
        self._now = now
        self._arrived = arrived
        self.latest_at: datetime | None = None
        self._group_commit = GroupCommit[Events, frozenset[str]](self._write, MAX_GROUP)

    async def receive(self, body: bytes) -> None:
        """Store the events of a body. Raises Malformed, or MilepostError if they cannot be stored now."""
        updates = list(updates_in(body, self._route, self._now()))
        events = tuple(event for update in updates for event in update.events)
        new = await self._group_commit.commit(events) if events else frozenset[str]()
        self.latest_at = self._now()
        for update in updates:
            self._counter.count(update.field, _result(update, new).value)
        if new:
            self._arrived()

    async def _write(self, group: list[Events]) -> Sequence[frozenset[str]]:
        """Store the events of several requests. One that several of them hold is new in the first."""
        new = await self._inbox.add([event for events in group for event in events], self._now())
        found = []
        for events in group:
            keys = frozenset(event.key for event in events) & new
            found.append(keys)
            new -= keys
        return found


def _result(update: Update, new: frozenset[str]) -> UpdateResult:
    if update.result is not None:
        return update.result
    is_new = any(event.key in new for event in update.events)
    return UpdateResult.STORED if is_new else UpdateResult.DUPLICATE
