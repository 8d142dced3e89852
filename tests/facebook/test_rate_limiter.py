"""How calls are spaced, and how they slow down while a budget runs out."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from milepost.core.ports import Usage
from milepost.core.problems import Scope
from milepost.facebook import calls as module
from milepost.facebook.calls import (
    MAX_SLOWDOWN_SECONDS,
    RECENT_SECONDS,
    Budget,
    RateLimiter,
    Slowdown,
    slowdown_seconds,
)

SLOWDOWN_SECONDS = 0.08  # at the end of a budget, in the tests that wait for it


@pytest.fixture
def short_slowdowns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SLOWDOWN_SECONDS", SLOWDOWN_SECONDS)


async def called_at(*paces: RateLimiter) -> list[float]:
    """Call through each at once, and return the instants of the calls, in order."""
    loop = asyncio.get_running_loop()
    instants: list[float] = []

    async def call(rate_limiter: RateLimiter) -> None:
        await rate_limiter.wait()
        instants.append(loop.time())

    await asyncio.gather(*map(call, paces))
    return sorted(instants)


def spaces(instants: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(instants)]


def used(ratio: float, scope: Scope = Scope.PAGE) -> tuple[Usage, ...]:
    return (Usage(scope, "call_count", 0.1), Usage(scope, "total_time", ratio))


def report(rate_limiter: RateLimiter, usages: tuple[Usage, ...]) -> None:
    rate_limiter.observe("messenger", usages, asyncio.get_running_loop().time())


class TestSlowdown:
    @pytest.mark.parametrize(
        ("ratio", "expected"), [(0.0, 0.0), (0.5, 0.0), (0.8, 0.0), (1.0, MAX_SLOWDOWN_SECONDS), (7.0, 10.0)]
    )
    def test_the_slowdown_sets_in_at_four_fifths_and_is_bounded(self, ratio: float, expected: float) -> None:
        assert slowdown_seconds(ratio) == pytest.approx(expected)

    @given(st.floats(0, 2), st.floats(0, 0.01))
    def test_the_slowdown_grows_continuously(self, ratio: float, more: float) -> None:
        assert 0 <= slowdown_seconds(ratio + more) - slowdown_seconds(ratio) <= 1.01


class TestBudget:
    def test_the_latest_report_counts(self) -> None:
        budget = Budget()
        budget.report("one", 1.0, now=0)
        budget.report("one", 0.9, now=1)
        assert budget.slowdown_seconds(now=1) == slowdown_seconds(0.9)

    def test_the_fullest_report_of_several_reporters_counts(self) -> None:
        budget = Budget()
        budget.report("one", 0.9, now=0)
        budget.report("other", 0.2, now=0)
        assert budget.slowdown_seconds(now=0) == slowdown_seconds(0.9)

    def test_a_report_ages_until_it_is_forgotten(self) -> None:
        budget = Budget()
        budget.report("one", 1.0, now=0)
        halfway = budget.slowdown_seconds(now=RECENT_SECONDS / 2)
        assert halfway == MAX_SLOWDOWN_SECONDS / 4
        assert 0 < budget.slowdown_seconds(now=RECENT_SECONDS - 1) < 0.001
        assert budget.slowdown_seconds(now=RECENT_SECONDS) == 0

    def test_usage_far_beyond_the_budget_ages_as_fast_as_all_of_it(self) -> None:
        budget, beyond = Budget(), Budget()
        budget.report("one", 1.0, now=0)
        beyond.report("one", 7.0, now=0)
        assert beyond.slowdown_seconds(now=100) == budget.slowdown_seconds(now=100)


class TestSlowdownIsTold:
    def test_a_page_whose_calls_are_far_apart_says_why_and_since_when(self) -> None:
        app = Budget()
        one, other = RateLimiter(2, app), RateLimiter(2, app)
        one.observe("messenger", used(1.0, Scope.APP), now=100)
        expected = Slowdown(Scope.APP, seconds=MAX_SLOWDOWN_SECONDS, ratio=1.0, since=100)
        assert one.slowdown(now=100) == other.slowdown(now=100) == expected
        one.observe("messenger", used(0.99, Scope.APP), now=110)
        later = other.slowdown(now=110)
        assert later is not None
        assert (later.since, later.ratio) == (100, 0.99)

    def test_calls_that_are_hardly_slowed_down_are_nothing_to_tell(self) -> None:
        rate_limiter = RateLimiter(2, Budget())
        rate_limiter.observe("messenger", used(0.85), now=0)
        assert rate_limiter.slowdown(now=0) is None

    def test_a_slowdown_that_wears_off_is_over_and_another_one_begins_anew(self) -> None:
        rate_limiter = RateLimiter(2, Budget())
        rate_limiter.observe("messenger", used(1.0), now=0)
        assert rate_limiter.slowdown(now=RECENT_SECONDS) is None
        rate_limiter.observe("messenger", used(1.0), now=1000)
        again = rate_limiter.slowdown(now=1000)
        assert again is not None
        assert again.since == 1000

    async def test_the_log_says_once_that_calls_are_slowed_down_and_once_that_they_are_not(self) -> None:
        rate_limiter, now = RateLimiter(0, Budget()), asyncio.get_running_loop().time()
        with capture_logs() as logged:
            for _ in range(2):
                rate_limiter.observe("messenger", used(1.0), now)
            rate_limiter.observe("messenger", used(0.1), now)
        assert [(line["event"], line["log_level"]) for line in logged] == [
            ("calls slowed down", "warning"),
            ("calls no longer slowed down", "info"),
        ]
        assert (logged[0]["budget"], logged[0]["used"]) == ("page", "100%")

    def test_the_log_says_that_a_slowdown_has_worn_off_without_another_report(self) -> None:
        rate_limiter = RateLimiter(0, Budget())
        with capture_logs() as logged:
            rate_limiter.observe("messenger", used(1.0), now=0)
            rate_limiter.slowdown(now=RECENT_SECONDS)
        assert [line["event"] for line in logged] == ["calls slowed down", "calls no longer slowed down"]


class TestPace:
    async def test_calls_that_wait_together_are_spaced_evenly(self) -> None:
        rate_limiter = RateLimiter(50, Budget())
        instants = await called_at(*[rate_limiter] * 5)
        assert all(space >= 0.019 for space in spaces(instants))
        assert instants[-1] - instants[0] < 1

    async def test_the_first_call_keeps_its_distance_from_those_of_a_process_that_has_just_died(self) -> None:
        began = asyncio.get_running_loop().time()
        (called,) = await called_at(RateLimiter(50, Budget()))
        assert called - began >= 0.019

    async def test_without_a_rate_nothing_is_spaced(self) -> None:
        rate_limiter = RateLimiter(0, Budget())
        async with asyncio.timeout(5):
            await called_at(*[rate_limiter] * 1000)

    @pytest.mark.usefixtures("short_slowdowns")
    @pytest.mark.parametrize("calls_per_second", [0, 1000])
    @pytest.mark.parametrize("scope", [Scope.APP, Scope.PAGE])
    async def test_an_exhausted_budget_spaces_calls(self, scope: Scope, calls_per_second: float) -> None:
        rate_limiter = RateLimiter(calls_per_second, Budget())
        report(rate_limiter, used(1.0, scope))
        instants = await called_at(*[rate_limiter] * 3)
        assert all(space >= SLOWDOWN_SECONDS - 0.001 for space in spaces(instants))

    @pytest.mark.usefixtures("short_slowdowns")
    async def test_the_first_call_after_a_rest_need_not_wait(self) -> None:
        rate_limiter = RateLimiter(0, Budget())
        report(rate_limiter, used(1.0))
        began = asyncio.get_running_loop().time()
        (first,) = await called_at(rate_limiter)
        assert first - began < SLOWDOWN_SECONDS

    @pytest.mark.usefixtures("short_slowdowns")
    async def test_the_apps_budget_slows_every_page_and_a_pages_only_itself(self) -> None:
        app = Budget()
        one, other = RateLimiter(0, app), RateLimiter(0, app)
        report(one, used(1.0, Scope.PAGE))
        assert spaces(await called_at(other, other))[0] < SLOWDOWN_SECONDS
        report(one, used(1.0, Scope.APP))
        assert spaces(await called_at(other, other))[0] >= SLOWDOWN_SECONDS - 0.001

    @pytest.mark.usefixtures("short_slowdowns")
    async def test_a_slowdown_that_is_reported_while_a_call_waits_applies_to_it(self) -> None:
        app = Budget()
        rate_limiter, other = RateLimiter(0, app), RateLimiter(0, app)
        report(rate_limiter, used(0.98))
        await rate_limiter.wait()
        began = asyncio.get_running_loop().time()
        waiting = asyncio.ensure_future(rate_limiter.wait())
        await asyncio.sleep(0)
        report(other, used(1.0, Scope.APP))
        await waiting
        assert asyncio.get_running_loop().time() - began >= SLOWDOWN_SECONDS - 0.005

    @pytest.mark.usefixtures("short_slowdowns")
    async def test_no_call_overtakes_another_when_the_slowdown_ends(self) -> None:
        rate_limiter = RateLimiter(0, Budget())
        report(rate_limiter, used(1.0))
        await rate_limiter.wait()
        waiting = asyncio.ensure_future(rate_limiter.wait())
        await asyncio.sleep(0)
        report(rate_limiter, used(0.1))
        await rate_limiter.wait()
        assert waiting.done()

    @pytest.mark.usefixtures("short_slowdowns")
    async def test_a_response_without_usage_changes_nothing(self) -> None:
        rate_limiter = RateLimiter(0, Budget())
        report(rate_limiter, used(1.0))
        report(rate_limiter, ())
        assert spaces(await called_at(rate_limiter, rate_limiter))[0] >= SLOWDOWN_SECONDS - 0.001

    async def test_a_call_that_is_cancelled_while_it_waits_delays_no_other(self) -> None:
        rate_limiter = RateLimiter(50, Budget())
        waiting = [asyncio.ensure_future(rate_limiter.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(waiting[0], waiting[2], rate_limiter.wait())
        assert waiting[1].cancelled()
