"""What is wrong with the usage of a command, on a narrow terminal and in a pipe."""

import click
import pytest
from click.testing import CliRunner

from milepost.cli.groups import Group
from milepost.cli.terminal import Terminal

LONG = "there is no stream messenger:1; known are instagram:61577949933740001 and messenger:61577949933740001"


@click.group(cls=Group)
def outer() -> None:
    pass


@outer.group(cls=Group)
def inner() -> None:
    pass


@inner.command()
def fail() -> None:
    raise click.BadParameter(LONG, param_hint="STREAM")


def complaint(monkeypatch: pytest.MonkeyPatch, width: int | None) -> list[str]:
    monkeypatch.setattr("milepost.cli.groups.terminal_of", lambda *_: Terminal(width))
    result = CliRunner().invoke(outer, ["inner", "fail"])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("Error: ")) :]


def test_it_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(monkeypatch, 60) == [
        "Error: Invalid value for STREAM: there is no stream",
        "  messenger:1; known are instagram:61577949933740001 and",
        "  messenger:61577949933740001",
    ]


def test_a_pipe_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(monkeypatch, None) == [f"Error: Invalid value for STREAM: {LONG}"]
