"""A real Prometheus scrapes the real daemon with the shipped rules: the right alerts fire and clear."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from kit.binary import started
from kit.installation import Installation, page_section
from kit.ports import unused_port
from kit.prometheus import PATIENCE_SECONDS, POLL_SECONDS, Prometheus, needs_prometheus, prometheus, promtool
from kit.promql import PANELS, expressions
from kit.simulated import BAKERY, BICYCLES, NOW, frozen_world

pytestmark = needs_prometheus

BICYCLES_STREAM = f"messenger:{BICYCLES.id}"
BAKERY_STREAM = f"messenger:{BAKERY.id}"
# Panels that are empty while nothing is wrong, or while a value is unknown.
QUIET = {
    "Firing alerts",
    "Alerts",
    "Starts",
    "API errors by code and remedy",
    "Retries",
    "Open dead letters and message backlog",
    "Odd answers of the API",
    "Delay of new messages",
    "Missed messages",
    "Database and configuration",  # its discovery is off
    "Webhooks",  # and these are, too
    "Messages without a webhook",
    "Notices to people",
    "Deliveries",
    "Deliveries behind",
    "All streams",
}
ANY = ('instance=~"$instance", stream=~"$stream"', 'instance=~".*"')
NEEDS_ATTENTION = PANELS["Needs attention"]["targets"][0]["expr"].replace("$instance", ".*")
ALL_COMPLETE = 'sum(milepost_stream_state{state="complete"}) == 3'


@pytest.fixture
def address() -> str:
    """The daemon's address: the same after a restart, so that Prometheus finds it."""
    return f"127.0.0.1:{unused_port()}"


@pytest.fixture
async def prometheus_of_it(tmp_path_factory: pytest.TempPathFactory, address: str) -> AsyncIterator[Prometheus]:
    async with prometheus(tmp_path_factory.mktemp("prometheus"), address) as server:
        yield server


async def asked(address: str, path: str, **headers: str) -> bytes:
    async with aiohttp.ClientSession(f"http://{address}") as session, session.get(path, headers=headers) as answer:
        assert answer.status == 200
        return await answer.read()


async def redrive_all(address: str, installation: Installation) -> None:
    for (dead_letter_id,) in installation.rows("SELECT dead_letter_id FROM dead_letters WHERE closed_at IS NULL"):
        url = f"http://{address}/api/dead-letters/{dead_letter_id}/redrive"
        async with aiohttp.ClientSession() as session, session.post(url, json={}) as answer:
            assert (await answer.json())["outcome"] == "closed"


async def test_the_exported_metrics_follow_the_conventions_of_prometheus(
    installation: Installation, address: str
) -> None:
    async with frozen_world(60) as simulator:
        installation.configure_for(simulator, http={"listen": address})
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            exposed = await asked(address, "/metrics")
    await asyncio.to_thread(promtool, "check", "metrics", stdin=exposed)


async def test_an_alert_fires_for_a_killed_daemon_until_it_runs_again(
    installation: Installation, address: str, prometheus_of_it: Prometheus
) -> None:
    await prometheus_of_it.fires(("MilepostDown", ""))
    async with frozen_world(60) as simulator:
        installation.configure_for(simulator, http={"listen": address})
        async with started(installation.folder, "run") as daemon:
            await prometheus_of_it.knows(ALL_COMPLETE)
            await prometheus_of_it.fires()
            await daemon.kill()
            await prometheus_of_it.fires(("MilepostDown", ""))
        async with started(installation.folder, "run"):
            await prometheus_of_it.fires()
            assert await prometheus_of_it.errors_of_rules() == {}


@pytest.mark.long
async def test_an_alert_fires_for_a_dead_token_until_there_is_a_new_one(
    installation: Installation, address: str, prometheus_of_it: Prometheus
) -> None:
    token = installation.folder / "token"
    token.write_text(BICYCLES.token)
    bicycles = {key: value for key, value in page_section(BICYCLES).items() if key != "access_token"}
    async with frozen_world(60) as simulator:
        installation.configure(
            simulator.base_url,
            bicycles | {"access_token_file": token.name},
            page_section(BAKERY),
            http={"listen": address},
            sync={"interval": "1s"},
        )
        async with started(installation.folder, "run"):
            await prometheus_of_it.knows(ALL_COMPLETE)
            await prometheus_of_it.fires()
            simulator.world.access.revoke(BICYCLES.id)
            await prometheus_of_it.fires(("MilepostAuthorizationStopped", BICYCLES_STREAM))
            assert await prometheus_of_it.errors_of_rules() == {}
            await asyncio.to_thread(token.write_text, simulator.world.access.renew(BICYCLES.id))
            await prometheus_of_it.fires()


async def test_an_alert_fires_for_a_dead_letter_until_it_is_redriven(
    installation: Installation, address: str, prometheus_of_it: Prometheus
) -> None:
    async with frozen_world(60) as simulator:
        ill = simulator.world.truth(BAKERY.id, "messenger", NOW)[7].id
        simulator.world.poison(ill)
        installation.configure_for(simulator, http={"listen": address})
        async with started(installation.folder, "run"):
            await prometheus_of_it.fires(("MilepostDeadLettersOpen", BAKERY_STREAM))
            assert await prometheus_of_it.errors_of_rules() == {}
            simulator.world.cure(ill)
            await redrive_all(address, installation)
            await prometheus_of_it.fires()


async def empty_panels(server: Prometheus) -> set[str]:
    """Ask every query of the dashboard, which must not be refused, and return the panels without a result."""
    empty = set()
    for title, expression in expressions({"__rate_interval": "5s", "instance": ".*", "stream": ".*"}):
        if not (await server.ask("query", query=expression))["result"]:
            empty.add(title)
    return empty


async def test_every_query_of_the_dashboard_is_answered_in_every_state(
    installation: Installation, address: str, tmp_path: Path
) -> None:
    """As of two workers: each stream is on both, and so is what its page is called."""
    twice = f'{address}", "localhost:{address.partition(":")[2]}'
    async with frozen_world(60) as simulator, prometheus(tmp_path, twice) as server:
        ill = simulator.world.truth(BAKERY.id, "messenger", NOW)[7].id
        pages = [page_section(page) | {"name": page.name} for page in (BAKERY, BICYCLES)]
        installation.configure(simulator.base_url, *pages, http={"listen": address}, sync={"interval": "1s"})
        await server.knows("up == 0")
        await empty_panels(server)
        async with started(installation.folder, "run") as daemon:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await empty_panels(server) <= QUIET:  # noqa: ASYNC110  (another process)
                    await asyncio.sleep(POLL_SECONDS)
            names = await server.knows(PANELS["States over time"]["targets"][0]["expr"].replace(*ANY))
            shown = {(each["metric"]["page_name"], each["metric"]["platform"]) for each in names}
            assert shown == {(BAKERY.name, "messenger"), (BAKERY.name, "instagram"), (BICYCLES.name, "messenger")}
            assert len(names) == 3, "one series for each stream"

            simulator.world.poison(ill)
            simulator.world.access.revoke(BICYCLES.id)
            await server.knows('milepost_stream_stopped{reason="authorization"} == 1')
            await empty_panels(server)
            (stopped,) = await server.knows(f"{NEEDS_ATTENTION} > 0")
            assert stopped["value"][1] == "1", "of two workers, it is one stream"
            await daemon.kill()
        await server.knows("up == 0")
        await empty_panels(server)
