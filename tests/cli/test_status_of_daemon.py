"""What `milepost status` asks of a daemon, and what it makes of an answer."""

import pytest
from pydantic import SecretStr

from kit.builders import NOON
from kit.loopback import Ending, following, nowhere, sending
from milepost.cli import status
from milepost.cli.status import fetch_status
from milepost.reporting.health import DaemonStatus
from milepost.settings import HttpSettings

BODY = b'{"at": "2026-03-01T12:00:00Z", "version": "1", "issues": [], "queued": {}, "slowed_down": {}}'


def at(url: str, token: str = "") -> HttpSettings:
    return HttpSettings(listen=url.removeprefix("http://"), token=SecretStr(token))


@pytest.mark.parametrize("token", ["", "a-token-of-some-length"])
async def test_the_daemon_is_asked_with_the_token_and_says_how_it_is(token: str) -> None:
    asked = list[bytes]()

    def script(head: bytes) -> tuple[list[bytes], Ending]:
        asked.append(head)
        return [b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", BODY], Ending.CLOSE

    async with following(script) as url:
        found = await fetch_status(at(url, token))
    assert found == DaemonStatus(NOON, "1", (), {}, {})
    (head,) = asked
    assert head.startswith(b"GET /api/daemon HTTP/1.0\r\nHost: 127.0.0.1:")
    assert (f"Authorization: Bearer {token}\r\n".encode() in head) == bool(token)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY[:40],
        b"HTTP/1.0 200 OK\r\n\r\n\xff",
        b"HTTP/1.0 401 Unauthorized\r\n\r\n" + BODY,
        b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n" + BODY,
    ],
)
async def test_what_is_no_answer_to_us_says_nothing(answer: bytes) -> None:
    async with sending(answer) as url:
        assert await fetch_status(at(url)) is None
    async with sending(answer, aborts=True) as url:
        assert await fetch_status(at(url)) is None


async def test_a_daemon_that_is_away_or_silent_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await fetch_status(at(nowhere())) is None
    monkeypatch.setattr(status, "MAX_ANSWER_SECONDS", 0.05)
    async with sending(hangs=True) as url:
        assert await fetch_status(at(url)) is None
