"""The client against real servers on the loopback interface that misbehave in every known way."""

import asyncio
import gzip
import hmac
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from kit.graph_answers import TOKEN
from kit.loopback import Answering, nowhere, sending, serving
from kit.needs import needs
from kit.tls import certified, serving_tls
from milepost.core.ports import Refused
from milepost.core.problems import MAX_MESSAGE_CHARACTERS, Problem, ProblemKind
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.responses import asked_by_server

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
APP_SECRET = "5ca1ab1e"
MIB = 2**20


@asynccontextmanager
async def client_of(
    base_url: str, *, app_secret: str = "", timeout_seconds: float = 20.0, max_body_bytes: int = 32 * MIB
) -> AsyncIterator[GraphClient]:
    async with GraphClient(
        base_url,
        "v26.0",
        clock=lambda: NOW,
        app_secret=app_secret,
        request_timeout_seconds=timeout_seconds,
        max_body_bytes=max_body_bytes,
    ) as client:
        yield client


async def fetched(base_url: str, **options: float) -> GraphResponse | Refused:
    async with client_of(base_url, **options) as client:  # type: ignore[arg-type] # numbers only, and mypy joins them
        return await client.get("1161/conversations", {"limit": "25"}, TOKEN)


def recording(seen: list[web.Request]) -> Answering:
    async def respond(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=b"{}")

    return respond


def answering(**response: Any) -> Answering:  # noqa: ANN401 -- what web.Response takes
    async def respond(_: web.Request) -> web.Response:
        return web.Response(**response)

    return respond


async def answered(**response: Any) -> GraphResponse:  # noqa: ANN401 -- what web.Response takes
    """Return what is made of a response that a server gives."""
    async with serving(answering(**response)) as base_url:
        outcome = await fetched(base_url)
    assert isinstance(outcome, GraphResponse)
    return outcome


async def problem_at(base_url: str, **options: float) -> Problem:
    outcome = await fetched(base_url, **options)
    assert isinstance(outcome, Refused), outcome
    assert TOKEN not in repr(outcome)
    return outcome.problem


class TestRequest:
    async def test_the_token_travels_in_a_header_and_never_in_the_url(self) -> None:
        seen: list[web.Request] = []
        async with serving(recording(seen)) as base_url:
            await fetched(base_url)
        assert seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
        assert TOKEN not in str(seen[0].url)
        assert seen[0].path_qs == "/v26.0/1161/conversations?limit=25"
        assert seen[0].headers["User-Agent"].startswith("milepost/")

    async def test_with_an_app_secret_every_call_is_signed(self) -> None:
        seen: list[web.Request] = []
        async with serving(recording(seen)) as base_url:
            async with client_of(base_url, app_secret=APP_SECRET) as client:
                await client.get("1161", {"fields": "id"}, TOKEN)
                await client.get("1161/conversations", {}, "another token")
            await fetched(base_url)
        assert [each.query.get("appsecret_proof") for each in seen] == [
            hmac.new(APP_SECRET.encode(), TOKEN.encode(), "sha256").hexdigest(),
            hmac.new(APP_SECRET.encode(), b"another token", "sha256").hexdigest(),
            None,
        ]

    async def test_a_new_app_secret_signs_from_the_next_call_on(self) -> None:
        seen: list[web.Request] = []
        async with serving(recording(seen)) as base_url, client_of(base_url) as client:
            await client.get("1161", {}, TOKEN)
            client.rotate_app_secret(APP_SECRET)
            await client.get("1161", {}, TOKEN)
        assert [each.query.get("appsecret_proof") for each in seen] == [
            None,
            hmac.new(APP_SECRET.encode(), TOKEN.encode(), "sha256").hexdigest(),
        ]

    async def test_a_quoted_path_is_requested_unchanged(self) -> None:
        async with client_of("http://127.0.0.1:1") as client:
            assert str(client.url("aWd%2F%2B%3D")) == "http://127.0.0.1:1/v26.0/aWd%2F%2B%3D"

    async def test_a_base_url_may_have_a_path_and_a_trailing_slash(self) -> None:
        async with client_of("http://127.0.0.1:1/proxy/") as client:
            assert str(client.url("1161/conversations")) == "http://127.0.0.1:1/proxy/v26.0/1161/conversations"

    async def test_nothing_secret_is_in_a_repr(self) -> None:
        async with client_of(nowhere(), app_secret=APP_SECRET) as client:
            assert APP_SECRET not in repr(client)


class TestResponse:
    async def test_a_response_is_returned_whatever_its_status(self) -> None:
        outcome = await answered(status=403, body=b'{"error":{}}', headers={"X-App-Usage": '{"call_count":28}'})
        assert (outcome.status, outcome.body) == (403, b'{"error":{}}')
        assert outcome.headers["x-app-usage"] == '{"call_count":28}'
        assert 0 <= outcome.took_seconds < 20

    async def test_the_token_is_redacted_from_the_body(self) -> None:
        async def respond(request: web.Request) -> web.Response:
            return web.Response(text=f"{request.headers['Authorization']} {request.url}?access_token={TOKEN}")

        async with serving(respond) as base_url:
            outcome = await fetched(base_url)
        assert isinstance(outcome, GraphResponse)
        assert outcome.body.startswith(b"Bearer [redacted] ")
        assert TOKEN.encode() not in outcome.body

    async def test_a_compressed_body_is_decompressed(self) -> None:
        outcome = await answered(body=gzip.compress(b'{"data":[]}'), headers={"Content-Encoding": "gzip"})
        assert outcome.body == b'{"data":[]}'

    async def test_usage_headers_of_many_businesses_fit(self) -> None:
        outcome = await answered(headers={"X-Business-Use-Case-Usage": "u" * 30_000})
        assert len(outcome.headers["X-Business-Use-Case-Usage"]) == 30_000

    async def test_another_api_version_is_warned_about_once(self) -> None:
        headers = {"facebook-api-version": "v27.0", "Date": "Sun, 01 Mar 2026 12:00:00 GMT"}
        async with serving(answering(headers=headers)) as base_url, client_of(base_url) as client:
            with capture_logs() as logs:
                await client.get("1161", {}, TOKEN)
                await client.get("1161", {}, TOKEN)
        assert [(entry["event"], entry["asked"], entry["answered"]) for entry in logs] == [
            ("API version differs", "v26.0", "v27.0")
        ]

    @pytest.mark.parametrize("version", [b"v26.0", b"v\xff"])
    async def test_the_requested_version_and_a_malformed_one_cause_no_warning(self, version: bytes) -> None:
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nfacebook-api-version: " + version + b"\r\n\r\n{}"
        async with sending(start) as base_url:
            with capture_logs() as logs:
                assert isinstance(await fetched(base_url), GraphResponse)
        assert logs == []


class TestServerClock:
    async def test_the_request_is_dated_by_the_servers_clock(self) -> None:
        outcome = await answered(headers={"Date": "Sun, 01 Feb 2026 08:00:00 GMT"})
        assert outcome.asked_at == datetime(2026, 2, 1, 7, 59, 59, tzinfo=UTC)

    @pytest.mark.parametrize("date", [b"", b"Date: yesterday\r\n", b"Date: \r\n"])
    async def test_without_a_date_the_request_is_dated_by_our_clock(self, date: bytes) -> None:
        async with sending(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", date, b"\r\n{}") as base_url:
            outcome = await fetched(base_url)
        assert isinstance(outcome, GraphResponse)
        assert outcome.asked_at == NOW.replace(microsecond=0)

    @pytest.mark.parametrize("date", ["Tue, 31 Mar 2026 12:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"])
    async def test_a_date_that_is_ahead_of_our_clock_is_ignored(self, date: str) -> None:
        outcome = await answered(headers={"Date": date})
        assert outcome.asked_at == NOW.replace(microsecond=0)

    async def test_differing_clocks_are_warned_about_once_until_they_agree_again(self) -> None:
        dates = ["Sun, 01 Mar 2026 12:00:00 GMT", *["Sun, 01 Mar 2026 11:00:00 GMT"] * 3]

        async def respond(_: web.Request) -> web.Response:
            return web.Response(headers={"Date": dates[0]})

        with capture_logs() as logs:
            async with serving(respond) as base_url, client_of(base_url) as client:
                while dates:
                    await client.get("1161/conversations", {}, TOKEN)
                    dates.pop(0)
        (line,) = logs
        assert (line["event"], line["log_level"]) == ("clocks differ from the API's", "warning")
        assert "ahead of the server's Date" in line["ours"]

    def test_the_duration_is_subtracted_from_the_date_and_fractions_are_dropped(self) -> None:
        assert asked_by_server("Sun, 01 Feb 2026 08:00:00 GMT", 2.5) == datetime(2026, 2, 1, 7, 59, 57, tzinfo=UTC)

    def test_a_date_in_another_zone_is_converted_to_utc(self) -> None:
        expected = datetime(2026, 2, 1, 8, tzinfo=timezone(timedelta(hours=2)))
        found = asked_by_server("Sun, 01 Feb 2026 08:00:00 +0200", 0.0)
        assert found == expected
        assert found.utcoffset() == timedelta(0)

    @pytest.mark.parametrize(
        "date", [None, "", "nonsense", "Fri, 31 Dec 9999 23:59:59 -0100", "Sun, 99 Feb 2026 08:00:00"]
    )
    def test_an_invalid_date_is_none(self, date: str | None) -> None:
        assert asked_by_server(date, 1.0) is None


class TestRedirect:
    async def test_a_redirect_is_not_followed_but_reported_without_its_query(self) -> None:
        headers = {"Location": "https://evil.example.org/login?access_token=abc"}
        async with serving(answering(status=302, headers=headers)) as base_url:
            problem = await problem_at(base_url)
        assert (problem.kind, problem.http_status) == (ProblemKind.INVALID_RESPONSE, 302)
        assert "evil.example.org" in problem.message
        assert "access_token" not in problem.message

    async def test_an_endless_redirect_causes_one_request(self) -> None:
        hits = 0

        async def respond(request: web.Request) -> web.Response:
            nonlocal hits
            hits += 1
            return web.Response(status=301, headers={"Location": request.path_qs})

        async with serving(respond) as base_url:
            problem = await problem_at(base_url)
        assert hits == 1
        assert "the same host" in problem.message

    @pytest.mark.parametrize(
        "location",
        [b"", b"http://[::1", b"//user:password@host/", b"//\xff\xfe/", b"//xn--\xff/", b"//" + b"a" * 9000, b"//a b"],
    )
    async def test_a_redirect_without_a_valid_location_is_reported_too(self, location: bytes) -> None:
        async with sending(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: " + location + b"\r\n\r\n") as base_url:
            problem = await problem_at(base_url)
        assert (problem.kind, problem.http_status) == (ProblemKind.INVALID_RESPONSE, 307)
        assert "password" not in problem.message
        assert len(problem.message.encode()) <= MAX_MESSAGE_CHARACTERS


class TestNetwork:
    async def test_an_unreachable_server_is_a_network_problem(self) -> None:
        problem = await problem_at(nowhere())
        assert problem.kind is ProblemKind.NETWORK
        assert "127.0.0.1" in problem.message

    async def test_a_name_that_does_not_resolve_is_a_network_problem(self) -> None:
        problem = await problem_at("http://graph.invalid")
        assert problem.kind is ProblemKind.NETWORK
        assert "graph.invalid" in problem.message

    async def test_a_reset_is_a_network_problem(self) -> None:
        async with sending(aborts=True) as base_url:
            assert (await problem_at(base_url)).kind is ProblemKind.NETWORK

    async def test_a_reset_in_the_middle_of_the_body_is_a_network_problem(self) -> None:
        async with sending(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", aborts=True) as base_url:
            assert (await problem_at(base_url)).kind is ProblemKind.NETWORK

    async def test_a_connection_that_closes_without_a_response_is_a_network_problem(self) -> None:
        async with sending() as base_url:
            assert (await problem_at(base_url)).kind is ProblemKind.NETWORK

    async def test_a_call_on_a_dropped_connection_is_not_repeated(self) -> None:
        hits = 0

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal hits
            with suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                hits += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                await reader.readuntil(b"\r\n\r\n")
                hits += 1
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with client_of(f"http://127.0.0.1:{port}") as client:
                first, second = [await client.get("1161", {}, TOKEN) for _ in range(2)]
        assert isinstance(first, GraphResponse)
        assert isinstance(second, Refused)
        assert second.problem.kind is ProblemKind.NETWORK
        assert "closed the connection" in second.problem.message
        assert hits == 2

    @pytest.mark.parametrize(
        "start",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
        ],
        ids=["shorter than declared", "chunk cut off", "not compressed"],
    )
    async def test_a_body_that_breaks_off_or_does_not_decompress_is_a_network_problem(self, start: bytes) -> None:
        async with sending(start) as base_url:
            assert (await problem_at(base_url)).kind is ProblemKind.NETWORK

    @pytest.mark.parametrize(
        "start",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n{",
            b"\x00\x01\x02" * 100,
        ],
        ids=["SSH", "no header", "endless header", "length in words", "chunk without a size", "binary"],
    )
    async def test_a_response_that_is_not_http_is_invalid(self, start: bytes) -> None:
        async with sending(start) as base_url:
            assert (await problem_at(base_url)).kind is ProblemKind.INVALID_RESPONSE


class TestTimeout:
    async def test_silence_is_a_timeout(self) -> None:
        async with sending(hangs=True) as base_url:
            problem = await problem_at(base_url, timeout_seconds=0.1)
        assert problem == Problem(ProblemKind.TIMEOUT, "no response within 0.1 s")

    async def test_a_body_that_only_trickles_is_a_timeout(self) -> None:
        async def respond(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.01)

        async with serving(respond) as base_url:
            assert (await problem_at(base_url, timeout_seconds=0.2)).kind is ProblemKind.TIMEOUT

    async def test_cancellation_passes_through_and_the_client_works_on(self) -> None:
        asked_for = asyncio.Event()
        hangs = True

        async def respond(_: web.Request) -> web.Response:
            asked_for.set()
            if hangs:
                await asyncio.Event().wait()
            return web.Response(body=b"{}")

        async with serving(respond) as base_url, client_of(base_url) as client:
            call = asyncio.ensure_future(client.get("1161", {}, TOKEN))
            await asked_for.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            hangs = False
            assert isinstance(await client.get("1161", {}, TOKEN), GraphResponse)


class TestOversize:
    @pytest.mark.parametrize("declared", [True, False])
    async def test_reading_a_gigabyte_is_given_up_early(self, declared: bool) -> None:
        sent = 0

        async def respond(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse(headers={"Content-Length": str(1024 * MIB)} if declared else {})
            await response.prepare(request)
            for _ in range(1024):
                await response.write(b" " * MIB)
                sent += MIB
            return response

        async with serving(respond) as base_url:
            problem = await problem_at(base_url)
        assert (problem.kind, problem.http_status) == (ProblemKind.OVERSIZE, 200)
        assert sent < 64 * MIB

    async def test_nothing_is_read_beyond_the_declared_length(self) -> None:
        async with sending(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b" " * MIB) as base_url:
            outcome = await fetched(base_url)
        match outcome:  # what comes behind spoils the answer only if it comes with it
            case GraphResponse():
                assert outcome.body == b"{}"
            case Refused():
                assert outcome.problem.kind is ProblemKind.INVALID_RESPONSE

    async def test_a_body_of_exactly_the_limit_is_read(self) -> None:
        async with serving(answering(body=b"x" * 1000)) as base_url:
            assert isinstance(await fetched(base_url, max_body_bytes=1000), GraphResponse)
            assert (await problem_at(base_url, max_body_bytes=999)).kind is ProblemKind.OVERSIZE

    async def test_a_gzip_bomb_is_oversize(self) -> None:
        bomb = gzip.compress(bytes(256 * MIB), compresslevel=1)

        async with serving(answering(body=bomb, headers={"Content-Encoding": "gzip"})) as base_url:
            tracemalloc.start()
            try:
                problem = await problem_at(base_url, max_body_bytes=MIB)
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert problem.kind is ProblemKind.OVERSIZE
        assert peak_bytes < 16 * MIB


@needs("openssl")
async def test_an_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    context, _ = await asyncio.to_thread(certified, tmp_path, "127.0.0.1")
    seen: list[web.BaseRequest] = []

    async def respond(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response()

    async with serving_tls(respond, context, "127.0.0.1") as base_url:
        problem = await problem_at(base_url)
    assert problem.kind is ProblemKind.NETWORK
    assert "certificate" in problem.message
    assert seen == []
