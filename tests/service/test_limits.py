"""Limits: how many requests and wrong tokens are answered, what is logged and counted, and who is never locked out."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from milepost.reporting.live import LiveStreams
from milepost.service import limits
from milepost.service.auth import MAX_SESSION_SECONDS, Sessions, login
from milepost.service.availability import probes
from milepost.service.endpoint import COOKIE, routes_of
from milepost.service.http import serve
from milepost.service.limits import (
    LOG_SECONDS,
    MAX_CLIENTS,
    MAX_TRIES,
    TRIES_IN_SECONDS,
    Allowance,
    WrongTokens,
    client_of,
)
from milepost.service.metrics.collect import Metrics
from service.listening import TOKEN, thing, well

RIGHT, WRONG = {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": "Bearer a-guess"}
ATTACKER, OWNER = "127.0.0.2", "127.0.0.3"  # all of 127.0.0.0/8 is this machine


def now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def served(token: str = TOKEN) -> AsyncIterator[str]:
    wrong = WrongTokens()
    routes = [web.get("/", thing), web.get("/thing", thing), *routes_of(login(Sessions(TOKEN), wrong, now))]
    async with serve("127.0.0.1", 0, [*routes, *probes(well, lambda: None)], token=token, wrong_tokens=wrong) as url:
        yield url


@asynccontextmanager
async def client(url: str, address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Connect from an address of this machine."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(url, connector=connector) as session:
        yield session


async def get_status(session: aiohttp.ClientSession, path: str = "/thing", **headers: str) -> int:
    async with session.get(path, headers=headers) as response:
        await response.read()
        return response.status


async def logged_in(session: aiohttp.ClientSession, token: str) -> int:
    async with session.post("/login", json={"token": token}) as response:
        await response.read()
        return response.status


async def guess(session: aiohttp.ClientSession, times: int, **headers: str) -> Counter[int]:
    return Counter([await get_status(session, **(headers or WRONG)) for _ in range(times)])


# --- responses --------------------------------------------------------------------------------------------------------


async def test_a_client_that_guesses_is_told_when_to_retry() -> None:
    async with served() as url, client(url, ATTACKER) as attacker:
        assert await guess(attacker, MAX_TRIES) == {401: MAX_TRIES}
        async with attacker.get("/thing", headers=WRONG) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= TRIES_IN_SECONDS / MAX_TRIES
            assert response.content_type == "application/problem+json"
            assert (await response.json())["detail"].startswith("too many wrong tokens: try again in ")


async def test_a_client_that_guesses_locks_out_nobody_else() -> None:
    async with served() as url, client(url, ATTACKER) as attacker, client(url, OWNER) as owner:
        await guess(attacker, MAX_TRIES + 1)
        assert [await logged_in(attacker, "a-guess") for _ in range(2)] == [429, 429]
        assert await get_status(owner, **WRONG) == 401
        assert await logged_in(owner, "mistyped") == 403
        assert await logged_in(owner, TOKEN) == 204
        assert await get_status(owner, **RIGHT) == 200


async def test_the_right_token_is_accepted_whatever_wrong_ones_came_from_the_same_address() -> None:
    """Behind a proxy all have one address: a guesser must not lock out the owner or a scrape."""
    async with served() as url, client(url, ATTACKER) as everybody:
        await guess(everybody, 2 * MAX_TRIES)
        assert await get_status(everybody, **RIGHT) == 200
        assert await get_status(everybody, Cookie=f"{COOKIE}={Sessions(TOKEN).open(now())}") == 200
        assert await logged_in(everybody, TOKEN) == 204


async def test_logins_headers_and_cookies_count_as_guesses_of_one_client() -> None:
    """A cookie is signed with the token: to forge one is to guess the token."""
    forged = Sessions("another-token-than-that").open(now())
    async with served() as url, client(url, ATTACKER) as attacker:
        assert await guess(attacker, 4) == {401: 4}
        assert await guess(attacker, 3, Cookie=f"{COOKIE}={forged}") == {401: 3}
        assert [await logged_in(attacker, "a-guess") for _ in range(MAX_TRIES - 7)] == [403] * (MAX_TRIES - 7)
        assert await logged_in(attacker, "a-guess") == 429
        assert await get_status(attacker, Cookie=f"{COOKIE}={forged}") == 429
        assert await get_status(attacker, Authorization="Basic YTpi") == 429


async def test_no_token_and_an_ended_session_are_not_guesses() -> None:
    ended = Sessions(TOKEN).open(now() - timedelta(seconds=MAX_SESSION_SECONDS + 1))
    async with served() as url, client(url, OWNER) as owner:
        for _ in range(2 * MAX_TRIES):
            assert await get_status(owner) == 401
            assert await get_status(owner, Cookie=f"{COOKIE}={ended}") == 401
        assert await get_status(owner, **WRONG) == 401


async def test_the_login_page_and_health_stay_open_after_too_many_guesses() -> None:
    async with served() as url, client(url, OWNER) as owner:
        assert await guess(owner, MAX_TRIES + 1, Cookie=f"{COOKIE}=of-the-token-before") == {401: MAX_TRIES, 429: 1}
        assert await get_status(owner, "/", Cookie=f"{COOKIE}=of-the-token-before") == 200
        assert await get_status(owner, "/healthz", **WRONG) == 200


# --- the log ----------------------------------------------------------------------------------------------------------


@dataclass
class Time:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Guessed:
    """Wrong tokens at the seconds of a clock that a test moves."""

    time: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        self.wrong = WrongTokens(self.time)

    def after(self, seconds: float) -> None:
        self.time.seconds += seconds
        self.wrong.log_due()


def logged(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    assert all((line["event"], line["log_level"]) == ("wrong token", "warning") for line in lines)
    return [(line["client"], line["tries"]) for line in lines]


def test_the_first_guess_is_logged_at_once_and_the_others_once_a_minute() -> None:
    guessed = Guessed()
    with capture_logs() as lines:
        for _ in range(20_000):
            guessed.wrong.count("192.0.2.7")
        guessed.wrong.count("192.0.2.8")
        assert logged(lines) == [("192.0.2.7", 1), ("192.0.2.8", 1)]
        guessed.after(LOG_SECONDS - 1)
        assert len(lines) == 2
        guessed.after(1)
        assert logged(lines)[2:] == [("192.0.2.7", 19_999)]
        guessed.after(10 * LOG_SECONDS)
        assert len(lines) == 3
        guessed.wrong.count("192.0.2.7")
        assert logged(lines)[3:] == [("192.0.2.7", 1)]


async def test_guesses_not_logged_yet_are_logged_at_the_end() -> None:
    with capture_logs() as lines:
        async with served() as url, client(url, ATTACKER) as attacker:
            await guess(attacker, 30)
    assert logged(lines) == [(ATTACKER, 1), (ATTACKER, 29)]


async def test_a_line_that_is_due_is_logged_while_nobody_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHECK_SECONDS", 0.001)
    guessed = Guessed()
    with capture_logs() as lines:
        async with guessed.wrong.logging():
            guessed.wrong.count("192.0.2.7")
            guessed.wrong.count("192.0.2.7")
            guessed.time.seconds += LOG_SECONDS
            async with asyncio.timeout(60):
                while len(lines) < 2:  # noqa: ASYNC110  (a task of the code under test writes it)
                    await asyncio.sleep(0.001)
    assert logged(lines) == [("192.0.2.7", 1), ("192.0.2.7", 1)]


def test_none_of_many_clients_is_forgotten_without_a_line() -> None:
    guessed = Guessed()
    with capture_logs() as lines:
        for number in range(2 * MAX_CLIENTS):
            guessed.wrong.count(str(number))
            guessed.wrong.count(str(number))
        guessed.after(LOG_SECONDS)
    assert sum(tries for _, tries in logged(lines)) == 4 * MAX_CLIENTS


def test_the_metric_counts_every_wrong_token() -> None:
    guessed, metrics = Guessed(), Metrics(LiveStreams(now))
    metrics.register(guessed.wrong)
    assert "milepost_wrong_tokens_total 0.0\n" in metrics.expose().decode()
    for _ in range(50):
        guessed.wrong.count("192.0.2.7")
    assert "milepost_wrong_tokens_total 50.0\n" in metrics.expose().decode()


# --- the allowance of a client ----------------------------------------------------------------------------------------


def test_an_allowance_is_restored_one_by_one() -> None:
    time = Time()
    allowance = Allowance(10, 60.0, time)
    assert [allowance.take("a") for _ in range(10)] == [0.0] * 10
    assert allowance.take("a") == pytest.approx(6.0)
    time.seconds = 5.0
    assert allowance.take("a") == pytest.approx(1.0), "a refused request does not prolong the wait"
    time.seconds = 6.0
    assert allowance.take("a") == 0.0
    assert allowance.take("a") > 0.0
    time.seconds = 66.0
    assert [allowance.take("a") for _ in range(10)] == [0.0] * 10
    assert allowance.take("a") > 0.0


def test_an_allowance_keeps_a_bounded_number_of_clients_and_forgets_the_quietest() -> None:
    allowance = Allowance(1, 60.0, Time())
    allowance.take("busy")
    for number in range(2 * MAX_CLIENTS):
        allowance.take(str(number))
        if number % 100 == 0:
            assert allowance.take("busy") > 0.0
    assert len(allowance._full_until) == MAX_CLIENTS
    assert allowance.take("0") == 0.0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "nowhere"),
    ],
)
def test_a_client_is_an_address_or_a_network_whatever_its_headers_claim(address: str, expected: str) -> None:
    request = make_mocked_request("GET", "/", headers={"X-Forwarded-For": "198.51.100.1", "Forwarded": "for=x"})
    assert client_of(request.clone(remote=address)) == expected


# --- the rate of requests ---------------------------------------------------------------------------------------------


async def statuses(session: aiohttp.ClientSession, path: str, times: int, **headers: str) -> list[int]:
    found = []
    for _ in range(times):
        async with session.get(path, headers=headers) as response:
            found.append(response.status)
    return found


@pytest.fixture
def a_few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Allow five requests, and then one in ten minutes."""
    monkeypatch.setattr(limits, "MAX_REQUESTS", 5)
    monkeypatch.setattr(limits, "IN_SECONDS", 3_000.0)
    return 5


async def test_requests_beyond_the_limit_are_told_when_to_retry(a_few: int) -> None:
    async with served(token="") as url, aiohttp.ClientSession(url) as session:
        assert await statuses(session, "/thing", a_few) == [200] * a_few
        async with session.get("/thing") as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "600"
            assert response.content_type == "application/problem+json"
            assert (await response.json())["detail"] == "too many requests: try again in 600 s"


async def test_health_is_never_limited(a_few: int) -> None:
    async with served(token="") as url, aiohttp.ClientSession(url) as session:
        assert await statuses(session, "/healthz", 2 * a_few) == [200] * 2 * a_few
        assert await statuses(session, "/thing", a_few) == [200] * a_few


async def test_clients_without_access_take_nothing_from_those_with_it(a_few: int) -> None:
    async with served() as url, aiohttp.ClientSession(url) as session:
        assert await statuses(session, "/", a_few + 1) == [*[200] * a_few, 429]
        assert await statuses(session, "/thing", 3) == [401] * 3
        assert await statuses(session, "/thing", a_few + 1, **RIGHT) == [*[200] * a_few, 429]


async def test_two_hundred_pages_that_poll_are_not_refused() -> None:
    """Each asks for five things when it opens, and for one every two seconds later on."""
    async with served(token="") as url, aiohttp.ClientSession(url) as session:
        answered = await asyncio.gather(*(statuses(session, "/thing", 5) for _ in range(200)))
    assert {status for each in answered for status in each} == {200}
    assert limits.MAX_REQUESTS / limits.IN_SECONDS >= 200 / 2


async def test_a_client_that_floods_the_login_page_leaves_it_open_to_others(a_few: int) -> None:
    async with served() as url, client(url, ATTACKER) as attacker, client(url, OWNER) as owner:
        assert [await get_status(attacker, "/") for _ in range(a_few + 1)] == [*[200] * a_few, 429]
        assert await get_status(owner, "/") == 200
        assert await logged_in(owner, TOKEN) == 204
