"""Generates the reference of docs/commands.md and the man page docs/milepost.1 from the commands: their own help.

`python docs/manual.py`
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from msgspec import Struct

from milepost import __version__
from milepost.cli import COMMANDS, cli
from milepost.cli.options import config_option

FOLDER = Path(__file__).parent
PAGE, MAN_PAGE = FOLDER / "commands.md", FOLDER / "milepost.1"
BEGINNING, END = "<!-- generated from the commands: begin -->", "<!-- generated from the commands: end -->"
MAN_EXIT_STATUS = """0 done · 1 with errors · 2 wrong usage · 75 stopped at a limit with the progress saved, or
somebody else is at work · 77 a token needs attention · 78 bad configuration. Each command says above which it uses."""
MAN_FILES = (
    ("config.yaml", "The configuration, in the current directory unless --config or MILEPOST_CONFIG names another."),
    ("milepost.db, simulated.db", "The default databases, beside the configuration."),
)
MAN_ENVIRONMENT = (
    ("MILEPOST_CONFIG", "The path of the configuration."),
    ("NO_COLOR", "Turns colours off where it is set and not empty."),
    ("COLUMNS", "The width that output has to fit."),
    ("HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE", "Name a proxy, and the certificate authorities to trust."),
)


@click.command()
@config_option
def _any(config: str | None) -> None:
    """Take the option that almost every command takes."""


SHARED = _any.params[0].get_help_record(click.Context(_any)) or ("", "")
WITHOUT_CONFIG, BAR = "config init, simulate and completion", r"\|"


class Manual(Struct, frozen=True):
    """One command: how it is called, what it does, a paragraph each, and its options with their help."""

    name: str
    usage: str
    paragraphs: list[str]
    options: list[tuple[str, str]]


def main() -> None:
    """Rewrite both."""
    PAGE.write_text(page(PAGE.read_text()))
    MAN_PAGE.write_text(man_page())


def manuals() -> Iterator[Manual]:
    """Yield every command that does something, in the order of the help."""
    context = click.Context(cli, info_name="milepost")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if not isinstance(command, click.Group):
            yield _manual(command, inner)
            continue
        for sub_name in command.list_commands(inner):
            sub_command = command.get_command(inner, sub_name)
            assert sub_command is not None
            yield _manual(sub_command, click.Context(sub_command, info_name=sub_name, parent=inner))


def _manual(command: click.Command, context: click.Context) -> Manual:
    usage = " ".join(command.collect_usage_pieces(context))
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    options = [record for record in records if record is not None and record[1] and "--help" not in record[0]]
    paragraphs = [" ".join(each.split()) for each in (command.help or "").split("\n\n")]
    return Manual(context.command_path, usage, paragraphs, options)


# --- docs/commands.md -------------------------------------------------------------------------------------------------


def page(written: str) -> str:
    """Return the page with the commands as they are now."""
    before, _, rest = written.partition(BEGINNING)
    _, _, after = rest.partition(END)
    shared = "\n".join([f"All commands but {WITHOUT_CONFIG} have this option:", "", *_table([SHARED])])
    return f"{before}{BEGINNING}\n\n{shared}\n\n{''.join(map(_section, manuals()))}{END}{after}"


def _section(manual: Manual) -> str:
    lines = [f"### {manual.name}", "", f"    {manual.name} {manual.usage}", ""]
    for paragraph in manual.paragraphs:
        lines += [paragraph, ""]
    options = _own(manual)
    return "\n".join([*lines, *([*_table(options), ""] if options else []), ""])


def _own(manual: Manual) -> list[tuple[str, str]]:
    return [each for each in manual.options if each != SHARED]


def _table(options: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines of a table of options. A bar would end its cell, even between backticks."""
    rows = [f"| `{names.replace('|', BAR)}` | {meaning} |" for names, meaning in options]
    return ["| option | meaning |", "|---|---|", *rows]


# --- docs/milepost.1 --------------------------------------------------------------------------------------------------


def man_page() -> str:
    """Return the man page, in the language of man(7)."""
    lines = [
        f'.TH MILEPOST 1 "" "Milepost {__version__}" "Milepost"',
        ".SH NAME",
        r"milepost \- copies Messenger and Instagram conversations into a database, and never loses its place",
        ".SH SYNOPSIS",
        ".B milepost",
        r"\fICOMMAND\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        *_roff(
            "Milepost is a daemon that copies the conversations, contacts and messages of Facebook Pages and Instagram "
            "accounts out of the Graph API into SQLite or PostgreSQL. It journals the outcome of every batch, and "
            "resumes from the last committed one after a crash. Every command explains itself with --help."
        ),
        ".SH OPTIONS",
        f"Of all commands but {WITHOUT_CONFIG}:",
        *_tagged([SHARED]),
        ".SH COMMANDS",
    ]
    for manual in manuals():
        lines += [f".SS {_escaped(f'{manual.name} {manual.usage}')}"]
        for number, paragraph in enumerate(manual.paragraphs):
            lines += [*([".PP"] if number else []), *_roff(paragraph)]
        lines += _tagged(_own(manual))
    lines += [".SH EXIT STATUS", *_roff(MAN_EXIT_STATUS), ".SH ENVIRONMENT", *_tagged(MAN_ENVIRONMENT)]
    lines += [".SH FILES", *_tagged(MAN_FILES)]
    return "\n".join(lines) + "\n"


def _tagged(records: Iterable[tuple[str, str]]) -> Iterator[str]:
    for tag, meaning in records:
        yield ".TP"
        yield f".B {_escaped(tag)}"
        yield from _roff(meaning)


def _roff(text: str) -> Iterator[str]:
    """Yield a paragraph a sentence a line, with what stands in backticks in bold."""
    marked = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", _escaped(" ".join(text.split())))
    for sentence in re.split(r"(?<=[.:;·]) ", marked):
        # A line that begins with one of these is a request.
        yield f"\\&{sentence}" if sentence[:1] in {".", "'"} else sentence


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-")


if __name__ == "__main__":
    main()
