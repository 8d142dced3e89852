"""The faults of the simulator: drawn from a seed, and parsed from text."""

import re
from pathlib import Path

import pytest

from milepost.core.errors import BadConfiguration
from milepost.simulator.conditions import Pace
from milepost.simulator.faults import (
    CALM,
    FAULT_NAMES,
    RULE_NAMES,
    Every,
    Fault,
    FaultKind,
    FaultPlan,
    First,
    Share,
    parse_faults,
)

ROUGH, HOSTILE = parse_faults("rough"), parse_faults("hostile")


class TestStriking:
    def test_the_same_requests_are_struck_every_time(self) -> None:
        first = [ROUGH.strike("messenger:1", number) for number in range(1, 500)]
        assert first == [ROUGH.strike("messenger:1", number) for number in range(1, 500)]
        assert len({strike.fault for strike in first}) > 6

    def test_each_stream_and_seed_has_its_own_faults(self) -> None:
        def faults(plan: FaultPlan, stream: str) -> list[object]:
            return [plan.strike(stream, number).fault for number in range(1, 200)]

        mine = faults(ROUGH, "messenger:1")
        assert mine != faults(ROUGH, "messenger:2")
        assert mine != faults(parse_faults("rough", seed=2), "messenger:1")

    def test_about_the_given_share_of_the_requests_is_struck(self) -> None:
        plan = parse_faults("http_500=0.1")
        struck = sum(plan.strike("s", number).fault is not None for number in range(1, 5001))
        assert 400 < struck < 600

    def test_every_nth_or_the_first_requests_are_struck(self) -> None:
        plan = parse_faults("html_502=first:2,http_500=1/3")
        struck = [plan.strike("s", number).fault for number in range(1, 8)]
        outage, down = FaultKind.HTML_OUTAGE, FaultKind.SERVICE_DOWN
        assert struck == [outage, outage, down, None, None, down, None]

    def test_latencies_add_to_the_fault_that_strikes(self) -> None:
        strike = parse_faults("latency=250ms,http_500=1,html_502=1").strike("s", 1)
        assert strike.wait_seconds == 0.25
        assert strike.fault is FaultKind.SERVICE_DOWN

    def test_cursor_faults_spare_requests_without_a_cursor(self) -> None:
        plan = parse_faults("dead_cursor=1,looping_cursor=1,http_500=1")
        assert plan.strike("s", 1, has_cursor=True).fault is FaultKind.DEAD_CURSOR
        assert plan.strike("s", 1, has_cursor=False).fault is FaultKind.SERVICE_DOWN

    def test_a_limit_begins_beside_another_fault(self) -> None:
        strike = parse_faults("limit=90s,http_500=1").strike("s", 1)
        assert strike.limit_seconds == 90.0
        assert strike.fault is FaultKind.SERVICE_DOWN

    def test_calm_strikes_nothing(self) -> None:
        assert all(CALM.strike("s", number).fault is None for number in range(1, 100))


class TestParsing:
    def test_presets_are_parsed(self) -> None:
        assert parse_faults("calm") == parse_faults("") == CALM

    def test_hostile_has_every_fault_and_rough_the_transient_ones(self) -> None:
        assert {fault.kind for fault in HOSTILE.faults} == set(FaultKind)
        lasting = {"limit", "dead_cursor", "looping_cursor", "odd_usage"}
        assert {fault.kind for fault in ROUGH.faults} == set(FaultKind) - lasting

    def test_every_name_is_documented(self) -> None:
        page = (Path(__file__).parents[2] / "docs/simulator.md").read_text()
        section = page.partition("\n## Faults\n")[2].partition("\n## ")[0]
        documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert documented == ["calm", "rough", "hostile", *FAULT_NAMES, *RULE_NAMES]

    def test_items_are_parsed(self) -> None:
        plan = parse_faults("http_500=0.05, html_502=1/20, reset=first:3, latency=50ms, hang=0.01@2s, pace=2", seed=9)
        assert plan == FaultPlan(
            seed=9,
            faults=(
                Fault(FaultKind.SERVICE_DOWN, Share(0.05)),
                Fault(FaultKind.HTML_OUTAGE, Every(20)),
                Fault(FaultKind.RESET, First(3)),
                Fault(FaultKind.LATENCY, Share(1), 0.05),
                Fault(FaultKind.HANG, Share(0.01), 2.0),
            ),
            max_calls_per_second=2.0,
        )

    def test_rules_take_a_number_or_a_duration(self) -> None:
        shares = "poison=0.01,spoilt=0.04,poison_messages=0.02,heavy_threads=0.03"
        plan = parse_faults(f"{shares},heavy=420,usage=85,cursor_life=1h,prolong=5m")
        assert plan == FaultPlan(
            poison_share=0.01,
            spoilt_share=0.04,
            poison_messages_share=0.02,
            heavy_share=0.03,
            max_weight=420,
            usage_percent=85,
            cursor_life_seconds=3600,
            prolong_seconds=300,
        )

    def test_a_limit_takes_a_duration(self) -> None:
        assert parse_faults("limit=1/50@90s").faults == (Fault(FaultKind.LIMIT, Every(50), 90.0),)

    def test_rules_replace_those_of_the_preset(self) -> None:
        plan = parse_faults("hostile,poison=0,pace=2")
        assert (plan.poison_share, plan.max_calls_per_second) == (0, 2)
        assert plan.faults == HOSTILE.faults
        assert plan.max_weight == HOSTILE.max_weight

    def test_an_item_replaces_the_fault_of_the_preset(self) -> None:
        plan = parse_faults("rough,hang=0.1@100ms,empty_batch=0")
        assert Fault(FaultKind.HANG, Share(0.1), 0.1) in plan.faults
        assert Fault(FaultKind.EMPTY_BATCH, Share(0)) in plan.faults
        assert len(plan.faults) == len(ROUGH.faults)
        assert [fault for fault in plan.faults if fault.kind is FaultKind.RATE_LIMIT] == [
            Fault(FaultKind.RATE_LIMIT, Share(0.005))
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("roug", "known are calm, rough"),
            ("http_5000=0.1", "known are"),
            ("http_500", "a number from 0 to 1"),
            ("http_500=1.5", "a number from 0 to 1"),
            ("http_500=nan", "a number from 0 to 1"),
            ("http_500=1/0", "a number from 0 to 1"),
            ("http_500=first:x", "first:3"),
            ("latency=50", "like 50ms"),
            ("hang=0.5", "like 50ms"),
            ("hang=x@2s", "a number from 0 to 1"),
            ("pace=-1", "a number from 0"),
            ("poison=2", "a number from 0 to 1"),
            ("cursor_life=5", "like 50ms"),
            ("limit=0.1", "like 50ms"),
        ],
    )
    def test_an_invalid_item_is_refused_with_what_is_allowed(self, text: str, message: str) -> None:
        with pytest.raises(BadConfiguration) as refused:
            parse_faults(text)
        assert text in refused.value.message
        assert message in refused.value.hint


class TestPace:
    def test_a_client_that_keeps_the_pace_is_never_refused(self) -> None:
        pace = Pace(2)
        calls = [0.0, 0.0, *(0.499 * number for number in range(1, 100))]
        assert all(pace.allows("1", at) for at in calls)

    def test_a_client_that_exceeds_the_pace_is_refused(self) -> None:
        pace = Pace(2)
        assert [pace.allows("1", at) for at in (0.0, 0.1, 0.2, 0.3, 1.3)] == [True, True, True, False, True]

    def test_each_page_has_its_own_pace_and_zero_means_none(self) -> None:
        pace = Pace(0.5)
        assert pace.allows("1", 0.0)
        assert not pace.allows("1", 0.0)
        assert pace.allows("2", 0.0)
        assert all(Pace(0).allows("1", 0.0) for _ in range(100))
