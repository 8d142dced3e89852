"""The real program where a proxy is the only way out, and the API's certificate comes from a private authority."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from kit.binary import milepost
from kit.installation import Installation
from kit.needs import needs
from kit.simulated import BAKERY, BICYCLES, frozen_world
from kit.tls import ConnectProxy, certified, serving_tls
from milepost.simulator.server import SimulatorServer

HOST = "graph.milepost.invalid"  # which this machine cannot resolve
ACCESS = {"calls_per_second": 0}

pytestmark = needs("openssl")


@pytest.fixture
async def simulator() -> AsyncIterator[SimulatorServer]:
    async with frozen_world(60, pages=(BAKERY, BICYCLES)) as simulator:
        yield simulator


@pytest.fixture
async def authority(tmp_path: Path) -> Path:
    (tmp_path / "tls").mkdir()
    await asyncio.to_thread(certified, tmp_path / "tls", HOST)
    return tmp_path / "tls" / "certificate.pem"


@pytest.fixture
async def proxy(simulator: SimulatorServer, authority: Path) -> AsyncIterator[ConnectProxy]:
    """Serve the world under HOST, by TLS, behind a proxy that asks for a password."""
    async with aiohttp.ClientSession() as session:

        async def pass_on(request: web.Request) -> web.Response:
            token = {"Authorization": request.headers.get("Authorization", "")}
            async with session.get(f"{simulator.base_url}{request.path_qs}", headers=token) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        context, _ = await asyncio.to_thread(certified, authority.parent, HOST)
        async with (
            serving_tls(pass_on, context) as url,
            ConnectProxy(urlsplit(url).port or 0, credentials="ada:s3cret").listening() as proxy,
        ):
            yield proxy


def environment(proxy: ConnectProxy, authority: Path) -> dict[str, str]:
    return {"HTTPS_PROXY": f"http://ada:s3cret@127.0.0.1:{proxy.port}", "SSL_CERT_FILE": str(authority)}


async def test_everything_that_asks_the_api_goes_through_the_proxy(
    installation: Installation, simulator: SimulatorServer, proxy: ConnectProxy, authority: Path
) -> None:
    user = simulator.world.user_token
    source = {"base_url": f"https://{HOST}", "discover_pages": True, "access_token": user, **ACCESS}
    installation.configure(f"https://{HOST}", source=source)

    checked = await milepost(
        installation.folder, "config", "check", "--online", environment=environment(proxy, authority)
    )
    synced = await milepost(installation.folder, "sync", environment=environment(proxy, authority))

    assert checked.code == synced.code == 0, f"{checked}\n{synced}"
    assert f"through the proxy http://127.0.0.1:{proxy.port}" in checked.stdout
    assert "manages 2 pages" in checked.stdout
    assert f"proxy=http://127.0.0.1:{proxy.port}" in synced.stderr
    assert "s3cret" not in f"{checked}{synced}"
    assert set(proxy.asked) == {f"CONNECT {HOST}:443 HTTP/1.1"}
    assert installation.rows("SELECT count(DISTINCT page_id) FROM conversations") == [(2,)]


async def test_what_no_proxy_names_is_reached_without_it(
    installation: Installation, proxy: ConnectProxy, authority: Path
) -> None:
    installation.configure(f"https://{HOST}", {"id": "1", "platforms": ["messenger"], "access_token": "EAAx"})
    direct = environment(proxy, authority) | {"NO_PROXY": "localhost,.milepost.invalid"}
    failed = await milepost(installation.folder, "sync", environment=direct)
    assert failed.code == 1
    assert f"the name {HOST} does not resolve" in failed.stdout
    assert proxy.asked == []


async def test_a_proxy_of_another_kind_is_a_wrong_setting(installation: Installation) -> None:
    installation.configure(f"https://{HOST}", {"id": "1", "platforms": ["messenger"], "access_token": "EAAx"})
    of_another_kind = {"HTTPS_PROXY": "socks5://ada:s3cret@127.0.0.1:1080"}
    for command in (("sync",), ("config", "check")):
        refused = await milepost(installation.folder, *command, environment=of_another_kind)
        assert refused.code == 78, command
        assert "HTTPS_PROXY names a proxy for socks5" in refused.stderr
        assert "s3cret" not in refused.stderr
        assert "Warning" not in refused.stderr
