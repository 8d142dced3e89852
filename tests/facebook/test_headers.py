"""The usage and wait headers, in all the forms in which they come, and what of them is ignored."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from milepost.core.ports import Usage
from milepost.core.problems import Scope
from milepost.facebook.responses import MAX_WAIT_SECONDS, usages, wait_seconds

PAGE_ID, ACCOUNT_ID, BUSINESS_ID = "1161721903600000", "17841400000000000", "66782684"
OWN_IDS = frozenset({PAGE_ID, ACCOUNT_ID})
DATE = "Sun, 01 Feb 2026 08:00:00 GMT"

Json = dict[str, object]


def entry(kind: str = "pages", regain: object = 0, **percents: object) -> Json:
    return {"type": kind, **percents, "estimated_time_to_regain_access": regain, "ads_api_access_tier": "standard"}


def business(value: object) -> dict[str, str]:
    return {"X-Business-Use-Case-Usage": json.dumps(value)}


def ratios(headers: dict[str, str]) -> dict[tuple[Scope, str], float]:
    found = usages(CIMultiDict(headers), OWN_IDS)
    assert len({(usage.scope, usage.kind) for usage in found}) == len(found)
    return {(usage.scope, usage.kind): usage.ratio for usage in found}


def wait(headers: dict[str, str], code: int | None = None) -> float | None:
    return wait_seconds(CIMultiDict(headers), code, OWN_IDS)


class TestUsages:
    def test_usage_of_the_app_and_of_the_page_are_distinguished(self) -> None:
        headers = {
            "x-app-usage": '{"call_count":28,"total_time":25,"total_cputime":15}',
            "X-Page-Usage": '{"call_count":144}',
        }
        assert usages(CIMultiDict(headers), OWN_IDS) == (
            Usage(Scope.APP, "call_count", 0.28),
            Usage(Scope.APP, "total_time", 0.25),
            Usage(Scope.APP, "total_cputime", 0.15),
            Usage(Scope.PAGE, "call_count", 1.44),
        )

    def test_the_fullest_of_several_budgets_counts(self) -> None:
        own = {PAGE_ID: [entry(call_count=7), entry("messenger", call_count=90)], ACCOUNT_ID: [entry(call_count=50)]}
        headers = {"X-Page-Usage": '{"call_count":60,"total_time":95}'} | business(own)
        assert ratios(headers) == {(Scope.PAGE, "call_count"): 0.9, (Scope.PAGE, "total_time"): 0.95}

    def test_entries_of_other_ids_do_not_count_beside_our_own(self) -> None:
        assert ratios(business({BUSINESS_ID: [entry(call_count=99)], PAGE_ID: [entry(call_count=1)]})) == {
            (Scope.PAGE, "call_count"): 0.01
        }

    def test_all_entries_count_if_none_is_our_own(self) -> None:
        others = {str(number): [entry(call_count=number)] for number in range(32)}
        assert ratios(business(others)) == {(Scope.PAGE, "call_count"): 0.31}

    def test_both_entries_of_a_repeated_id_count(self) -> None:
        text = f'{{"{PAGE_ID}":[{json.dumps(entry(call_count=97))}],"{PAGE_ID}":[{json.dumps(entry(call_count=2))}]}}'
        assert ratios({"X-Business-Use-Case-Usage": text}) == {(Scope.PAGE, "call_count"): 0.97}

    def test_an_entry_outside_a_list_counts(self) -> None:
        assert ratios(business({PAGE_ID: entry(call_count=5)})) == {(Scope.PAGE, "call_count"): 0.05}

    @pytest.mark.parametrize("value", [17, 17.0, "17", "17%", " 17 % "])
    def test_a_percentage_may_be_written_in_many_ways(self, value: object) -> None:
        assert ratios({"X-App-Usage": json.dumps({"call_count": value})}) == {(Scope.APP, "call_count"): 0.17}

    def test_the_old_form_is_a_percentage_alone(self) -> None:
        assert ratios({"X-App-Usage": "17%"}) == {(Scope.APP, "call_count"): 0.17}

    def test_the_form_of_the_documentation_is_in_single_quotes(self) -> None:
        headers = {"X-Page-Usage": "{'call_count' : 85, 'total_time' : 60}"}
        assert ratios(headers) == {(Scope.PAGE, "call_count"): 0.85, (Scope.PAGE, "total_time"): 0.6}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "null",
            "[]",
            "{",
            "nonsense",
            '"call_count"',
            "NaN",
            "[" * 60_000,
            "9" * 60_000,
            '{"call_count":' + "9" * 5000 + "}",
            '{"call_count":null,"total_time":[],"total_cputime":{}}',
            '{"call_count":-1,"total_time":true,"total_cputime":"many"}',
            '{"call_count":NaN,"total_time":"-1","acc_id_util_pct":99}',
            '{"1161721903600000":[7,null,"x",[]],"x":null}',
        ],
    )
    def test_what_cannot_be_parsed_is_ignored(self, text: str) -> None:
        headers = dict.fromkeys(("X-App-Usage", "X-Page-Usage", "X-Business-Use-Case-Usage"), text)
        assert ratios(headers) == {}
        assert wait(headers, 80001) is None

    @pytest.mark.parametrize("value", ["1" + "0" * 400, "1e400", "Infinity"])
    def test_a_huge_number_stays_a_number(self, value: str) -> None:
        (ratio,) = ratios({"X-App-Usage": f'{{"call_count":{value}}}'}).values()
        assert 1 < ratio < 10_000


class TestWait:
    def test_the_wait_is_the_time_to_regain_access(self) -> None:
        assert wait(business({PAGE_ID: [entry(regain=19)]}), 80001) == 19 * 60

    def test_the_longest_of_all_waits_counts(self) -> None:
        headers = business({PAGE_ID: [entry(regain=1), entry("messenger", regain="2")]})
        assert wait(headers) == 120
        assert wait(headers | {"Retry-After": "121"}) == 121
        assert wait(headers | {"Retry-After": "119"}) == 120

    def test_our_own_entry_counts_even_if_another_is_longer(self) -> None:
        assert wait(business({BUSINESS_ID: [entry(regain=60)], ACCOUNT_ID: [entry(regain=3)]}), 17) == 180

    @pytest.mark.parametrize(("code", "minutes"), [(80001, 1), (80002, 2), (80006, 6), (17, 7), (80014, 7), (None, 7)])
    def test_the_code_selects_the_entry_by_its_type(self, code: int | None, minutes: int) -> None:
        own = [("pages", 1), ("instagram", 2), ("messenger", 6), ("ads_insights", 7)]
        assert wait(business({PAGE_ID: [entry(kind, regain) for kind, regain in own]}), code) == minutes * 60

    def test_an_entry_of_another_type_counts_if_none_has_the_type(self) -> None:
        assert wait(business({PAGE_ID: [entry("pages", 4)]}), 80006) == 240

    def test_a_business_entry_of_the_type_counts_if_no_id_is_ours(self) -> None:
        headers = business({BUSINESS_ID: [entry("messenger", 2)], "77": [entry("ads_management", 50)]})
        assert wait(headers, 80006) == 120

    @pytest.mark.parametrize(
        "headers", [{}, business({PAGE_ID: [entry(regain=0)]}), {"Retry-After": "0"}, {"Retry-After": "soon"}]
    )
    def test_without_a_wait_in_any_header_there_is_none(self, headers: dict[str, str]) -> None:
        assert wait(headers, 80001) is None

    def test_a_retry_after_instant_is_relative_to_the_servers_clock(self) -> None:
        assert wait({"Retry-After": "Sun, 01 Feb 2026 08:02:30 GMT", "Date": DATE}) == 150

    @pytest.mark.parametrize(
        "headers",
        [
            {"Retry-After": "Sun, 01 Feb 2026 07:00:00 GMT", "Date": DATE},
            {"Retry-After": "Sun, 01 Feb 2026 08:02:30 GMT"},
            {"Retry-After": "Sun, 99 Feb 2026 08:02:30 GMT", "Date": DATE},
            {"Retry-After": "Fri, 31 Dec 9999 23:59:59 -0100", "Date": DATE},
            {"Retry-After": "-5", "Date": DATE},
        ],
    )
    def test_a_retry_after_instant_that_is_past_or_invalid_is_ignored(self, headers: dict[str, str]) -> None:
        assert wait(headers) is None

    @pytest.mark.parametrize(
        "headers",
        [
            business({PAGE_ID: [entry(regain=10**30)]}),
            {"Retry-After": "999999999"},
            {"Retry-After": "Thu, 01 Feb 2126 08:00:00 GMT", "Date": DATE},
        ],
    )
    def test_no_wait_is_longer_than_a_day(self, headers: dict[str, str]) -> None:
        assert wait(headers) == MAX_WAIT_SECONDS


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["17%", PAGE_ID, "pages"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([PAGE_ID, "type", "call_count", "total_time", "estimated_time_to_regain_access"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
)
TEXTS = st.text() | st.builds(json.dumps, VALUES)


@given(TEXTS, TEXTS, TEXTS, st.sampled_from([None, 4, 80001, 80006]))
def test_any_header_is_parsed_or_ignored(usage: str, retry_after: str, date: str, code: int | None) -> None:
    names = ("X-App-Usage", "X-Page-Usage", "X-Business-Use-Case-Usage")
    headers = dict.fromkeys(names, usage) | {"Retry-After": retry_after, "Date": date}
    assert all(ratio >= 0 for ratio in ratios(headers).values())
    waits = wait(headers, code)
    assert waits is None or 0 < waits <= MAX_WAIT_SECONDS
