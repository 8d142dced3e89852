"""The way to a server: a proxy and certificate authorities, as the standard variables of the environment name them."""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from yarl import URL

from kit.builders import NOON
from kit.graph_answers import TOKEN
from kit.loopback import serving
from kit.needs import needs
from kit.ports import unused_port
from kit.tls import ConnectProxy, certified, serving_tls
from milepost.core.errors import BadConfiguration
from milepost.core.ports import Refused
from milepost.core.problems import ProblemKind
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.network import proxy_to

GRAPH = "https://graph.example.invalid"
PASSWORD = "sécret-p%4055"  # as written in a URL; it reads sécret-p@55
VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE")

pytestmark = pytest.mark.usefixtures("without_variables")


@pytest.fixture
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


async def respond(_: web.BaseRequest) -> web.Response:
    return web.json_response({"data": []})


async def called(base_url: str) -> GraphResponse | Refused:
    async with GraphClient(base_url, "v26.0", clock=lambda: NOON, request_timeout_seconds=20) as client:
        return await client.get("1161/conversations", {}, TOKEN)


async def problem_at(base_url: str) -> str:
    outcome = await called(base_url)
    assert isinstance(outcome, Refused), outcome
    assert outcome.problem.kind is ProblemKind.NETWORK
    assert "cret" not in repr(outcome)
    return outcome.problem.message


class TestWhichProxy:
    @pytest.mark.parametrize(
        ("environment", "proxy"),
        [
            ({}, None),
            ({"HTTPS_PROXY": ""}, None),
            ({"HTTPS_PROXY": "http://proxy.example:3128"}, "http://proxy.example:3128"),
            ({"https_proxy": "http://a.example:1", "HTTPS_PROXY": "http://b.example:2"}, "http://a.example:1"),
            ({"HTTPS_PROXY": "proxy.example:3128"}, "http://proxy.example:3128"),
            ({"HTTPS_PROXY": "http://proxy.example"}, "http://proxy.example"),
            ({"HTTPS_PROXY": "https://user:pw@proxy.example:8443/"}, "https://proxy.example:8443"),
            ({"HTTPS_PROXY": "http://[::1]:3128"}, "http://[::1]:3128"),
            ({"HTTP_PROXY": "http://proxy.example:3128"}, None),
        ],
    )
    def test_it_is_the_one_of_https_proxy(self, environment: dict[str, str], proxy: str | None) -> None:
        found = proxy_to(URL("https://graph.facebook.com/v26.0"), environment)
        assert (str(found) if found else None) == proxy

    @pytest.mark.parametrize(
        ("url", "no_proxy", "is_direct"),
        [
            ("https://graph.facebook.com", "", False),
            ("https://graph.facebook.com", "graph.facebook.com", True),
            ("https://graph.facebook.com", "localhost, .facebook.com", True),
            ("https://graph.facebook.com", "FACEBOOK.com", True),
            ("https://graph.facebook.com", "*.facebook.com", True),
            ("https://graph.facebook.com", "book.com,facebook.com.example", False),
            ("https://graph.facebook.com", "graph.facebook.com:443", True),
            ("https://graph.facebook.com", "graph.facebook.com:8443", False),
            ("https://graph.facebook.com", "*", True),
            ("https://10.1.2.3", "10.0.0.0/8", True),
            ("https://10.1.2.3", "10.1.2.3", True),
            ("https://11.1.2.3", "10.0.0.0/8", False),
            ("https://localhost:8443", "localhost,127.0.0.1,::1", True),
            ("https://127.0.0.1:8443", "localhost,127.0.0.1,::1", True),
            ("https://[::1]:8443", "localhost,127.0.0.1,::1", True),
            ("https://[fd00::7]", "[fd00::7]", True),
            ("https://localhost:8443", "example.com", False),
            ("http://127.0.0.1:8080", "", True),
        ],
    )
    def test_no_proxy_names_what_is_reached_without(self, url: str, no_proxy: str, is_direct: bool) -> None:
        """Plain HTTP, which is allowed to the loopback only, never goes anywhere else."""
        environment = {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://p:1", "NO_PROXY": no_proxy}
        assert (proxy_to(URL(url), environment) is None) == is_direct

    @pytest.mark.parametrize(
        "written",
        [
            "socks5://proxy.example:1080",
            "http://u:pässword@",
            "http://u:pässword@p:99999",
            "http://a b:1",
            "http://",
            "a..b:1",
        ],
    )
    def test_what_cannot_be_used_is_refused_without_a_quotation(self, written: str) -> None:
        with pytest.raises(BadConfiguration, match="HTTPS_PROXY") as raised:
            proxy_to(URL(GRAPH), {"HTTPS_PROXY": written})
        assert "pässword" not in f"{raised.value!r} {raised.value} {raised.value.hint}"

    def test_its_password_is_shown_nowhere(self) -> None:
        proxy = proxy_to(URL(GRAPH), {"HTTPS_PROXY": f"http://ada:{PASSWORD}@proxy.example:3128"})
        assert proxy is not None
        assert "ada" not in f"{proxy} {proxy!r}"
        assert b64decode(proxy.headers["Proxy-Authorization"].removeprefix("Basic ")).decode() == "ada:sécret-p@55"


@needs("openssl")
class TestThroughAProxy:
    @pytest.fixture
    async def graph_port(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
        """Serve the API under a name that this machine cannot resolve, by a private authority."""
        context, authority = await asyncio.to_thread(certified, tmp_path, "graph.example.invalid")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with serving_tls(respond, context) as url:
            yield urlsplit(url).port or 0

    async def test_the_call_goes_through_it_and_the_name_is_left_to_it(
        self, graph_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with ConnectProxy(graph_port, credentials="ada:sécret-p@55").listening() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://ada:{PASSWORD}@127.0.0.1:{proxy.port}")
            with capture_logs() as logs:
                outcome = await called(GRAPH)
        assert isinstance(outcome, GraphResponse), outcome
        assert outcome.body == b'{"data": []}'
        assert proxy.asked == ["CONNECT graph.example.invalid:443 HTTP/1.1"]
        assert [entry["proxy"] for entry in logs if "proxy" in entry] == [f"http://127.0.0.1:{proxy.port}"]
        assert "cret" not in repr(logs)

    async def test_wrong_credentials_are_named_as_the_cause(
        self, graph_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with ConnectProxy(graph_port, credentials="ada:other").listening() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://ada:{PASSWORD}@127.0.0.1:{proxy.port}")
            message = await problem_at(GRAPH)
        assert message == (
            f"the proxy http://127.0.0.1:{proxy.port} asks for a user and password: write them into HTTPS_PROXY"
        )

    async def test_a_proxy_that_does_not_connect_is_named(
        self, graph_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with ConnectProxy(graph_port, status=b"502 Bad Gateway").listening() as proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            message = await problem_at(GRAPH)
        assert f"the proxy http://127.0.0.1:{proxy.port} (HTTPS_PROXY)" in message
        assert "graph.example.invalid: HTTP 502" in message


@pytest.mark.parametrize(("host", "words"), [("127.0.0.1", "Connection refused"), ("p.invalid", "does not resolve")])
async def test_a_proxy_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch, host: str, words: str) -> None:
    proxy = f"http://{host}:{unused_port()}"
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    message = await problem_at(GRAPH)
    assert f"the proxy {proxy} (HTTPS_PROXY)" in message
    assert words in message


async def test_the_loopback_over_plain_http_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    async with serving(respond) as url:
        assert isinstance(await called(url), GraphResponse)


@needs("openssl")
class TestCertificates:
    async def test_those_in_ssl_cert_file_are_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        context, authority = await asyncio.to_thread(certified, tmp_path)
        async with serving_tls(respond, context) as url:
            said = await problem_at(url)
            assert "is not trusted: self" in said
            assert "SSL_CERT_FILE" in said
            monkeypatch.setenv("SSL_CERT_FILE", str(authority))
            assert isinstance(await called(url), GraphResponse)

    async def test_a_certificate_of_somebody_else_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        context, _ = await asyncio.to_thread(certified, tmp_path / "one")
        _, authority = await asyncio.to_thread(certified, tmp_path / "other")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with serving_tls(respond, context) as url:
            assert "is not trusted" in await problem_at(url)


async def test_a_server_that_does_not_speak_tls_is_said() -> None:
    async with serving(respond) as url:
        said = await problem_at(url.replace("http:", "https:"))
    assert said.startswith("no TLS connection to 127.0.0.1: ")
    assert "permitted" not in said


@pytest.mark.parametrize(("content", "reason"), [(None, "no such file"), ("not a certificate", "no certificates")])
async def test_a_file_of_certificates_that_cannot_be_used_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, reason: str
) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(BadConfiguration, match=f"SSL_CERT_FILE.*{reason}"):
        await called(GRAPH)
