"""Output that fits the terminal: its width and colours, wrapped lines, tables that drop columns, usage errors.

A pipe gets everything, unshortened and without colours, as its reader can cut lines by itself. But if `COLUMNS` is
exported, it applies to pipes too: watch(1) passes the width of its screen that way.
"""

import os
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TextIO
from unicodedata import combining, east_asian_width

import click
from msgspec import Struct

GAP = "  "
MIN_WIDTH = 20


class Terminal(Struct, frozen=True):
    """Where output goes. `width` is None if lines may have any length."""

    width: int | None = None
    has_colours: bool = False

    def painted(self, text: str, colour: str | None, *, is_bold: bool = False) -> str:
        """Return the text in a colour of click.style, or plain if the terminal has no colours."""
        if not self.has_colours or (colour is None and not is_bold):
            return text
        return click.style(text, fg=colour, bold=is_bold or None)

    def wrapped(self, text: str) -> list[str]:
        """Return a text as lines; those that continue another are indented by two spaces more."""
        if self.width is None:
            return [text]
        indent = text[: len(text) - len(text.lstrip(" "))]
        lines = textwrap.wrap(
            text.lstrip(" "),
            max(self.width, MIN_WIDTH),
            initial_indent=indent,
            subsequent_indent=f"{indent}{GAP}",
            break_long_words=False,
            break_on_hyphens=False,
        )
        return lines or [text]

    def fitted(self, texts: Iterable[str]) -> list[str]:
        """Return texts of one or more lines as lines, each wrapped."""
        return [line for text in texts for each in text.split("\n") for line in self.wrapped(each)]


PLAIN = Terminal()


def stdout_terminal(environment: Mapping[str, str] | None = None) -> Terminal:
    """Return the terminal that stdout is."""
    return terminal_of(sys.stdout, os.environ if environment is None else environment)


def terminal_of(out: TextIO, environment: Mapping[str, str]) -> Terminal:
    """Return the terminal that an output is. NO_COLOR and TERM=dumb turn colours off, as for the log."""
    is_terminal = out.isatty()
    has_colours = is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    columns = environment.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return Terminal(int(columns), has_colours)
    width = os.get_terminal_size(out.fileno()).columns if is_terminal else 0
    return Terminal(width or None, has_colours)


def echo(lines: Sequence[str], terminal: Terminal) -> None:
    """Write lines to stdout."""
    click.echo("\n".join(lines), color=terminal.has_colours)


def echo_wrapped(*texts: str) -> None:
    """Write texts to stdout, each wrapped if it is a terminal."""
    terminal = stdout_terminal()
    echo(terminal.fitted(texts), terminal)


# --- texts ------------------------------------------------------------------------------------------------------------


def width_of(text: str) -> int:
    """Return how many terminal cells a text takes: two for each wide character, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def elided(text: str, width: int) -> str:
    """Shorten a text in its middle: ids differ at both ends."""
    if width_of(text) <= width:
        return text
    head_width = (width - 1) // 2
    head, tail = _cut(text, head_width), _cut(text[::-1], width - 1 - head_width)[::-1]
    return f"{head}…{tail}"


def elided_key(text: str, width: int) -> str:
    """Shorten the key of a stream, keeping its platform whole."""
    platform, colon, page_id = text.partition(":")
    kept = f"{platform}{colon}"
    return f"{kept}{elided(page_id, width - len(kept))}" if page_id else elided(text, width)


def clipped(text: str, width: int) -> str:
    """Shorten a text, such as a name, at its end."""
    return text if width_of(text) <= width else f"{_cut(text, width - 1).rstrip()}…"


def _cut(text: str, width: int) -> str:
    while width_of(text) > width:
        text = text[:-1]
    return text


# --- tables -----------------------------------------------------------------------------------------------------------


class Column(Struct, frozen=True):
    """A column of a table.

    If the table is too wide, the column with the lowest `rank` is dropped first, and one with None never. `shortest` is
    the width to which `shorten` may shorten its cells; None means not at all.
    """

    heading: str
    is_right: bool = False
    rank: int | None = None
    shortest: int | None = None
    shorten: Callable[[str, int], str] = elided


class Cell(Struct, frozen=True):
    """A text in a colour."""

    text: str
    colour: str | None = None


Row = Sequence[str | Cell]


class Table(Struct, frozen=True):
    """A table as lines, with its heading separate from its rows."""

    heading: str
    rows: list[str]

    @property
    def lines(self) -> list[str]:
        """All lines."""
        return [self.heading, *self.rows]

    def with_details(self, details: Iterable[Iterable[str]], terminal: Terminal) -> list[str]:
        """Return all lines, with the details of each row indented below it."""
        lines = [self.heading]
        for row, texts in zip(self.rows, details, strict=True):
            lines += row, *terminal.fitted(f"  {text}" for text in texts)
        return lines


def table(columns: Sequence[Column], rows: Sequence[Row], terminal: Terminal = PLAIN) -> Table:
    """Lay out rows, which have a cell for each column, so that they fit the terminal.

    As many columns are shown as fit with all cells at their shortest. Then the cells that were shortened share the
    remaining width.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    natural = [
        max(width_of(column.heading), *(width_of(row[index].text) for row in cells), 0)
        for index, column in enumerate(columns)
    ]
    least = [
        width if column.shortest is None else min(width, max(column.shortest, width_of(column.heading)))
        for column, width in zip(columns, natural, strict=True)
    ]
    widths = _widths(natural, least, _shown(columns, least, terminal.width), terminal.width)
    heading = _line(columns, [Cell(column.heading) for column in columns], widths, terminal)
    lines = [_line(columns, row, widths, terminal) for row in cells]
    return Table(terminal.painted(heading, None, is_bold=True), lines)


def _shown(columns: Sequence[Column], least: Sequence[int], width: int | None) -> list[int]:
    shown = list(range(len(columns)))
    while width is not None and _total([least[index] for index in shown]) > width:
        droppable = [index for index in shown if columns[index].rank is not None]
        if not droppable:
            break
        shown.remove(min(droppable, key=lambda index: columns[index].rank or 0))
    return shown


def _widths(natural: Sequence[int], least: Sequence[int], shown: Sequence[int], width: int | None) -> dict[int, int]:
    widths = {index: natural[index] for index in shown}
    excess = 0 if width is None else max(0, _total(widths.values()) - width)
    for index in sorted(shown, key=lambda index: least[index] - natural[index]):
        taken = min(excess, natural[index] - least[index])
        widths[index] -= taken
        excess -= taken
    return widths


def _total(widths: Collection[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _line(columns: Sequence[Column], row: Sequence[Cell], widths: Mapping[int, int], terminal: Terminal) -> str:
    texts, last = list[str](), max(widths, default=-1)
    for index, width in widths.items():
        text = columns[index].shorten(row[index].text, width)
        padding = " " * (width - width_of(text))
        painted = terminal.painted(text, row[index].colour)
        is_end = index == last
        texts.append(f"{padding}{painted}" if columns[index].is_right else painted if is_end else f"{painted}{padding}")
    return GAP.join(texts).rstrip()


# --- usage errors -----------------------------------------------------------------------------------------------------

PREFIX = "Error: "  # click's


class Group(click.Group):
    """A group of commands whose usage errors are wrapped to fit the terminal."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that the arguments name. Raises UsageError if they are wrong."""
        try:
            return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:  # its message is the help
            raise
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
