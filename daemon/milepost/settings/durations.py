"""Durations as people write them: `250ms`, `270s`, `4.5m`, `1h`, `7d`."""

import re

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")


def parse_duration(written: object) -> float:
    """The seconds of a written duration; a plain 0 needs no unit.

    Raises:
        ValueError: it is anything else, a number without its unit among them.
    """
    if isinstance(written, str) and (match := _DURATION.fullmatch(written)):
        number, unit = match.groups()
        return float(number) / 1000 if unit == "ms" else float(number) * _SECONDS[unit]
    if written == "0" or (type(written) is int and written == 0):
        return 0.0
    raise ValueError("not a duration")


def format_duration(seconds: float) -> str:
    """The same duration in the largest unit that divides it: 300.0 is `5m`; zero is `0`."""
    if seconds == 0:
        return "0"
    unit = next((unit for unit, size in _SECONDS.items() if seconds % size == 0), "ms")
    return f"{seconds / _SECONDS[unit]:g}{unit}"
