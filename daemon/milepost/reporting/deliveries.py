"""Where destinations of deliveries stand, as API, status page and `milepost deliveries list` show it."""

from collections.abc import Collection
from datetime import datetime

from msgspec import Struct

from milepost.core.deliveries import Delivery, DeliveryState, lag_seconds, state_of


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
