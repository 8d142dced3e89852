"""`/api/deliveries`: where each destination of changed rows stands."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from msgspec import Struct

from milepost.core.deliveries import DeliveryPlaces
from milepost.reporting.health import DeliveryView, delivery_view
from milepost.service.api.endpoint import AnyOperation, Call, Nothing, Operation, Reply

PATH = "/api/deliveries"


class Deliveries(Struct, frozen=True):
    """The destinations at the instant `at`, by their names: those that have left the configuration as well."""

    at: datetime
    deliveries: tuple[DeliveryView, ...]


def deliveries(
    places: DeliveryPlaces, configured: Callable[[], Collection[str]], now: Callable[[], datetime]
) -> Sequence[AnyOperation]:
    """Declare the operation that lists destinations. `configured` returns the names of those that are delivered to."""

    async def list_deliveries(_: Call[Nothing, None]) -> Reply[Deliveries]:
        found, at = await places.all(), now()
        views = (delivery_view(found[name], configured(), at) for name in sorted(found))
        return Reply(Deliveries(at, tuple(views)))

    return [Operation("GET", PATH, "List the destinations of deliveries", Nothing, Deliveries, list_deliveries)]
