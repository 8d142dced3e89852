"""Malformed requests: the daemon answers or hangs up, and goes on serving."""

import asyncio
import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kit.malformed import requests
from service.api.served import get_json, served

AT_ONCE = 20  # so few that the answer to each is there in time, even on a busy machine
MAX_SILENCE_SECONDS = 0.5  # the daemon waits for the rest of a truncated request, which never comes
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@pytest.mark.parametrize("number", [1_500, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
async def test_thousands_of_malformed_requests_leave_the_daemon_serving(
    database: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    waiting, statuses = list(requests(20260301, number)), set[int]()

    async def send(port: int) -> None:
        while waiting:
            statuses.update(await answers(port, waiting.pop()))

    with capture_logs() as lines:
        async with served(database) as (session, _):
            url = session._base_url
            assert url is not None
            assert url.port is not None
            await asyncio.gather(*(send(url.port) for _ in range(AT_ONCE)))
            assert (await get_json(session, "/api/streams"))["streams"], "it still serves"
    assert {400, 404, 405, 413, 415, 421, 422, 200} <= statuses, "they reached every kind of response"
    assert not {status for status in statuses if status >= 500}
    assert [line for line in lines if line["log_level"] in {"error", "critical"}] == []
    assert [record for record in caplog.records if record.exc_info or record.levelname in {"ERROR", "WARNING"}] == []


async def answers(port: int, request: bytes) -> list[int]:
    """Send a request, return the statuses of the responses, and hang up; also on a server that waits for more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        async with asyncio.timeout(MAX_SILENCE_SECONDS):
            writer.write(request)
            received = await reader.read(64 * 1024)
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    assert b"Traceback" not in received
    return [int(status) for status in STATUS.findall(received)]
