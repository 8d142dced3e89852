"""The delivery places in either database: how far each destination has got."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from milepost.core.deliveries import Delivery
from milepost.core.journal import instant_text
from milepost.stores.sql import Fetch


class StoredDeliveries:
    """The part of DeliveryPlaces (see core/deliveries.py) that both databases share. `write` commits."""

    def __init__(self, read: Fetch, write: Fetch) -> None:
        self._read = read
        self._write = write

    async def begin(self, destination: str, place: int) -> None:
        """Add a destination that begins at `place`, unless one of this name exists."""
        await self._write("begin_delivery", {"destination": destination, "place": place})

    async def all(self) -> Mapping[str, Delivery]:
        """Return where each destination stands, by its name."""
        found = map(_delivery_of, await self._read("deliveries"))
        return {delivery.destination: delivery for delivery in found}

    async def pause(self, destination: str, now: datetime) -> bool:
        """Pause a destination; return False if there is none of this name."""
        return bool(await self._write("pause_delivery", {"destination": destination, "now": instant_text(now)}))

    async def resume(self, destination: str) -> bool:
        """Resume a destination and make it due at once; return False if there is none of this name."""
        return bool(await self._write("resume_delivery", {"destination": destination}))

    async def move(self, destination: str, place: int) -> bool:
        """Move a destination to another place; return False if there is none of this name."""
        return bool(await self._write("move_delivery", {"destination": destination, "place": place}))

    async def _find(self, destination: str) -> Delivery | None:
        found = await self._read("delivery", {"destination": destination})
        return _delivery_of(found[0]) if found else None


def parameters_of(before: Delivery, after: Delivery) -> dict[str, Any]:
    """Return the parameters that record a destination's new state."""
    columns = {
        name: instant_text(value) if isinstance(value, datetime) else value
        for name, value in msgspec.structs.asdict(after).items()
    }
    return {**columns, "before": before.place, "failures_before": before.failures}


def _delivery_of(columns: tuple[Any, ...]) -> Delivery:
    return msgspec.convert(dict(zip(Delivery.__struct_fields__, columns, strict=True)), Delivery)
