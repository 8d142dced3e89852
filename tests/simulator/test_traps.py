"""Requests that the simulator refuses: ill threads, heavy lists, cursors that expired or loop."""

from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest

from kit.simulated import BAKERY, BICYCLES, NOW, Client, frozen_client, frozen_world
from milepost.simulator.plan import Platform
from milepost.simulator.world import Ailment

LIST = f"v26.0/{BAKERY.id}/conversations"
POSITIONS = "id,updated_time"
WITH_MESSAGES = "id,updated_time,participants,messages.limit(20){id,created_time}"
WITHOUT_MESSAGES = "id,updated_time,participants"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with frozen_client() as client:
        yield client


async def raw(client: Client, path: str, fields: str) -> str:
    """Return the form of a response, whatever it is: its status, with its code or what there is in place of one."""
    try:
        response, body = await client.get(path, fields=fields)
    except aiohttp.ClientConnectionError:
        return "reset"
    except ValueError:
        return "not JSON"
    if not body:
        return f"{response.status} {body}"
    error = body.get("error")
    return "a thread" if error is None else f"{response.status} {error['code']}/{error.get('error_subcode')}"


class TestIllThreads:
    @pytest.mark.parametrize("platform", ["messenger", "instagram"])
    @pytest.mark.parametrize("limit", ["1", "5", "200"])
    async def test_a_poison_thread_fails_every_list_that_shows_more_than_its_position(
        self, client: Client, platform: Platform, limit: str
    ) -> None:
        head = client.truth(platform)[0].id
        client.server.world.poison(head)
        for query in ({}, {"fields": WITHOUT_MESSAGES}, {"fields": "id,updated_time,link"}, {"fields": "participants"}):
            response, body = await client.get(LIST, platform=platform, limit=limit, **query)
            assert (response.status, body["error"]["code"]) == (500, 1)
            assert "reduce the amount" not in body["error"]["message"]
        for fields in (POSITIONS, "updated_time", "id"):
            assert (await client.conversations(platform=platform, limit=limit, fields=fields))["data"][0]["id"] == head

    async def test_lists_without_the_poison_thread_work(self, client: Client) -> None:
        third = client.truth()[2].id
        client.server.world.poison(third)
        first = await client.conversations(fields=WITH_MESSAGES, limit="2")
        after = first["paging"]["cursors"]["after"]
        assert await client.code(LIST, fields=WITH_MESSAGES, limit="1", after=after) == 1
        position = await client.conversations(fields=POSITIONS, limit="1", after=after)
        assert [row["id"] for row in position["data"]] == [third]
        rest = await client.conversations(
            fields=WITH_MESSAGES, limit="200", after=position["paging"]["cursors"]["after"]
        )
        assert len(first["data"] + rest["data"]) == 29

    @pytest.mark.parametrize("platform", ["messenger", "instagram"])
    async def test_a_poison_thread_by_itself_shows_only_its_position(self, client: Client, platform: Platform) -> None:
        thread = client.truth(platform)[4].id
        client.server.world.poison(thread)
        assert await client.code(f"v26.0/{thread}", fields=WITH_MESSAGES) == 1
        assert await client.code(f"v26.0/{thread}") == 1
        assert await client.code(f"v26.0/{thread}", fields=POSITIONS) is None
        assert await client.code(f"v26.0/{thread}/messages", fields="id") == 1

    async def test_a_spoilt_thread_fails_every_list_in_a_form_of_its_own(self, client: Client) -> None:
        seen = set[str]()
        for head in (each.id for each in client.truth()):
            client.server.world.poison(head, Ailment.SPOILT)
            answers = [await raw(client, f"v26.0/{head}", WITHOUT_MESSAGES) for _ in range(2)]
            assert answers[0] == answers[1], "the same each time"
            assert answers[0] != "a thread"
            seen.add(answers[0])
            assert await client.code(f"v26.0/{head}", fields=POSITIONS) is None
        assert len(seen) > 5, seen
        head = client.truth()[0].id
        assert await raw(client, LIST, WITHOUT_MESSAGES) == await raw(client, f"v26.0/{head}", WITHOUT_MESSAGES)
        assert (await client.conversations(fields=POSITIONS, limit="1"))["data"][0]["id"] == head

    async def test_poison_messages_fail_only_what_shows_them(self, client: Client) -> None:
        thread = client.truth()[0].id
        client.server.world.poison(thread, Ailment.POISON_MESSAGES)
        for path in (LIST, f"v26.0/{thread}"):
            assert await client.code(path, fields=WITH_MESSAGES) == 1
            assert await client.code(path, fields="messages.limit(1){id}") == 1
            assert await client.code(path, fields=WITHOUT_MESSAGES) is None
        assert await client.code(f"v26.0/{thread}/messages") == 1
        assert await client.code(f"v26.0/{client.truth()[1].id}", fields=WITH_MESSAGES) is None

    async def test_a_heavy_thread_has_its_messages_only_by_itself(self, client: Client) -> None:
        thread = client.truth()[0]
        client.server.world.poison(thread.id, Ailment.HEAVY)
        for fields in (WITH_MESSAGES, "messages.limit(1){id}"):
            _, body = await client.get(LIST, fields=fields, limit="1")
            assert body["error"]["code"] == 1
            assert "reduce the amount of data" in body["error"]["message"] or body["error"]["error_subcode"] == 99
        assert await client.code(LIST, fields=WITHOUT_MESSAGES) is None
        _, body = await client.get(f"v26.0/{thread.id}", fields=WITH_MESSAGES)
        assert tuple(message["id"] for message in body["messages"]["data"]) == thread.message_ids
        assert await client.code(f"v26.0/{thread.id}/messages") is None

    async def test_a_cured_thread_is_well_whatever_the_seed(self) -> None:
        async with frozen_client(faults="poison=1") as client:
            thread = client.truth()[0].id
            assert await client.code(LIST, limit="1") == 1
            client.server.world.cure(thread)
            assert await client.code(LIST, limit="1") is None
            assert await client.code(LIST, limit="2") == 1

    def test_the_given_share_is_ill_and_the_truth_shows_which(self) -> None:
        server = frozen_world(3000, "poison=0.02,poison_messages=0.01,heavy_threads=0.01")
        ailments = [row.ailment for row in server.world.truth(BAKERY.id, "instagram", NOW)]
        assert 30 < ailments.count(Ailment.POISON) < 90
        assert 10 < ailments.count(Ailment.POISON_MESSAGES) < 60
        assert 10 < ailments.count(Ailment.HEAVY) < 60
        again = frozen_world(3000, "poison=0.02,poison_messages=0.01,heavy_threads=0.01")
        assert [row.ailment for row in again.world.truth(BAKERY.id, "instagram", NOW)] == ailments

    async def test_an_unknown_thread_cannot_be_poisoned(self, client: Client) -> None:
        for change in (client.server.world.poison, client.server.world.cure):
            with pytest.raises(KeyError):
                change("t_123")

    async def test_a_single_thread_needs_its_pages_token_and_counts_for_its_pages_stream(self, client: Client) -> None:
        messenger, instagram = client.truth()[0].id, client.truth("instagram")[0].id
        for thread in (messenger, instagram):
            assert await client.code(f"v26.0/{thread}", fields=WITH_MESSAGES) is None
            assert await client.code(f"v26.0/{thread}/messages") is None
            assert await client.code(f"v26.0/{thread}", token=BICYCLES.token) == 210
        streams = {f"messenger:{BAKERY.id}/thread": 3, f"instagram:{BAKERY.id}/thread": 3}
        assert client.server.requests.by_stream == streams
        assert client.server.requests.by_page == {BAKERY.id: 6}
        assert {request.page_id for request in client.server.requests.last} == {BAKERY.id}

    async def test_a_single_thread_is_subject_to_the_pages_pace_and_faults(self) -> None:
        async with frozen_client(faults="pace=0.001") as client:
            assert await client.code(LIST) is None
            assert await client.code(f"v26.0/{client.truth()[0].id}") in (613, 80006)
        async with frozen_client(faults="http_500=1/2") as client:
            codes = [await client.code(f"v26.0/{row.id}") for row in client.truth()[:4]]
            assert codes == [None, 2, None, 2]


class TestHeavyLists:
    async def test_a_list_with_too_many_rows_and_nested_messages_is_refused(self) -> None:
        async with frozen_client(faults="heavy=42") as client:
            for fields, limit, is_refused in (
                (WITH_MESSAGES, "2", False),
                (WITH_MESSAGES, "3", True),
                ("messages.limit(99){id}", "2", False),
                ("messages{id}", "3", True),
                ("messages.limit(5){id}", "7", False),
                ("messages.limit(5){id}", "8", True),
                ("messages.limit(0){id}", "42", False),
                (WITHOUT_MESSAGES, "42", False),
                (WITHOUT_MESSAGES, "43", True),
            ):
                response, body = await client.get(LIST, fields=fields, limit=limit)
                assert (response.status == 500) is is_refused, (fields, limit, body)
            assert await client.code(f"v26.0/{client.truth()[0].id}", fields=WITH_MESSAGES) is None

    async def test_heaviness_is_expressed_in_words_or_by_the_subcode(self) -> None:
        async with frozen_client(faults="heavy=1") as client:
            errors = [(await client.conversations())["error"] for _ in range(20)]
        assert {error["code"] for error in errors} == {1}
        said = {("reduce the amount of data" in error["message"], error.get("error_subcode")) for error in errors}
        assert said == {(True, None), (False, 99)}


class TestCursors:
    async def test_cursors_expire(self) -> None:
        async with frozen_client(faults="cursor_life=10m") as client:
            after = (await client.conversations(limit="5"))["paging"]["cursors"]["after"]
            client.clock.now += timedelta(minutes=10)
            onward = await client.conversations(limit="5", after=after)
            client.clock.now += timedelta(seconds=1)
            assert await client.code(LIST, after=after) == 2642
            assert await client.code(LIST, after=onward["paging"]["cursors"]["after"]) is None
            assert await client.code(LIST) is None

    async def test_all_cursors_can_be_killed(self, client: Client) -> None:
        before = (await client.conversations(limit="5"))["paging"]["cursors"]["after"]
        client.server.world.kill_cursors()
        assert await client.code(LIST, after=before) == 2642
        assert len(await client.walk(limit="7")) == 30

    async def test_a_struck_cursor_is_invalid_and_the_head_is_spared(self) -> None:
        async with frozen_client(faults="dead_cursor=1") as client:
            after = (await client.conversations(limit="5"))["paging"]["cursors"]["after"]
            errors = [(await client.conversations(after=after))["error"] for _ in range(20)]
            assert {(error["code"], error.get("error_subcode")) for error in errors} == {(2642, None), (100, None)}
            assert client.server.requests.by_fault == {"dead_cursor": 20}

    async def test_a_looping_cursor_leads_back_to_its_own_position(self) -> None:
        async with frozen_client(faults="looping_cursor=1") as client:
            head = await client.conversations(limit="10")
            after = head["paging"]["cursors"]["after"]
            looping = await client.conversations(limit="10", after=after)
            assert looping["paging"]["cursors"]["after"] == after
            assert "next" in looping["paging"]
            assert [row["id"] for row in looping["data"]] == [row.id for row in client.truth()[10:20]]


class TestHostile:
    async def test_a_walk_meets_every_ailment_and_every_fault(self) -> None:
        async with frozen_client() as calm:
            after = (await calm.conversations(limit="1"))["paging"]["cursors"]["after"]
        unreadable = "hang=0@1s,reset=0,truncated=0,html_502=0"
        async with frozen_client(2000, f"hostile,latency=0@1s,{unreadable}") as client:
            assert {row.ailment for row in client.truth()} == {None, *Ailment}
            headers = {"Authorization": f"Bearer {BAKERY.token}"}
            for _ in range(400):
                client.clock.now += timedelta(seconds=2)
                address = f"{client.server.base_url}/{LIST}"
                async with client.session.get(
                    address, params={"limit": "2", "after": after}, headers=headers
                ) as answer:
                    assert answer.status in (200, 400, 403, 429, 500)
            met = client.server.requests.by_fault.keys()
            assert met >= {"limit", "dead_cursor", "looping_cursor", "odd_usage", "http_500"}
            client.clock.now += timedelta(minutes=2)
            assert await client.code(LIST, after=after, limit="1", fields=POSITIONS) == 2642, "it is too old"
            assert await client.code(LIST, limit="50", fields=WITH_MESSAGES) == 1, "it is too heavy"
