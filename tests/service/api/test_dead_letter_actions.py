"""Redriving and discarding over real HTTP, with a stand-in for the supervisor."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from kit.builders import STREAM, at
from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import DeadLetterCommand, Discard, Redrive
from milepost.core.errors import MilepostError, StoreAway, StoreRefused
from milepost.core.events import Stage
from milepost.core.ports import DueDeadLetter
from milepost.service import endpoint
from milepost.service.api import background
from milepost.service.api.background import background_work
from milepost.service.api.dead_letters import dead_letter_actions
from milepost.service.endpoint import routes_of
from milepost.service.http import MAX_BODY_BYTES
from service.listening import JSON, listening

ID = "0123456789abcdef"
LETTER = DeadLetter(ID, STREAM, Stage.FETCH, "t_1", "it went wrong", at(0), attempts=2, redrive_at=at(900))
TRIED_AGAIN = replace(LETTER, attempts=3, reason="it went wrong again", redrive_at=at(1800))
BY = "API from 127.0.0.1"


class Supervisor:
    """Executes commands on one open dead letter, and keeps them."""

    def __init__(self, what: Callable[[], Awaitable[DeadLetter | None]]) -> None:
        self.commands: list[DeadLetterCommand] = []
        self._what = what

    async def do(self, command: DeadLetterCommand) -> DeadLetter | None:
        self.commands.append(command)
        return await self._what()

    async def find(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        return (DueDeadLetter(LETTER, "{}"),) if dead_letter_ids == (ID,) else ()


def giving(answer: DeadLetter | None) -> Supervisor:
    async def give() -> DeadLetter | None:
        return answer

    return Supervisor(give)


def failing(error: Exception) -> Supervisor:
    async def fail() -> DeadLetter | None:
        raise error

    return Supervisor(fail)


@asynccontextmanager
async def client(supervisor: Supervisor, *, max_wait_seconds: float = 20.0) -> AsyncIterator[aiohttp.ClientSession]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(background, "MAX_WAIT_SECONDS", max_wait_seconds)
        async with (
            background_work() as work,
            listening(routes_of(dead_letter_actions(work, supervisor.do, supervisor.find))) as session,
        ):
            yield session


async def post(
    session: aiohttp.ClientSession, action: str, body: str | bytes = b"", dead_letter_id: str = ID
) -> tuple[int, dict[str, Any]]:
    url = f"/api/dead-letters/{dead_letter_id}/{action}"
    async with session.post(url, data=body, headers=JSON) as response:
        expected = "application/json" if response.ok else "application/problem+json"
        assert response.content_type == expected
        return response.status, json.loads(await response.read())


def detail(problem: dict[str, Any]) -> str:
    text = problem["detail"]
    assert isinstance(text, str)
    return text


# --- results ----------------------------------------------------------------------------------------------------------


async def test_a_successful_redrive_closes_the_dead_letter() -> None:
    supervisor = giving(None)
    async with client(supervisor) as session:
        for body in ("", "{}", " {} "):
            status, answer = await post(session, "redrive", body)
            outcome = (answer["dead_letter_id"], answer["outcome"], answer["is_open"])
            assert (status, outcome) == (200, (ID, "closed", False))
    assert supervisor.commands == [Redrive(ID, BY)] * 3


async def test_a_failed_redrive_says_why_and_when_it_is_retried() -> None:
    async with client(giving(TRIED_AGAIN)) as session:
        status, answer = await post(session, "redrive")
    assert status == 200
    assert answer == {
        "dead_letter_id": ID,
        "outcome": "failed",
        "is_open": True,
        "reason": "it went wrong again",
        "attempts": 3,
        "redrive_at": "2026-03-01T12:30:00Z",
    }


async def test_a_dead_letter_that_was_not_retried_is_held() -> None:
    async with client(giving(LETTER)) as session:
        status, answer = await post(session, "redrive")
    assert (status, answer["outcome"], answer["is_open"], answer["attempts"]) == (200, "held", True, 2)


async def test_a_discard_passes_its_reason_on() -> None:
    supervisor = giving(None)
    async with client(supervisor) as session:
        status, answer = await post(session, "discard", '{"reason": " the page is sold \\n"}')
    assert (status, answer["outcome"]) == (200, "closed")
    assert supervisor.commands == [Discard(ID, "the page is sold", BY)]


async def test_a_reason_may_be_as_long_as_the_journal_takes() -> None:
    async with client(giving(None)) as session:
        for length in (1, 500):
            assert (await post(session, "discard", json.dumps({"reason": "ü" * length})))[0] == 200


# --- slow actions -----------------------------------------------------------------------------------------------------


async def test_a_slow_action_is_accepted_and_goes_on() -> None:
    released, finished = asyncio.Event(), asyncio.Event()

    async def slow() -> DeadLetter | None:
        await released.wait()
        finished.set()
        return None

    async with client(Supervisor(slow), max_wait_seconds=0.05) as session:
        status, answer = await post(session, "redrive")
        assert (status, answer["outcome"], answer["is_open"], answer["reason"]) == (
            202,
            "accepted",
            None,
            "it went wrong",
        )
        released.set()
        async with asyncio.timeout(60):
            await finished.wait()


async def test_an_action_still_running_at_the_end_is_cancelled_and_leaves_no_task() -> None:
    ended: list[str] = []

    async def endless() -> DeadLetter | None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return None

    before = asyncio.all_tasks()
    async with client(Supervisor(endless), max_wait_seconds=0.05) as session:
        assert (await post(session, "redrive"))[0] == 202
        assert not ended
    assert ended == ["cancelled"]
    assert asyncio.all_tasks() == before


async def test_an_action_that_fails_after_it_was_accepted_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    accepted, failed = asyncio.Event(), asyncio.Event()

    async def fail_late() -> DeadLetter | None:
        await accepted.wait()
        failed.set()
        raise ZeroDivisionError

    with capture_logs() as lines:
        async with client(Supervisor(fail_late), max_wait_seconds=0.02) as session:
            assert (await post(session, "redrive"))[0] == 202
            accepted.set()
            async with asyncio.timeout(60):
                await failed.wait()
    assert [(line["log_level"], line["part"]) for line in lines] == [("error", f"action on dead letter {ID}")]
    assert "never retrieved" not in caplog.text


async def test_the_number_of_running_actions_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_RUNNING", 2)

    async def endless() -> DeadLetter | None:
        await asyncio.Event().wait()
        return None

    supervisor = Supervisor(endless)
    async with client(supervisor, max_wait_seconds=0.02) as session:
        statuses = [(await post(session, "redrive"))[0] for _ in range(3)]
    assert statuses == [202, 202, 503]
    assert len(supervisor.commands) == 2


async def test_a_store_that_does_not_answer_is_not_waited_for() -> None:
    class Mute(Supervisor):
        async def find(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
            await asyncio.Event().wait()
            return await super().find(dead_letter_ids)

    async def never() -> DeadLetter | None:
        raise AssertionError

    async with client(Mute(never), max_wait_seconds=0.02) as session:
        status, problem = await post(session, "redrive")
    assert (status, detail(problem)) == (503, "the database did not answer in time")


# --- refused actions --------------------------------------------------------------------------------------------------


async def test_a_dead_letter_that_is_not_open_is_not_found() -> None:
    supervisor = giving(None)
    async with client(supervisor) as session:
        for action, body in (("redrive", ""), ("discard", '{"reason": "x"}')):
            status, problem = await post(session, action, body, "f" * 16)
            assert (status, detail(problem)) == (404, f"there is no open dead letter {'f' * 16}")
        for impossible in ("T_1", "f" * 65, "..%2f..", "%00", "é"):
            assert (await post(session, "redrive", dead_letter_id=impossible))[0] == 404, impossible
    assert supervisor.commands == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MilepostError("messenger:1 is not configured: there is no token to read it with"), 409),
        (StoreAway("the database does not answer: it is locked", hint="it is tried again"), 503),
        (StoreRefused("the database cannot be used"), 503),
    ],
)
async def test_an_error_that_prevents_an_action_is_answered(error: MilepostError, status: int) -> None:
    with capture_logs() as lines:
        async with client(failing(error)) as session:
            found, problem = await post(session, "redrive")
    assert (found, detail(problem)) == (status, str(error))
    assert lines == []


async def test_a_bug_is_logged_and_answered_without_details() -> None:
    with capture_logs() as lines:
        async with client(failing(ZeroDivisionError("a secret particular"))) as session:
            status, problem = await post(session, "redrive")
    assert status == 500
    assert "particular" not in str(problem)
    assert [line["log_level"] for line in lines] == ["error"]


async def test_an_invalid_body_does_nothing() -> None:
    supervisor = giving(None)
    bodies: list[tuple[str, str | bytes, int]] = [
        ("redrive", '{"reason": "x"}', 422),
        ("redrive", "[]", 422),
        ("redrive", "{", 400),
        ("discard", "", 422),
        ("discard", "{}", 422),
        ("discard", '{"reason": ""}', 422),
        ("discard", '{"reason": " \\n\\t "}', 422),
        ("discard", '{"reason": 5}', 422),
        ("discard", '{"reason": "x", "force": true}', 422),
        ("discard", json.dumps({"reason": "x" * 501}), 422),
        ("discard", "reason=x", 400),
        ("discard", b'{"reason": "\xff"}', 400),
        ("discard", b'{"reason": "\\ud800"}', 400),
        ("discard", b'{"reason": ' + b"[" * 60_000, 422),
        ("discard", json.dumps({"reason": "x" * MAX_BODY_BYTES}), 413),
    ]
    with capture_logs() as lines:
        async with client(supervisor) as session:
            for action, body, status in bodies:
                assert (await post(session, action, body))[0] == status, (action, body[:40])
    assert supervisor.commands == []
    assert lines == []


async def test_a_body_in_a_broken_encoding_is_a_bad_request(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = giving(None)
    with capture_logs() as lines:
        async with (
            client(supervisor) as session,
            session.post(
                f"/api/dead-letters/{ID}/redrive", data=b"no gzip", headers={**JSON, "Content-Encoding": "gzip"}
            ) as response,
        ):
            assert response.status == 400
    assert supervisor.commands == []
    assert lines == []
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = giving(None)
    with capture_logs() as lines:
        async with client(supervisor) as session:
            _, writer = await sent_half(session)
            writer.close()
            await writer.wait_closed()
            assert (await post(session, "redrive"))[0] == 200  # the one before is over
    assert supervisor.commands == [Redrive(ID, BY)]
    assert lines == []
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


async def sent_half(session: aiohttp.ClientSession) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin to redrive, and keep the end of the body back."""
    url = session._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /api/dead-letters/{ID}/redrive HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 2\r\n\r\n{{".encode())
    await writer.drain()
    return reader, writer


async def test_a_body_that_never_arrives_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MAX_BODY_SECONDS", 0.05)
    async with client(giving(None)) as session:
        reader, writer = await sent_half(session)
        async with asyncio.timeout(60):
            assert b" 408 Request Timeout" in await reader.readline()
        writer.close()
        await writer.wait_closed()
