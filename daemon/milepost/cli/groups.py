"""Groups of commands that suggest a similar name for an unknown command."""

import os
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import click

from milepost.cli.terminal import terminal_of

PREFIX = "Error: "  # click's


class Group(click.Group):
    """A group of commands whose usage errors are wrapped to fit the terminal."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that the arguments name. Raises UsageError if they are wrong."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            lines = terminal_of(sys.stderr, os.environ).fitted([f"{PREFIX}{error.format_message()}"])
            raise click.UsageError("\n".join(lines).removeprefix(PREFIX), error.ctx) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name. Raises UsageError for an unknown one."""
        name = args[0] if args else ""
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        names = self.list_commands(ctx)
        others = did_you_mean(name, names) or f"; the commands are {', '.join(names)}"
        raise click.UsageError(f"there is no command {name!r}{others}", ctx)


def did_you_mean(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return a question to end a message with, which names the closest known word; "" if none is close enough."""
    close: Sequence[str] = get_close_matches(word, list(known), n=1, cutoff=likeness)
    return f"; did you mean {close[0]}?" if close else ""
