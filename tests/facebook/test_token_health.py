"""The health of a token: read leniently, and not requested during a rate limit."""

from datetime import UTC, datetime

import pytest
from aiohttp import web

from contracts.source_contract import RecordingGate
from kit.graph_answers import TOKEN, Json, error
from kit.loopback import serving
from milepost.core.model import TokenHealth
from milepost.core.ports import Held
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.calls import Access, Budget, RateLimiter
from milepost.facebook.client import GraphClient
from milepost.facebook.page_health import InspectedToken, inspect_token

APRIL = datetime(2026, 4, 1, tzinfo=UTC)


async def fetched_health(
    body: Json | bytes, status: int = 200, gate: RecordingGate | None = None
) -> TokenHealth | Problem | Held:
    seen: list[web.Request] = []

    async def respond(request: web.Request) -> web.Response:
        seen.append(request)
        if isinstance(body, bytes):
            return web.Response(body=body, status=status)
        return web.json_response(body, status=status)

    async with (
        serving(respond) as base_url,
        GraphClient(base_url, "v26.0", clock=lambda: datetime.now(UTC)) as client,
    ):
        inspected = await inspect_token(client, Access(TOKEN, RateLimiter(0, Budget())), gate or RecordingGate())
    found = inspected.health if isinstance(inspected, InspectedToken) else inspected
    assert [(each.path, dict(each.query)) for each in seen] == (
        [] if isinstance(found, Held) else [("/v26.0/debug_token", {"input_token": TOKEN})]
    )
    return found


@pytest.mark.parametrize(
    ("facts", "health"),
    [
        ({"is_valid": True, "expires_at": 0, "data_access_expires_at": 0}, TokenHealth(True)),
        ({"is_valid": True}, TokenHealth(True)),
        ({"is_valid": True, "expires_at": int(APRIL.timestamp())}, TokenHealth(True, APRIL)),
        ({"is_valid": True, "data_access_expires_at": int(APRIL.timestamp())}, TokenHealth(True, None, APRIL)),
        ({"is_valid": False, "expires_at": int(APRIL.timestamp()), "scopes": []}, TokenHealth(False, APRIL)),
        ({"is_valid": True, "expires_at": "soon", "data_access_expires_at": -1}, TokenHealth(True)),
        ({"is_valid": True, "expires_at": 10**18}, TokenHealth(True)),
    ],
)
async def test_the_health_of_a_token_is_read(facts: Json, health: TokenHealth) -> None:
    assert await fetched_health({"data": facts}) == health


@pytest.mark.parametrize(
    "body", [b"", b"<html>down</html>", b"[]", {"data": []}, {"data": {}}, {"data": {"is_valid": "yes"}}]
)
async def test_an_invalid_response_is_a_problem(body: Json | bytes) -> None:
    found = await fetched_health(body)
    assert isinstance(found, Problem)
    assert found.kind is ProblemKind.INVALID_RESPONSE


async def test_a_refusal_is_a_problem_without_the_token() -> None:
    found = await fetched_health(
        error(code=100, message=f"You must provide an app access token, not {TOKEN}"), status=400
    )
    assert isinstance(found, Problem)
    assert found.code == 100
    assert TOKEN not in str(found)


async def test_no_call_is_made_during_a_rate_limit() -> None:
    assert await fetched_health({"data": {"is_valid": True}}, gate=RecordingGate(closed=True)) == Held()


def test_a_token_ends_when_token_or_data_access_expires_first() -> None:
    later = APRIL.replace(month=5)
    assert TokenHealth(True, later, APRIL).ends_at == TokenHealth(True, APRIL).ends_at == APRIL
    assert TokenHealth(True).ends_at is None
