"""The size of the database, as the metrics have it."""

from datetime import timedelta

from kit.leaping_clock import LeapingClock
from milepost.app.store_size import MEASURE_SECONDS, StoreSize
from milepost.core.errors import StoreAway
from milepost.engine.interrupt import Stop


async def test_it_is_measured_every_minute_and_unknown_while_the_database_is_away() -> None:
    clock = LeapingClock(stop := Stop())
    answers: list[int | StoreAway] = [1, 2, StoreAway("gone"), 3]
    seen: list[int | None] = []

    async def measure() -> int:
        seen.append(size.bytes)
        answer = answers.pop(0)
        if isinstance(answer, StoreAway):
            raise answer
        return answer

    size = StoreSize(measure)
    clock.ends_at = clock.time + timedelta(seconds=3.5 * MEASURE_SECONDS)
    await size.run(clock, stop)
    assert [*seen, size.bytes] == [None, 1, 2, None, 3]
