"""The documents that are made from the help of the commands, and what they leave out."""

import shutil
import subprocess
from pathlib import Path

import pytest

from docs.manual import MAN_PAGE, PAGE, SHARED, WITHOUT_CONFIG, man_page, manuals, page
from milepost.cli import COMMANDS

README = Path(__file__).parents[2] / "README.md"


def test_the_reference_and_the_man_page_are_those_of_the_commands() -> None:
    """`python docs/manual.py` writes them anew."""
    assert page(PAGE.read_text()) == PAGE.read_text()
    assert man_page() == MAN_PAGE.read_text()


def test_every_command_has_its_place() -> None:
    text, readme = PAGE.read_text(), README.read_text()
    for manual in manuals():
        assert f"### {manual.name}\n" in text
        assert all(manual.paragraphs), manual.name
        assert all(meaning for _, meaning in manual.options), manual.name
    assert [name for name in COMMANDS if f"milepost {name}" not in readme] == []


def test_the_option_that_is_explained_once_is_that_of_all_commands_but_those_that_are_named() -> None:
    *most, last = (manual.name.removeprefix("milepost ") for manual in manuals() if SHARED not in manual.options)
    assert f"{', '.join(most)} and {last}" == WITHOUT_CONFIG


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed (Debian package man-db)")
def test_man_renders_the_page_without_a_warning() -> None:
    shown = subprocess.run(
        ["man", "--warnings", "-l", MAN_PAGE],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80"},
    )
    assert "milepost sync" in shown.stdout
    assert shown.stderr == ""
