"""Syncing, pausing and resuming streams over real HTTP: the responses, and what the journal records."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kit.builders import STREAM
from milepost.core.commands import StreamCommand, SyncNow
from milepost.core.model import Stream
from milepost.service.api import background
from milepost.service.api.background import background_work
from milepost.service.api.streams import stream_actions
from milepost.service.auth import COMMAND_LINE
from milepost.service.endpoint import routes_of
from service.api.served import get_json, served
from service.listening import JSON, listening


async def act(
    session: aiohttp.ClientSession, key: str, action: str, body: str = "{}", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    url = f"/api/streams/{key}/{action}"
    async with session.post(url, data=body, headers=JSON | (headers or {})) as response:
        return response.status, await response.json(content_type=None)


async def actions(session: aiohttp.ClientSession) -> list[tuple[str, dict[str, Any]]]:
    """Return the actions of people as the journal records them."""
    page = await get_json(session, "/api/journal", limit=1000)
    kinds = {"stream_paused", "stream_resumed", "sync_requested"}
    return [(entry["type"], entry["data"]) for entry in page["entries"] if entry["type"] in kinds]


# --- over the real daemon ---------------------------------------------------------------------------------------------


async def test_a_stream_is_paused_and_resumed_and_the_journal_says_by_whom(tmp_path: Path) -> None:
    async with served(tmp_path / "milepost.db") as (session, parts):
        key = parts.supervisor.streams[0].key
        assert await act(session, key, "pause") == (200, {"stream": key, "action": "pause", "outcome": "done"})
        status = await get_json(session, f"/api/streams/{key}")
        assert (status["state"], status["on_hold"]["by"]) == ("on_hold", "API from 127.0.0.1")
        listed = await get_json(session, "/api/streams", state="on_hold")
        assert [stream["stream"] for stream in listed["streams"]] == [key]
        assert await act(session, key, "resume") == (200, {"stream": key, "action": "resume", "outcome": "done"})
        assert (await get_json(session, f"/api/streams/{key}"))["on_hold"] is None
        by = {"by": "API from 127.0.0.1"}
        assert await actions(session) == [("stream_paused", by), ("stream_resumed", by)]


async def test_a_requested_sync_is_recorded(tmp_path: Path) -> None:
    bodies = ("", "{}", '{"full": false}', '{"full": true}')
    async with served(tmp_path / "milepost.db") as (session, parts):
        for stream, body in zip(parts.supervisor.streams[:4], bodies, strict=True):
            assert (await act(session, stream.key, "sync", body))[0] == 200
        by = {"by": "API from 127.0.0.1"}
        assert await actions(session) == [("sync_requested", by)] * 3 + [("sync_requested", by | {"full": True})]


async def test_the_actor_is_recorded_by_its_means(tmp_path: Path) -> None:
    requests: list[tuple[dict[str, str], str]] = [
        ({}, "API"),
        ({"User-Agent": COMMAND_LINE}, "command line"),
        ({"Sec-Fetch-Site": "same-origin"}, "status page"),
        ({"Cookie": "milepost_session=x", "User-Agent": "Mozilla/5.0"}, "status page"),
    ]
    async with served(tmp_path / "milepost.db") as (session, parts):
        for stream, (headers, means) in zip(parts.supervisor.streams[:4], requests, strict=True):
            await act(session, stream.key, "pause", headers=headers)
            assert (await actions(session))[-1] == ("stream_paused", {"by": f"{means} from 127.0.0.1"})


async def test_a_paused_stream_is_not_synced_and_the_problem_says_why(tmp_path: Path) -> None:
    async with served(tmp_path / "milepost.db") as (session, parts):
        key = parts.supervisor.streams[0].key
        await act(session, key, "pause")
        status, problem = await act(session, key, "sync")
        assert status == 409
        assert problem["detail"].startswith("the stream was paused by the API from 127.0.0.1")
        assert len(await actions(session)) == 1


async def test_a_stream_that_is_not_worked_is_not_found(database: Path) -> None:
    """Even if it has a history."""
    async with served(database) as (session, _):
        for action in ("sync", "pause", "resume"):
            for key in (STREAM.key, "messenger:404", "nonsense", "%00"):
                assert (await act(session, key, action))[0] == 404, (action, key)
        assert await actions(session) == []


async def test_an_invalid_request_does_nothing(tmp_path: Path) -> None:
    async with served(tmp_path / "milepost.db") as (session, parts):
        for action, body, status in (
            ("sync", '{"full": 1}', 422),
            ("sync", '{"fully": true}', 422),
            ("pause", '{"full": true}', 422),
            ("resume", "[]", 422),
            ("pause", "{", 400),
            ("stop", "{}", 404),
        ):
            assert (await act(session, parts.supervisor.streams[0].key, action, body))[0] == status, (action, body)
        assert await actions(session) == []


# --- slow actions -----------------------------------------------------------------------------------------------------


async def test_an_action_that_waits_for_the_batch_in_hand_is_accepted_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "MAX_WAIT_SECONDS", 0.05)
    released, done = asyncio.Event(), asyncio.Queue[StreamCommand]()

    async def ask(_: Stream, command: StreamCommand) -> None:
        await released.wait()
        done.put_nowait(command)

    async with (
        background_work() as work,
        listening(routes_of(stream_actions(work, ask, lambda: [STREAM.key]))) as session,
    ):
        answer = {"stream": STREAM.key, "action": "sync", "outcome": "accepted"}
        assert await act(session, STREAM.key, "sync") == (202, answer)
        released.set()
        async with asyncio.timeout(60):
            assert await done.get() == SyncNow("API from 127.0.0.1")
