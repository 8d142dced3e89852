"""The pages of docs/ that people follow to the letter: their commands work, and their links lead somewhere."""

import asyncio
import json
import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import aiohttp
import click
import pytest
from aiohttp import web

from kit.installation import Installation
from kit.loopback import serving
from kit.needs import needs
from kit.simulated import BAKERY, frozen_world
from milepost.cli import cli
from milepost.simulator.server import SimulatorServer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "monitoring" / "README.md"])
FOLLOWED = ("faq", "security", "upgrade")
TIMEOUT_SECONDS = 120


def commands(page: Path) -> list[str]:
    """Return the blocks of commands on a page, in their order."""
    blocks: list[str] = re.findall(r"^ *```sh\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return blocks


def configuration(page: Path, api: str) -> str:
    """Return the configuration on a page, with a page of the simulated world and its API."""
    blocks: list[str] = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (shown,) = (block for block in blocks if "pages:" in block)
    shown = shown.replace("1234567890", BAKERY.id).replace("17841400000000000", BAKERY.account_id("instagram"))
    return shown.replace("kind: facebook", f"kind: facebook\n  base_url: {api}")


async def followed(folder: Path, script: str, **variables: str) -> str:
    """Run commands in a folder as a reader would, who has `milepost` in the path; return what they say."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script,
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert process.returncode == 0, f"{script}\n{output.decode()}"
    return output.decode()


@pytest.mark.parametrize("page", FOLLOWED)
async def test_the_commands_of_a_page_work_one_after_the_other(page: str, installation: Installation) -> None:
    script = "\n".join(commands(DOCS / f"{page}.md")).replace("1234567890", BAKERY.id)
    assert "milepost" in script
    async with frozen_world(20) as simulator:
        installation.configure_for(simulator)
        await installation.sync_until_complete()
    await followed(installation.folder, script)


class Login:
    """What the Graph API answers to the exchange of a token; everything else is the simulator's."""

    def __init__(self, simulator: SimulatorServer) -> None:
        self._simulator = simulator
        self.exchanged: dict[str, str] = {}

    async def respond(self, request: web.Request) -> web.Response:
        if request.path.endswith("/oauth/access_token"):
            self.exchanged = dict(request.query)
            token = self._simulator.world.user_token
            return web.json_response({"access_token": token, "token_type": "bearer", "expires_in": 5183944})
        headers = {"Authorization": request.headers["Authorization"]}
        url = f"{self._simulator.base_url}{request.rel_url}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            return web.json_response(await answer.json(), status=answer.status)


@needs("curl", "curl")
async def test_a_token_is_got_as_the_page_says(tmp_path: Path) -> None:
    page = DOCS / "tokens.md"
    *steps, check = commands(page)
    async with frozen_world(20) as simulator, serving(Login(simulator).respond) as api:
        given = {"APP_ID": "17", "APP_SECRET": "s3cret", "SHORT_TOKEN": "EAABshort"}
        script = "\n".join(steps).replace("https://graph.facebook.com", api).replace("rm long.json", "true long.json")
        await followed(tmp_path, script, **given)
        health = json.loads((tmp_path / "token.json").read_text())["data"]
        assert (health["is_valid"], health["expires_at"]) == (True, 0)
        assert (tmp_path / "bakery.token").read_text() == BAKERY.token
        assert (tmp_path / "bakery.token").stat().st_mode & 0o777 == 0o600

        (tmp_path / "config.yaml").write_text(configuration(page, api))
        said = await followed(tmp_path, check)
    assert said.count("conversations can be read") == 2
    assert "the token works" in said


async def test_the_quick_start_ends_with_contacts_in_a_database(tmp_path: Path) -> None:
    """But for the installation, which is that of the README, and for what runs until it is stopped."""
    page = DOCS / "quick-start.md"
    (query,) = re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    script = "\n".join(block for block in commands(page) if "pip install" not in block)
    script = re.sub(r"^\.venv/bin/milepost run.*$", "", script.replace("EAAB…", BAKERY.token), flags=re.MULTILINE)
    assert "sync" in script
    async with frozen_world(20) as simulator:
        (tmp_path / "config.yaml").write_text(configuration(page, simulator.base_url))
        said = await followed(tmp_path, script.replace(".venv/bin/milepost", "milepost"))
        assert "conversations can be read" in said
    with closing(sqlite3.connect(tmp_path / "bakery.db")) as connection:
        assert len(connection.execute(query).fetchall()) > 10
        assert connection.execute("SELECT DISTINCT name FROM pages").fetchall() == [("Corner Bakery",)]


def test_the_checks_of_a_contributor_are_those_of_ci() -> None:
    (block,) = commands(ROOT / "CONTRIBUTING.md")
    ci = (ROOT / ".ci" / "run").read_text() + "".join(commands(ROOT / "README.md"))
    for command in re.split(r" && |\n", block.strip()):
        assert command in ci, command


# --- commands ---------------------------------------------------------------------------------------------------------

NAMED = re.compile(r"^ *(?:sudo )?(?:\.venv/bin/)?milepost ([a-z][^#\n]*)|`milepost ([a-z][^`\n]*)`", re.MULTILINE)


def unknown_words(words: list[str]) -> list[str]:
    """Return the words of a command line that name no command, or no option of it."""
    command: click.Command = cli
    unknown = []
    for word in words:
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return [word]
            command = found
        elif word.startswith("-") and word != "-":
            options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
            unknown += [] if word.partition("=")[0] in options else [word]
    return unknown


OF_TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which names what was


@pytest.mark.parametrize("page", OF_TODAY, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_exists(page: Path) -> None:
    for matched in NAMED.finditer(page.read_text()):
        text = re.split(r" [|>&]|;", matched[1] or matched[2])[0]
        words = re.sub(r"[\[\]\\]", " ", text).split()
        assert unknown_words(words) == [], f"milepost {text}"


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them of its headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or other.suffix != ".md" or anchor in anchors(other), target


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name}" in index, page.name
