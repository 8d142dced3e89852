"""The simulator over HTTP: it responds and fails as the Graph API does, and records its requests."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from kit.simulated import Client, Clock, Json, frozen_client
from milepost.core.errors import MilepostError
from milepost.simulator.faults import parse_faults
from milepost.simulator.plan import Platform, SimulatedPage, WorldPlan
from milepost.simulator.server import SimulatorServer

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PLAN = WorldPlan(seed=3, pages=2, conversations=60, messages_per_conversation=12, arrivals_per_minute=1)
EVERYTHING = (
    "id,updated_time,link,snippet,message_count,unread_count,can_reply,participants,"
    "messages.limit(20){id,created_time,from,to,message,attachments,sticker,shares,story}"
)


class Start(Protocol):
    async def __call__(self, faults: str = "calm", plan: WorldPlan = PLAN, app_secret: str = "") -> Client: ...


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts simulators, and stops them at the end of the test."""
    async with aiohttp.ClientSession() as session:
        servers: list[SimulatorServer] = []

        async def started(faults: str = "calm", plan: WorldPlan = PLAN, app_secret: str = "") -> Client:
            clock = Clock(NOON)
            server = SimulatorServer(plan, clock=clock, faults=parse_faults(faults), app_secret=app_secret)
            servers.append(await server.__aenter__())
            return Client(server, session, clock)

        yield started
        for server in servers:
            await server.__aexit__(None, None, None)


@pytest.fixture
async def client(start: Start) -> Client:
    return await start()


class TestConversations:
    async def test_a_row_has_the_fields_of_the_platform(self, client: Client) -> None:
        rows = await client.walk(fields=EVERYTHING)
        whole = next(row for row in rows if {"link", "snippet", "unread_count", "participants"} <= row.keys())
        assert isinstance(whole["message_count"], int)
        assert isinstance(whole["can_reply"], bool)
        datetime.strptime(whole["updated_time"], "%Y-%m-%dT%H:%M:%S+0000").replace(tzinfo=UTC)
        contact, page = sorted(whole["participants"]["data"], key=lambda person: bool(person["id"] == client.page.id))
        assert page == {
            "name": client.page.name,
            "email": f"{client.page.id}@facebook.com",
            "id": client.page.id,
        }
        assert contact["email"] == f"{contact['id']}@facebook.com"
        assert {person["id"] for person in whole["participants"]["data"]} >= {
            whole["messages"]["data"][0]["from"]["id"]
        }

    async def test_instagram_people_have_a_username_and_the_page_goes_by_its_account(self, client: Client) -> None:
        rows = await client.walk(platform="instagram", fields=EVERYTHING)
        people = [person for row in rows if "participants" in row for person in row["participants"]["data"]]
        assert {frozenset(person) for person in people} == {frozenset({"username", "id"})}
        assert client.page.instagram_account_id in {person["id"] for person in people}
        assert client.page.id not in {person["id"] for person in people}

    async def test_participants_come_in_no_fixed_order(self, client: Client) -> None:
        rows = await client.walk(fields="participants")
        first = [row["participants"]["data"][0]["id"] == client.page.id for row in rows if "participants" in row]
        assert 0 < sum(first) < len(first)

    async def test_only_requested_fields_are_sent(self, client: Client) -> None:
        body = await client.conversations(fields="updated_time,participants{id},messages.limit(2){message}")
        assert all(row.keys() <= {"id", "updated_time", "participants", "messages"} for row in body["data"])
        assert all(message.keys() <= {"id", "message"} for row in body["data"] for message in row["messages"]["data"])
        assert max(len(row["messages"]["data"]) for row in body["data"]) == 2

    async def test_nested_messages_come_newest_first_and_twenty_at_most(self, client: Client) -> None:
        rows = await client.walk(fields="updated_time,message_count,messages.limit(99){created_time}")
        assert max(len(row["messages"]["data"]) for row in rows) == 20
        for row in rows:
            times = [message["created_time"] for message in row["messages"]["data"]]
            assert times == sorted(times, reverse=True)
            assert times[0] == row["updated_time"]
            assert ("next" in row["messages"]["paging"]) is (row["message_count"] > 20 or len(times) > 20)

    async def test_a_larger_limit_is_reduced_silently(self, start: Start) -> None:
        client = await start(plan=WorldPlan(pages=1, conversations=250))
        assert len((await client.conversations(limit="5000"))["data"]) == 200
        assert len((await client.conversations())["data"]) == 25

    async def test_the_account_id_can_stand_for_the_page(self, client: Client) -> None:
        _, body = await client.get(f"v26.0/{client.page.instagram_account_id}/conversations", fields="id")
        assert body["data"][0]["id"] == client.truth("instagram")[0].id

    async def test_a_single_conversation_can_be_requested(self, client: Client) -> None:
        row = client.truth()[0]
        _, body = await client.get(f"v26.0/{row.id}", fields="id,messages.limit(20){id}")
        assert body["id"] == row.id
        assert tuple(message["id"] for message in body["messages"]["data"]) == row.message_ids


class TestMessages:
    @pytest.mark.parametrize("platform", ["messenger", "instagram"])
    async def test_a_walk_over_a_threads_messages_finds_all_or_on_instagram_the_newest_twenty(
        self, client: Client, platform: Platform
    ) -> None:
        for row in client.truth(platform)[:20]:
            found: list[Json] = []
            after: dict[str, str] = {}
            for _ in range(row.message_count // 7 + 2):  # on Instagram, the page after the newest twenty is empty
                _, body = await client.get(f"v26.0/{row.id}/messages", limit="7", fields="created_time,from", **after)
                found += body["data"]
                if "next" not in body.get("paging", {}):
                    break
                after = {"after": body["paging"]["cursors"]["after"]}
            else:
                pytest.fail("the walk comes to no end")
            ids = [message["id"] for message in found]
            assert tuple(ids[:20]) == row.message_ids
            assert len(set(ids)) == len(ids) == (row.message_count if platform == "messenger" else len(row.message_ids))
            times = [message["created_time"] for message in found]
            assert times == sorted(times, reverse=True)
            assert {frozenset(message) for message in found} == {frozenset({"id", "created_time", "from"})}

    async def test_the_links_of_nested_messages_lead_to_the_rest(self, client: Client) -> None:
        row = next(row for row in client.truth() if row.message_count > 3)
        _, thread = await client.get(f"v26.0/{row.id}", fields="messages.limit(2){id}")
        async with client.session.get(thread["messages"]["paging"]["next"]) as response:
            body = await response.json()
        assert [message["id"] for message in body["data"]] == list(row.message_ids[2:4])

    async def test_an_arriving_message_moves_no_cursor(self, client: Client) -> None:
        row = next(row for row in client.truth() if 4 < row.message_count < 20)
        _, body = await client.get(f"v26.0/{row.id}/messages", limit="2")
        client.server.world.receive(client.page.id, "messenger", client.clock(), row.id)
        _, rest = await client.get(f"v26.0/{row.id}/messages", after=body["paging"]["cursors"]["after"])
        assert tuple(message["id"] for message in rest["data"]) == row.message_ids[2:]

    async def test_a_burst_is_read_page_by_page_the_newest_first(self, client: Client) -> None:
        row = next(row for row in client.truth() if row.message_count < 20)
        client.server.world.receive(client.page.id, "messenger", client.clock(), row.id, 60)
        listed = await client.conversations(fields="id,messages.limit(20){id}")
        (nested,) = (each["messages"] for each in listed["data"] if each["id"] == row.id)
        _, body = await client.get(f"v26.0/{row.id}/messages", limit="100", after=nested["paging"]["cursors"]["after"])
        ids = [message["id"] for message in (*nested["data"], *body["data"])]
        assert len(set(ids)) == len(ids) == 60 + row.message_count
        assert tuple(ids[60:]) == row.message_ids
        assert "next" not in body["paging"]

    async def test_invalid_requests_for_a_threads_messages_are_refused(self, client: Client) -> None:
        path = f"v26.0/{client.truth()[0].id}/messages"
        assert await client.code(path, after="nonsense") == 2642
        assert await client.code(path, before="x") == 100
        assert await client.code(path, fields="colour") == 100
        assert await client.code(path, limit="0") == 100
        assert await client.code(f"v26.0/{client.page.id}/messages") == 100


class TestPaging:
    @pytest.mark.parametrize("platform", ["messenger", "instagram"])
    @pytest.mark.parametrize("limit", ["1", "7", "60", "200"])
    async def test_a_walk_finds_the_truth(self, client: Client, platform: Platform, limit: str) -> None:
        rows = await client.walk(platform=platform, limit=limit, fields=EVERYTHING)
        own = {client.page.id, client.page.instagram_account_id}
        found = [
            (
                row["id"],
                row["updated_time"],
                next((p["id"] for p in row.get("participants", {"data": []})["data"] if p["id"] not in own), None),
                tuple(message["id"] for message in row["messages"]["data"]),
            )
            for row in rows
        ]
        assert found == [
            (row.id, row.updated_time.strftime("%Y-%m-%dT%H:%M:%S+0000"), row.contact_id, row.message_ids)
            for row in client.truth(platform)
        ]

    async def test_the_last_batch_has_cursors_but_no_next(self, client: Client) -> None:
        body = await client.conversations(limit="60")
        assert len(body["data"]) == 60
        assert "next" not in body["paging"]
        assert (await client.conversations(after=body["paging"]["cursors"]["after"])) == {"data": []}

    async def test_links_hold_the_token_and_lead_to_the_next_batch(self, client: Client) -> None:
        body = await client.conversations(limit="10", fields="id,messages.limit(1){id}")
        following = urlsplit(body["paging"]["next"])
        query = parse_qs(following.query)
        assert query["access_token"] == [client.page.token]
        assert query["after"] == [body["paging"]["cursors"]["after"]]
        assert any(client.page.token in row["messages"]["paging"].get("next", "") for row in body["data"])
        async with client.session.get(body["paging"]["next"]) as response:
            onward = json.loads(await response.read())
        assert [row["id"] for row in onward["data"]] == [row.id for row in client.truth()[10:20]]
        assert client.page.token in onward["paging"]["previous"]

    async def test_a_thread_that_moves_behind_the_walk_is_missed_by_it_and_seen_at_the_head(
        self, client: Client
    ) -> None:
        body = await client.conversations(limit="20", fields="id")
        victim = client.truth()[40].id
        client.clock.now += timedelta(seconds=1)
        client.server.world.receive(client.page.id, "messenger", client.clock(), victim)

        rest = await client.conversations(limit="200", fields="id", after=body["paging"]["cursors"]["after"])
        seen = [row["id"] for row in body["data"] + rest["data"]]
        assert victim not in seen
        assert len(seen) == 59
        assert (await client.conversations(limit="1"))["data"][0]["id"] == victim

    async def test_threads_move_as_time_passes(self, client: Client) -> None:
        before = await client.walk(fields="updated_time")
        client.clock.now += timedelta(minutes=10)
        after = await client.walk(fields="updated_time")
        assert len(after) == len(before)
        assert 9 <= len([row for row in after if row not in before]) <= 11

    @pytest.mark.parametrize("after", ["nonsense", "MAZDZD", "", "ÿ"])
    async def test_a_cursor_that_was_never_issued_is_invalid(self, client: Client, after: str) -> None:
        assert (await client.conversations(after=after))["error"]["code"] == 2642

    async def test_a_cursor_is_valid_for_its_own_stream_only(self, client: Client) -> None:
        after = (await client.conversations())["paging"]["cursors"]["after"]
        assert (await client.conversations(after=after, platform="instagram"))["error"]["code"] == 2642


class TestHeaders:
    async def test_every_response_has_version_usage_and_the_worlds_time(self, client: Client) -> None:
        for token in (client.page.token, "wrong"):
            response, _ = await client.get(f"v25.0/{client.page.id}/conversations", token=token)
            assert response.headers["facebook-api-version"] == "v25.0"
            assert parsedate_to_datetime(response.headers["Date"]) == NOON
            assert json.loads(response.headers["X-App-Usage"])["call_count"] < 80
            assert json.loads(response.headers["X-Page-Usage"])["call_count"] < 80
            business = json.loads(response.headers["X-Business-Use-Case-Usage"])[client.page.id]
            assert business[0]["estimated_time_to_regain_access"] == 0


class TestRefusals:
    async def test_an_unknown_token_is_refused(self, client: Client) -> None:
        response, body = await client.get(f"v26.0/{client.page.id}/conversations", token="EAAwrong")
        assert response.status == 400
        assert body["error"]["code"] == 190
        assert body["error"]["message"]

    @pytest.mark.parametrize("path", ["1234567890/conversations", "1234567890", "17841499999999999/conversations"])
    async def test_ids_of_another_world_do_not_exist(self, client: Client, path: str) -> None:
        _, body = await client.get(f"v26.0/{path}")
        assert (body["error"]["code"], body["error"].get("error_subcode")) == (100, 33)

    async def test_a_thread_of_another_world_does_not_exist(self, client: Client) -> None:
        async with frozen_client(seed=2) as other:
            thread = other.truth()[0].id
        for path in (thread, f"{thread}/messages", "t_100123456789012"):
            _, body = await client.get(f"v26.0/{path}")
            assert (body["error"]["code"], body["error"].get("error_subcode")) == (100, 33), path

    async def test_an_envelope_can_lack_any_key_that_is_not_guaranteed(self, client: Client) -> None:
        bodies = [(await client.get(f"v26.0/{client.page.id}/feed"))[1] for _ in range(30)]
        shapes = {frozenset(body["error"]) for body in bodies}
        whole = {"message", "type", "code", "error_subcode", "fbtrace_id"}
        assert shapes == {frozenset(whole), frozenset(whole - {"type"}), frozenset(whole - {"fbtrace_id"})}

    async def test_messages_come_in_more_than_one_language(self, start: Start) -> None:
        client = await start("http_500=1")
        assert len({(await client.conversations())["error"]["message"] for _ in range(20)}) == 2

    async def test_a_request_without_a_token_is_refused(self, client: Client) -> None:
        async with client.session.get(f"{client.server.base_url}/v26.0/{client.page.id}/conversations") as response:
            assert (await response.json())["error"]["code"] == 104

    async def test_a_token_in_the_query_is_accepted(self, client: Client) -> None:
        url = f"{client.server.base_url}/v26.0/{client.page.id}/conversations"
        async with client.session.get(url, params={"access_token": client.page.token}) as response:
            assert response.status == 200

    async def test_another_pages_token_is_refused(self, client: Client) -> None:
        other = client.server.pages[1].token
        _, body = await client.get(f"v26.0/{client.page.id}/conversations", token=other)
        assert body["error"]["code"] == 210
        _, body = await client.get(f"v26.0/{client.truth()[0].id}", token=other)
        assert body["error"]["code"] == 210

    @pytest.mark.parametrize(
        ("path", "query", "code"),
        [
            ("v26.0/1/conversations", {}, 100),
            ("v26.0/t_1", {}, 100),
            ("v26.0/PAGE/conversations", {"fields": "id,colour"}, 100),
            ("v26.0/PAGE/conversations", {"fields": "messages{colour}"}, 100),
            ("v26.0/PAGE/conversations", {"fields": "id,("}, 2500),
            ("v26.0/PAGE/conversations", {"limit": "0"}, 100),
            ("v26.0/PAGE/conversations", {"limit": "many"}, 100),
            ("v26.0/PAGE/conversations", {"platform": "telegraph"}, 100),
            ("v26.0/PAGE/conversations", {"before": "x"}, 100),
            ("v26.0/PAGE/feed", {}, 100),
            ("PAGE/conversations", {}, 2500),
            ("v26.0", {}, 2500),
            ("", {}, 2500),
        ],
    )
    async def test_an_invalid_request_is_refused(
        self, client: Client, path: str, query: dict[str, str], code: int
    ) -> None:
        response, body = await client.get(path.replace("PAGE", client.page.id), **query)
        assert response.status == 400
        assert body["error"]["code"] == code

    async def test_a_platform_that_the_page_lacks_is_refused(self, start: Start) -> None:
        page = SimulatedPage(id="100000000000000001", name="Mine", token="tok", platforms=("messenger",))
        client = await start(plan=WorldPlan(pages=(page,), conversations=3))
        assert (await client.conversations(platform="instagram"))["error"]["code"] == 100
        _, body = await client.get(f"v26.0/{page.id}", fields="instagram_business_account,name")
        assert body == {"id": page.id, "name": "Mine"}

    async def test_calls_must_be_signed_with_an_app_secret(self, start: Start) -> None:
        client = await start(app_secret="hush")
        proof = hmac.new(b"hush", client.page.token.encode(), hashlib.sha256).hexdigest()
        assert "data" in await client.conversations(appsecret_proof=proof)
        for query in ({}, {"appsecret_proof": "0" * 64}):
            error = (await client.conversations(**query))["error"]
            assert error["code"] == 100
            assert "appsecret_proof" in error["message"]


class TestOtherEdges:
    async def test_a_page_shows_its_instagram_account(self, client: Client) -> None:
        _, body = await client.get(f"v26.0/{client.page.id}", fields="instagram_business_account,name")
        assert body == {
            "id": client.page.id,
            "instagram_business_account": {"id": client.page.instagram_account_id},
            "name": client.page.name,
        }

    async def test_a_user_finds_all_pages(self, client: Client) -> None:
        user = client.server.world.user_token
        found: list[Json] = []
        after: dict[str, str] = {}
        while True:
            _, body = await client.get("v26.0/me/accounts", token=user, limit="1", **after)
            found += body["data"]
            if "next" not in body["paging"]:
                break
            after = {"after": body["paging"]["cursors"]["after"]}
        assert [(page["id"], page["access_token"]) for page in found] == [
            (page.id, page.token) for page in client.server.pages
        ]

    async def test_me_is_the_page_of_the_token(self, client: Client) -> None:
        _, body = await client.get("v26.0/me/conversations", fields="id", limit="1")
        assert body["data"][0]["id"] == client.truth()[0].id

    async def test_tokens_can_be_debugged(self, client: Client) -> None:
        _, good = await client.get("v26.0/debug_token", input_token=client.page.token)
        assert good["data"]["is_valid"]
        assert good["data"]["profile_id"] == client.page.id
        assert good["data"]["data_access_expires_at"] > NOON.timestamp()
        _, bad = await client.get("v26.0/debug_token", input_token="nobody's")
        assert not bad["data"]["is_valid"]


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [("http_500", 500, 2), ("unknown_error", 500, 1), ("error_200", 200, 2)],
    )
    async def test_errors_have_an_envelope(self, start: Start, fault: str, status: int, code: int) -> None:
        client = await start(f"{fault}=first:1")
        response, body = await client.get(f"v26.0/{client.page.id}/conversations")
        assert (response.status, body["error"]["code"]) == (status, code)
        assert body["error"].get("is_transient") in ({True, None} if code == 2 else {None})
        assert "data" in await client.conversations()

    async def test_an_outage_responds_with_html(self, start: Start) -> None:
        client = await start("html_502=first:1")
        async with client.session.get(f"{client.server.base_url}/v26.0/{client.page.id}") as response:
            assert response.status == 502
            assert response.content_type == "text/html"
            assert (await response.text()).startswith("<html>")

    async def test_json_can_be_cut_short(self, start: Start) -> None:
        client = await start("truncated=first:1")
        with pytest.raises(json.JSONDecodeError):
            await client.conversations()
        assert len(await client.walk()) == 60

    async def test_a_response_can_be_empty(self, start: Start) -> None:
        client = await start("empty_body=first:1")
        async with client.session.get(f"{client.server.base_url}/v26.0/{client.page.id}") as response:
            assert (response.status, await response.read()) == (200, b"")
        async with client.session.get(f"{client.server.base_url}/v26.0/{client.page.id}") as response:
            assert response.status == 400

    async def test_connections_can_be_reset(self, start: Start) -> None:
        client = await start("reset=first:2")  # aiohttp repeats a GET once on its own
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.conversations()
        assert len(await client.walk()) == 60
        assert client.server.requests.by_fault == {"reset": 2}

    async def test_a_hang_outlasts_the_clients_timeout_but_not_the_server(self, start: Start) -> None:
        client = await start("hang=first:1@1h")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.conversations()
        assert "data" in await client.conversations()
        began = time.monotonic()
        await client.server.__aexit__(None, None, None)
        assert time.monotonic() - began < 10

    async def test_latency_delays_the_response(self, start: Start) -> None:
        client = await start("latency=50ms")
        began = time.monotonic()
        await client.conversations()
        assert time.monotonic() - began >= 0.05

    async def test_empty_batches_lose_nothing(self, start: Start) -> None:
        client = await start("empty_batch=1/2")
        first = await client.conversations(limit="5", fields="id")
        empty = await client.conversations(limit="5", fields="id", after=first["paging"]["cursors"]["after"])
        assert empty["data"] == []
        assert "next" in empty["paging"]
        assert {row["id"] for row in await client.walk(limit="7")} == {row.id for row in client.truth()}

    async def test_an_empty_batch_can_be_the_first(self, start: Start) -> None:
        client = await start("empty_batch=first:3")
        assert [row["id"] for row in await client.walk(limit="20")] == [row.id for row in client.truth()]

    async def test_equal_cursors_do_not_mean_the_end(self, start: Start) -> None:
        client = await start("equal_cursors=1")
        paging = (await client.conversations(limit="20"))["paging"]
        assert paging["cursors"]["before"] == paging["cursors"]["after"]
        assert "next" in paging
        assert len(await client.walk(limit="20")) == 60

    async def test_rate_limits_are_of_several_kinds_and_give_the_wait(self, start: Start) -> None:
        client = await start("rate_limit=1")
        seen = set()
        for _ in range(60):
            response, body = await client.get(f"v26.0/{client.page.id}/conversations")
            entry = json.loads(response.headers["X-Business-Use-Case-Usage"])[client.page.id][0]
            assert entry["call_count"] >= 100
            seen.add((response.status, body["error"]["code"], entry["estimated_time_to_regain_access"]))
        assert {(status, code) for status, code, _ in seen} == {(403, 4), (400, 613), (400, 80006)}
        assert {minutes for _, _, minutes in seen} == {0, 1}

    async def test_a_page_that_is_called_too_fast_is_refused_and_counted(self, start: Start) -> None:
        client = await start("pace=0.001")
        assert "data" in await client.conversations()
        assert (await client.conversations())["error"]["code"] in (613, 80006)
        client.page = client.server.pages[1]
        assert "data" in await client.conversations()
        assert client.server.requests.too_fast == {client.server.pages[0].id: 1}
        assert client.server.requests.last[1].fault == "pace"


class TestControl:
    async def test_the_truth_can_be_requested(self, client: Client) -> None:
        _, body = await client.get("simulator/truth", token="", page=client.page.id, platform="instagram")
        assert [row["id"] for row in body["conversations"]] == [row.id for row in client.truth("instagram")]
        response, body = await client.get("simulator/truth", token="")
        assert response.status == 404
        assert {"page": client.page.id, "platform": "messenger"} in body["streams"]

    async def test_requests_are_counted_and_the_last_are_listed(self, client: Client) -> None:
        await client.conversations(limit="5", after="nonsense")
        await client.conversations(platform="instagram")
        _, body = await client.get("simulator/requests", token="")
        assert body["total"] == 2
        assert body["by_page"] == {client.page.id: 2}
        assert body["by_stream"] == {f"messenger:{client.page.id}": 1, f"instagram:{client.page.id}": 1}
        assert body["by_status"] == {"200": 1, "400": 1}
        assert body["last"][0] == {
            "number": 1,
            "at": "2026-11-23T12:00:00Z",
            "page_id": client.page.id,
            "owner": client.page.id,
            "edge": "conversations",
            "platform": None,
            "after": "nonsense",
            "limit": "5",
            "fields": None,
            "status": 400,
            "fault": None,
            "during_limit": False,
        }

    async def test_a_call_is_listed_with_its_arrival_time_not_that_of_its_response(self, start: Start) -> None:
        client = await start("latency=50ms")

        def passing() -> datetime:
            client.clock.now += timedelta(seconds=1)
            return client.clock.now

        async with SimulatorServer(PLAN, clock=passing, faults=client.server.faults) as server:
            response, _ = await Client(server, client.session, client.clock).get(f"v26.0/{client.page.id}")
        assert parsedate_to_datetime(response.headers["Date"]) == NOON + timedelta(seconds=2)
        assert server.requests.last[0].at == NOON + timedelta(seconds=1)

    async def test_no_token_is_shown(self, client: Client) -> None:
        await client.conversations(access_token=client.page.token)
        for path in ("simulator/requests", "simulator/truth"):
            _, body = await client.get(path, token="", page=client.page.id)
            assert client.page.token not in json.dumps(body)

    async def test_a_port_in_use_is_reported_with_a_hint(self, client: Client) -> None:
        second = SimulatorServer(PLAN, clock=client.clock, port=client.server.port)
        with pytest.raises(MilepostError, match="cannot listen") as refused:
            await second.__aenter__()
        assert "port" in refused.value.hint

    async def test_a_restarted_simulator_responds_the_same(self, start: Start) -> None:
        first, second = await start(), await start()
        rows = [await one.walk(fields="id,updated_time,snippet,participants") for one in (first, second)]
        assert rows[0] == rows[1]
