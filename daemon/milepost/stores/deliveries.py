"""What both databases do with deliveries alike: their columns."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from milepost.core.deliveries import Delivery
from milepost.core.journal import instant_text

COLUMNS = Delivery.__struct_fields__


def parameters_of(before: Delivery, after: Delivery) -> dict[str, Any]:
    """Return the parameters that record what has become of a destination."""
    columns = {
        name: instant_text(value) if isinstance(value, datetime) else value
        for name, value in msgspec.structs.asdict(after).items()
    }
    return {**columns, "before": before.place, "failures_before": before.failures}


def delivery_of(columns: tuple[Any, ...]) -> Delivery:
    """Return where a destination stands, from its columns; instants are text."""
    return msgspec.convert(dict(zip(COLUMNS, columns, strict=True)), Delivery)


def by_name(found: Iterable[tuple[Any, ...]]) -> Mapping[str, Delivery]:
    """Return where each destination stands, by its name."""
    return {delivery.destination: delivery for delivery in map(delivery_of, found)}
