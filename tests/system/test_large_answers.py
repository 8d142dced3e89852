"""Answers of millions of items, which a body of a few megabytes can hold: they cost little, and nobody else anything.

The real program works within less memory than its unit gives it.
"""

import json
import re
import resource
from collections.abc import Callable, Mapping

import aiohttp
import pytest
from aiohttp import web

from kit.binary import Running, milepost, started, until
from kit.graph_answers import Json, encoded, listed, message, thread
from kit.installation import Installation, Section
from kit.loopback import Answering, serving
from kit.needs import long_only

MAX_DATA_BYTES = 600 * 2**20  # MemoryHigh of the unit is 768M
MILLIONS = 8_000_000
BIG, GOOD = "1", "2"
SETTINGS: Mapping[str, Section] = {
    "source": {"request_timeout": "60s"},
    "retry": {"attempts": 2, "base_delay": "1ms", "max_delay": "1ms"},
}


def page(page_id: str) -> Section:
    return {"id": page_id, "platforms": ["messenger"], "access_token": "EAAx"}


def limit_memory(running: Running) -> None:
    resource.prlimit(running.pid, resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))


def with_millions(edge: str, item: bytes = b"{}") -> bytes:
    """Return a list with millions of items, or with one conversation that has millions of something."""
    millions = b",".join([item] * MILLIONS)
    if edge == "data":
        return b'{"data":[' + millions + b"]}"
    if edge == "messages":
        beginning = encoded(thread())[:-1] + b',"messages":{"data":['
        return b'{"data":[' + beginning + millions + b"]}}]}"
    whole = encoded(listed(thread("t_1", message(attachments={"data": []}), participants={"data": []})))
    return whole.replace(f'"{edge}": {{"data": []'.encode(), f'"{edge}": {{"data": ['.encode() + millions + b"]", 1)


def answering(body: bytes) -> Answering:
    """Serve one page with the body, and the other one with a single conversation."""

    async def respond(request: web.Request) -> web.Response:
        of_big = request.path.split("/")[2] == BIG
        return web.Response(body=body if of_big else encoded(listed(thread("t_good", message()))))

    return respond


def are_at_their_ends(installation: Installation) -> bool:
    return [installation.endings(f"messenger:{page_id}") for page_id in (BIG, GOOD)] == [
        [("failed", "retries_exhausted")],
        [("complete", None)],
    ]


@pytest.mark.parametrize("edge", ["data", *long_only("messages", "participants", "attachments")])
async def test_an_answer_of_millions_is_refused_and_the_daemon_and_the_other_page_go_on(
    installation: Installation, edge: str
) -> None:
    async with serving(answering(with_millions(edge))) as base_url:
        installation.configure(base_url, page(BIG), page(GOOD), **SETTINGS)
        async with started(installation.folder, "run") as daemon:
            limit_memory(daemon)
            url = await daemon.url()
            await until(lambda: daemon.has_ended or are_at_their_ends(installation))
            assert not daemon.has_ended, daemon.said
            assert installation.rows("SELECT conversation_id, page_id FROM conversations") == [("t_good", GOOD)]
            async with aiohttp.ClientSession(url) as session, session.get("/readyz") as ready:
                assert ready.status == 200
            status = await milepost(installation.folder, "status", "--json")
        assert "Traceback" not in daemon.said
    streams = {each["stream"]: each for each in json.loads(status.stdout)["streams"]}
    assert "more than 500,000 values" in json.dumps(streams[f"messenger:{BIG}"])
    assert "values" not in json.dumps(streams[f"messenger:{GOOD}"])


class Inbox:
    """An inbox in which one thread has odd messages, in the list and when it is read alone."""

    def __init__(self, count: int, odd: int, messages: bytes) -> None:
        self.odd_messages = b'"messages":{"data":' + messages + b"}"
        self.threads = [thread(f"t_{number}", message(f"m_{number}")) for number in range(count)]
        self.odd = f"t_{odd}"

    async def respond(self, request: web.Request) -> web.Response:
        fields, owner = request.query["fields"], request.path.split("/")[2]
        if owner != BIG:
            (found,) = [each for each in self.threads if each["id"] == owner]
            return web.Response(body=self._body(found, fields))
        start, limit = int(request.query.get("after", 0)), int(request.query["limit"])
        end = min(start + limit, len(self.threads))
        paging: Json = {"cursors": {"after": str(end)}}
        if end < len(self.threads):
            paging["next"] = "there is more"
        bodies = [self._body(each, fields) for each in self.threads[start:end]]
        return web.Response(body=b'{"data":[' + b",".join(bodies) + b'],"paging":' + encoded(paging) + b"}")

    def _body(self, found: Json, fields: str) -> bytes:
        edge = re.search(r"messages\.limit", fields)
        if edge and found["id"] == self.odd:
            return (
                encoded({name: value for name, value in found.items() if name != "messages"})[:-1]
                + b","
                + self.odd_messages
                + b"}"
            )
        return encoded({name: value for name, value in found.items() if edge or name != "messages"})


def of_empty(number: int) -> bytes:
    return b"[" + b",".join([b"{}"] * number) + b"]"


ODD: dict[str, tuple[Callable[[], bytes], str]] = {
    "millions": (lambda: of_empty(MILLIONS), "more than 500,000 values"),
    "a thousand": (lambda: of_empty(1_000), "1,000 messages of a conversation"),
    "nested": (lambda: b"[" * 50_000 + b"]" * 50_000, "nested too deeply"),
}


@pytest.mark.parametrize("odd", ODD)
async def test_one_conversation_with_odd_messages_is_the_only_dead_letter(installation: Installation, odd: str) -> None:
    messages, why = ODD[odd]
    inbox = Inbox(12, 7, messages())
    async with serving(inbox.respond) as base_url:
        installation.configure(base_url, page(BIG), **SETTINGS, sync={"batch_size": 8})
        async with started(installation.folder, "sync") as sync:
            limit_memory(sync)
            ended = await sync.ended()
    assert ended.code == 1, ended
    assert installation.rows("SELECT count(*) FROM conversations") == [(12,)]
    assert installation.rows("SELECT count(*) FROM contact_interaction_events") == [(11,)]
    ((subject, reason),) = installation.rows("SELECT subject, reason FROM dead_letters")
    assert subject.startswith("t_7")
    assert why in reason


async def test_an_answer_that_is_simply_large_is_stored_as_a_whole(installation: Installation) -> None:
    """As large as one can be: 200 conversations, each with 20 messages of 2,000 characters."""
    text = "Grüße, 😀! " * 181
    threads = [
        thread(f"t_{number}", *(message(f"m_{number}_{place}", message=text) for place in range(20)))
        for number in range(200)
    ]
    body = json.dumps(listed(*threads)).encode()
    assert 2**24 < len(body) < 2**25
    asked = 0

    async def respond(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(body=body)

    async with serving(respond) as base_url:
        installation.configure(base_url, page(GOOD), **SETTINGS, sync={"batch_size": 200})
        async with started(installation.folder, "sync") as sync:
            limit_memory(sync)
            ended = await sync.ended()
    assert ended.code == 0, ended
    assert installation.rows("SELECT count(*) FROM conversations") == [(200,)]
    assert installation.rows("SELECT count(*), min(text) = max(text) FROM contact_interaction_events") == [(4_000, 1)]
    assert asked <= 3, "it was asked for in pieces"
