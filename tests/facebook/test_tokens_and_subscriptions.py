"""The health of a page's token and its subscription to webhooks: read leniently, and not during a rate limit."""

from datetime import UTC, datetime

import pytest
from aiohttp import web

from contracts.source_contract import RecordingGate
from kit.graph_answers import TOKEN, Json, error
from kit.graph_client import access_of, client_of
from milepost.core.model import Platform, TokenHealth
from milepost.core.ports import Held
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.pages import InspectedToken, Subscription, Subscriptions, inspect_token

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

    async with client_of(respond) as client:
        inspected = await inspect_token(client, access_of(), gate or RecordingGate())
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


# --- webhooks ---------------------------------------------------------------------------------------------------------


async def looked(
    body: object, app_id: str = "", *, platforms: tuple[Platform, ...] = (Platform.MESSENGER,), status: int = 200
) -> Subscription | Problem | Held:
    async def respond(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    async with client_of(respond) as client:
        return await Subscriptions(client, access_of(), RecordingGate(), "1", platforms).look(app_id)


def app(app_id: str | None, *fields: str) -> dict[str, object]:
    return {"id": app_id, "name": "an app", "subscribed_fields": list(fields)}


async def test_only_the_fields_of_our_app_count_where_its_id_is_known() -> None:
    apps = {"data": [app("7", "messages", "standby"), app("8", "message_echoes")]}
    ours = await looked(apps, "7")
    assert isinstance(ours, Subscription)
    assert ours.missing == ("message_echoes", "messaging_postbacks")
    everybodys = await looked(apps)
    assert isinstance(everybodys, Subscription)
    assert everybodys.missing == ("messaging_postbacks",)


async def test_our_app_is_found_on_a_later_page_of_the_list() -> None:
    seen: list[str | None] = []

    async def respond(request: web.Request) -> web.Response:
        seen.append(request.query.get("after"))
        if "after" in request.query:
            return web.json_response({"data": [app("7", "messages", "feed")], "paging": {"cursors": {"after": "y"}}})
        others = [app(str(number), "standby") for number in range(100, 125)]
        paging = {"cursors": {"after": "x"}, "next": str(request.url.update_query(after="x"))}
        return web.json_response({"data": others, "paging": paging})

    async with client_of(respond) as client:
        subscriptions = Subscriptions(client, access_of(), RecordingGate(), "1", [Platform.MESSENGER])
        found = await subscriptions.look("7")
    assert isinstance(found, Subscription)
    assert found.fields == {"messages", "feed"}
    assert seen == [None, "x"]


async def test_a_list_of_apps_without_an_end_says_nothing() -> None:
    paging = {"cursors": {"after": "x"}, "next": "https://graph.facebook.com/v26.0/1/subscribed_apps?after=x"}
    found = await looked({"data": [app("8", "messages")], "paging": paging}, "7")
    assert isinstance(found, Problem)
    assert found.kind is ProblemKind.CURSOR_LOOP


async def test_any_field_of_its_page_switches_an_instagram_account_on() -> None:
    found = await looked({"data": [app("7", "messages")]}, "7", platforms=(Platform.INSTAGRAM,))
    assert isinstance(found, Subscription)
    assert found.missing == ()


@pytest.mark.parametrize(
    "body", [{"data": []}, {"data": [{"id": "7", "name": "an app"}]}, {"data": [app("8", "messages")]}]
)
async def test_a_page_without_a_subscription_lacks_everything(body: object) -> None:
    found = await looked(body, "7")
    assert isinstance(found, Subscription)
    assert len(found.missing) == 4


@pytest.mark.parametrize("body", [[], {"success": True}, {"error": {"code": 200, "message": "no"}}])
async def test_another_answer_says_nothing(body: object) -> None:
    assert isinstance(await looked(body), Problem)
    assert isinstance(await looked(body, status=400), Problem)


async def test_mending_subscribes_to_what_is_missing_and_to_what_there_was() -> None:
    seen: list[tuple[str, str]] = []

    async def respond(request: web.Request) -> web.Response:
        seen.append((request.method, request.query["subscribed_fields"]))
        return web.json_response({"success": True})

    found = Subscription(frozenset({"feed"}), frozenset({"messages"}), frozenset({"message_edits"}))
    async with client_of(respond) as client:
        subscriptions = Subscriptions(client, access_of(), RecordingGate(), "1", [Platform.MESSENGER])
        assert await subscriptions.mend(found, (*found.missing, *found.lacking)) is None
    assert seen == [("POST", "feed,message_edits,messages")]
