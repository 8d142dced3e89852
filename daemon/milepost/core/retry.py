"""When to try again: exponential backoff with full jitter, whose luck is an argument."""

from datetime import datetime, timedelta


def backoff_seconds(attempt: int, luck: float, *, base_delay_seconds: float, max_delay_seconds: float) -> float:
    """Give the wait after the attempt numbered `attempt` (1, 2, …) failed, for a `luck` in [0, 1).

    Full jitter draws from the whole of [0, ceiling), so that many clients which failed together don't return together
    (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """
    doublings = min(attempt - 1, 63)  # 2.0**1024 overflows; no delay is that long
    return luck * min(max_delay_seconds, base_delay_seconds * 2.0**doublings)


MAX_PAUSE_SECONDS = 900.0  # the floor grows up to this; what the server names may be longer


def pause_seconds(pauses: int, *, named_seconds: float | None, least_seconds: float, floor_seconds: float) -> float:
    """Say how long to stay away after the rate limit that is the `pauses`th in a row (1, 2, …).

    It is the largest of what the server named, what this kind of limit takes at least, and a floor that doubles:
    calling on during a limit prolongs it (Meta, "Rate limits"), and many limits name no time.
    """
    floor = min(floor_seconds * 2.0 ** min(pauses - 1, 63), max(floor_seconds, MAX_PAUSE_SECONDS))
    return max(named_seconds or 0.0, least_seconds, floor)


REDRIVE_BASE_SECONDS = 900.0
MAX_REDRIVE_SECONDS = 86_400.0
MAX_REDRIVES = 10


def latest_redrive(now: datetime) -> datetime:
    """Return the latest instant at which a redrive can be due; one after it was set by a clock that was ahead."""
    return now + timedelta(seconds=MAX_REDRIVE_SECONDS)


def redrive_seconds(failures: int) -> float | None:
    """Say when a dead letter is tried again by itself, after it failed `failures` times (1: when it was opened).

    A quarter of an hour at first, then twice as long each time up to a day; None after ten tries, which take four days.
    """
    if failures > MAX_REDRIVES:
        return None
    return min(MAX_REDRIVE_SECONDS, REDRIVE_BASE_SECONDS * 2.0 ** (failures - 1))
