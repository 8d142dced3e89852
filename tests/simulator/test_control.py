"""Manual changes to pages and tokens in the simulator, in its process and over HTTP."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from kit.binary import until
from kit.simulated import BAKERY, BICYCLES, Client, frozen_client
from milepost.simulator.conditions import Hold
from milepost.simulator.control import Control

LIST = f"v26.0/{BAKERY.id}/conversations"
OTHER_LIST = f"v26.0/{BICYCLES.id}/conversations"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with frozen_client() as client:
        yield client


async def managed(client: Client) -> list[str]:
    _, body = await client.get("v26.0/me/accounts", token=client.server.world.user_token, limit="100")
    return [page["id"] for page in body["data"]]


async def debugged(client: Client, token: str) -> dict[str, object]:
    _, body = await client.get("v26.0/debug_token", token=client.server.world.user_token, input_token=token)
    data: dict[str, object] = body["data"]
    return data


class TestHolding:
    async def test_requests_are_held_from_a_given_one_on_until_they_are_released(self, client: Client) -> None:
        await client.act("hold", after=2)
        assert [await client.code(LIST) for _ in range(2)] == [None, None]
        held = asyncio.create_task(client.code(LIST))
        await until(lambda: client.server.held == 1)
        assert await client.code(OTHER_LIST, token=BICYCLES.token) is None, "each stream is counted by itself"
        async with client.session.get(f"{client.server.base_url}/simulator/requests") as response:
            assert (await response.json())["held"] == 1
        assert not held.done()

        await client.act("release")

        assert await held is None
        assert await client.code(LIST) is None
        assert client.server.held == 0

    async def test_a_later_hold_releases_the_requests_that_it_does_not_cover(self, client: Client) -> None:
        client.server.hold()
        held = asyncio.create_task(client.code(LIST))
        await until(lambda: client.server.held == 1)

        client.server.hold(after=1)

        assert await held is None
        late = asyncio.create_task(client.code(LIST))
        await until(lambda: client.server.held == 1)
        client.server.release()
        assert await late is None

    async def test_held_requests_do_not_delay_the_shutdown(self, client: Client) -> None:
        client.server.hold()
        held = asyncio.create_task(client.code(LIST))
        await until(lambda: client.server.held == 1)
        await client.server.__aexit__(None, None, None)
        with pytest.raises(aiohttp.ClientError):
            await held


class TestTokens:
    @pytest.mark.parametrize("subcode", [460, 463])
    async def test_a_revoked_token_is_invalid_until_it_is_allowed_again(self, client: Client, subcode: int) -> None:
        client.server.world.access.revoke(BAKERY.id, subcode)
        for path in (LIST, f"v26.0/{BAKERY.id}", f"v26.0/{client.truth()[0].id}"):
            response, body = await client.get(path)
            assert response.status == 400
            assert (body["error"]["code"], body["error"]["error_subcode"]) == (190, subcode)
        assert not (await debugged(client, BAKERY.token))["is_valid"]
        assert await client.code(OTHER_LIST, token=BICYCLES.token) is None
        client.server.world.access.allow(BAKERY.id)
        assert await client.code(LIST) is None
        assert (await debugged(client, BAKERY.token))["is_valid"]

    async def test_a_token_shows_its_expiry_and_works_until_it_is_revoked(self, client: Client) -> None:
        assert (await debugged(client, BAKERY.token))["expires_at"] == 0
        await client.act("expire", owner=BAKERY.id, in_seconds=60)
        assert (await debugged(client, BAKERY.token))["expires_at"] == client.clock().timestamp() + 60
        assert await client.code(LIST) is None

    async def test_a_renewed_token_works_and_the_previous_one_does_not(self, client: Client) -> None:
        token = client.server.world.access.renew(BAKERY.id)
        assert token != BAKERY.token
        assert await client.code(LIST) == 190
        assert await client.code(LIST, token=token) is None
        assert await client.code(f"v26.0/{client.truth()[0].id}", token=token) is None
        assert client.server.pages[0].token == token
        _, body = await client.get("v26.0/me/accounts", token=client.server.world.user_token)
        assert body["data"][0]["access_token"] == token
        assert (await debugged(client, token))["profile_id"] == BAKERY.id
        assert not (await debugged(client, BAKERY.token))["is_valid"]

    async def test_the_users_token_can_be_revoked_and_renewed_too(self, client: Client) -> None:
        old = client.server.world.user_token
        client.server.world.access.revoke("me")
        assert await client.code("v26.0/me/accounts", token=old) == 190
        assert await client.code(LIST) is None
        new = client.server.world.access.renew("me")
        assert await client.code("v26.0/me/accounts", token=new) is None
        assert await client.code("v26.0/me/accounts", token=old) == 190

    @pytest.mark.parametrize("code", [10, 200])
    async def test_a_missing_permission_refuses_conversations_only(self, client: Client, code: int) -> None:
        client.server.world.access.forbid(BAKERY.id, code)
        assert await client.code(LIST) == code
        assert await client.code(f"v26.0/{client.truth()[0].id}") == code
        assert await client.code(f"v26.0/{BAKERY.id}") is None
        facts = await debugged(client, BAKERY.token)
        assert facts["is_valid"]
        assert "pages_messaging" not in str(facts["scopes"])
        client.server.world.access.allow(BAKERY.id)
        assert await client.code(LIST) is None

    def test_tokens_of_an_unknown_page_cannot_be_changed(self, client: Client) -> None:
        access = client.server.world.access
        for change in (access.revoke, access.renew, access.forbid, access.allow, access.manage, access.unmanage):
            with pytest.raises(KeyError):
                change("1")


class TestBrokenPages:
    @pytest.mark.parametrize(
        ("code", "status", "subcode"),
        [
            (2, 500, None),
            (1, 500, None),
            (3, 400, None),
            (12, 400, None),
            (100, 400, None),
            (100, 400, 33),
            (104, 400, None),
            (190, 400, 467),
            (2500, 400, None),
            (2635, 400, None),
            (999, 400, None),
        ],
    )
    async def test_every_request_of_a_broken_page_fails_until_it_is_mended(
        self, client: Client, code: int, status: int, subcode: int | None
    ) -> None:
        client.server.break_page(BAKERY.id, code, subcode)
        for path in (LIST, f"v26.0/{BAKERY.id}", f"v26.0/{client.truth()[0].id}"):
            response, body = await client.get(path)
            assert (response.status, body["error"]["code"], body["error"].get("error_subcode")) == (
                status,
                code,
                subcode,
            )
        assert await client.code(OTHER_LIST, token=BICYCLES.token) is None
        client.server.mend_page(BAKERY.id)
        assert await client.code(LIST) is None
        assert client.server.requests.by_fault == {"broken": 3}

    async def test_the_error_of_a_broken_page_can_be_transient(self, client: Client) -> None:
        client.server.break_page(BAKERY.id, 999, is_transient=True)
        errors = [(await client.conversations())["error"] for _ in range(20)]
        assert {error.get("is_transient") for error in errors} == {True, None}, "now and then the key is missing"

    async def test_a_deleted_thread_is_missing(self, client: Client) -> None:
        thread = client.truth("instagram")[3].id
        client.server.world.delete(thread)
        _, body = await client.get(f"v26.0/{thread}", fields="id,updated_time")
        assert (body["error"]["code"], body["error"]["error_subcode"]) == (100, 33)


class TestDiscovery:
    async def test_pages_can_be_added_and_removed(self, client: Client) -> None:
        client.server.world.access.unmanage(BAKERY.id)
        assert await managed(client) == [BICYCLES.id]
        assert await client.code(LIST) is None, "the token stays valid"
        page_id = client.server.world.add_page()
        assert await managed(client) == [BICYCLES.id, page_id]
        page = client.server.world.access.page(page_id)
        for platform in page.platforms:
            _, body = await client.get(f"v26.0/{page_id}/conversations", token=page.token, platform=platform)
            assert len(body["data"]) == 25
        account = f"v26.0/{page.instagram_account_id}/conversations"
        assert await client.code(account, token=page.token) is None
        client.server.world.access.manage(BAKERY.id)
        assert await managed(client) == [BAKERY.id, BICYCLES.id, page_id]

    async def test_a_walk_over_the_pages_loses_none_when_others_are_removed(self, client: Client) -> None:
        user, last = client.server.world.user_token, client.server.world.add_page()
        _, first = await client.get("v26.0/me/accounts", token=user, limit="1")
        assert [page["id"] for page in first["data"]] == [BAKERY.id]
        client.server.world.access.unmanage(BAKERY.id)
        after = first["paging"]["cursors"]["after"]
        _, rest = await client.get("v26.0/me/accounts", token=user, limit="9", after=after)
        assert [page["id"] for page in rest["data"]] == [BICYCLES.id, last]


class TestOverHttp:
    async def test_every_action_works_over_http(self, client: Client) -> None:
        thread = client.truth()[0].id
        await client.act("poison", conversation_id=thread)
        assert await client.code(LIST) == 1
        await client.act("poison", conversation_id=thread, ailment="poison_messages")
        assert await client.code(LIST) is None
        _, truth = await client.get("simulator/truth", token="", page=BAKERY.id)
        assert [row["ailment"] for row in truth["conversations"][:2]] == ["poison_messages", None]
        await client.act("cure", conversation_id=thread)
        await client.act("delete", conversation_id=thread)
        arrived = await client.act("receive", page_id=BAKERY.id, platform="messenger")
        assert client.truth()[0].id == arrived
        assert thread not in {row.id for row in client.truth()}

        await client.act("limit", code=17, seconds=60, page_id=BAKERY.id, told="retry_after")
        assert await client.code(LIST) == 17
        await client.act("lift", page_id=BAKERY.id)
        await client.act("break_page", page_id=BAKERY.id, code=190, subcode=458)
        assert (await client.conversations())["error"]["error_subcode"] == 458
        await client.act("mend_page", page_id=BAKERY.id)
        await client.act("usage", percent=91)
        response, body = await client.get(LIST)
        assert json.loads(response.headers["X-Page-Usage"])["call_count"] == 91
        await client.act("kill_cursors")
        assert await client.code(LIST, after=body["paging"]["cursors"]["after"]) == 2642

    async def test_calm_ends_random_faults_and_keeps_the_rules(self) -> None:
        async with frozen_client(faults="http_500=1,heavy=5,poison=1") as client:
            assert await client.code(LIST, limit="5", fields="id") == 2
            await client.act("calm")
            assert await client.code(LIST, limit="5", fields="id") is None
            assert await client.code(LIST, limit="5") == 1, "the threads are as ill as before"
            assert await client.code(LIST, limit="6", fields="id") == 1, "the list is as heavy as before"

    async def test_tokens_and_the_users_pages_can_be_changed(self, client: Client) -> None:
        await client.act("revoke", owner=BAKERY.id, subcode=463)
        assert await client.code(LIST) == 190
        await client.act("allow", owner=BAKERY.id)
        await client.act("forbid", page_id=BAKERY.id, code=200)
        assert await client.code(LIST) == 200
        await client.act("allow", owner=BAKERY.id)
        token = await client.act("renew", owner=BAKERY.id)
        assert await client.code(LIST, token=token) is None
        page_id = await client.act("add_page")
        await client.act("unmanage", page_id=BICYCLES.id)
        assert await managed(client) == [BAKERY.id, page_id]
        await client.act("manage", page_id=BICYCLES.id)
        assert await managed(client) == [BAKERY.id, BICYCLES.id, page_id]

    @pytest.mark.parametrize(
        ("action", "body", "status", "reason"),
        [
            ("explode", "{}", 404, "no such action"),
            ("limit", "{}", 400, "missing a required argument: 'code'"),
            ("limit", '{"code": 4, "seconds": 1, "colour": "red"}', 400, "colour"),
            ("limit", '{"code": "four", "seconds": 1}', 400, "Expected `int`"),
            ("limit", '{"code": 5, "seconds": 1}', 400, "no limit has the code 5"),
            ("limit", '{"code": 4, "seconds": 1e300}', 400, "error"),
            ("limit", '{"code": 17, "seconds": 1, "page_id": "1"}', 404, "there is no 1"),
            ("poison", '{"conversation_id": "t_1"}', 404, "there is no t_1"),
            ("poison", '{"conversation_id": "t_1", "ailment": "flu"}', 400, "flu"),
            ("cure", "[]", 400, "Expected `object`"),
            ("cure", "{", 400, "error"),
        ],
    )
    async def test_an_impossible_action_is_refused_with_the_reason(
        self, client: Client, action: str, body: str, status: int, reason: str
    ) -> None:
        address = f"{client.server.base_url}/simulator/{action}"
        async with client.session.post(address, data=body, headers={"Content-Type": "application/json"}) as response:
            assert response.status == status
            assert reason in await response.text()

    async def test_every_action_is_documented(self, client: Client) -> None:
        page = (Path(__file__).parents[2] / "docs/simulator.md").read_text()
        section = page.partition("\n## Actions\n")[2].partition("\n## ")[0]
        first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        documented = {name.strip("`") for cell in first_cells for name in cell.split(", ")}
        async with client.session.post(f"{client.server.base_url}/simulator/what") as response:
            assert set((await response.json())["actions"]) == documented

    @pytest.mark.parametrize(
        ("address", "status"),
        [
            ("127.0.0.1", 200),
            ("127.8.9.10", 200),
            ("::1", 200),
            ("::ffff:127.0.0.1", 200),
            ("192.0.2.7", 403),
            ("::ffff:192.0.2.7", 403),
            ("2001:db8::7", 403),
        ],
    )
    async def test_only_this_machine_may_act(self, client: Client, address: str, status: int) -> None:
        @web.middleware
        async def from_there(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await handler(request.clone(remote=address))

        application = web.Application(middlewares=[from_there])
        Control(client.server.world, client.server.requests, Hold(), (), client.clock).add_to(application.router)
        async with (
            TestServer(application) as server,
            client.session.post(server.make_url("/simulator/kill_cursors"), json={}) as response,
        ):
            assert response.status == status
        assert client.server.world.cursor_generation == (1 if status == 200 else 0)

    async def test_a_web_page_cannot_post_by_a_form(self, client: Client) -> None:
        async with client.session.post(f"{client.server.base_url}/simulator/kill_cursors", data="{}") as response:
            assert response.status == 415
        assert client.server.world.cursor_generation == 0
