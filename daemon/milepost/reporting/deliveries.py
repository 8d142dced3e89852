"""Where destinations of deliveries stand, as API, status page and `milepost deliveries list` show it."""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from msgspec import Struct

from milepost.core.deliveries import Delivery, DeliveryState, lag_seconds, state_of
from milepost.reporting.health import Issue, IssueKind

SOME_FAILURES = 3  # a single one is retried a second later
ADVICE = "nothing is lost: they are retried for as long as it takes; `milepost deliveries list` shows each"


class DeliveryView(Struct, frozen=True):
    """Where a destination stands.

    `place` is the seq of the change feed up to which its receiver has confirmed everything, and `lag_seconds` how long
    the oldest change after it has been waiting. `problem` is why the latest attempt failed; null if it did not.
    """

    destination: str
    state: DeliveryState
    is_configured: bool
    place: int
    lag_seconds: float
    delivered_at: datetime | None
    paused_at: datetime | None
    failing_since: datetime | None
    failures: int
    problem: str | None
    retry_at: datetime | None


def delivery_view(delivery: Delivery, configured: Collection[str], now: datetime) -> DeliveryView:
    """Return where a destination stands now."""
    return DeliveryView(
        delivery.destination,
        state_of(delivery),
        delivery.destination in configured,
        delivery.place,
        lag_seconds(delivery, now),
        delivery.delivered_at,
        delivery.paused_at,
        delivery.failing_since,
        delivery.failures,
        delivery.problem,
        delivery.retry_at,
    )


def delivery_issues(deliveries: Iterable[Delivery]) -> Iterator[Issue]:
    """Yield that deliveries fail, if any do."""
    failing = [
        each for each in deliveries if state_of(each) is DeliveryState.FAILING and each.failures >= SOME_FAILURES
    ]
    if not failing:
        return
    names = ", ".join(each.destination for each in failing)
    what = f"deliveries to {names} fail"
    since = min(each.failing_since for each in failing if each.failing_since is not None)
    reason = "; ".join(f"{each.destination}: {each.problem}" for each in failing)
    yield Issue(IssueKind.DELIVERIES, what, since, reason, ADVICE)
