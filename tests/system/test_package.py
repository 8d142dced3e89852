"""The packages: they contain all that an installed Milepost needs, say where it comes from, and are built the same."""

import asyncio
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path

import aiohttp
import pytest

from hatch_build import absolute, unlinked
from kit.fork_server import ENVIRONMENT
from kit.ports import unused_port
from milepost import __version__

ROOT = Path(__file__).parents[2]


def build(target: Path, *kinds: str, source: Path = ROOT) -> None:
    """Build packages of these kinds, all of them where none is named."""
    chosen = [argument for kind in kinds for argument in ("-t", kind)]
    command = [sys.executable, "-m", "hatchling", "build", *chosen, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and source distribution, and return their folder."""
    target = tmp_path_factory.mktemp("dist")
    build(target)
    return target


@pytest.fixture(scope="module")
def wheel(built: Path) -> set[str]:
    """Return the names of the wheel's files."""
    return set(zipfile.ZipFile(wheel_in(built)).namelist())


def wheel_in(folder: Path) -> Path:
    (path,) = folder.glob("*.whl")
    return path


def metadata(folder: Path) -> Message:
    with zipfile.ZipFile(wheel_in(folder)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_contains_every_migration(wheel: set[str]) -> None:
    migrations = {
        f"milepost/migrations/{path.relative_to(ROOT / 'migrations')}" for path in ROOT.glob("migrations/*/*.sql")
    }
    assert migrations
    assert migrations <= wheel


def test_the_wheel_contains_every_module_and_statement(wheel: set[str]) -> None:
    package = ROOT / "daemon"
    sources = [*package.rglob("*.py"), *package.glob("milepost/stores/*/*.sql"), package / "milepost/py.typed"]
    assert {str(path.relative_to(package)) for path in sources} <= wheel


def test_the_wheel_contains_the_parts_of_the_status_page(wheel: set[str]) -> None:
    page = ROOT / "daemon/milepost/service/page"
    parts = [path for ending in ("html", "css", "js", "md") for path in page.rglob(f"*.{ending}")]
    assert parts
    assert {str(path.relative_to(ROOT / "daemon")) for path in parts} <= wheel


def test_the_wheel_contains_the_sample_of_a_configuration_and_the_man_page(built: Path) -> None:
    with zipfile.ZipFile(wheel_in(built)) as archive:
        assert archive.read("milepost/cli/config.sample.yaml") == (ROOT / "config.yaml").read_bytes()
        man_page = f"milepost-{__version__}.data/data/share/man/man1/milepost.1"
        assert archive.read(man_page) == (ROOT / "docs/milepost.1").read_bytes()


def test_the_wheel_contains_nothing_else_of_the_project(wheel: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"milepost"}


def test_both_packages_are_built_the_same_again_and_the_wheel_from_the_sources_too(built: Path, tmp_path: Path) -> None:
    build(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(built)
    (source,) = built.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", source, "-C", tmp_path], check=True)
    build(tmp_path / "from-source", "wheel", source=tmp_path / f"milepost-{__version__}")
    assert wheel_in(tmp_path / "from-source").read_bytes() == wheel_in(built).read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_metadata_invent_no_address_and_have_one_version(built: Path) -> None:
    told = metadata(built)
    assert told["Version"] == __version__
    assert told["License-Expression"] == "MIT"
    assert told.get_all("Project-URL") is None, "it is not published anywhere yet"
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_has_no_relative_link_on_a_package_index(built: Path) -> None:
    text = metadata(built).get_payload()
    assert isinstance(text, str)
    assert targets(text) == []
    assert "png" not in text
    assert "a page access token (`docs/tokens.md`)" in " ".join(text.split())


def targets(text: str) -> list[str]:
    """Return where relative links and pictures of a page lead."""
    links = re.findall(r"\]\(([^)]+)\)", text)
    return [link for link in links if not link.startswith(("https://", "http://", "#"))]


def test_a_project_that_is_published_is_linked_to(tmp_path: Path) -> None:
    source = tmp_path / "source"
    copied = ["daemon", "migrations", "docs", "README.md", "LICENSE", "config.yaml", "hatch_build.py"]
    for name in copied:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    settings = (ROOT / "pyproject.toml").read_text()
    (source / "pyproject.toml").write_text(settings.replace('home = ""', 'home = "https://a.example/milepost/"'))
    build(tmp_path / "dist", "wheel", source=source)
    told = metadata(tmp_path / "dist")
    urls = dict(each.split(", ") for each in told.get_all("Project-URL", []))
    assert urls.keys() == {"Changelog", "Documentation", "Issues", "Source"}
    assert all(url.startswith("https://a.example/milepost") for url in urls.values())
    text = str(told.get_payload())
    assert targets(text) == []
    assert f"(https://a.example/milepost/raw/v{__version__}/docs/status-page.png)" in text


def test_links_elsewhere_stay_as_they_are() -> None:
    page = "[a](docs/a.md) ![b](b.png) [c](https://c.example) [d](#d)"
    assert unlinked(page) == "a (`docs/a.md`)  [c](https://c.example) [d](#d)"
    assert absolute(page, "https://home", "v1") == (
        "[a](https://home/blob/v1/docs/a.md) ![b](https://home/raw/v1/b.png) [c](https://c.example) [d](#d)"
    )


# --- installed as people do -------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["pip", "uv"])
async def test_an_installed_milepost_works_from_any_folder(built: Path, tmp_path: Path, kind: str) -> None:
    program = _installed(kind, wheel_in(built), tmp_path / "installed")
    folder = tmp_path / "work"
    folder.mkdir()
    assert _said(folder, program, "--version") == f"milepost, version {__version__}\n"
    _said(folder, program, "config", "init")
    url = f"http://127.0.0.1:{unused_port()}"
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("127.0.0.1:9464", url.removeprefix("http://")))
    process = await asyncio.create_subprocess_exec(
        program, "run", cwd=folder, env=ENVIRONMENT, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            async for line in process.stderr:
                if b"batch stored" in line:
                    break
        async with aiohttp.ClientSession(url) as session:
            for path in ("/", "/metrics", "/api/streams", "/readyz"):
                async with session.get(path) as response:
                    assert response.status == 200, path
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
    assert "is sound" in _said(folder, program, "journal", "verify")


def _installed(kind: str, package: Path, target: Path) -> Path:
    """Install the wheel with the locked dependencies, and return the program. Skips without an index."""
    if kind == "uv":
        uv = shutil.which("uv")
        if uv is None:
            pytest.skip("uv is not installed")
        environment = {"UV_TOOL_DIR": str(target / "tools"), "UV_TOOL_BIN_DIR": str(target / "bin")}
        _install([uv, "tool", "install", "--python", sys.executable, str(package)], environment)
        return target / "bin/milepost"
    subprocess.run([sys.executable, "-m", "venv", target], check=True, timeout=120)
    pip = [str(target / "bin/pip"), "install", "-q", "--disable-pip-version-check"]
    _install([*pip, "--require-hashes", "-r", str(ROOT / "requirements.lock")])
    _install([*pip, "--no-deps", str(package)])
    assert (target / "share/man/man1/milepost.1").exists()
    return target / "bin/milepost"


def _install(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    # With the environment of the tests, which knows the index that this machine uses.
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in (environment or {}).items()), *command],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if done.returncode != 0 and re.search(r"(?i)connection|could not fetch|dns|network|timed out", done.stderr):
        pytest.skip(f"no package index is reached here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def _said(folder: Path, program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done
    return done.stdout
