"""Lasting rate limits in the simulator, their headers, and the calls made during one."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise

import aiohttp
import pytest

from kit.simulated import BAKERY, BICYCLES, Client, frozen_client
from milepost.simulator.conditions import WaitHint
from milepost.simulator.control import Traffic

LIST = f"v26.0/{BAKERY.id}/conversations"
OTHER_LIST = f"v26.0/{BICYCLES.id}/conversations"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with frozen_client() as client:
        yield client


async def get(client: Client, path: str = LIST, token: str = BAKERY.token) -> tuple[aiohttp.ClientResponse, bytes]:
    headers = {"Authorization": f"Bearer {token}"}
    async with client.session.get(f"{client.server.base_url}/{path}", headers=headers) as response:
        return response, await response.read()


class TestScopeAndTime:
    async def test_a_pages_limit_refuses_all_calls_of_the_page_and_none_of_another(self, client: Client) -> None:
        client.server.limit(80006, 90, BAKERY.id)
        threads = client.truth()[0].id, client.truth("instagram")[0].id
        for path in (LIST, f"{LIST}?platform=instagram", f"v26.0/{BAKERY.id}", *(f"v26.0/{each}" for each in threads)):
            assert await client.code(path) in (80002, 80006)
        assert await client.code(OTHER_LIST, token=BICYCLES.token) is None
        assert await client.code("v26.0/me/accounts", token=client.server.world.user_token) is None

    async def test_the_apps_limit_refuses_all_calls(self, client: Client) -> None:
        client.server.limit(4, 90)
        assert await client.code(LIST) == 4
        assert await client.code(OTHER_LIST, token=BICYCLES.token) == 4
        assert await client.code("v26.0/me/accounts", token=client.server.world.user_token) == 4

    async def test_a_limit_ends_by_the_worlds_clock_and_calls_do_not_prolong_it(self, client: Client) -> None:
        client.server.limit(613, 90, BAKERY.id)
        for _ in range(3):
            client.clock.now += timedelta(seconds=29)
            assert await client.code(LIST) == 613
        client.clock.now += timedelta(seconds=3)
        assert await client.code(LIST) is None

    async def test_calls_prolong_a_limit_if_the_rule_is_set(self) -> None:
        async with frozen_client(faults="prolong=30s") as client:
            client.server.limit(613, 90, BAKERY.id, WaitHint.RETRY_AFTER)
            waits = []
            for _ in range(3):
                response, _ = await get(client)
                waits.append(response.headers["Retry-After"])
                await asyncio.sleep(0.15)  # a client is given a tenth of a second to hear of it
            client.clock.now += timedelta(seconds=149)
            assert await client.code(OTHER_LIST, token=BICYCLES.token) is None
            assert client.server.requests.during_limit == {BAKERY.id: 2}
            client.clock.now += timedelta(seconds=1)
            assert await client.code(LIST) is None
        assert waits == ["90", "120", "150"]

    async def test_a_limit_can_be_lifted(self, client: Client) -> None:
        client.server.limit(4, 3600)
        client.server.limit(17, 3600, BAKERY.id)
        client.server.lift()
        assert await client.code(LIST) == 17
        client.server.lift(BAKERY.id)
        assert await client.code(LIST) is None

    async def test_the_longer_of_two_limits_counts(self, client: Client) -> None:
        client.server.limit(32, 60, BAKERY.id)
        client.server.limit(4, 30)
        client.server.limit(17, 40, BAKERY.id)
        assert await client.code(LIST) == 32
        assert await client.code(OTHER_LIST, token=BICYCLES.token) == 4

    async def test_an_unknown_limit_is_refused(self, client: Client) -> None:
        for code, page_id in ((5, BAKERY.id), (4, BAKERY.id), (17, None)):
            with pytest.raises(ValueError, match="code"):
                client.server.limit(code, 60, page_id)
        with pytest.raises(KeyError):
            client.server.limit(17, 60, "1")


class TestKinds:
    @pytest.mark.parametrize(
        ("code", "status", "subcode", "is_transient"),
        [
            (17, 400, 2446079, False),
            (32, 403, None, False),
            (341, 400, None, True),
            (368, 400, None, False),
            (613, 400, None, None),
            (80001, 400, None, None),
            (80006, 400, None, False),
            *((code, 400, None, False) for code in (80000, 80003, 80004, 80005, 80007, 80008, 80009, 80014)),
        ],
    )
    async def test_each_limit_has_its_envelope(
        self, client: Client, code: int, status: int, subcode: int | None, is_transient: bool | None
    ) -> None:
        client.server.limit(code, 60, BAKERY.id)
        transient = set()
        for _ in range(20):
            response, body = await client.get(LIST)
            error = body["error"]
            assert (response.status, error["code"]) == (status, code)
            assert error.get("error_subcode") == subcode
            assert "reduce the amount" not in error["message"]
            transient.add(error.get("is_transient"))
        assert transient == {is_transient, None}, "now and then the key is missing"

    async def test_instagram_has_its_own_code(self, client: Client) -> None:
        client.server.limit(80006, 60, BAKERY.id)
        assert await client.code(LIST, platform="instagram") == 80002

    async def test_http_429_comes_with_html_or_nothing(self, client: Client) -> None:
        client.server.limit(429, 60, BAKERY.id, WaitHint.RETRY_AFTER)
        answers = [await get(client) for _ in range(20)]
        assert {(response.status, response.headers["Retry-After"]) for response, _ in answers} == {(429, "60")}
        assert {body[:6] for _, body in answers} == {b"", b"<html>"}


class TestWaitHints:
    async def test_the_relevant_usage_entry_is_among_irrelevant_ones(self, client: Client) -> None:
        client.server.limit(80006, 19 * 60, BAKERY.id, WaitHint.USAGE)
        client.clock.now += timedelta(seconds=61)
        response, _ = await get(client)
        usage = json.loads(response.headers["X-Business-Use-Case-Usage"])
        minutes = "estimated_time_to_regain_access"
        assert max(entry[minutes] for entry in usage[BAKERY.id]) == 18
        assert len(usage[BAKERY.id]) > 1
        assert max(entry[minutes] for entries in usage.values() for entry in entries) > 18
        assert json.loads(response.headers["X-Page-Usage"])["call_count"] >= 100
        assert "Retry-After" not in response.headers

    async def test_retry_after_gives_the_seconds(self, client: Client) -> None:
        client.server.limit(17, 90, BAKERY.id, WaitHint.RETRY_AFTER)
        client.clock.now += timedelta(seconds=29.5)
        response, _ = await get(client)
        assert response.headers["Retry-After"] == "61"
        assert '"estimated_time_to_regain_access":0' in response.headers["X-Business-Use-Case-Usage"]

    async def test_the_usage_of_a_limit_may_have_odd_forms(self) -> None:
        async with frozen_client(faults="odd_usage=1") as client:
            client.server.limit(80006, 19 * 60, BAKERY.id, WaitHint.USAGE)
            headers = [(await get(client))[0].headers["X-Business-Use-Case-Usage"] for _ in range(60)]
        assert "" in headers
        twice = next(each for each in headers if each.count(f'"{BAKERY.id}"') == 2)
        assert json.loads(twice)[BAKERY.id][0]["estimated_time_to_regain_access"] == 19

    async def test_a_limit_may_give_no_duration(self, client: Client) -> None:
        client.server.limit(17, 90, BAKERY.id, WaitHint.NOTHING)
        response, _ = await get(client)
        assert "Retry-After" not in response.headers
        assert '"estimated_time_to_regain_access":0' in response.headers["X-Business-Use-Case-Usage"]


class TestDrawn:
    async def test_a_limit_begins_with_the_request_that_is_struck(self) -> None:
        async with frozen_client(faults="limit=first:1@90s") as client:
            first, _ = await get(client)
            assert first.status >= 400
            client.clock.now += timedelta(seconds=89)
            assert (await get(client))[0].status == first.status
            client.clock.now += timedelta(seconds=1)
            assert await client.code(LIST) is None
            assert client.server.requests.by_fault == {"limit": 2}

    async def test_all_kinds_are_drawn_and_none_gives_a_longer_wait_than_it_lasts(self) -> None:
        kinds: set[tuple[int, object]] = set()
        async with frozen_client(faults="limit=1@5s") as client:
            for _ in range(200):
                response, body = await get(client)
                kinds.add((response.status, json.loads(body)["error"]["code"] if response.status != 429 else None))
                assert response.headers.get("Retry-After") in (None, "5")
                assert '"estimated_time_to_regain_access":0' in response.headers["X-Business-Use-Case-Usage"]
                client.clock.now += timedelta(seconds=5)
        assert {code for _, code in kinds} == {4, 17, 32, 341, 613, 80001, 80006, None}

    async def test_listing_pages_meets_the_apps_limit(self) -> None:
        async with frozen_client(faults="limit=first:1@90s") as client:
            assert await client.code("v26.0/me/accounts", token=client.server.world.user_token) == 4
            assert await client.code(LIST) == 4


class TestCountingCalls:
    async def test_calls_count_from_the_first_refusal_on(self, client: Client) -> None:
        client.server.limit(17, 90, BAKERY.id)
        await client.code(LIST)
        assert client.server.requests.during_limit == {}
        await asyncio.sleep(0.15)  # a client is given a tenth of a second to hear of it
        await client.code(LIST)
        await client.code(f"v26.0/{client.truth()[0].id}")
        await client.code(OTHER_LIST, token=BICYCLES.token)
        assert client.server.requests.during_limit == {BAKERY.id: 2}
        client.clock.now += timedelta(seconds=90)
        await client.code(LIST)
        _, seen = await client.get("simulator/requests", token="")
        assert seen["during_limit"] == {BAKERY.id: 2}

    async def test_a_longer_limit_that_no_client_knows_excuses_no_call(self, client: Client) -> None:
        client.server.limit(17, 60, BAKERY.id)
        await client.code(LIST)
        client.server.limit(32, 3600, BAKERY.id)
        await asyncio.sleep(0.15)
        await client.code(LIST)
        assert client.server.requests.during_limit == {BAKERY.id: 1}
        assert [request.during_limit for request in client.server.requests.last] == [False, True]

    async def test_calls_of_every_page_count_during_the_apps_limit(self, client: Client) -> None:
        client.server.limit(4, 90)
        await client.code(LIST)
        await asyncio.sleep(0.15)
        await client.code(OTHER_LIST, token=BICYCLES.token)
        await client.code("v26.0/me/accounts", token=client.server.world.user_token)
        assert client.server.requests.during_limit == {BICYCLES.id: 1, "me": 1}

    def test_the_maximum_of_calls_in_a_second_is_kept_by_page(self) -> None:
        traffic = Traffic()
        for at in (0.0, 0.6, 0.9, 1.0, 3.0, 4.0, 5.0):
            traffic.arrive("1", at)
        traffic.arrive("2", 3.0)
        assert traffic.max_calls_in_a_second == {"1": 3, "2": 1}

    async def test_calls_for_threads_count_for_their_page(self, client: Client) -> None:
        await asyncio.gather(*(client.code(f"v26.0/{row.id}") for row in client.truth()[:5]), client.code(LIST))
        _, seen = await client.get("simulator/requests", token="")
        assert 2 <= seen["max_calls_in_a_second"][BAKERY.id] <= 6


class TestUsage:
    async def test_usage_is_in_every_response_and_can_rise(self) -> None:
        async with frozen_client(faults="usage=60") as client:
            seen = []
            for percent in (None, 85, 99):
                if percent is not None:
                    client.server.usage(percent)
                for token in (BAKERY.token, "wrong"):
                    response, _ = await client.get(LIST, token=token)
                    seen.append(json.loads(response.headers["X-Page-Usage"])["call_count"])
                    business = json.loads(response.headers["X-Business-Use-Case-Usage"])[BAKERY.id]
                    assert business[0]["call_count"] == seen[-1]
        assert seen == [60, 60, 85, 85, 99, 99]
        assert all(earlier <= later for earlier, later in pairwise(seen))

    async def test_usage_comes_in_odd_forms(self) -> None:
        async with frozen_client(faults="odd_usage=1,usage=85") as client:
            answers = [(await get(client))[0] for _ in range(60)]
        assert {answer.status for answer in answers} == {200}
        headers = [answer.headers for answer in answers]
        assert any(each["X-App-Usage"] == "42%" for each in headers)
        assert any(each["X-App-Usage"] == each["X-Page-Usage"] == "" for each in headers)
        assert any(each["X-Page-Usage"].startswith("{'call_count': 85") for each in headers)
        assert any("ads_api_access_tier" in each["X-Page-Usage"] for each in headers)
        twice = [each for each in headers if each["X-Business-Use-Case-Usage"].count(f'"{BAKERY.id}"') == 2]
        assert twice
        assert json.loads(twice[0]["X-Business-Use-Case-Usage"])[BAKERY.id][0]["type"] == "messenger"
