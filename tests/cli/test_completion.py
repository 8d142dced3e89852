"""The completion scripts, in the shells themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kit.fork_server import ENVIRONMENT
from milepost.cli.completion import command

ID = "61590023753730000"
CONFIG = f'source: {{kind: facebook}}\npages: [{{id: "{ID}", name: Corner Bakery, access_token: made-up}}]\n'
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a configuration, and with `milepost` as a program in `bin`."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/milepost"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m milepost "$@"\n')
    program.chmod(0o755)
    return tmp_path


def script(shell: str) -> str:
    result = CliRunner().invoke(command, [shell])
    assert result.exit_code == 0, result.output
    return result.output


def in_shell(folder: Path, shell: str, *arguments: str) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed (Debian package {shell})")
    environment = ENVIRONMENT | {"PATH": f"{folder / 'bin'}:{os.defpath}", "HOME": str(folder)}
    done = subprocess.run(
        [shell, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def completed_by_bash(folder: Path, line: str, word_breaks: str = " \t\n\"'><=;|&(:") -> list[str]:
    """Return what bash would add for a line that ends at the cursor."""
    program = f"""
{script("bash")}
COMP_WORDBREAKS=$'{word_breaks.encode("unicode_escape").decode().replace("'", chr(92) + "'")}'
COMP_LINE='{line}' COMP_POINT={len(line)}
compopt() {{ :; }}
_milepost_completion milepost
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return in_shell(folder, "bash", "--norc", "-c", program).split()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("milepost pau", ["pause"]),
        ("milepost journal ta", ["tail"]),
        ("milepost pause mess", [f"messenger:{ID}"]),
        ("milepost pause messenger:6", [ID]),
        ("milepost dead-letters list --stream instagram:", [ID]),
        (f"milepost sync messenger:{ID} ", [f"instagram:{ID}"]),
        ("milepost completion z", ["zsh"]),
    ],
)
def test_bash_completes_commands_and_streams_across_their_colons(folder: Path, line: str, completed: list[str]) -> None:
    assert completed_by_bash(folder, line) == completed


def test_bash_without_a_break_at_colons_gets_the_whole_stream(folder: Path) -> None:
    assert completed_by_bash(folder, "milepost pause messenger:6", " \t\n") == [f"messenger:{ID}"]


def test_a_broken_configuration_completes_no_stream_and_says_nothing(folder: Path) -> None:
    (folder / "config.yaml").write_text("pages: 5")
    assert completed_by_bash(folder, "milepost pause mess") == []


def test_fish_completes_streams_with_the_names_of_their_pages(folder: Path) -> None:
    (folder / "milepost.fish").write_text(script("fish"))
    shown = in_shell(folder, "fish", "--no-config", "-c", "source milepost.fish; complete -C 'milepost pause mess'")
    assert shown == f"messenger:{ID}\tCorner Bakery\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_is_sound(folder: Path, shell: str) -> None:
    (folder / "script").write_text(script(shell))
    in_shell(folder, shell, "-n", "script")
