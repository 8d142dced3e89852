"""Databases that an earlier Milepost has filled, of either kind: a start migrates what they hold."""

import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from kit.builders import NOON, STREAM, at, entries
from kit.postgres import Servers, fresh_database
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import DeadLetterOpened, Stage
from milepost.core.evolve import fold
from milepost.core.journal import instant_text
from milepost.core.model import Platform, Stream
from milepost.stores import rows
from milepost.stores.open import forget, open_reader, open_store
from milepost.stores.postgresql import migrate as postgresql
from milepost.stores.postgresql.encoding import COLUMNS, ENTRY_COLUMNS
from milepost.stores.sqlite import migrate as sqlite
from stores.store_dump import PostgresDump, SqliteDump, StoreDump

NOON_TEXT = instant_text(NOON)

Before = Callable[[str], Awaitable[None]]


@pytest.fixture(params=["sqlite", "newest", pytest.param("oldest", marks=pytest.mark.long)])
def kept(request: pytest.FixtureRequest, tmp_path: Path, postgres_servers: Servers) -> Iterator[StoreDump]:
    """Yield a database without any tables: a file, or on either release of PostgreSQL."""
    if request.param == "sqlite":
        yield SqliteDump(tmp_path / "milepost.db")
    else:
        with fresh_database(postgres_servers.of(request.param), template=None) as database:
            yield PostgresDump(database)


@pytest.fixture
def before(kept: StoreDump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Before:
    """Return a function that migrates the database as a Milepost from before a migration did."""
    module = sqlite if isinstance(kept, SqliteDump) else postgresql

    async def migrate_before(number: str) -> None:
        older = tmp_path / "older"
        older.mkdir()
        for script in module.MIGRATIONS.glob("*.sql"):
            if script.name < number:
                shutil.copy(script, older)
        with monkeypatch.context() as patch:
            patch.setattr(module, "MIGRATIONS", older)
            await migrate(kept)

    return migrate_before


async def migrate(kept: StoreDump) -> None:
    if isinstance(kept, SqliteDump):
        sqlite.migrate(kept.path)
    else:
        await postgresql.migrate(kept.store_url)


def insert(kept: StoreDump, table: str, columns: tuple[str, ...], values: tuple[object, ...]) -> None:
    literals = ("NULL" if each is None else "'{}'".format(str(each).replace("'", "''")) for each in values)
    kept.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(literals)})")


async def test_an_older_database_with_dead_letters_verifies_and_continues(kept: StoreDump, before: Before) -> None:
    """Its dead letters have neither the time of their redrive nor a fingerprint."""
    await before("0003_remedies")
    opened = [DeadLetterOpened(f"d_{n}", Stage.FETCH, f"t_{n}", "id: expected str") for n in range(3)]
    appended = entries(*opened, recorded_at=NOON)
    for seq, entry in enumerate(appended, start=1):
        insert(kept, "journal", ("seq", *ENTRY_COLUMNS), (seq, *rows.entry_tuple(entry)))
    insert(kept, "checkpoints", COLUMNS["checkpoint"], rows.checkpoint_tuple(fold(appended, Checkpoint(STREAM))))
    for each in opened:
        columns = ("dead_letter_id", "stream", "stage", "subject", "reason", "opened_at")
        values = (each.dead_letter_id, STREAM.key, each.stage.value, each.subject, each.reason, NOON_TEXT)
        insert(kept, "dead_letters", columns, values)
        insert(kept, "dead_letter_payloads", ("dead_letter_id", "payload"), (each.dead_letter_id, "{}"))

    async with open_store(kept.store_url) as store:
        assert await store.due_dead_letters(STREAM, at(10**9), 10) == ()
        assert [due.payload for due in await store.find_open_dead_letters(("d_0", "d_2"))] == ["{}", "{}"]
    projected = kept.projections()
    async with open_reader(kept.store_url, alone=True) as journal_reader:
        assert (await journal_reader.verify()).dead_letters == 3
        await journal_reader.rebuild()
    assert kept.projections() == projected


async def test_the_rows_of_an_older_database_get_their_pages(kept: StoreDump, before: Before) -> None:
    await before("0011_pages")
    one, two, three, four, eight, nine = (instant_text(at(seconds)) for seconds in (1, 2, 3, 4, 8, 9))
    kept.execute(
        f"""
        INSERT INTO conversations (conversation_id, platform, page_id, updated_time, first_synced_at, synced_at)
        VALUES ('t_1', 'messenger', '7', '{NOON_TEXT}', '{one}', '{eight}'),
            ('t_2', 'messenger', '7', '{NOON_TEXT}', '{two}', '{nine}'),
            ('t_3', 'instagram', '7', '{NOON_TEXT}', '{three}', '{four}')
        """
    )

    await migrate(kept)

    assert kept.rows("SELECT * FROM pages ORDER BY platform") == [
        ("instagram", "7", None, None, three, four),
        ("messenger", "7", None, None, one, nine),
    ]


async def test_the_rows_of_an_older_database_begin_the_change_feed(kept: StoreDump, before: Before) -> None:
    await before("0016_changes")
    noon = f"'{NOON_TEXT}'"
    kept.execute(
        f"""
        INSERT INTO conversations (conversation_id, platform, page_id, updated_time, first_synced_at, synced_at)
        VALUES ('t_1', 'messenger', '7', {noon}, {noon}, {noon}), ('t_2', 'messenger', '8', {noon}, {noon}, {noon});
        INSERT INTO contact_interaction_events
            (event_id, conversation_id, platform, page_id, direction, kind, occurred_at)
        VALUES ('m_1', 't_1', 'messenger', '7', 'in', 'message', {noon});
        INSERT INTO journal (seq, stream, version, recorded_at, type, data, hash)
        VALUES (1, 'messenger:7', 1, {noon}, 'run_started', '{{}}', ''),
            (2, 'messenger:7', 2, {noon}, 'run_ended', '{{}}', '');
        """
    )

    await migrate(kept)

    async with open_reader(kept.store_url) as reader:
        page = await reader.read_changes(0, 10)
    assert [(each.seq, each.key, (each.row or {})["version"], each.history) for each in page.changes] == [
        (1, {"conversation_id": "t_1"}, 2, False),
        (2, {"conversation_id": "t_2"}, 0, False),
        (3, {"event_id": "m_1"}, 2, True),
    ]


async def test_rows_that_moved_before_moves_were_on_record_are_found(kept: StoreDump, before: Before) -> None:
    await before("0020_erasing")
    noon = f"'{NOON_TEXT}'"
    kept.execute(
        f"""
        INSERT INTO conversations
            (conversation_id, platform, page_id, contact_id, updated_time, first_synced_at, synced_at)
        VALUES ('t_1', 'instagram', '7', 'c_1', {noon}, {noon}, {noon}),
            ('t_2', 'instagram', '9', 'c_1', {noon}, {noon}, {noon});
        INSERT INTO contact_interaction_events
            (event_id, conversation_id, platform, page_id, contact_id, direction, kind, occurred_at)
        VALUES ('m_1', 't_1', 'instagram', '7', 'c_1', 'in', 'message', {noon}),
            ('m_2', 't_1', 'instagram', '8', 'c_1', 'in', 'message', {noon}),
            ('m_3', 't_2', 'instagram', '9', 'c_1', 'in', 'message', {noon});
        """
    )

    await migrate(kept)

    assert kept.rows("SELECT * FROM page_moves") == [("instagram", "7", "8", NOON_TEXT)]
    forgotten = await forget(kept.store_url, Stream(Platform.INSTAGRAM, "8"), "c_1")
    assert (forgotten.conversations, forgotten.interaction_events) == (1, 2)
    assert kept.rows("SELECT event_id FROM contact_interaction_events") == [("m_3",)]
