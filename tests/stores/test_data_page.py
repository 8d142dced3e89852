"""docs/data.md: the tables are as it says, and its questions have answers, which are found by an index."""

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from msgspec import Struct

from kit.builders import NOON, at
from kit.postgres import Database, Server
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import SweepCompleted, Tally
from milepost.core.model import Changes, ContactRow, ConversationRow, InteractionEventRow, PageRow, Platform, Stream
from milepost.core.position import Mode
from milepost.facebook.threads import Attachment, Kind
from milepost.stores.open import open_store
from milepost.stores.url import StoreUrl
from stores.histories import commit_after
from stores.sqlite_files import raw
from stores.store_dump import StoreDump

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
TABLES = ("pages", "contacts", "conversations", "contact_interaction_events")
SINCE = "2026-03-01T00:00:00.000Z"  # the start of the period in every question that has one
TYPES = {
    "sqlite": {"text": "TEXT", "instant": "TEXT", "number": "INTEGER", "flag": "INTEGER", "json": "TEXT"},
    "postgresql": {
        "text": "text",
        "instant": "timestamp with time zone",
        "number": "bigint",
        "flag": "boolean",
        "json": "json",
    },
}


class Column(Struct, frozen=True):
    """A column as the page lists it."""

    name: str
    type: str
    is_key: bool
    is_nullable: bool


def section(heading: str) -> str:
    """Return the text under a heading, up to the next heading of its level or above."""
    level = heading.count("#", 0, heading.index(" "))
    _, _, after = PAGE.partition(f"\n{heading}\n")
    assert after, f"docs/data.md has no {heading!r}"
    return re.split(rf"\n#{{1,{level}}} ", after, maxsplit=1)[0]


def rows_under(heading: str) -> list[list[str]]:
    """Return the cells of the table right under a heading, without its head."""
    text = section(heading).partition("\n### ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in cells] for cells in lines]


def columns(table: str) -> list[Column]:
    """Return the columns that the page lists of a table."""
    return [
        Column(name.strip("`"), type_, which == "key", which == "or NULL")
        for name, type_, which, _ in rows_under(f"## {table}")
    ]


def drawn(table: str) -> list[tuple[str, str, bool]]:
    """Return the columns of a table in the diagram: type, name, and whether it is in the key."""
    (block,) = re.findall(rf"^    {table} {{\n(.*?)^    }}", PAGE, re.DOTALL | re.MULTILINE)
    return [(words[0], words[1], "PK" in words[2:]) for words in map(str.split, block.splitlines())]


def questions(kind: str) -> dict[str, str]:
    """Return the questions by their names, as they are asked of SQLite or PostgreSQL."""
    database = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[kind]
    found: dict[str, str] = {}
    for name, only, text in re.findall(
        r"```sql\n-- question: ([a-z ]+)\n(?:-- (SQLite|PostgreSQL)\n)?(.*?)```", PAGE, re.DOTALL
    ):
        if only in ("", database):
            assert name not in found, f"{name!r} is asked twice"
            found[name] = text.strip()
    return found


BAKERY = Stream(Platform.MESSENGER, "1234567890")
CLUB = Stream(Platform.INSTAGRAM, "1234567890")
OLD = NOON - timedelta(days=90)


# --- the tables -------------------------------------------------------------------------------------------------------


def in_sqlite(kept: StoreDump, table: str) -> list[tuple[str, str, bool, bool]]:
    found = kept.rows(f"PRAGMA table_info({table})")
    return [(name, type_, bool(key), not (is_not_null or key)) for _, name, type_, is_not_null, _, key in found]


def in_postgresql(kept: StoreDump, table: str) -> list[tuple[str, str, bool, bool]]:
    found = kept.rows(
        f"""
        SELECT
            column_name, data_type, is_nullable = 'YES', EXISTS (
                SELECT 1
                FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
                WHERE indrelid = 'milepost.{table}'::regclass AND indisprimary AND attname = column_name
            )
        FROM information_schema.columns
        WHERE table_schema = 'milepost' AND table_name = '{table}'
        ORDER BY ordinal_position
        """
    )
    return [(name, type_, is_key, is_nullable) for name, type_, is_nullable, is_key in found]


@pytest.mark.parametrize("table", TABLES)
def test_the_columns_are_as_listed(kept: StoreDump, table: str) -> None:
    found = in_sqlite(kept, table) if kept.kind == "sqlite" else in_postgresql(kept, table)

    types = TYPES[kept.kind]
    assert found == [(each.name, types[each.type], each.is_key, each.is_nullable) for each in columns(table)]


@pytest.mark.parametrize("table", TABLES)
def test_the_diagram_shows_the_listed_columns(table: str) -> None:
    assert drawn(table) == [(each.type, each.name, each.is_key) for each in columns(table)]


def test_every_table_is_named(kept: StoreDump) -> None:
    if kept.kind == "sqlite":
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    else:
        query = (
            "SELECT tablename FROM pg_tables WHERE schemaname = 'milepost'"
            " AND tablename NOT LIKE 'procrastinate%' AND tablename NOT IN ('workers', 'streams', 'delivery_holds')"
        )
    others = re.findall(r"`(\w+)`", " ".join(cells[0] for cells in rows_under("## What else is in the database")))
    assert {name for (name,) in kept.rows(query)} == {*TABLES, *others}


def test_every_kind_of_message_is_listed_in_the_order_in_which_it_is_chosen() -> None:
    assert [cells[0].strip("`") for cells in rows_under("### Kinds")] == [kind.value for kind in Kind]


def test_every_member_of_an_attachment_is_listed() -> None:
    listed = [(cells[0].strip("`"), cells[1]) for cells in rows_under("### Attachments")]

    assert listed == [(name, "always" if name == "type" else "or absent") for name in Attachment.__struct_fields__]
    (example,) = re.findall(r"```json\n(.*?)```", section("### Attachments"), re.DOTALL)
    msgspec.json.decode(example, type=list[Attachment], strict=True)


# --- the questions ----------------------------------------------------------------------------------------------------


def person(contact_id: str, name: str, *, of: Stream = BAKERY, first_seen_at: datetime = NOON) -> ContactRow:
    is_name = of.platform is Platform.MESSENGER
    return ContactRow(
        of.platform.value,
        of.page_id,
        contact_id,
        name if is_name else None,
        None if is_name else name,
        first_seen_at,
        first_seen_at,
        NOON,
    )


def thread(
    conversation_id: str,
    contact_id: str | None,
    *,
    of: Stream = BAKERY,
    updated_time: datetime = NOON,
    deleted_at: datetime | None = None,
) -> ConversationRow:
    link = f"/{of.page_id}/inbox/7/" if of.platform is Platform.MESSENGER else None
    return ConversationRow(
        conversation_id,
        of.platform.value,
        of.page_id,
        contact_id,
        link,
        "hello",
        2,
        1,
        can_reply=True,
        updated_time=updated_time,
        first_synced_at=NOON,
        synced_at=NOON,
        deleted_at=deleted_at,
    )


def said(  # noqa: PLR0913  (a row has columns)
    event_id: str,
    conversation_id: str,
    contact_id: str,
    occurred_at: datetime,
    direction: str = "in",
    *,
    of: Stream = BAKERY,
    attachments: str | None = None,
) -> InteractionEventRow:
    kind, text = ("message", event_id) if attachments is None else ("attachment", None)
    return InteractionEventRow(
        event_id,
        conversation_id,
        of.platform.value,
        of.page_id,
        contact_id,
        direction,
        kind,
        text,
        attachments,
        occurred_at,
    )


CAKE = '[{"type":"image","id":"1","mime_type":"image/jpeg","name":"cake.jpg","size":48211},{"type":"file"}]'
IN_MESSENGER = Changes(
    (
        thread("t_1", "c_1"),
        thread("t_2", "c_2", updated_time=at(1200)),
        thread("t_3", None, updated_time=OLD),
        thread("t_4", "c_1", deleted_at=NOON),
    ),
    (person("c_1", "Ada"), person("c_2", "Bob"), person("c_3", "Eve", first_seen_at=OLD)),
    (
        said("m_1", "t_1", "c_1", OLD),
        said("m_2", "t_1", "c_1", at(0)),
        said("m_3", "t_1", "c_1", at(60)),
        said("m_4", "t_1", "c_1", at(600), "out"),
        said("m_5", "t_1", "c_1", at(900), "out"),
        said("m_6", "t_2", "c_2", at(30), attachments=CAKE),
        said("m_7", "t_3", "c_9", OLD),
        said("m_8", "t_4", "c_1", at(50)),
    ),
    page=PageRow(BAKERY.platform.value, BAKERY.page_id, "Corner Bakery", None, OLD, NOON),
)
ON_INSTAGRAM = Changes(
    (thread("i_1", "c_7", of=CLUB),),
    (person("c_7", "nora.v", of=CLUB),),
    (said("m_9", "i_1", "c_7", at(7), of=CLUB), said("m_a", "i_1", "c_7", at(67), "out", of=CLUB)),
    page=PageRow(CLUB.platform.value, CLUB.page_id, "Book Club", "book.club", OLD, NOON),
)
ANSWERS: dict[str, list[tuple[object, ...]]] = {
    "conversation": [
        ("2026-03-01T12:15:00.000Z", "out", "message", "m_5"),
        ("2026-03-01T12:10:00.000Z", "out", "message", "m_4"),
        ("2026-03-01T12:01:00.000Z", "in", "message", "m_3"),
        ("2026-03-01T12:00:00.000Z", "in", "message", "m_2"),
        ("2025-12-01T12:00:00.000Z", "in", "message", "m_1"),
    ],
    "contact": [
        ("2026-03-01T12:15:00.000Z", "t_1", "out", "m_5"),
        ("2026-03-01T12:10:00.000Z", "t_1", "out", "m_4"),
        ("2026-03-01T12:01:00.000Z", "t_1", "in", "m_3"),
        ("2026-03-01T12:00:50.000Z", "t_4", "in", "m_8"),
        ("2026-03-01T12:00:00.000Z", "t_1", "in", "m_2"),
        ("2025-12-01T12:00:00.000Z", "t_1", "in", "m_1"),
    ],
    "inbox": [
        ("2026-03-01T12:20:00.000Z", "Corner Bakery", "Bob", "hello", 1),
        ("2026-03-01T12:00:00.000Z", "Corner Bakery", "Ada", "hello", 1),
        ("2025-12-01T12:00:00.000Z", "Corner Bakery", None, "hello", 1),
    ],
    "unanswered": [("2026-03-01T12:00:30.000Z", "Bob", None, "t_2")],
    "new contacts": [("Bob", "2026-03-01T12:00:00.000Z")],
    "messages a day": [("2026-03-01", 4, 2)],
    "response time": [(3, 1, 10)],
    "quiet contacts": [("Eve", "2025-12-01T12:00:00.000Z")],
    "attachments": [
        ("2026-03-01T12:00:30.000Z", "t_2", "image", "cake.jpg"),
        ("2026-03-01T12:00:30.000Z", "t_2", "file", None),
    ],
    "freshness": [
        ("Corner Bakery", "messenger", "2026-03-01T12:00:00.000Z", 0),
        ("Book Club", "instagram", "2026-03-01T12:00:01.000Z", 0),
    ],
}


async def fill(store_url: StoreUrl) -> None:
    """Store two pages that were read completely."""
    async with open_store(store_url, synchronous="normal") as store:
        for of, rows, now in ((BAKERY, IN_MESSENGER, NOON), (CLUB, ON_INSTAGRAM, at(1))):
            completed = SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1))
            await store.commit(commit_after(Checkpoint(of), completed, changes=rows, now=now))


@pytest.mark.parametrize("name", ANSWERS)
def test_a_question_is_answered(kept: StoreDump, name: str) -> None:
    asyncio.run(fill(kept.store_url))

    found = [tuple(map(plain, row)) for row in kept.rows(questions(kept.kind)[name])]

    if name == "response time":  # PostgreSQL has the median as well
        found = [row[:3] for row in found]
    assert found == ANSWERS[name]


def plain(value: object) -> object:
    """Return numbers and days as SQLite has them."""
    if value is None or isinstance(value, str | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else float(str(value))


def test_every_question_is_asked_of_both_databases_and_has_an_answer() -> None:
    assert list(questions("sqlite")) == list(questions("postgresql")) == list(ANSWERS)
    assert len(ANSWERS) == 10


def test_a_link_is_made_whole(kept: StoreDump) -> None:
    asyncio.run(fill(kept.store_url))
    (query,) = re.findall(r"```sql\n(.*?)```", section("### Links"), re.DOTALL)

    assert kept.rows(query) == [("https://www.facebook.com/1234567890/inbox/7/",)]


# --- how they are answered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ANSWERS)
def test_sqlite_finds_the_rows_of_a_question_by_an_index(path: Path, name: str) -> None:
    """This holds for any content of the tables: SQLite plans by statistics only after somebody has run ANALYZE."""
    with raw(path) as connection:
        steps = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {questions('sqlite')[name]}")]

    scanned = {step.split()[1] for step in steps if step.startswith("SCAN")}
    assert not scanned & {"message", "latest", "contact_interaction_events", "conversations", "contacts"}, steps


ALL_OF_A_PAGE = {"new contacts", "quiet contacts"}  # a large part of the table where there are few pages
GROWTH = f"""
SET search_path TO milepost;
CREATE TEMPORARY TABLE people AS
SELECT
    n, '123456789' || n % 4 AS page_id, 'c_' || n AS contact_id, 't_' || n AS conversation_id,
    timestamptz '{SINCE}' + (50 - n) * interval '1 hour' AS written_at
FROM generate_series(1, 6000) AS n;
INSERT INTO pages SELECT 'messenger', '123456789' || n, 'Page ' || n, NULL, now(), now() FROM generate_series(0, 3) n;
INSERT INTO conversations (conversation_id, platform, page_id, contact_id, updated_time, first_synced_at, synced_at)
SELECT conversation_id, 'messenger', page_id, contact_id, written_at, now(), now() FROM people;
INSERT INTO contacts
SELECT 'messenger', page_id, contact_id, 'Somebody', NULL, written_at, written_at, now() FROM people;
INSERT INTO contact_interaction_events (
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, occurred_at
)
SELECT
    'm_' || n || '_' || k, conversation_id, 'messenger', page_id, contact_id, 'in', 'message', repeat('hello ', 10),
    written_at - k * interval '1 minute'
FROM people, generate_series(1, 20) AS k;
INSERT INTO checkpoints (stream, version, hash, open_dead_letters, state)
SELECT 'messenger:123456789' || n, 1, '', 0, '{{}}' FROM generate_series(0, 3) AS n;
"""
Node = dict[str, Any]


@pytest.fixture(params=["never analysed", "analysed"])
def grown(request: pytest.FixtureRequest, postgres: Server) -> Database:
    """Return a database with 120,000 messages, a hundredth of them since the time that the questions name."""

    async def grow(store_url: StoreUrl) -> None:
        async with open_store(store_url):
            pass
        connection = await psycopg.AsyncConnection.connect(store_url.url, password=store_url.password, autocommit=True)
        async with connection:
            await connection.execute(GROWTH.encode())
            if request.param == "analysed":
                await connection.execute("ANALYZE")

    template = f"template_data_{request.param.replace(' ', '_')}"
    return Database(postgres, postgres.template(template, grow))


def test_postgresql_finds_the_rows_of_each_question_by_an_index(grown: Database) -> None:
    asked = questions("postgresql")
    with grown.connect() as connection:
        for name in ANSWERS:
            ((plan,),) = connection.execute(f"EXPLAIN (FORMAT JSON) {asked[name]}".encode()).fetchall()
            found = nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
            whole = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"}
            assert not whole & {"contact_interaction_events", "conversations"}, name
            assert ("contacts" in whole) <= (name in ALL_OF_A_PAGE), name


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for each in node.get("Plans", ()):
        yield from nodes(each)


def test_the_page_names_the_question_for_every_block_of_sql() -> None:
    blocks = re.findall(r"```sql\n(.*?)```", section("## Ten questions"), re.DOTALL)

    assert all(block.startswith("-- question: ") for block in blocks)
    assert SINCE in PAGE
