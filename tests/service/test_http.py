"""The HTTP service over real connections: who is admitted, how it responds, and how it shuts down."""

import asyncio
import errno
import gzip
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from kit.builders import NOON, STREAM, checkpoint_of
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import BadConfiguration, MilepostError, StoreAway
from milepost.core.model import Stream
from milepost.reporting.live import LiveStreams
from milepost.service.availability import probes
from milepost.service.http import HEADERS, MAX_BODY_BYTES, Allowed, LimitedSite, serve
from milepost.service.metrics.collect import Metrics, exposition
from service.listening import BEARER, JSON, TOKEN, listening, well


def unmoved() -> str | None:
    return None


def all_routes(
    answers: Callable[[], Awaitable[None]] = well, stalled: Callable[[], str | None] = unmoved
) -> list[web.AbstractRouteDef]:
    return [*probes(answers, stalled), *exposition(lambda: b"up 1\n")]


async def problem_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = await response.json()
    assert problem["status"] == response.status
    assert problem["type"] == "about:blank"
    return problem


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.service.availability.MAX_STORE_SECONDS", 0.05)


# --- health and readiness ---------------------------------------------------------------------------------------------


async def test_the_process_lives_even_if_nothing_works() -> None:
    async def away() -> None:
        raise StoreAway("the database does not answer")

    async with listening(all_routes(away, lambda: "nothing moves")) as session, session.get("/healthz") as response:
        assert (response.status, await response.text()) == (200, "alive\n")


async def test_the_daemon_is_ready_when_the_store_answers_and_nothing_stalls() -> None:
    async with listening(all_routes()) as session, session.get("/readyz") as response:
        assert (response.status, await response.text()) == (200, "ready\n")


async def test_the_daemon_is_not_ready_while_the_store_is_away() -> None:
    async def away() -> None:
        raise StoreAway("the database does not answer: it is locked", hint="a hint")

    async with listening(all_routes(away)) as session, session.get("/readyz") as response:
        assert response.status == 503
        assert (await problem_of(response))["detail"] == "the database does not answer: it is locked"


async def test_the_daemon_is_not_ready_when_the_store_takes_too_long(impatient: None) -> None:
    async with listening(all_routes(asyncio.Event().wait)) as session, session.get("/readyz") as response:  # type: ignore[arg-type]  # what it answers is not looked at
        assert response.status == 503
        assert (await problem_of(response))["detail"] == "the database did not answer within 0.05 s"


async def test_probes_wait_for_the_ping_that_is_under_way_and_begin_no_other(impatient: None) -> None:
    pings, answered = 0, asyncio.Event()

    async def hang() -> None:
        nonlocal pings
        pings += 1
        await answered.wait()

    async with listening(all_routes(hang)) as session:
        for _ in range(3):
            async with session.get("/readyz") as response:
                assert response.status == 503
        assert pings == 1
        answered.set()
        await asyncio.sleep(0)
        async with session.get("/readyz") as response:
            assert response.status == 200
        assert pings == 2


async def test_the_daemon_is_not_ready_when_the_work_stalls() -> None:
    routes = all_routes(stalled=lambda: "no stream has moved for 900 s")
    async with listening(routes) as session, session.get("/readyz") as response:
        assert response.status == 503
        assert (await problem_of(response))["detail"] == "no stream has moved for 900 s"


# --- metrics ----------------------------------------------------------------------------------------------------------


async def test_metrics_are_served_as_prometheus_reads_them() -> None:
    live = LiveStreams(lambda: NOON)
    live.load(checkpoint_of())
    async with listening(exposition(Metrics(live).expose)) as session, session.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert f'milepost_stream_state{{state="never_synced",stream="{STREAM.key}"}} 1.0' in await response.text()


async def test_metrics_of_many_streams_are_compressed() -> None:
    live = LiveStreams(lambda: NOON)
    for number in range(400):
        live.load(Checkpoint(Stream.parse(f"messenger:{number}")))
    async with (
        serve("127.0.0.1", 0, exposition(Metrics(live).expose)) as url,
        aiohttp.ClientSession(auto_decompress=False, headers={"Accept-Encoding": "gzip"}) as session,
        session.get(f"{url}/metrics") as response,
    ):
        body = await response.read()
    plain = gzip.decompress(body)
    assert b'stream="messenger:399"' in plain
    assert len(body) < len(plain) / 10


# --- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \u00fc\u20ac"]
)
async def test_without_the_token_nothing_is_revealed_not_even_which_paths_exist(authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    async with listening(all_routes(), token=TOKEN) as session:
        for path in ("/metrics", "/readyz", "/nowhere", "/healthz/", "/HEALTHZ"):
            async with session.get(path, headers=headers) as response:
                assert response.status == 401, path
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                problem = await problem_of(response)
                assert "http.token" in problem["detail"]
                assert TOKEN not in str(problem)


async def test_the_token_opens_everything() -> None:
    async with listening(all_routes(), token=TOKEN) as session:
        for path in ("/metrics", "/readyz", "/healthz"):
            for scheme in ("Bearer", "bearer"):
                async with session.get(path, headers={"Authorization": f"{scheme} {TOKEN}"}) as response:
                    assert response.status == 200


async def test_a_token_in_the_url_counts_for_nothing() -> None:
    query = {"token": TOKEN, "access_token": TOKEN}
    async with listening(all_routes(), token=TOKEN) as session, session.get("/metrics", params=query) as response:
        assert response.status == 401


async def test_health_needs_no_token_and_is_answered_under_any_host_name() -> None:
    async with listening(all_routes(), token=TOKEN) as session, session.get("/healthz") as response:
        assert response.status == 200
    async with (
        listening(all_routes()) as session,
        session.get("/healthz", headers={"Host": "evil.example"}) as response,
    ):
        assert response.status == 200


# --- the name of the host ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/nowhere"])
async def test_a_page_whose_name_was_pointed_here_is_refused(path: str) -> None:
    names = (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.7",
        "localhost@evil.example",
        "[",
    )
    async with listening(all_routes()) as session:
        for host in (*names, *(f"{name}:{port_of(session)}" for name in names)):
            async with session.get(path, headers={"Host": host}) as response:
                assert response.status == 421, host
                assert "http.token" in (await problem_of(response))["detail"]


@pytest.mark.parametrize("port", ["", ":9464", ":8080"])  # a tunnel may lead here from another one
async def test_every_name_of_the_loopback_is_accepted(port: str) -> None:
    async with listening(all_routes()) as session:
        for name in ("localhost", "LOCALHOST", "127.0.0.1", "127.0.0.53", "[::1]"):
            async with session.get("/metrics", headers={"Host": f"{name}{port}"}) as response:
                assert response.status == 200, name


@pytest.mark.parametrize("name", ["status.example", "STATUS.example:8443"])
async def test_a_name_that_the_configuration_allows_is_accepted_and_no_other(name: str) -> None:
    async with listening(all_routes(), allowed=Allowed(["Status.Example"])) as session:
        async with session.get("/metrics", headers={"Host": name}) as response:
            assert response.status == 200
        async with session.get("/metrics", headers={"Host": f"evil.{name}"}) as response:
            assert response.status == 421


async def test_with_the_token_any_host_name_is_accepted() -> None:
    async with listening(all_routes(), token=TOKEN) as session:
        async with session.get("/metrics", headers={**BEARER, "Host": "milepost.example"}) as response:
            assert response.status == 200
        async with session.get("/metrics", headers={"Host": "localhost"}) as response:
            assert response.status == 401


def port_of(session: aiohttp.ClientSession) -> int:
    url = session._base_url
    assert url is not None
    assert url.port is not None
    return url.port


# --- changes ----------------------------------------------------------------------------------------------------------


async def changed(_: web.Request) -> web.Response:
    return web.Response(text="changed\n")


CHANGING = [web.route(method, "/thing", changed) for method in ("POST", "PUT", "PATCH", "DELETE")]
OTHERS_SITE = "a page of another site must not change anything here"


async def try_change(headers: dict[str, str], *, method: str = "POST", token: str = "") -> tuple[int, str]:
    """Try to change something; return the status and the detail of the problem."""
    async with listening(CHANGING, token=token) as session:
        named = {name: value.replace("PORT", str(port_of(session))) for name, value in headers.items()}
        async with session.request(method, "/thing", headers=named, skip_auto_headers=["Content-Type"]) as response:
            detail = "" if response.ok else (await problem_of(response))["detail"]
            return response.status, detail


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_without_json_nothing_is_changed(method: str) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json-patch+json"}):
        status, detail = await try_change(headers, method=method)
        assert status == 415
        assert "application/json" in detail


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://LOCALHOST:PORT", "Host": "localhost:PORT"},
        {"Origin": "http://[::1]:PORT", "Host": "[::1]:PORT"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_requests_that_come_from_no_other_site_may_change_things(headers: dict[str, str]) -> None:
    assert await try_change({**JSON, **headers}) == (200, "")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:PORT"},
        {"Origin": "http://127.0.0.1:PORT.evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": ""},
        {"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_page_of_another_site_changes_nothing(headers: dict[str, str]) -> None:
    assert await try_change({**JSON, **headers}) == (403, OTHERS_SITE)
    # The token does not help a page that has got hold of it by a proxy or a plug-in.
    assert await try_change({**JSON, **BEARER, **headers}, token=TOKEN) == (403, OTHERS_SITE)


async def test_reading_is_allowed_from_any_origin() -> None:
    headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}  # it cannot see the answer
    async with listening(all_routes()) as session, session.get("/metrics", headers=headers) as response:
        assert response.status == 200
        assert "Access-Control-Allow-Origin" not in response.headers


# --- every response ---------------------------------------------------------------------------------------------------


async def broken(_: web.Request) -> web.Response:
    raise ZeroDivisionError("a secret detail")


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/metrics", 200), ("/nowhere", 404), ("/bug", 500)])
async def test_every_response_carries_the_security_headers(path: str, status: int) -> None:
    with capture_logs():
        async with listening([*all_routes(), web.get("/bug", broken)]) as session, session.get(path) as response:
            assert response.status == status
            assert HEADERS.items() <= dict(response.headers).items()
            assert response.headers["Server"] == "milepost"


async def test_a_route_may_relax_a_header_for_its_own_response() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(headers={"Content-Security-Policy": "default-src 'self'"})

    async with listening([web.get("/", page)]) as session, session.get("/") as response:
        assert response.headers.getall("Content-Security-Policy") == ["default-src 'self'"]


async def test_an_unknown_path_is_answered_with_a_problem() -> None:
    async with listening(all_routes()) as session, session.get("/nowhere") as response:
        assert response.status == 404
        assert (await problem_of(response))["title"] == "Not Found"


async def test_a_wrong_method_is_answered_with_a_problem_and_the_allowed_ones() -> None:
    async with listening(all_routes()) as session, session.post("/metrics") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"
        assert (await problem_of(response))["title"] == "Method Not Allowed"


async def test_a_bug_in_a_route_is_logged_and_answered_without_details() -> None:
    with capture_logs() as lines:
        async with listening([*all_routes(), web.get("/bug", broken)]) as session:
            async with session.get("/bug") as response:
                assert response.status == 500
                assert "secret" not in str(await problem_of(response))
            async with session.get("/healthz") as response:
                assert response.status == 200
    assert [(line["log_level"], line["part"]) for line in lines] == [("error", "http GET /bug")]


async def test_a_request_body_is_bounded() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(MAX_BODY_BYTES // 50)

    async with listening([web.post("/echo", echo)]) as session:
        async with session.post("/echo", data=bytes(MAX_BODY_BYTES), headers=JSON) as response:
            assert (response.status, len(await response.read())) == (200, MAX_BODY_BYTES)
        for data in (bytes(MAX_BODY_BYTES + 1), endless()):
            async with session.post("/echo", data=data, headers=JSON) as response:
                assert response.status == 413
                assert (await problem_of(response))["title"] == "Request Entity Too Large"


async def test_requests_are_not_logged() -> None:
    with capture_logs() as lines:
        async with listening(all_routes()) as session, session.get("/metrics") as response:
            assert response.status == 200
    assert lines == []


@pytest.mark.parametrize(
    "malformed",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01",
    ],
)
async def test_malformed_http_is_refused_and_not_logged(malformed: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serve("127.0.0.1", 0, all_routes()) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(malformed)
        assert b" 400 Bad Request" in await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


async def test_a_client_that_is_gone_before_the_response_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serve("127.0.0.1", 0, all_routes()) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n")
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


async def test_a_body_in_a_broken_encoding_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Content-Encoding": "gzip"}
    async with (
        listening(all_routes()) as session,
        session.get("/healthz", data=b"no gzip", headers=headers) as response,
    ):
        assert response.status == 200  # which reads no body
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


# --- listening --------------------------------------------------------------------------------------------------------


async def test_ipv6_addresses_are_listened_on() -> None:
    async with listening(all_routes(), host="::1") as session, session.get("/healthz") as response:
        assert response.url.host == "::1"
        assert response.status == 200


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_a_port_in_use_names_the_address_and_the_key(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BadConfiguration) as caught:
            async with serve(host, port, []):
                pass
    assert (
        caught.value.message
        == f"cannot listen on {f'[{host}]' if ':' in host else host}:{port}: address already in use"
    )
    assert "http.listen" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("203.0.113.7", "cannot assign requested address"),  # of a block for documentation (RFC 5737)
        ("2001:db8::7", "cannot assign requested address"),  # likewise (RFC 3849)
        ("no-such-host.invalid", "the host has no address"),
        (f"{'x' * 64}.example", "the host has no address"),
    ],
)
async def test_an_address_of_another_machine_is_refused_with_a_hint(host: str, why: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        async with serve(host, 9464, []):
            pass
    assert caught.value.message.endswith(f":9464: {why}")
    assert "http.listen" in caught.value.hint


async def test_a_port_that_needs_privileges_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: LimitedSite) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LimitedSite, "start", refuse)
    with pytest.raises(BadConfiguration, match=r"cannot listen on 127\.0\.0\.1:80: permission denied") as caught:
        async with serve("127.0.0.1", 80, []):
            pass
    assert "http.listen" in caught.value.hint


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_machine_without_resources_is_no_bad_configuration(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def refuse(_: LimitedSite) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(LimitedSite, "start", refuse)
    with pytest.raises(MilepostError, match=os.strerror(number).lower()) as caught:
        async with serve("127.0.0.1", 80, []):
            pass
    assert not isinstance(caught.value, BadConfiguration)
    assert caught.value.hint


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_an_open_request_is_answered_when_the_listener_closes() -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        arrived.set()
        await released.wait()
        return web.Response(text="in time")

    async def ask(url: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/slow") as response:
            return await response.text()

    async with asyncio.TaskGroup() as tasks:
        async with serve("127.0.0.1", 0, [web.get("/slow", slow)]) as url:
            answer = tasks.create_task(ask(url))
            await arrived.wait()
            asyncio.get_running_loop().call_later(0.05, released.set)
        assert await answer == "in time"


async def test_an_endless_request_does_not_hold_up_the_shutdown() -> None:
    arrived = asyncio.Event()

    async def endless(_: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def ask(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"{url}/endless")

    async with (
        asyncio.timeout(60),
        asyncio.TaskGroup() as tasks,
        serve("127.0.0.1", 0, [web.get("/endless", endless)]) as url,
    ):
        tasks.create_task(ask(url))
        await arrived.wait()


async def test_the_port_is_free_again_afterwards() -> None:
    async with serve("127.0.0.1", 0, []) as url:
        port = int(url.rpartition(":")[2])
    async with serve("127.0.0.1", port, []) as again:
        assert again == url
