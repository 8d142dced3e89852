"""The answers of a page's subscribed_apps: of one app or of several, and those that say nothing."""

from datetime import UTC, datetime

import pytest
from aiohttp import web

from contracts.source_contract import RecordingGate
from kit.graph_answers import TOKEN
from kit.loopback import serving
from milepost.core.model import Platform
from milepost.core.ports import Held
from milepost.core.problems import Problem
from milepost.facebook.calls import Access, Budget, RateLimiter
from milepost.facebook.client import GraphClient
from milepost.facebook.page_health import Subscription, Subscriptions


async def looked(
    body: object, app_id: str = "", *, platforms: tuple[Platform, ...] = (Platform.MESSENGER,), status: int = 200
) -> Subscription | Problem | Held:
    async def respond(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    async with (
        serving(respond) as base_url,
        GraphClient(base_url, "v26.0", clock=lambda: datetime.now(UTC)) as client,
    ):
        access = Access(TOKEN, RateLimiter(0, Budget()))
        return await Subscriptions(client, access, RecordingGate(), "1", platforms).look(app_id)


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
