"""`milepost config check`: what is wrong, where secrets come from, and whether tokens work."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from kit.loopback import nowhere
from milepost.cli.config import command
from milepost.cli.token_check import try_tokens
from milepost.core.errors import BadConfiguration
from milepost.reporting.summary import ExitCode
from milepost.settings import PageSettings, Settings, SourceSettings
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
        app_secret=SecretStr(app_secret),
        access_token=SecretStr(manager_token),
        discover_pages=bool(manager_token),
    )
    return Settings(source=source, pages=pages)


def page(id_: str, token: str, name: str = "") -> PageSettings:
    return PageSettings(id=id_, access_token=SecretStr(token), name=name)


async def tried(settings: Settings) -> tuple[ExitCode, list[str]]:
    lines = list[str]()
    code = await try_tokens(settings, lines.append)
    return code, "\n".join(lines).splitlines()


async def test_working_tokens_are_reported_as_working() -> None:
    async with simulator() as server:
        pages = [page(each.id, each.token, "Bakery") for each in server.pages]
        code, lines = await tried(settings(server.base_url, *pages))
    assert code is ExitCode.COMPLETE
    assert lines == [f"page {each.id} (Bakery): the token works" for each in server.pages]


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
    assert "code 190" in lines[1]
    assert lines[2] == "  → set pages[1].access_token to a new token with the required permissions"
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
    assert lines == [f"source.discover_pages: source.access_token manages 2 pages: {names}"]


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
