"""No secret leaks: not into the database, the output, the metrics or the process list."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from kit.binary import NOT_FORKED, milepost, started
from kit.graph_answers import error, listed, message, thread
from kit.installation import Installation, Section, page_section
from kit.leaks import leaks, left_behind
from kit.loopback import serving
from kit.needs import long_only
from kit.simulated import frozen_world
from milepost.simulator.plan import SimulatedPage

# With every character that some encoding changes; any longer excerpt would contain the cores.
TOKEN_CORE, APP_SECRET_CORE = "V3ryD1st1nctTokenC0re", "V3ryD1st1nctAppS3cretC0re"
TOKEN, APP_SECRET = f"EAA{TOKEN_CORE}/+%=&~\"'\\<", f"{APP_SECRET_CORE}/+%=&\"'"
PROOF = hmac.new(APP_SECRET.encode(), TOKEN.encode(), hashlib.sha256).hexdigest()
SECRETS = (TOKEN, TOKEN_CORE, APP_SECRET, APP_SECRET_CORE, PROOF)

PAGE = SimulatedPage(id="61550000000000003", name="Café Zoë", token=TOKEN, instagram_account_id="17841400000000003")
FAULTS = "rough,rate_limit=0,hang=0@1s,http_500=0.15,html_502=0.1,error_200=0.1"
SECTIONS: Mapping[str, Section] = {"log": {"level": "debug"}, "sync": {"batch_size": 10}, "retry": {"attempts": 3}}


@dataclass(frozen=True)
class Given:
    """How secrets are configured: keys of the page and the source, and an environment."""

    page: Mapping[str, object]
    source: Mapping[str, object]
    environment: Mapping[str, str] = field(default_factory=dict)


def inline(_: Path) -> Given:
    return Given({"access_token": TOKEN}, {"app_secret": APP_SECRET})


def by_environment(_: Path) -> Given:
    environment = {"ZOE_TOKEN": TOKEN, "MILEPOST_APP_SECRET": APP_SECRET}
    return Given({"access_token": "${ZOE_TOKEN}"}, {}, environment)


def by_file(folder: Path) -> Given:
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "app-secret").write_text(APP_SECRET)
    return Given({"access_token_file": "token"}, {"app_secret_file": "${CREDENTIALS}/app-secret"}, {"CREDENTIALS": "."})


def configure(installation: Installation, base_url: str, given: Given) -> None:
    page = {key: value for key, value in page_section(PAGE).items() if key != "access_token"}
    installation.configure(base_url, {**page, **given.page}, source=given.source, **SECTIONS)


def assert_nothing_leaked(installation: Installation, **also: bytes) -> None:
    folder = installation.folder
    places = left_behind(folder, besides=(installation.config, folder / "token", folder / "app-secret")) | also
    assert "milepost.db" in places
    assert leaks(places, SECRETS) == []


def in_process_list(pid: int) -> bytes:
    """Return what `ps` shows every user of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def telling_all(request: web.Request) -> web.Response:
    """Refuse the token, and echo it in the ways in which APIs and proxies do."""
    url = f"https://graph.facebook.com/me?access_token={quote(TOKEN, safe='')}&appsecret_proof={PROOF}"
    if "conversations" not in request.path:
        return web.json_response(error(190, f"Error validating access token: {TOKEN} at {url}"), status=400)
    if request.query["platform"] == "messenger":
        return web.Response(text=f"<h1>Bad Gateway</h1><p>GET {url} Bearer {TOKEN}</p>", status=502)
    if "after" in request.query:
        return web.json_response(error(190, f"Error validating access token: {TOKEN} at {url}"), status=400)
    unreadable = {"id": "t_2", "updated_time": 7, "paging": {"next": url}, TOKEN: [TOKEN, url]}
    return web.json_response(listed(thread("t_1", message()), unreadable, next_url=url))


@pytest.mark.parametrize("give", [by_file, *long_only(inline, by_environment)])
async def test_no_secret_leaks_however_it_is_configured_and_whatever_fails(
    installation: Installation, give: object
) -> None:
    assert callable(give)
    given: Given = give(installation.folder)
    async with frozen_world(60, FAULTS, pages=(PAGE,), app_secret=APP_SECRET) as simulator:
        configure(installation, simulator.base_url, given)
        done = await milepost(installation.folder, "sync", environment=given.environment)
        assert simulator.requests.by_status[200] > 0, done
        assert simulator.requests.by_status[502] > 0, done
    async with serving(telling_all) as base_url:
        configure(installation, base_url, given)
        adopted = await milepost(installation.folder, "store", "adopt", "--yes", environment=given.environment)
        assert adopted.code == 0, adopted
        refused = await milepost(installation.folder, "sync", environment=given.environment)
        assert refused.code == 77, refused
        tried = await milepost(installation.folder, "config", "check", "--online", environment=given.environment)
        assert tried.code == 77, tried
    assert_nothing_leaked(installation)


async def test_no_secret_is_in_metrics_the_process_list_the_write_ahead_log_or_command_output(
    installation: Installation,
) -> None:
    given = by_environment(installation.folder)
    async with frozen_world(60, FAULTS, pages=(PAGE,), app_secret=APP_SECRET) as simulator:
        configure(installation, simulator.base_url, given)
        async with started(installation.folder, "run", environment={**NOT_FORKED, **given.environment}) as daemon:
            line = await daemon.says("started")
            await daemon.says("sweep completed")
            async with aiohttp.ClientSession() as session:
                url = next(word for word in line.split() if word.startswith("http=")).removeprefix("http=")
                async with session.get(f"{url}/metrics") as answer:
                    metrics = await answer.read()
            arguments = in_process_list(daemon.pid)
            await daemon.kill()  # leaves the write-ahead log behind
    assert b"milepost_batches_total" in metrics
    assert b"milepost" in arguments
    assert (installation.folder / "milepost.db-wal").stat().st_size > 0
    assert_nothing_leaked(installation, metrics=metrics, arguments=arguments)
    for command in (["status", "--json"], ["journal", "tail", "-n", "1000"], ["journal", "export", "export.jsonl"]):
        shown = await milepost(installation.folder, *command, environment=given.environment)
        assert shown.code == 0, shown
    assert_nothing_leaked(installation)


async def test_an_error_about_a_misplaced_secret_does_not_repeat_it(installation: Installation) -> None:
    token, app_secret = "EAA" + "G1x9" * 45, "0f" * 16  # as long as real ones
    page = {"id": PAGE.id, "acces_token": token, "platforms": token, "name": [app_secret]}
    installation.configure("https://graph.facebook.com", page, source={"version": app_secret, "app_secert": app_secret})
    refused = await installation.sync()
    assert refused.code == 78
    assert leaks({"stderr": refused.stderr.encode()}, [token[:20], app_secret[:20]]) == []
    for key in ("acces_token", "platforms", "source.version", "app_secert"):
        assert key in refused.stderr


@pytest.mark.parametrize("secret", [TOKEN, APP_SECRET])
def test_the_search_finds_a_planted_secret(installation: Installation, secret: str) -> None:
    (installation.folder / "said").mkdir()
    for number, form in enumerate((secret, quote(secret, safe=""), f"?access_token={quote(secret)}&limit=1")):
        (installation.folder / "said" / str(number)).write_bytes(b"\x00\xff" + form.encode() + b"\xfe")
    (installation.folder / "config.yaml").write_text(secret)
    places = left_behind(installation.folder, besides=[installation.config])
    assert sorted(leaks(places, [secret])) == sorted(places)
    assert len(places) == 3
