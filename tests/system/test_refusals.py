"""Lists that are refused for what they hold: the real program gets everything that can be read, and says the rest."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec
import pytest
from aiohttp import web

from kit.graph_answers import TOKEN, Json, error, listed, message, person, thread
from kit.installation import Installation, Section
from kit.loopback import serving
from kit.simulated import BICYCLES, NOW, frozen_world
from milepost.simulator.world import Ailment

PAGE_ID = "1161721903600000"
PAGE: Section = {"id": PAGE_ID, "platforms": ["messenger"], "access_token": TOKEN}
SYNC: Section = {"batch_size": 20}
OF_BICYCLES = f"messenger:{BICYCLES.id}"

Rule = Callable[[web.Request], Awaitable[web.Response | None]]


class SmallGraph:
    """The threads of one page, newest first; `rule` may answer in place of the list."""

    def __init__(self, threads: int, rule: Rule) -> None:
        self.threads = threads
        self.rule = rule
        self.limits: list[int] = []

    async def respond(self, request: web.Request) -> web.Response:
        answer = await self.rule(request)
        if answer is not None:
            return answer
        if request.path.endswith("/me/accounts"):
            return web.json_response(listed({"id": PAGE_ID, "name": "Corner Bakery", "access_token": TOKEN}))
        start, limit = int(request.query.get("after", "0")), int(request.query["limit"])
        self.limits.append(limit)
        end = min(start + limit, self.threads)
        rows = [self.thread(number) for number in range(start, end)]
        more = f"http://{request.host}{request.path}?after={end}" if end < self.threads else None
        return web.json_response(listed(*rows, next_url=more, after=str(end)))

    @staticmethod
    def thread(number: int) -> Json:
        at = (NOW - timedelta(hours=1, minutes=number)).strftime("%Y-%m-%dT%H:%M:%S+0000")
        who = person(f"2650822237210{number:04}")
        said = message(f"m_{number}", who, created_time=at)
        return thread(f"t_{number}", said, updated_time=at, participants={"data": [who]})


def fields_of(request: web.Request) -> str:
    return request.query.get("fields", "")


async def test_lists_that_never_come_in_time_are_requested_in_smaller_parts(installation: Installation) -> None:
    async def slow(request: web.Request) -> web.Response | None:
        if "messages" in fields_of(request) and int(request.query["limit"]) > 5:
            await asyncio.Event().wait()  # until the client gives up
        return None

    graph = SmallGraph(46, slow)
    async with serving(graph.respond) as base_url:
        installation.configure(base_url, PAGE, source={"request_timeout": "1s"}, sync=SYNC)
        await installation.sync_until_complete()
    assert installation.rows("SELECT count(*) FROM conversations") == [(46,)]
    assert installation.rows("SELECT count(*) FROM dead_letters") == [(0,)]


async def test_a_thread_that_spoils_its_lists_in_any_form_is_stepped_over_and_what_is_new_is_read(
    installation: Installation,
) -> None:
    async with frozen_world(45, pages=(BICYCLES,)) as simulator:
        truth = [each.id for each in simulator.world.truth(BICYCLES.id, "messenger", NOW)]
        spoilt = [truth[0], *truth[10:13], *truth[20:36:3], truth[-1]]
        for each in spoilt:
            simulator.world.poison(each, Ailment.SPOILT)
        installation.configure_for(simulator, sync=SYNC)
        first = await installation.sync()
        assert first.code == 1, first
        new = simulator.world.receive(BICYCLES.id, "messenger", NOW)
        await installation.sync()
    stored = {row for (row,) in installation.rows("SELECT conversation_id FROM conversations")}
    assert stored == {*truth, new} - set(spoilt)
    subjects = installation.rows("SELECT subject FROM dead_letters WHERE closed_at IS NULL")
    assert {subject for (subject,) in subjects} == set(spoilt)
    assert installation.endings(OF_BICYCLES)[0] == ("complete_with_errors", None)


async def test_a_field_that_is_refused_by_name_is_left_out_and_said_once(installation: Installation) -> None:
    async def fussy(request: web.Request) -> web.Response | None:
        for name in ("can_reply", "shares"):
            if name in fields_of(request):
                text = f"(#100) Tried accessing nonexisting field ({name}) on node type (UnifiedThread)"
                return web.json_response(error(100, text), status=400)
        return None

    async with serving(SmallGraph(45, fussy).respond) as base_url:
        installation.configure(base_url, PAGE, sync=SYNC)
        syncs = [await installation.sync() for _ in range(2)]
    assert [each.code for each in syncs] == [0, 0], syncs
    assert installation.rows("SELECT count(*) FROM conversations") == [(45,)]
    (said,) = installation.rows("SELECT data FROM journal WHERE type = 'fields_left_out'")
    assert msgspec.json.decode(said[0]) == {"fields": ["can_reply", "shares"]}
    assert ["can_reply, shares" in each.stderr for each in syncs] == [True, False]


async def test_a_list_of_pages_that_is_too_heavy_is_requested_in_smaller_parts(installation: Installation) -> None:
    async def heavy(request: web.Request) -> web.Response | None:
        if request.path.endswith("/me/accounts") and int(request.query["limit"]) > 25:
            return web.json_response(error(1, "Please reduce the amount of data you're asking for"), status=500)
        return None

    async with serving(SmallGraph(5, heavy).respond) as base_url:
        installation.configure(base_url, source={"discover_pages": True, "access_token": TOKEN}, sync=SYNC)
        done = await installation.sync()
    assert done.code == 0, done
    assert installation.rows("SELECT count(*) FROM conversations") == [(5,)]


@pytest.mark.parametrize("code", [10, 230])
async def test_a_permission_that_nothing_can_be_read_without_stops_the_stream(
    installation: Installation, code: int
) -> None:
    async def forbidden(_: web.Request) -> web.Response | None:
        return web.json_response(error(code, f"(#{code}) a permission is missing"), status=403)

    async with serving(SmallGraph(5, forbidden).respond) as base_url:
        installation.configure(base_url, PAGE, sync=SYNC)
        done = await installation.sync()
    assert done.code == 77, done
    assert installation.rows("SELECT count(*) FROM dead_letters") == [(0,)]
