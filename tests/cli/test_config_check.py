"""`milepost config check`: what is wrong, where secrets come from, and whether tokens work."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from pydantic import SecretStr

from kit.loopback import nowhere, serving
from milepost.cli.config import command
from milepost.cli.token_check import try_tokens
from milepost.core.errors import BadConfiguration
from milepost.core.model import Platform
from milepost.reporting.advice import PERMISSIONS
from milepost.reporting.summary import ExitCode
from milepost.settings.model import PageSettings, Settings, SourceSettings, WebhookSettings
from milepost.simulator.faults import CALM, FaultPlan, parse_faults
from milepost.simulator.plan import WorldPlan
from milepost.simulator.server import SimulatorServer

SECRET = "EAAveryverysecretindeed123456"

GOOD = """
source: {kind: facebook, app_secret_file: app-secret}
pages:
  - {id: "1", access_token: "${BAKERY_TOKEN}"}
  - {id: "2", access_token: EAAveryverysecretindeed123456}
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAKERY_TOKEN", SECRET)
    secret = tmp_path / "app-secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    return tmp_path


def check(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["check", *arguments])


def test_a_pipe_is_checked_although_it_can_be_read_only_once() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, GOOD.encode())
        os.close(writing)
        result = check("-c", f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"/dev/fd/{reading} is valid",
        "It copies from https://graph.facebook.com into milepost.db",
    ]


def test_a_valid_file_is_reported_with_the_origin_of_each_secret(directory: Path) -> None:
    (directory / "config.yaml").write_text(GOOD)
    result = check()
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "config.yaml is valid"
    assert "source.app_secret      file app-secret" in lines
    assert "pages[0].access_token  environment variable BAKERY_TOKEN" in lines
    assert lines[-2:] == [
        "pages[1].access_token  written in config.yaml",
        "  → move it into the environment or a file: ${NAME}, or access_token_file",
    ]


def test_the_source_and_the_target_of_the_copy_are_shown(directory: Path) -> None:
    (directory / "config.yaml").write_text(GOOD)
    assert "It copies from https://graph.facebook.com into milepost.db" in check().stdout.splitlines()
    (directory / "config.yaml").write_text("sync: {interval: 1m}")
    simulated = "It copies a simulated world, whose people are invented, into simulated.db"
    assert simulated in check("--online").stdout.splitlines()


def test_pages_without_the_kind_of_source_are_not_valid_online_either(directory: Path) -> None:
    (directory / "config.yaml").write_text('pages: [{id: "1", access_token: "${BAKERY_TOKEN}"}]')
    for options in ((), ("--online",)):
        error = check(*options).exception
        assert isinstance(error, BadConfiguration)
        assert "config.yaml:1: pages: source.kind is not set: it is simulator" in error.message
        assert SECRET not in str(error)


def test_no_secret_is_ever_shown(directory: Path) -> None:
    (directory / "config.yaml").write_text(GOOD)
    assert SECRET not in check().output


def test_the_given_file_is_checked(directory: Path) -> None:
    (directory / "other.yaml").write_text("{sync: {interval: 1m}}")
    assert check("-c", "other.yaml").stdout.startswith("other.yaml is valid")


def test_without_a_file_the_built_in_settings_are_named() -> None:
    assert check().stdout == "There is no config.yaml here: the built-in settings apply, with the simulator\n"


def test_certificates_that_deliveries_could_not_use_are_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    (directory / "config.yaml").write_text(
        f"deliveries: [{{name: crm, url: https://crm.example/hook, secret: {secret}, kinds: [contact]}}]"
    )
    monkeypatch.setenv("SSL_CERT_FILE", "missing.pem")
    error = check().exception
    assert isinstance(error, BadConfiguration)
    assert error.message.startswith("SSL_CERT_FILE: missing.pem cannot be read")


def test_everything_that_is_wrong_is_reported(directory: Path) -> None:
    (directory / "config.yaml").write_text("sync: {batch_size: 0, batchsize: 1}")
    error = check().exception
    assert isinstance(error, BadConfiguration)
    assert "sync.batch_size" in error.message
    assert "sync.batchsize" in error.message


def test_the_simulator_has_no_token_to_try() -> None:
    result = check("--online")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (
        0,
        "There is no token to try: the simulator has its own",
    )


# --- online -----------------------------------------------------------------------------------------------------------


def simulator(faults: FaultPlan = CALM, app_secret: str = "") -> SimulatorServer:
    plan = WorldPlan(pages=2, conversations=1)
    return SimulatorServer(plan, clock=lambda: datetime.now(UTC), faults=faults, app_secret=app_secret)


def settings(base_url: str, *pages: PageSettings, app_secret: str = "", manager_token: str = "") -> Settings:
    source = SourceSettings(
        kind="facebook",
        base_url=base_url,
        calls_per_second=0,
        app_secret=SecretStr(app_secret),
        access_token=SecretStr(manager_token),
        discover_pages=bool(manager_token),
    )
    return Settings(source=source, pages=pages)


def page(id_: str, token: str, name: str = "") -> PageSettings:
    return PageSettings(id=id_, access_token=SecretStr(token), name=name)


MESSENGER_ONLY = PageSettings(id="1", access_token=SecretStr(SECRET), platforms=("messenger",))


async def tried(settings: Settings) -> tuple[ExitCode, list[str]]:
    lines = list[str]()
    code = await try_tokens(settings, lines.append)
    return code, "\n".join(lines).splitlines()


async def test_working_tokens_are_reported_as_working() -> None:
    async with simulator() as server:
        pages = [page(each.id, each.token, "Bakery") for each in server.pages]
        code, lines = await tried(settings(server.base_url, *pages))
    assert code is ExitCode.COMPLETE
    assert [line for line in lines if not line.startswith("  ")] == [
        f"page {each.id} (Bakery): the token works, until {in_two_months()}" for each in server.pages
    ]


def in_two_months() -> str:
    """Return the day on which the simulated access to data ends."""
    return f"{datetime.now(UTC) + timedelta(days=60):%Y-%m-%d}"


async def test_the_conversations_of_each_platform_are_asked_for_as_the_streams_will() -> None:
    async with simulator() as server:
        only = server.pages[0]
        asked_for = PageSettings(id=only.id, access_token=SecretStr(only.token), platforms=("messenger", "instagram"))
        code, lines = await tried(settings(server.base_url, asked_for))
        asked = [request for request in server.requests.last if request.edge == "conversations"]
    assert code is ExitCode.COMPLETE
    assert lines[1:] == ["  messenger: conversations can be read", "  instagram: conversations can be read"]
    assert [(each.platform, each.limit) for each in asked] == [("messenger", "1"), ("instagram", "1")]


async def test_a_permission_that_is_missing_for_one_platform_only_is_found() -> None:
    async with simulator() as server:
        only = server.pages[0]
        server.world.access.forbid(only.id)
        code, lines = await tried(settings(server.base_url, page(only.id, only.token)))
    assert code is ExitCode.AUTHORIZATION
    assert "code 10" in lines[1]
    assert lines[2].startswith("    → a permission is missing: grant pages_messaging, pages_manage_metadata and ")
    assert "  messenger: the token does not have the permission pages_messaging" in lines


async def test_a_right_that_was_lost_behind_an_empty_inbox_is_found_by_debug_token() -> None:
    async def answer(request: web.Request) -> web.Response:
        answers: dict[str, Any] = {
            "me": {"id": "1", "name": "Bakery"},
            "conversations": {"data": []},
            "debug_token": {"data": {"is_valid": True, "expires_at": 0, "scopes": ["pages_show_list"]}},
        }
        return web.json_response(answers[request.path.rpartition("/")[2]])

    async with serving(answer) as base_url:
        code, lines = await tried(settings(base_url, MESSENGER_ONLY))
    assert code is ExitCode.AUTHORIZATION
    assert lines == [
        "page 1: the token works, and never expires",
        "  messenger: conversations can be read, but there are none so far",
        f"  messenger: the token does not have the permission {', '.join(PERMISSIONS[Platform.MESSENGER])}",
        "  → grant it, and set pages[0].access_token to a new token that has it",
    ]


async def test_a_token_that_soon_ends_is_reported() -> None:
    async with simulator() as server:
        only = server.pages[0]
        server.world.access.expire(only.id, 3 * 86_400, datetime.now(UTC))
        code, lines = await tried(settings(server.base_url, page(only.id, only.token)))
    assert code is ExitCode.COMPLETE
    assert lines[0].endswith(f"the token works, until {datetime.now(UTC) + timedelta(days=3):%Y-%m-%d}")
    assert lines[-1] == "  → set pages[0].access_token to a new token before then"


async def test_an_api_without_debug_token_proves_nothing_against_a_token_that_works() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("debug_token"):
            return web.json_response({"error": {"message": "no such object", "code": 100}}, status=400)
        return web.json_response({"id": "1", "data": []})

    async with serving(answer) as base_url:
        code, lines = await tried(settings(base_url, MESSENGER_ONLY))
    assert code is ExitCode.COMPLETE
    assert lines[0] == "page 1: the token works; its lifetime and permissions are unknown"


async def test_an_instagram_account_that_is_not_linked_is_found() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"id": "1", "name": "Bakery"})

    async with serving(answer) as base_url:
        asked_for = PageSettings(id="1", access_token=SecretStr(SECRET), platforms=("instagram",))
        code, lines = await tried(settings(base_url, asked_for))
    assert code is ExitCode.CONFIGURATION
    assert "  instagram: page 1 has no Instagram professional account linked" in lines[1]


async def test_calls_are_signed_with_the_app_secret() -> None:
    async with simulator(app_secret="s3cret") as server:
        only = server.pages[0]
        code, _ = await tried(settings(server.base_url, page(only.id, only.token), app_secret="s3cret"))
        unsigned, _ = await tried(settings(server.base_url, page(only.id, only.token)))
    assert code is ExitCode.COMPLETE
    assert unsigned is not ExitCode.COMPLETE


async def test_a_refused_token_is_reported_with_its_key() -> None:
    async with simulator() as server:
        first, second = server.pages
        pages = (page(first.id, first.token), page(second.id, SECRET))
        code, lines = await tried(settings(server.base_url, *pages))
    assert code is ExitCode.AUTHORIZATION
    assert "code 190" in lines[-2]
    assert lines[-1] == "  → set pages[1].access_token to a new token with the required permissions"
    assert SECRET not in "\n".join(lines)


async def test_the_token_of_another_page_is_recognised() -> None:
    async with simulator() as server:
        first, second = server.pages
        code, lines = await tried(settings(server.base_url, page(first.id, second.token)))
    assert code is ExitCode.CONFIGURATION
    assert f"the token belongs to {second.name} ({second.id}), not to this page" in lines[0]
    assert second.token not in "\n".join(lines)


async def test_an_unavailable_api_proves_nothing_about_the_token() -> None:
    code, lines = await tried(settings(nowhere(), page("1", SECRET)))
    assert code is ExitCode.WITH_ERRORS
    assert lines[1] == "  → the token could not be tried; try again later"


@pytest.mark.parametrize("fault", ["html_502=1", "truncated=1", "rate_limit=1"])
async def test_a_failing_api_proves_nothing_about_the_token(fault: str) -> None:
    async with simulator(parse_faults(fault)) as server:
        code, _ = await tried(settings(server.base_url, page(server.pages[0].id, server.pages[0].token)))
    assert code is ExitCode.WITH_ERRORS


async def test_the_pages_that_would_be_discovered_are_listed() -> None:
    async with simulator() as server:
        code, lines = await tried(settings(server.base_url, manager_token=server.world.user_token))
        names = ", ".join(f"{each.id} ({each.name})" for each in server.pages)
    assert code is ExitCode.COMPLETE
    assert lines[0] == f"source.discover_pages: source.access_token manages 2 pages: {names}"
    assert [line for line in lines if line.startswith("page ")] == [
        f"page {each.id} ({each.name}): the token works, until {in_two_months()}" for each in server.pages
    ]
    assert lines.count("  messenger: conversations can be read") == 2


async def test_a_manager_without_pages_is_reported() -> None:
    async with simulator() as server:
        for each in server.pages:
            server.world.access.unmanage(each.id)
        code, lines = await tried(settings(server.base_url, manager_token=server.world.user_token))
    assert code is ExitCode.WITH_ERRORS
    assert lines == ["source.discover_pages: source.access_token works, but manages no page"]


async def test_a_dead_token_of_the_manager_is_reported() -> None:
    async with simulator() as server:
        code, lines = await tried(settings(server.base_url, manager_token=SECRET))
    assert code is ExitCode.AUTHORIZATION
    assert "code 190" in lines[0]
    assert lines[1] == "  → set source.access_token to a new token with the required permissions"


async def test_the_most_serious_result_decides_the_exit_code() -> None:
    async with simulator() as server:
        first, second = server.pages
        pages = (page(first.id, second.token), page(second.id, SECRET))
        code, _ = await tried(settings(server.base_url, *pages))
    assert code is ExitCode.CONFIGURATION


# --- webhooks ---------------------------------------------------------------------------------------------------------

WITH_WEBHOOKS = WebhookSettings(listen="127.0.0.1:0", verify_token=SecretStr("a-word"))


async def test_what_only_webhooks_tell_is_named_where_it_does_not_come() -> None:
    async with simulator() as server:
        one = server.pages[0]
        server.world.access.subscribe(
            one.id, "messages,message_echoes,message_edits,message_reactions,messaging_postbacks,standby"
        )
        wanted = settings(server.base_url, page(one.id, one.token)).model_copy(update={"webhooks": WITH_WEBHOOKS})
        code, lines = await tried(wanted)
    assert code is ExitCode.COMPLETE  # every message is copied all the same
    assert [line for line in lines if "webhooks" in line] == [
        "  webhooks: the page is subscribed, without messaging_referrals, which only webhooks report",
        "    → subscribe each page to these fields, or set webhooks.subscribe: true (docs/webhooks.md)",
    ]


async def test_subscriptions_are_looked_at_where_webhooks_are_taken() -> None:
    async with simulator() as server:
        one, other = server.pages
        server.world.access.subscribe(other.id, "messages,standby")
        wanted = settings(server.base_url, *(page(each.id, each.token) for each in server.pages))
        code, lines = await tried(wanted.model_copy(update={"webhooks": WITH_WEBHOOKS}))
        without, others = await tried(wanted)
    assert code is ExitCode.WITH_ERRORS
    assert [line for line in lines if "webhooks" in line] == [
        "  webhooks: the page is subscribed",
        "  webhooks: the page is not subscribed to message_echoes, messaging_postbacks",
        "    → subscribe each page to these fields, or set webhooks.subscribe: true (docs/webhooks.md)",
    ]
    assert without is ExitCode.COMPLETE
    assert not any("webhooks" in line for line in others)
    assert one.id in lines[0]
