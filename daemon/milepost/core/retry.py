"""When to try again: exponential backoff with full jitter, whose luck is an argument."""


def backoff_seconds(attempt: int, luck: float, *, base_delay_seconds: float, max_delay_seconds: float) -> float:
    """Give the wait after the attempt numbered `attempt` (1, 2, …) failed, for a `luck` in [0, 1).

    Full jitter draws from the whole of [0, ceiling), so that many clients which failed together don't return together
    (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """
    doublings = min(attempt - 1, 63)  # 2.0**1024 overflows; no delay is that long
    return luck * min(max_delay_seconds, base_delay_seconds * 2.0**doublings)
