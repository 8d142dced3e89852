"""`milepost contacts forget`: who is erased, what is asked first and what is reported afterwards."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kit.builders import NOON, STREAM, entries
from kit.terminal import answered_on_terminal
from milepost.cli.streams import contacts as command
from milepost.core.events import BatchStored, DeadLetterOpened, Stage, Tally
from milepost.core.evolve import fold
from milepost.core.model import Changes, ContactRow, ConversationRow, DeadLetterPayload, InteractionEventRow
from milepost.core.ports import Commit
from milepost.core.position import Position
from milepost.stores.sqlite.store import open_sqlite

PAGE = ("messenger", STREAM.page_id)
LETTER = DeadLetterOpened("0123456789abcdef", Stage.STORE, "contact ada", "CHECK constraint failed")
EVENTS = (BatchStored(Position(), Tally(batches=1, inserted=2)), LETTER)
TABLES = ("contacts", "conversations", "contact_interaction_events", "dead_letter_payloads")


def of(contact_id: str) -> Changes:
    """Return what is stored of a person."""
    thread = f"t_{contact_id}"
    row = ConversationRow(thread, *PAGE, contact_id, None, f"hello from {contact_id}", 2, 0, True, NOON, NOON, NOON)
    messages = [
        InteractionEventRow(f"m_{number}_{contact_id}", thread, *PAGE, contact_id, "in", "message", "hello", None, NOON)
        for number in range(2)
    ]
    contact = ContactRow(*PAGE, contact_id, contact_id.title(), None, NOON, NOON, NOON)
    return Changes((row,), (contact,), tuple(messages))


async def store(path: Path) -> None:
    """Store two people, and a dead letter about the first of them."""
    ada, bob = of("ada"), of("bob")
    together = Changes(
        ada.conversations + bob.conversations,
        ada.contacts + bob.contacts,
        ada.interaction_events + bob.interaction_events,
        (DeadLetterPayload(LETTER.dead_letter_id, '{"contacts":[{"contact_id":"ada"}]}'),),
    )
    async with open_sqlite(path, synchronous="normal") as sqlite:
        before = await sqlite.load(STREAM)
        appended = entries(*EVENTS, after=before)
        await sqlite.commit(Commit(appended, together, fold(appended, before), None))


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a database with two people; the built-in settings apply in its directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "simulated.db"
    asyncio.run(store(path))
    return path


def forget(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["forget", *arguments])


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30.0)) as connection:
        return connection.execute(query).fetchall()


def people(path: Path) -> set[str]:
    return {contact_id for (contact_id,) in rows(path, "SELECT contact_id FROM contacts")}


def journal(path: Path) -> list[tuple[Any, ...]]:
    return rows(path, "SELECT * FROM journal ORDER BY seq")


def test_everything_of_the_person_is_removed_and_nothing_of_anyone_else(database: Path) -> None:
    before = journal(database)
    result = forget(*PAGE, "ada", "--yes")
    assert result.exit_code == 0, result.output
    for table, others in zip(TABLES, (1, 1, 2, 0), strict=True):
        assert rows(database, f"SELECT count(*) FROM {table}") == [(others,)]
    assert people(database) == {"bob"}
    assert journal(database) == before


@pytest.mark.usefixtures("database")
def test_the_removed_rows_of_each_table_are_counted_and_the_rest_is_explained() -> None:
    text = forget(*PAGE, "ada", "--yes").stdout
    assert f"Erased contact ada of {STREAM.key}" in text
    table = [tuple(line.split()) for line in text.splitlines() if line.startswith(TABLES)]
    assert table == list(zip(TABLES, ("1", "1", "2", "1"), strict=True))
    for what in ("Later sweeps keep them out", "journal is unchanged", "backups", "simulated.db-wal"):
        assert what in text


def test_a_person_whom_a_later_sweep_reads_again_is_kept_out(database: Path) -> None:
    forget(*PAGE, "ada", "--yes")
    asyncio.run(store(database))
    assert people(database) == {"bob"}
    assert rows(database, "SELECT conversation_id FROM conversations") == [("t_bob",)]


def test_a_person_who_is_not_stored_is_kept_out_too(database: Path) -> None:
    result = forget(*PAGE, "cay", "--yes")
    assert result.exit_code == 0
    assert f"Nothing was stored for contact cay of {STREAM.key}" in result.stdout
    assert rows(database, "SELECT id FROM forgotten") == [("cay",)]
    assert people(database) == {"ada", "bob"}


def test_forgetting_a_person_twice_is_the_same_as_once(database: Path) -> None:
    forget(*PAGE, "ada", "--yes")
    result = forget(*PAGE, "ada", "--yes")
    assert result.exit_code == 0
    assert "Nothing was stored" in result.stdout
    assert people(database) == {"bob"}


async def test_a_person_is_forgotten_while_a_daemon_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "simulated.db"
    await store(path)
    async with open_sqlite(path, synchronous="normal") as sqlite:
        await sqlite.load(STREAM)
        result = await asyncio.to_thread(forget, *PAGE, "ada", "--yes")
        assert result.exit_code == 0, result.output
        await sqlite.answers()
    assert people(path) == {"bob"}


# --- what is refused --------------------------------------------------------------------------------------------------


def test_without_a_terminal_it_is_refused_unless_yes_is_given(database: Path) -> None:
    result = forget(*PAGE, "ada")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert people(database) == {"ada", "bob"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("instagram", STREAM.page_id, "ada"), f"there is no stream instagram:{STREAM.page_id}"),
        (("telegram", STREAM.page_id, "ada"), "'telegram' is not one of"),
        ((*PAGE, ""), "not empty and has only printable"),
        ((*PAGE, "a\0"), "printable"),
    ],
)
def test_arguments_that_name_no_contact_are_wrong_usage(database: Path, arguments: tuple[str, ...], error: str) -> None:
    result = forget(*arguments, "--yes")
    assert result.exit_code == 2
    assert error in result.stderr
    assert rows(database, "SELECT * FROM forgotten") == []


def test_a_person_is_forgotten_before_the_page_was_ever_synced(database: Path) -> None:
    Path("config.yaml").write_text(
        'pages: [{id: "77", access_token: x}]\nsource: {kind: facebook}\nstore: {url: sqlite:///simulated.db}\n'
    )
    result = forget("messenger", "77", "ada", "--yes")
    assert result.exit_code == 0
    assert rows(database, "SELECT page_id, id FROM forgotten") == [("77", "ada")]
    assert f"a contact with this id on {STREAM.key}" in result.stdout  # an account may have moved from there
    assert people(database) == {"ada", "bob"}


# --- on a terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, {"bob"}), ("n\n", 1, {"ada", "bob"})])
def test_on_a_terminal_it_asks_for_confirmation(database: Path, answer: str, code: int, left: set[str]) -> None:
    done = answered_on_terminal(database.parent, answer, "contacts", "forget", *PAGE, "ada")
    assert done.code == code, done
    assert f"Erase contact ada of {STREAM.key}, with their conversations and messages, for good? [y/N]" in done.stderr
    assert people(database) == left
