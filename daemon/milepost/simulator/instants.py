"""Instants of the simulated world: whole microseconds since 1970."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_us(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def instant(at_us: int) -> datetime:
    """The whole second in which the microsecond lies: the API tells no finer."""
    return datetime.fromtimestamp(at_us // 1_000_000, UTC)
