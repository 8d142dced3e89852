"""The command line: a file a command, imported when it is asked for, so that each starts as fast as it can."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TextIO

import click

from milepost import __version__
from milepost.core.errors import BadConfiguration, MilepostError, StoreBusy, StoreRefused
from milepost.reporting.summary import ExitCode

COMMANDS = {
    "run": "Work every stream on its interval and serve HTTP, until SIGTERM.",
    "sync": "Work the streams now, until each sweep is complete or a limit is hit.",
    "status": "Show where every stream stands.",
    "journal": "Follow, check, rebuild or export the journal.",
    "backup": "Copy the database, beside a daemon that goes on working.",
    "store": "Copy the database into another one, or switch it to another source.",
    "dead-letters": "List, show, redrive or discard what could not be read or written.",
    "streams": "Remove streams that are given up, with their rows.",
    "contacts": "Erase a person who asks for it.",
    "config": "Check the configuration.",
    "simulate": "Serve a simulated Graph API, for trying things.",
}


class _Lazy(click.Group):
    """Imports `milepost.cli.<name>` for the command of that name, and nothing for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"milepost.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="milepost")
def cli() -> None:
    """Copy Messenger and Instagram conversations into a database, and never lose the place."""


def main() -> None:
    """Run the command line. What a user can cause ends in one line on stderr and an exit code, never a traceback."""
    _replace_closed_streams()
    try:
        cli(prog_name="milepost")
    except MilepostError as error:
        click.echo(f"milepost: {error.message}", err=True)
        if error.hint:
            click.echo(f"  → {error.hint}", err=True)
        _end(_exit_code(error))
    except OSError as error:  # of stdout or a file that an argument names; the parts that work have errors of their own
        where = f": {error.filename}" if error.filename else ""
        click.echo(f"milepost: {error.strerror or error}{where}", err=True)
        _end(ExitCode.WITH_ERRORS)


def _end(code: ExitCode) -> NoReturn:
    """Exit; what stdout will not take is given up, or Python fails over it once more, with an exit code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = _nowhere()
    sys.exit(code)


def _replace_closed_streams() -> None:
    """Write to nowhere where stdout or stderr was closed before the start: that nobody listens is no error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _nowhere())


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _exit_code(error: MilepostError) -> ExitCode:
    match error:
        case BadConfiguration() | StoreRefused():
            return ExitCode.CONFIGURATION
        case StoreBusy():
            return ExitCode.PROGRESS_SAVED
        case _:
            return ExitCode.WITH_ERRORS
