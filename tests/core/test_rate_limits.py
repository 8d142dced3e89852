"""rate_limits and retry.rate_limit_seconds: how long to wait, and whose calls are held."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.builders import APP_LIMIT, NOON, RATE_LIMIT, at, problem
from milepost.core.checkpoint import RateLimit
from milepost.core.model import Platform, Stream
from milepost.core.problems import Problem, Scope, rule_for
from milepost.core.retry import (
    PROBE_LEAD_SECONDS,
    by_page,
    has_begun,
    held_until,
    holder_of,
    next_rate_limit,
    rate_limit_seconds,
)

MESSENGER = Stream(Platform.MESSENGER, "1")
INSTAGRAM = Stream(Platform.INSTAGRAM, "1")
OTHER_PAGE = Stream(Platform.MESSENGER, "2")
STREAMS = [MESSENGER, INSTAGRAM, OTHER_PAGE]


def seconds(rate_limits: int, named: float | None = None, least: float = 0.0, floor: float = 60.0) -> float:
    return rate_limit_seconds(rate_limits, named_seconds=named, least_seconds=least, floor_seconds=floor)


def rate_limit(until: float, scope: Scope = Scope.PAGE) -> RateLimit:
    return RateLimit(scope, 1, NOON, at(until), RATE_LIMIT)


def following(before: RateLimit | None, what: Problem, now: float = 0.0) -> RateLimit:
    return next_rate_limit(before, what, rule_for(what, has_cursor=False), at(now), floor_seconds=60.0)


class TestLength:
    def test_the_wait_grows_from_the_floor_to_fifteen_minutes(self) -> None:
        assert [seconds(rate_limits) for rate_limits in (1, 2, 3, 4, 5, 6, 10_000)] == [
            60,
            120,
            240,
            480,
            900,
            900,
            900,
        ]

    def test_the_wait_is_what_the_server_names_if_that_is_longer(self) -> None:
        assert seconds(1, named=1140.0) == 1140
        assert seconds(1, named=5.0) == 60
        assert seconds(5, named=86_400.0) == 86_400

    def test_the_wait_is_at_least_an_hour_for_a_block(self) -> None:
        assert seconds(1, least=3600.0) == 3600
        assert seconds(1, named=7200.0, least=3600.0) == 7200

    def test_a_floor_above_the_largest_wait_is_kept(self) -> None:
        assert [seconds(rate_limits, floor=3600.0) for rate_limits in (1, 2, 9)] == [3600, 3600, 3600]

    @settings(derandomize=True, deadline=None)
    @given(
        st.integers(1, 10**6),
        st.none() | st.floats(0, 1e6),
        st.sampled_from((0.0, 3600.0)),
        st.floats(0.1, 7200),
    )
    def test_the_wait_is_never_shorter_than_any_of_its_minimums(
        self, rate_limits: int, named: float | None, least: float, floor: float
    ) -> None:
        length = seconds(rate_limits, named, least, floor)

        assert length >= max(named or 0.0, least, floor)
        assert length <= max(named or 0.0, least, floor, 900.0)

    def test_an_unnamed_limit_of_an_hour_takes_few_probes(self) -> None:
        now, before, probes = 0.0, None, 0
        while now < 3600:
            before = following(before, RATE_LIMIT, now)
            now = (before.until - NOON).total_seconds()
            probes += 1

        assert probes <= 8


class TestNextRateLimit:
    def test_a_rate_limit_begins_now_in_the_scope_of_its_rule(self) -> None:
        assert following(None, APP_LIMIT) == RateLimit(Scope.APP, 1, NOON, at(60), APP_LIMIT)
        assert following(None, problem(80_006, wait_seconds=300.0)).until == at(300)

    def test_a_repeated_rate_limit_is_longer_and_keeps_its_start(self) -> None:
        second = following(following(None, RATE_LIMIT), RATE_LIMIT, now=60.0)

        assert (second.attempts, second.since, second.until) == (2, NOON, at(60 + 120))

    def test_a_block_is_a_rate_limit_of_an_hour(self) -> None:
        assert following(None, problem(368)).until == NOON + timedelta(hours=1)


class TestHasBegun:
    def test_a_rate_limit_has_begun_if_it_ends_no_later_than_one_that_begins_now(self) -> None:
        rate_limit = following(None, RATE_LIMIT)

        assert has_begun(rate_limit, NOON, floor_seconds=60.0)
        assert has_begun(rate_limit, at(3600), floor_seconds=60.0)

    @pytest.mark.parametrize("wait_seconds", [None, 7200.0])
    def test_a_rate_limit_has_not_begun_if_the_clock_was_set_back_since(self, wait_seconds: float | None) -> None:
        rate_limit = following(following(None, problem(613)), problem(613, wait_seconds=wait_seconds))

        assert has_begun(rate_limit, at(-59), floor_seconds=60.0)
        assert not has_begun(rate_limit, at(-61), floor_seconds=60.0)


class TestHolder:
    @pytest.mark.parametrize(
        ("scope", "held"),
        [
            (Scope.APP, {MESSENGER, INSTAGRAM, OTHER_PAGE}),
            (Scope.PAGE, {MESSENGER, INSTAGRAM}),
            (Scope.STREAM, {MESSENGER}),
        ],
    )
    def test_a_rate_limit_holds_all_streams_in_its_scope(self, scope: Scope, held: set[Stream]) -> None:
        rate_limits = {MESSENGER: rate_limit(60, scope)}

        assert {stream for stream in STREAMS if held_until(stream, rate_limits) is not None} == held
        assert {stream for stream in STREAMS if holder_of(stream, rate_limits) == MESSENGER} == held

    def test_no_stream_is_held_without_a_rate_limit(self) -> None:
        assert held_until(MESSENGER, {}) is None
        assert holder_of(MESSENGER, {}) is None

    def test_the_rate_limit_that_ends_last_holds_a_stream(self) -> None:
        rate_limits = {MESSENGER: rate_limit(60), OTHER_PAGE: rate_limit(600, Scope.APP)}

        assert holder_of(MESSENGER, rate_limits) == OTHER_PAGE
        assert held_until(OTHER_PAGE, rate_limits) == at(600)


class TestProbe:
    @pytest.mark.parametrize("untils", [(60, 50, 40), (40, 50, 60), (60, 60, 60)])
    def test_one_stream_probes_a_limit_and_the_others_follow(self, untils: tuple[float, ...]) -> None:
        rate_limits = {stream: rate_limit(until, Scope.APP) for stream, until in zip(STREAMS, untils, strict=True)}

        instants = sorted(until for stream in STREAMS if (until := held_until(stream, rate_limits)) is not None)

        assert instants == [at(60), *[at(60 + PROBE_LEAD_SECONDS)] * 2]

    def test_a_probe_that_prolongs_the_limit_holds_the_others_too(self) -> None:
        rate_limits = {MESSENGER: rate_limit(60 + 120, Scope.APP), INSTAGRAM: rate_limit(50, Scope.APP)}

        assert held_until(INSTAGRAM, rate_limits) == at(180 + PROBE_LEAD_SECONDS)
        assert held_until(OTHER_PAGE, rate_limits) == at(180 + PROBE_LEAD_SECONDS)


class TestByPage:
    @settings(derandomize=True, deadline=None, max_examples=500)
    @given(st.lists(st.builds(rate_limit, st.integers(-60, 60), st.sampled_from(Scope)) | st.none(), max_size=6))
    def test_the_lookup_by_page_finds_the_same_holders(self, rate_limits: list[RateLimit | None]) -> None:
        streams = [Stream(platform, page) for page in ("1", "2", "3") for platform in Platform]
        known = {stream: each for stream, each in zip(streams, rate_limits, strict=False) if each is not None}
        near = by_page(known)
        for stream in streams:
            assert holder_of(stream, near(stream)) == holder_of(stream, known)
            assert held_until(stream, near(stream)) == held_until(stream, known)
