"""Logging in and out: whoever has sent the token once is admitted by a cookie, for a while."""

import asyncio
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie

import aiohttp
import pytest
from aiohttp import web

from kit.builders import NOON
from milepost.service.auth import MAX_SESSION_SECONDS, Sessions, is_admitted, login
from milepost.service.endpoint import COOKIE, routes_of
from milepost.service.limits import MAX_TRIES, WrongTokens
from service.listening import JSON, TOKEN, listening, thing

RIGHT = f'{{"token": "{TOKEN}"}}'


async def page(request: web.Request) -> web.Response:
    return web.Response(text="the page\n" if is_admitted(request) else "log in\n")


def client(token: str = TOKEN) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    sessions, wrong_tokens = Sessions(token) if token else None, WrongTokens()
    routes = [
        web.get("/secret", thing),
        web.post("/secret", thing),
        web.get("/", page),
        *routes_of(login(sessions, wrong_tokens, lambda: datetime.now(UTC))),
    ]
    return listening(routes, token=token, wrong_tokens=wrong_tokens, cookie_jar=aiohttp.CookieJar(unsafe=True))


async def status_of(
    session: aiohttp.ClientSession, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
) -> int:
    async with session.request(method, path, data=body, headers=headers) as response:
        await response.read()
        return response.status


# --- the cookie's value -----------------------------------------------------------------------------------------------


def test_a_session_that_was_opened_while_the_clock_was_ahead_does_not_outlive_its_half_day() -> None:
    sessions = Sessions(TOKEN)
    cookie = sessions.open(NOON + timedelta(days=30))
    assert sessions.is_open(cookie, NOON + timedelta(days=30))
    assert sessions.is_open(cookie, NOON + timedelta(days=30, seconds=-1))
    assert not sessions.is_open(cookie, NOON)


def test_a_session_is_open_until_it_ends() -> None:
    value = Sessions(TOKEN).open(NOON)
    assert Sessions(TOKEN).is_open(value, NOON), "also by the daemon after a restart"
    assert Sessions(TOKEN).is_open(value, NOON + timedelta(seconds=MAX_SESSION_SECONDS - 1))
    assert not Sessions(TOKEN).is_open(value, NOON + timedelta(seconds=MAX_SESSION_SECONDS))


def test_a_session_ends_with_its_token_and_does_not_reveal_it() -> None:
    value = Sessions(TOKEN).open(NOON)
    assert not Sessions("another-token-than-that").is_open(value, NOON)
    assert TOKEN not in value


def test_a_forged_cookie_is_no_session() -> None:
    ends_at, _, seal = Sessions(TOKEN).open(NOON).partition(".")
    later = str(int(ends_at) + 1)
    for value in (
        "",
        ".",
        ends_at,
        f"{later}.{seal}",
        f"{ends_at}.{seal[:-1]}0x",
        f"{ends_at}.{seal}0",
        f"{ends_at}.é",
    ):
        assert not Sessions(TOKEN).is_open(value, NOON)


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def test_the_token_opens_a_session_whose_cookie_admits() -> None:
    async with client() as session:
        assert await status_of(session, "GET", "/secret") == 401
        async with session.post("/login", data=RIGHT, headers=JSON) as response:
            assert (response.status, await response.read()) == (204, b"")
            cookie = SimpleCookie(response.headers["Set-Cookie"])[COOKIE]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
        assert cookie["max-age"] == str(MAX_SESSION_SECONDS)
        assert cookie["domain"] == ""
        assert cookie["secure"] == ""
        assert await status_of(session, "GET", "/secret") == 200
        assert await status_of(session, "POST", "/secret", "{}", JSON) == 200
        assert await status_of(session, "POST", "/logout", "{}", JSON) == 204
        assert await status_of(session, "GET", "/secret") == 401


@pytest.mark.parametrize(
    ("forwarded", "is_secure"),
    [("https", True), ("HTTPS", True), ("https, http", True), ("http", False), ("http, https", False), ("", False)],
)
async def test_behind_a_proxy_with_tls_the_cookie_never_travels_in_the_clear(forwarded: str, is_secure: bool) -> None:
    headers = JSON | {"X-Forwarded-Proto": forwarded, "Authorization": f"Bearer {TOKEN}"}
    async with client() as session:
        for path, body in (("/login", RIGHT), ("/logout", "{}")):
            async with session.post(path, data=body, headers=headers) as response:
                cookie = SimpleCookie(response.headers["Set-Cookie"])[COOKIE]
            assert bool(cookie["secure"]) == is_secure


def test_an_ended_session_is_still_signed() -> None:
    value = Sessions(TOKEN).open(NOON)
    assert Sessions(TOKEN).is_signed(value)
    assert not Sessions("another-token-than-that").is_signed(value)
    assert not Sessions(TOKEN).is_signed("")


async def test_an_ended_session_admits_nobody() -> None:
    ended = Sessions(TOKEN).open(datetime.now(UTC) - timedelta(seconds=MAX_SESSION_SECONDS + 1))
    async with client() as session:
        assert await status_of(session, "GET", "/secret", headers={"Cookie": f"{COOKIE}={ended}"}) == 401


async def test_a_malformed_cookie_admits_nobody() -> None:
    async with client() as session:
        for cookie in ("", "=", ";;;", f"{COOKIE}", f"{COOKIE}=a; {COOKIE}=b", f'{COOKIE}="\\"', "\xff=\xfe"):
            assert await status_of(session, "GET", "/secret", headers={"Cookie": cookie}) == 401, cookie


async def test_a_wrong_token_opens_no_session() -> None:
    async with client() as session:
        for given in ("", "wrong", TOKEN[:-1], f"{TOKEN} "):
            async with session.post("/login", json={"token": given}) as response:
                assert response.status == 403
                assert "Set-Cookie" not in response.headers
                assert response.content_type == "application/problem+json"


async def test_the_body_of_a_login_is_validated_and_never_echoed() -> None:
    async with client() as session:
        for body, status in (
            ("", 422),
            ("{}", 422),
            ('{"token": 5}', 422),
            ('{"token": ', 400),
            (f'{{"tokn": "{TOKEN}"}}', 422),
        ):
            async with session.post("/login", data=body, headers=JSON) as response:
                assert response.status == status
                assert TOKEN not in await response.text()


async def test_the_page_depends_on_who_is_admitted() -> None:
    async with client() as session:
        async with session.get("/") as response:
            assert (response.status, await response.text()) == (200, "log in\n")
        assert await status_of(session, "POST", "/", "{}", JSON) == 401
        await status_of(session, "POST", "/login", RIGHT, JSON)
        async with session.get("/") as response:
            assert await response.text() == "the page\n"


async def test_without_a_token_everybody_sees_the_page_and_nobody_logs_in() -> None:
    async with client(token="") as session:
        async with session.get("/") as response:
            assert await response.text() == "the page\n"
        assert await status_of(session, "POST", "/login", RIGHT, JSON) == 409
        assert await status_of(session, "POST", "/logout", "{}", JSON) == 204


async def test_a_page_of_another_site_can_neither_use_a_session_nor_open_one() -> None:
    async with client() as session:
        foreign = JSON | {"Origin": "http://evil.example"}
        assert await status_of(session, "POST", "/login", RIGHT, foreign) == 403
        assert await status_of(session, "POST", "/login", RIGHT, JSON) == 204
        for path in ("/secret", "/logout"):
            assert await status_of(session, "POST", path, "{}", foreign) == 403
            assert await status_of(session, "POST", path, "{}", {"Content-Type": "text/plain"}) == 415


async def test_many_logins_at_once_are_all_accepted() -> None:
    async with client() as session:
        statuses = await asyncio.gather(
            *(status_of(session, "POST", "/login", RIGHT, JSON) for _ in range(3 * MAX_TRIES))
        )
    assert set(statuses) == {204}
