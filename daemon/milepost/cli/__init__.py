"""The command line: each command is imported only when it runs, so that it starts fast."""

import gc
import os
import sys
from contextlib import suppress
from importlib import import_module
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click
from click.shell_completion import CompletionItem

from milepost import __version__
from milepost.cli.terminal import Group, terminal_of
from milepost.core.errors import (
    BadConfiguration,
    ConfigurationAway,
    MilepostError,
    StoreBusy,
    StoreRefused,
    StoreRemounted,
)
from milepost.reporting.summary import ExitCode

COMMANDS = {
    "run": "Run the daemon: sync every stream on its interval and serve HTTP, until SIGTERM.",
    "sync": "Sync the streams now, until each sweep is complete or a limit is reached.",
    "pause": "Pause streams until they are resumed.",
    "resume": "Resume paused streams, which syncs them at once.",
    "status": "Show the state of every stream.",
    "journal": "Follow, verify, rebuild or export the journal.",
    "changes": "Show the rows that changed, in order, and follow them.",
    "backup": "Copy the database while the daemon keeps running.",
    "store": "Copy the database into another one, or switch it to another source.",
    "dead-letters": "List, show, redrive or discard what could not be read or written.",
    "deliveries": "List, pause, resume or replay deliveries of changed rows.",
    "streams": "Remove streams with their rows.",
    "contacts": "Erase a person on request.",
    "notify": "Test whether notices to people arrive.",
    "config": "Write a configuration to begin with, and check it.",
    "simulate": "Serve a simulated Graph API, for trying things out.",
    "completion": "Write the completion script for a shell.",
}
# Each is `command` in a module of its own name, except for these, which share the module of a similar command.
BESIDE = {
    **dict.fromkeys(("sync", "pause", "resume", "contacts"), "streams"),
    "changes": "deliveries",
    "backup": "store",
    "notify": "config",
}


class _Lazy(Group):
    """Imports only the module of the command that is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"milepost.cli.{BESIDE.get(cmd_name, cmd_name).replace('-', '_')}")
        command: click.Command = getattr(module, cmd_name if cmd_name in BESIDE else "command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Complete the name of a command without importing any."""
        named = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="milepost")
def cli() -> None:
    """Copy Messenger and Instagram conversations into a database, and never lose the place."""


def main() -> None:
    """Run the command line. An error that a user can cause is a line on stderr and an exit code, never a traceback."""
    _replace_closed_streams()
    if isinstance(sys.stderr, TextIOWrapper):
        sys.stderr = _Forgiving.around(sys.stderr)
    if isinstance(sys.stdout, TextIOWrapper):  # as stderr does: a terminal in Latin-1 has no arrows
        sys.stdout.reconfigure(errors="backslashreplace")
    # Rows and entries form no cycles. Looking for some every 700 objects takes 5 % of a first copy and finds none.
    gc.set_threshold(50_000, 20, 50)
    try:
        cli(prog_name="milepost")
    except MilepostError as error:
        _complain(f"milepost: {error.message}", *([f"  → {error.hint}"] if error.hint else []))
        _end(_exit_code(error))
    except OSError as error:  # from stdout or a file that an argument names; everything else raises MilepostError
        no_file = "the current directory" if isinstance(error, FileNotFoundError) else "stdout cannot be written"
        _complain(f"milepost: {error.filename or no_file}: {error.strerror or error}")
        _end(ExitCode.WITH_ERRORS)
    finally:
        gc.freeze()  # collecting everything at exit would take a quarter of the time of a short command


def _complain(*texts: str) -> None:
    """Write lines to stderr, wrapped if it is a terminal."""
    click.echo("\n".join(terminal_of(sys.stderr, os.environ).fitted(texts)), err=True)


def _end(code: ExitCode) -> NoReturn:
    """Exit, and drop output that stdout has refused: Python would write it again, and fail with its own exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = _devnull()
    sys.exit(code)


def _replace_closed_streams() -> None:
    """Replace stdout or stderr by /dev/null if it was closed before the start, which is not an error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _devnull())


class _Forgiving(FileIO):
    """Drops what cannot be written.

    What stderr gets only accompanies the work: a full disk or a lost terminal must not end it or change its result.
    """

    @classmethod
    def around(cls, stderr: TextIOWrapper) -> TextIOWrapper:
        """Return a stream that replaces stderr."""
        out = BufferedWriter(cls(stderr.fileno(), "w", closefd=False))
        return TextIOWrapper(out, stderr.encoding, stderr.errors, line_buffering=True)

    def write(self, data: Any) -> int:  # noqa: ANN401  (the type of a buffer has no name in Python 3.11)
        """Write what can be written, and return how much of it is done with."""
        with suppress(OSError):
            return super().write(data) or len(data)
        return len(data)


def _devnull() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _exit_code(error: MilepostError) -> ExitCode:
    match error:
        case StoreRemounted() | ConfigurationAway():  # a restart helps, and exit code 78 would prevent it
            return ExitCode.WITH_ERRORS
        case BadConfiguration() | StoreRefused():
            return ExitCode.CONFIGURATION
        case StoreBusy():
            return ExitCode.PROGRESS_SAVED
        case _:
            return ExitCode.WITH_ERRORS
