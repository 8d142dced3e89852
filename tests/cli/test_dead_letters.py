"""`milepost dead-letters list` and `show`: what is shown of dead letters, and which an id or prefix means."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kit.builders import NOON, STREAM, at, entries
from kit.databases import record
from milepost.cli import actions
from milepost.cli import dead_letters as module
from milepost.cli.dead_letters import command, described, rendered
from milepost.cli.terminal import Terminal
from milepost.core.checkpoint import DeadLetter
from milepost.core.events import DeadLetterClosed, DeadLetterOpened, Event, RedriveFailed, Resolution, Stage
from milepost.core.evolve import fold
from milepost.core.model import Changes, DeadLetterPayload, Platform, Stream
from milepost.core.ports import Commit
from milepost.reporting.summary import ExitCode
from milepost.stores.sqlite.connection import lock_database
from milepost.stores.sqlite.store import open_sqlite

OTHER = Stream(Platform.INSTAGRAM, "1234567890")
NOT_UTF_8 = b"f\xfcr".decode(errors="surrogateescape")  # as Python reads an argument from a terminal in Latin-1
UNREAD, UNWRITTEN, NAMELESS = "aaaa000000000001", "aaaa000000000002", "bbbb000000000003"
OPENED = (
    DeadLetterOpened(UNREAD, Stage.FETCH, "t_1/messages", "it went wrong (HTTP 500, code 1)", at(900), "f1"),
    DeadLetterOpened(UNWRITTEN, Stage.STORE, "contact c_1", "CHECK constraint failed", at(900), "f2"),
    DeadLetterOpened(NAMELESS, Stage.FETCH, "sha256:123", "id: expected str", None, "f3"),
)
PAYLOADS = {UNREAD: '{"id":"t_1"}', UNWRITTEN: '{"contacts":[{"name":"Ada"}]}', NAMELESS: '{"name":"\\u001b[31mEve"}'}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the database will be: the built-in settings apply in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "simulated.db"


def store(path: Path, *events: Event, payloads: dict[str, str] | None = None) -> None:
    asyncio.run(_store(path, *events, payloads=payloads or {}))


async def _store(path: Path, *events: Event, payloads: dict[str, str]) -> None:
    kept = tuple(DeadLetterPayload(*each) for each in payloads.items())
    async with open_sqlite(path, synchronous="normal") as sqlite:
        before = await sqlite.load(STREAM)
        appended = entries(*events, after=before)
        await sqlite.commit(Commit(appended, Changes(payloads=kept), fold(appended, before), None))


@pytest.fixture
def dead_letters(database: Path) -> Path:
    """Return a database with three open dead letters."""
    store(database, *OPENED, payloads=PAYLOADS)
    return database


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def objects(*arguments: str) -> list[dict[str, Any]]:
    result = run("list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def ids(*arguments: str) -> list[str]:
    return [each["dead_letter_id"] for each in objects(*arguments)]


def dead_letter(**fields: Any) -> DeadLetter:  # noqa: ANN401  fields of several types
    known = {"stage": Stage.FETCH, "subject": "t_1", "reason": "it went wrong"}
    return DeadLetter("0123456789abcdef", STREAM, opened_at=NOON, **(known | fields))


# --- list -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("dead_letters")
def test_open_dead_letters_are_listed_a_line_each() -> None:
    result = run("list")
    assert result.exit_code == 0
    headings, *lines = result.stdout.splitlines()
    assert headings.split() == ["id", "stream", "stage", "subject", "opened", "attempts", "next", "redrive", "reason"]
    assert [line.split()[0] for line in lines] == [UNREAD, UNWRITTEN, NAMELESS]
    assert "by command only" in lines[2]


def test_closed_dead_letters_are_listed_on_request_with_their_resolution(dead_letters: Path) -> None:
    record(
        dead_letters, DeadLetterClosed(UNREAD, Resolution.RECOVERED), DeadLetterClosed(NAMELESS, Resolution.DISCARDED)
    )
    assert ids() == [UNWRITTEN]
    assert ids("--all") == [UNREAD, UNWRITTEN, NAMELESS]
    text = run("list", "--all").stdout
    assert "recovered " in text
    assert "discarded " in text
    assert "recovered" not in run("list").stdout


def test_json_has_every_key_in_every_state(dead_letters: Path) -> None:
    record(dead_letters, RedriveFailed(UNREAD, 1, "it went wrong again", at(2700)))
    record(dead_letters, DeadLetterClosed(UNWRITTEN, Resolution.DISCARDED, reason="the page is sold"))
    unread, unwritten, _ = objects("--all")
    assert unread == {
        "dead_letter_id": UNREAD,
        "stream": STREAM.key,
        "stage": "fetch",
        "subject": "t_1/messages",
        "reason": "it went wrong again",
        "opened_at": "2026-03-01T12:00:00Z",
        "attempts": 1,
        "redrive_at": "2026-03-01T12:45:00Z",
        "closed_at": None,
        "resolution": None,
        "note": "",
        "fingerprint": "f1",
    }
    assert (unwritten["closed_at"], unwritten["resolution"]) == ("2026-03-01T12:00:00Z", "discarded")
    assert unwritten["note"] == "the page is sold"
    text = run("list", "--help").stdout
    assert not [key for key in unread if key not in text]


def test_the_dead_letters_of_one_stream_are_listed_alone(dead_letters: Path) -> None:
    record(dead_letters, DeadLetterOpened("cccc000000000004", Stage.FETCH, "t_9", "it went wrong"), stream=OTHER)
    assert ids("--stream", OTHER.key) == ["cccc000000000004"]
    assert ids("--stream", STREAM.key) == [UNREAD, UNWRITTEN, NAMELESS]


def test_without_an_open_dead_letter_it_says_how_to_list_closed_ones(database: Path) -> None:
    record(database, OPENED[0], DeadLetterClosed(UNREAD, Resolution.REDRIVEN))
    result = run("list")
    assert result.exit_code == 0
    assert "No dead letter is open; `milepost dead-letters list --all`" in result.stdout
    assert ids() == []


def test_without_any_dead_letter_it_says_so(database: Path) -> None:
    record(database)
    assert run("list", "--all").stdout == "There has never been a dead letter\n"


def test_many_dead_letters_are_listed_in_full_as_json_and_cut_off_for_people(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 20)
    many = [DeadLetterOpened(f"{number:016x}", Stage.FETCH, f"t_{number}", "x") for number in range(1_203)]
    record(database, *many)
    assert ids() == [each.dead_letter_id for each in many]
    lines = run("list").stdout.splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "… and 1,183 more: --json lists them all"


def test_dead_letters_are_listed_while_a_daemon_runs(dead_letters: Path) -> None:
    with lock_database(dead_letters):
        assert ids() == [UNREAD, UNWRITTEN, NAMELESS]
        assert run("show", UNREAD).exit_code == 0


def test_long_subjects_and_reasons_keep_their_ends() -> None:
    subject, reason = f"t_{'1' * 60}_end", f"begin {'x' * 400} end"
    line = rendered([dead_letter(subject=subject, reason=reason)], NOON)[1]
    assert len(line) < 180
    for piece in ("t_111", "1_end", "begin xxx", "xxx end"):
        assert piece in line


def test_foreign_text_cannot_control_the_terminal() -> None:
    nasty = dead_letter(subject="t_\x1b[2J1", reason="a\x1b]0;owned\x07\nb\u202e", note="\x1b[31m", redrive_at=at(60))
    broken, whole = '{"x": "\\u001b[2J \u202e\x7f"', '{"x": "\\u001b[2J \u202e"}'
    told = "".join([*rendered([nasty], NOON), *described(nasty, broken, NOON), *described(nasty, whole, NOON)])
    assert not [each for each in told if not each.isprintable() and each != "\n"]


def test_what_is_shown_fits_the_terminal_except_for_the_payload() -> None:
    payload = f'{{"text": "{"word " * 30}"}}'
    lines = described(dead_letter(reason="because " * 20), payload, NOON, Terminal(60))
    (text,) = (line for line in lines if "word" in line)
    assert [line for line in lines if line != text and len(line) > 60] == []
    assert json.loads(text) == json.loads(payload)


# --- show -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("dead_letters")
def test_a_dead_letter_is_shown_in_full_with_its_payload() -> None:
    text = run("show", UNWRITTEN).stdout
    for piece in (UNWRITTEN, STREAM.key, "contact c_1", "the database refused its row", "CHECK constraint failed"):
        assert piece in text
    assert '"name": "Ada"' in text
    assert "personal data" in text
    assert f"`milepost dead-letters redrive {UNWRITTEN}`" in text


@pytest.mark.usefixtures("dead_letters")
def test_a_dead_letter_that_no_redrive_can_read_says_so() -> None:
    text = run("show", NAMELESS).stdout
    assert "a redrive cannot help" in text
    assert f"dead-letters redrive {NAMELESS}" not in text
    assert f"dead-letters discard {NAMELESS}" in text


def test_a_closed_dead_letter_shows_how_it_was_closed(dead_letters: Path) -> None:
    record(dead_letters, DeadLetterClosed(UNWRITTEN, Resolution.DISCARDED, reason="the page is sold"))
    text = run("show", UNWRITTEN).stdout
    assert "discarded, " in text
    assert "the page is sold" in text
    assert "There is no payload" in text
    assert "dead-letters redrive" not in text


@pytest.mark.usefixtures("dead_letters")
def test_json_holds_the_payload_as_json() -> None:
    shown = json.loads(run("show", "--json", UNWRITTEN).stdout)
    assert shown["payload"] == {"contacts": [{"name": "Ada"}]}
    assert shown | {"payload": None} == objects()[1] | {"payload": None}


def test_json_of_a_dead_letter_without_a_payload_says_null(dead_letters: Path) -> None:
    record(dead_letters, DeadLetterClosed(UNREAD, Resolution.FORGOTTEN))
    assert json.loads(run("show", "--json", UNREAD).stdout)["payload"] is None


@pytest.mark.usefixtures("dead_letters")
def test_an_id_may_be_shortened_to_a_unique_prefix() -> None:
    assert json.loads(run("show", "--json", "b").stdout)["dead_letter_id"] == NAMELESS
    assert json.loads(run("show", "--json", UNREAD[:-1] + "1").stdout)["dead_letter_id"] == UNREAD


@pytest.mark.usefixtures("dead_letters")
def test_an_ambiguous_id_names_the_candidates() -> None:
    result = run("show", "aaaa")
    assert result.exit_code == 2
    assert f"'aaaa' matches 2 dead letters: {UNREAD}, {UNWRITTEN}" in result.stderr


def test_an_ambiguous_id_names_only_some_of_many_candidates(database: Path) -> None:
    record(database, *(DeadLetterOpened(f"{number:016x}", Stage.FETCH, f"t_{number}", "x") for number in range(9)))
    assert run("show", "0").stderr.rstrip().endswith("0000000000000004, …")


@pytest.mark.usefixtures("dead_letters")
def test_an_unknown_id_is_wrong_usage() -> None:
    result = run("show", "cc")
    assert result.exit_code == 2
    assert "no dead letter begins with 'cc'" in result.stderr


# --- wrong usage of what acts -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("dead_letters")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["redrive", UNREAD, "--stream", STREAM.key], "--stream and IDs exclude each other"),
        (["redrive", "cc"], "no dead letter begins with 'cc'"),
        (["discard", UNREAD], "--reason"),
        (["discard", "--reason", "x"], "ID"),
        (["discard", UNREAD, "--reason", "  "], "1 to 500 characters"),
        (["discard", UNREAD, "--reason", "x" * 501], "1 to 500 characters"),
        (["discard", UNREAD, "cc", "--reason", "x"], "no dead letter begins with 'cc'"),
        (["discard", UNREAD, "--reason", NOT_UTF_8], "Invalid value for --reason: it is not UTF-8"),
        (["discard", NOT_UTF_8, "--reason", "x"], "Invalid value for ID: it is not UTF-8"),
        (["redrive", NOT_UTF_8], "Invalid value for ID: it is not UTF-8"),
        (["show", NOT_UTF_8], "Invalid value for ID: it is not UTF-8"),
    ],
)
def test_wrong_usage_does_nothing(arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert ids() == [UNREAD, UNWRITTEN, NAMELESS]


@pytest.mark.parametrize("arguments", [["show", ""], ["redrive", ""], ["discard", "", "--reason", "x"]])
def test_an_empty_id_is_none_also_where_there_is_one_dead_letter(database: Path, arguments: list[str]) -> None:
    record(database, OPENED[0])
    result = run(*arguments)
    assert result.exit_code == 2
    assert "no dead letter begins with ''" in result.stderr
    assert ids() == [UNREAD]


def test_without_an_open_dead_letter_there_is_nothing_to_redrive(database: Path) -> None:
    record(database, OPENED[0], DeadLetterClosed(UNREAD, Resolution.REDRIVEN))
    result = run("redrive")
    assert result.exit_code == 0
    assert "No dead letter is open" in result.stdout
    for arguments in (["redrive", UNREAD], ["discard", UNREAD, "--reason", "x"]):
        result = run(*arguments)
        assert result.exit_code == 0
        assert f"{UNREAD}  t_1/messages: already closed, redriven" in result.stdout


async def all_closed(*_: object) -> ExitCode:
    return ExitCode.COMPLETE


@pytest.mark.usefixtures("dead_letters")
@pytest.mark.parametrize(("most", "code"), [(2, 75), (3, 0), (4, 0)])
def test_the_exit_code_says_that_more_are_open_than_are_taken_at_once(
    most: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", most)
    monkeypatch.setattr(actions, "perform_on_dead_letters", all_closed)
    result = run("redrive")
    assert result.exit_code == code
    assert ("More than 2 are open: run it again for the newest" in result.stderr) == (code == 75)
