"""The wheel contains everything that an installed Milepost needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel, and return the names of its files."""
    target = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = target.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


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


def test_the_wheel_contains_nothing_else_of_the_project(wheel: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"milepost"}
