"""`milepost config init`: a configuration to begin with."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from milepost.cli.config import command, sample
from milepost.core.errors import MilepostError
from milepost.settings.load import load

SHIPPED = Path(__file__).parents[2] / "config.yaml"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILEPOST_CONFIG", raising=False)


def init(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["init", *arguments])


def test_it_writes_the_shipped_file_for_its_owner_only_and_says_what_to_do_next() -> None:
    result = init()
    assert result.exit_code == 0
    assert "milepost run" in result.output
    assert Path("config.yaml").read_text() == SHIPPED.read_text()
    assert Path("config.yaml").stat().st_mode & 0o777 == 0o600


def test_for_facebook_it_is_valid_once_the_token_is_there() -> None:
    result = init("--facebook", "--config", "bakery.yaml")
    assert result.exit_code == 0
    assert "milepost config check --online -c bakery.yaml" in result.output
    settings = load(Path("bakery.yaml"), {"BAKERY_TOKEN": "made-up"})
    assert settings.source.kind == "facebook"
    assert [(page.name, page.instagram_account_id) for page in settings.pages] == [("Corner Bakery", None)]


def test_for_facebook_nothing_else_differs() -> None:
    """The comments and keys are those of the shipped file, beside its introduction and the page."""
    ours, shipped = sample(is_facebook=True).splitlines(), SHIPPED.read_text().splitlines()
    different = [line for line in ours if line not in shipped and line.strip("# ")]
    assert all(
        line.startswith(("# Milepost's", "# `milepost config", "  kind: facebook", "pages:", "  - id", "    "))
        for line in different
    )


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_that_exists_is_never_overwritten(is_link: bool) -> None:
    if is_link:
        Path("config.yaml").symlink_to("nowhere.yaml")
    else:
        Path("config.yaml").write_text("mine")
    result = init()
    assert result.exit_code == 2
    assert "exists, and is left as it is" in result.output
    assert not Path("nowhere.yaml").exists()
    assert is_link or Path("config.yaml").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named() -> None:
    error = init("--config", "missing/config.yaml").exception
    assert isinstance(error, MilepostError)
    assert error.message == "missing/config.yaml cannot be written: No such file or directory"
    assert "--config FILE" in error.hint
