"""Pages of other origins: those in `http.allowed_origins` may read events and API, and nobody may change anything."""

from contextlib import AbstractAsyncContextManager

import aiohttp
import pytest
from aiohttp import web

from milepost.service.auth import PREFLIGHT
from milepost.service.http import Allowed
from service.listening import BEARER, JSON, TOKEN, listening

CRM = "https://crm.example"
ALLOW, EXPOSE, VARY = "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Vary"
ASKS = {"Origin": CRM, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}


async def things(_: web.Request) -> web.Response:
    return web.json_response([])


async def follow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b": here\n\n")
    return response


ROUTES = [
    web.get("/api/things", things),
    web.post("/api/things", things),
    web.get("/api/events", follow),
    web.get("/metrics", things),
]


def client(*allowed_origins: str, token: str = "") -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    return listening(ROUTES, token=token, allowed=Allowed(origins=allowed_origins))


async def test_a_page_that_is_allowed_may_read_what_is_under_api_and_errors_too() -> None:
    async with client(CRM, "http://localhost:3000") as session:
        for path in ("/api/things", "/api/events", "/api/nothing"):
            async with session.get(path, headers={"Origin": CRM}) as response:
                assert response.headers[ALLOW] == CRM, path
                assert "ETag" in response.headers[EXPOSE]
                assert response.headers[VARY] == "Origin"
        async with session.get("/metrics", headers={"Origin": CRM}) as response:
            assert ALLOW not in response.headers, "what is not under /api/ is for no page"


async def test_a_page_of_another_origin_may_not() -> None:
    others = "https://evil.example", "http://crm.example", "https://crm.example:8443", "https://CRM.example", "null"
    async with client(CRM) as session:
        for origin in others:
            async with session.get("/api/things", headers={"Origin": origin}) as response:
                assert ALLOW not in response.headers, origin
                assert response.headers[VARY] == "Origin"


async def test_no_page_may_read_anything_by_default() -> None:
    async with client() as session, session.get("/api/things", headers={"Origin": CRM}) as response:
        assert not {ALLOW, VARY} & set(response.headers)


async def test_a_page_may_ask_whether_it_may_bring_a_token_and_asks_without_one() -> None:
    async with client(CRM, token=TOKEN) as session:
        async with session.options("/api/things", headers=ASKS) as response:
            assert response.status == 204
            assert response.headers[ALLOW] == CRM
            assert PREFLIGHT.items() <= dict(response.headers).items()
        async with session.get("/api/things", headers={"Origin": CRM, **BEARER}) as response:
            assert (response.status, response.headers[ALLOW]) == (200, CRM)
        async with session.get("/api/things", headers={"Origin": CRM}) as response:  # it may read why
            assert (response.status, response.headers[ALLOW]) == (401, CRM)


@pytest.mark.parametrize("asked", [{"Origin": "https://evil.example"}, {"Access-Control-Request-Method": "POST"}])
async def test_other_questions_are_answered_like_any_request(asked: dict[str, str]) -> None:
    async with client(CRM, token=TOKEN) as session, session.options("/api/things", headers=ASKS | asked) as response:
        assert response.status == 401
        assert "Access-Control-Allow-Methods" not in response.headers


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_a_page_that_is_allowed_may_not_change_anything(token: str) -> None:
    headers = {"Origin": CRM, **JSON, **BEARER}
    async with client(CRM, token=token) as session, session.post("/api/things", headers=headers) as response:
        assert response.status == 403


async def test_a_session_of_the_browser_is_not_lent_to_a_page() -> None:
    """Without Access-Control-Allow-Credentials a browser keeps what was answered to its cookie to itself."""
    async with client(CRM) as session, session.get("/api/things", headers={"Origin": CRM}) as response:
        assert "Access-Control-Allow-Credentials" not in response.headers


async def test_a_page_from_elsewhere_does_not_get_around_the_name_of_the_host() -> None:
    headers = {"Origin": CRM, "Host": "evil.example"}
    async with client(CRM) as session, session.get("/api/things", headers=headers) as response:
        assert response.status == 421
