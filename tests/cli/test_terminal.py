"""Output that fits the terminal."""

import click
import pytest
from click.testing import CliRunner

from kit.builders import NOON, STREAM, entries, sweep_started
from milepost.cli.journal import as_wrapped
from milepost.cli.options import Titles
from milepost.cli.terminal import (
    PLAIN,
    Cell,
    Column,
    Group,
    Terminal,
    clipped,
    elided,
    elided_key,
    stdout_terminal,
    table,
    width_of,
)
from milepost.stores.reader import StoredEntry

COLUMNS = (
    Column("page", shortest=8, shorten=clipped),
    Column("stream", shortest=19, shorten=elided_key),
    Column("state"),
    Column("last", rank=1),
    Column("next", rank=2),
    Column("rows", is_right=True),
)
ROW = ("Corner Bakery", "messenger:61590023753730000", Cell("complete", "green"), "4 minutes ago", "now", "1,234")


def lines(width: int | None) -> list[str]:
    return table(COLUMNS, [ROW], Terminal(width)).lines


def test_a_pipe_gets_everything() -> None:
    assert lines(None) == [
        "page           stream                       state     last           next   rows",
        "Corner Bakery  messenger:61590023753730000  complete  4 minutes ago  now   1,234",
    ]


@pytest.mark.parametrize("width", range(52, 90))
def test_a_table_fits_any_width_and_never_cuts_a_state(width: int) -> None:
    heading, row = lines(width)
    assert max(map(len, (heading, row))) <= width
    assert "complete" in row
    assert row.endswith("1,234")


def test_ids_are_shortened_before_a_column_goes_and_get_the_room_of_one_that_went() -> None:
    heading, row = lines(72)
    assert heading.split() == [column.heading for column in COLUMNS]
    assert row.startswith("Corner Bakery  messenger:6159…0000  complete")
    assert lines(70)[1].startswith("Corner Bak…  messenger:6159…0000  complete  4 minutes ago")
    heading, row = lines(66)
    assert heading.split() == ["page", "stream", "state", "next", "rows"]
    assert row.startswith("Corner Bakery  messenger:61590023753730000  complete  now")


def test_what_cannot_be_made_narrower_stays_whole() -> None:
    assert table([Column("state")], [["a long state"]], Terminal(5)).rows == ["a long state"]
    assert table([Column("state")], [], Terminal(5)).lines == ["state"]


def test_ids_keep_both_ends_and_what_precedes_them() -> None:
    assert elided_key("messenger:61590023753730000", 19) == "messenger:6159…0000"
    assert elided("61590023753730000", 9) == "6159…0000"
    assert elided("short", 9) == "short"


def test_wide_and_combining_characters_count_as_they_are_shown() -> None:
    assert (width_of("パン屋"), width_of("é"), width_of("Bäcker")) == (6, 1, 6)
    assert width_of(elided("角のパン屋さん本店", 9)) <= 9
    columns = [Column("page"), Column("state")]
    rows = table(columns, [["パン屋", "complete"], ["Bakery", "failed"]]).rows
    assert rows == ["パン屋  complete", "Bakery  failed"]


def test_long_lines_go_on_with_an_indent_and_keep_long_words() -> None:
    assert Terminal(20).wrapped("  → a token that has expired") == ["  → a token that has", "    expired"]
    url = "https://example.com/a/very/long/path"
    assert Terminal(20).wrapped(f"see {url}") == ["see", f"  {url}"]
    assert PLAIN.wrapped("a" * 300) == ["a" * 300]


def test_the_lines_of_a_text_stay_apart() -> None:
    assert Terminal(40).fitted(["page 1: the token works\n  → set a new one", "end"]) == [
        "page 1: the token works",
        "  → set a new one",
        "end",
    ]


def test_an_entry_of_the_journal_is_wrapped_behind_the_name_of_its_page() -> None:
    (entry,) = entries(sweep_started())
    text = as_wrapped(StoredEntry(7, entry), Titles({STREAM.page_id: "Corner Bakery"}), Terminal(60))
    first, *_ = text.splitlines()
    assert first.startswith(f"{NOON:%Y-%m-%d %H:%M:%S}  Corner Bakery messenger  #7")
    assert all(len(line) <= 60 for line in text.splitlines())


def test_colours_are_for_terminals_that_want_them() -> None:
    painted = table(COLUMNS, [ROW], Terminal(None, has_colours=True)).rows[0]
    assert "\x1b[32mcomplete\x1b[0m" in painted
    assert "\x1b" not in "".join(lines(None))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, PLAIN), ({"COLUMNS": "72"}, Terminal(72)), ({"COLUMNS": "wide"}, PLAIN), ({"COLUMNS": "0"}, PLAIN)],
)
def test_a_pipe_has_no_width_but_that_of_columns(environment: dict[str, str], expected: Terminal) -> None:
    assert stdout_terminal(environment) == expected


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": ""}])
def test_no_color_and_a_dumb_terminal_turn_colours_off(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    terminal = stdout_terminal({"COLUMNS": "80", **environment})
    assert terminal == Terminal(80, has_colours=environment == {"NO_COLOR": ""})


# --- usage errors -----------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr("milepost.cli.terminal.terminal_of", lambda *_: Terminal(width))
    result = CliRunner().invoke(outer, ["inner", "fail"])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("Error: ")) :]


def test_a_group_without_a_command_shows_its_help_once() -> None:
    result = CliRunner().invoke(outer, ["inner"])
    assert (result.exit_code, result.stderr.count("Usage:"), "Error" in result.stderr) == (2, 1, False)
    assert "fail" in result.stderr


def test_a_usage_error_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(monkeypatch, 60) == [
        "Error: Invalid value for STREAM: there is no stream",
        "  messenger:1; known are instagram:61577949933740001 and",
        "  messenger:61577949933740001",
    ]


def test_a_usage_error_is_one_line_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(monkeypatch, None) == [f"Error: Invalid value for STREAM: {LONG}"]
