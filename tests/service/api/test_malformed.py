"""Malformed requests: the daemon answers or hangs up, and goes on serving."""

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.api.served import get_json, served

PATHS = (
    "/", "/api/streams", "/api/streams/messenger:1", "/api/runs", "/api/journal", "/api/dead-letters",
    "/api/openapi.json", "/api/dead-letters/ab/discard", "/api/streams/messenger:1/sync", "/login", "/metrics",
    "/healthz", "/nowhere",
)  # fmt: skip
TAKE_A_BODY = ("/api/dead-letters/ab/discard", "/api/streams/messenger:1/sync", "/login")
METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "TRACE", "CONNECT", "DELETE", "PRI", "get", "G\x00T", "GET ", "")
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "http/1.1", "HTTP/1.1.1", "", "\x00", "SIP/2.0")
HEADERS = (
    "Host: localhost", "Host:", "Host: evil.example", "Host: localhost\r\nHost: localhost", "Host: [::1", "No colon",
    ": nameless", " Folded: x", "Host : localhost", "Name\x00: x", "Name: a\x00b", "Name: \xff\xfe",
    "Cookie: \x01=\x02", "Cookie: milepost_session=1.2; ;=;", "Authorization: Bearer \xe9", "Authorization: Basic",
    "If-None-Match: W/", 'If-None-Match: "', "Range: bytes=9-1", "Expect: 100-continue", "Expect: miracles",
    "Upgrade: websocket", "Connection: upgrade", "Connection: close", "Accept-Encoding: \x7f",
    "Content-Type: application/json; charset=klingon", "Content-Type: ;;;", "Content-Encoding: gzip",
    "Content-Encoding: br", "Origin: null", "Last-Event-ID: -1", "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, chunked", "Content-Length: -1", "Content-Length: 1e3",
    "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 18446744073709551616", "Content-Length: 5, 5",
)  # fmt: skip
BODIES = (
    b"", b"{", b"{}", b"[]", b"null", b'{"reason": 5}', b'{"full": "yes"}', b'{"token": null}', b'"\\ud800"',
    b"\xff\xfe", b"\x00" * 64, b"[" * 20_000, b" " * 70_000, b'{"a":' * 10_000, b"1e999", b"-",
    b'{"reason": "\x00"}', b"\x1f\x8b\x08\x00broken gzip",
)  # fmt: skip
QUERIES = (
    "limit=0", "limit=-1", "limit=1e9", "limit=%00", "after=%ff", "after=" + "9" * 400, "stream=%ed%a0%80",
    "state=\x00", "&&&===", "limit=1&limit=2", "%", "%zz", "a" * 9_000, "stream=messenger:%0a", "%6c%69mit=5",
    ";", "#", "?",
)  # fmt: skip
CHUNKS = (
    b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhel", b"-5\r\nhello\r\n", b"zz\r\n\r\n", b"ffffffffffffffff\r\nx",
    b"5;ext=\x00\r\nhello\r\n", b"0\r\nTrailer: x\r\n\r\n", b"5\nhello\n0\n\n", b"\r\n\r\n\r\n",
    b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
)  # fmt: skip


def requests(seed: int, number: int) -> Iterator[bytes]:
    """Yield that many requests, the same for the same seed. Few of them are well formed."""
    jitter = random.Random(seed)  # noqa: S311  (nothing to guess)
    kinds: tuple[Callable[[random.Random], bytes], ...] = (
        _mixed,
        _mixed,
        _with_body,
        _in_chunks,
        _noise,
        _huge,
        _cut_off,
    )
    for _ in range(number):
        yield jitter.choice(kinds)(jitter)


def _head(jitter: random.Random, *headers: str, method: str | None = None) -> bytes:
    path = jitter.choice(PATHS if method is None else TAKE_A_BODY)
    if jitter.random() < (0.5 if method is None else 0.1):
        path += "?" + jitter.choice(QUERIES)
    if jitter.random() < 0.1:
        path = jitter.choice(("*", "", "http://evil.example/", "//", "/..//../", "/%2e%2e/", "/\x00", "/\xff", "\\"))
    line = f"{jitter.choice(METHODS) if method is None else method} {path} {_mostly(jitter, 'HTTP/1.1', VERSIONS)}"
    chosen = jitter.sample(HEADERS, jitter.randrange(4))
    host = ("Host: localhost",) if jitter.random() < 0.8 else ()
    return "\r\n".join((line, *host, *chosen, *headers, "", "")).encode("latin-1")


def _mostly(jitter: random.Random, usual: str, others: tuple[str, ...]) -> str:
    return usual if jitter.random() < 0.7 else jitter.choice(others)


def _mixed(jitter: random.Random) -> bytes:
    return _head(jitter)


def _with_body(jitter: random.Random) -> bytes:
    body = jitter.choice(BODIES)
    if jitter.random() < 0.2:
        body = json.dumps(
            {jitter.choice("ab\x00é") * jitter.randrange(1, 50): [jitter.random(), None, "\ud800"]}
        ).encode()
    length = len(body) + jitter.choice((0, 0, 0, -1, 1, 1_000_000))
    kind = _mostly(jitter, "application/json", ("text/plain", "application/x-www-form-urlencoded", ""))
    head = _head(
        jitter, f"Content-Type: {kind}", f"Content-Length: {max(length, 0)}", method=_mostly(jitter, "POST", METHODS)
    )
    return head + body


def _in_chunks(jitter: random.Random) -> bytes:
    head = _head(jitter, "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
    return head + jitter.choice(CHUNKS)


def _noise(jitter: random.Random) -> bytes:
    return (
        jitter.choice((b"", b"\x16\x03\x01", b"\r\n", b"GET ")) + jitter.randbytes(jitter.randrange(200)) + b"\r\n\r\n"
    )


def _huge(jitter: random.Random) -> bytes:
    size = jitter.choice((8_000, 20_000))
    match jitter.randrange(3):
        case 0:
            return b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        case 1:
            return b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * size + b"\r\n\r\n"
        case _:
            return b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * (size // 6) + b"\r\n"


def _cut_off(jitter: random.Random) -> bytes:
    whole = jitter.choice((_mixed, _with_body, _in_chunks))(jitter)
    return whole[: jitter.randrange(1, len(whole))]


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
