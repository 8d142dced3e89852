"""No statement that runs for every batch, start or poll scans a table that grows."""

import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from kit.postgres import Database, Server
from milepost.stores.open import open_store
from milepost.stores.reader import load_statements
from milepost.stores.url import StoreUrl

SQL = load_statements("postgresql")

GROWING = {
    "contacts",
    "conversations",
    "contact_interaction_events",
    "journal",
    "dead_letters",
    "dead_letter_payloads",
    "runs",
    "message_backlog",
    "missed_conversations",
    "forgotten",
}
# These read everything on purpose: verify, rebuild, forget, remove, and `checkpoints` (a row for each stream). An index
# for forget or remove would be written for every event, and used once in a year.
READ_EVERYTHING = {
    "count_stream_rows",
    "removals",
    "remove_stream_dead_letters",
    "remove_stream_interaction_events",
    "remove_stream_payloads",
    "erase_conversations",
    "erase_payloads",
    "journal",
    "checkpoints",
    "count_checkpoints",
    "count_runs",
    "count_dead_letters",
    "count_gaps",
    "clear_checkpoints",
    "clear_runs",
    "clear_dead_letters",
    "clear_gaps",
}
# These read one row, or the newest few, in the order of the key.
ARE_LIMITED = {"latest_entries", "answers", "last_seq", "last_change", "history", "before_commit", "insert_entries"}
GROWTH = """
SET search_path TO milepost;
ALTER TABLE journal DISABLE TRIGGER USER;
INSERT INTO journal
SELECT n, 'messenger:' || n % 100, n / 100 + 1, 'run-' || n / 20, now(), 'batch_stored', '{}', ''
FROM generate_series(1, 9000) AS n;
INSERT INTO conversations (conversation_id, platform, page_id, contact_id, updated_time, first_synced_at, synced_at)
SELECT 't_' || n, 'messenger', n % 100, 'c_' || n, now() - n * interval '1 minute', now(), now()
FROM generate_series(1, 9000) AS n;
INSERT INTO contacts
SELECT 'messenger', n % 100, 'c_' || n, NULL, NULL, now(), now(), now() FROM generate_series(1, 9000) AS n;
INSERT INTO contact_interaction_events
SELECT 'm_' || n, 't_' || n, 'messenger', n % 100, 'c_' || n, 'in', 'message', NULL, NULL, now()
FROM generate_series(1, 9000) AS n;
INSERT INTO runs
SELECT 'run-' || n, 'messenger:' || n % 100, NULL, 'complete', NULL, now(), now(), 1, 1, 1, 1, 1, 1, 1, 1, 1, NULL
FROM generate_series(1, 9000) AS n;
INSERT INTO dead_letters (dead_letter_id, stream, stage, subject, reason, opened_at, closed_at)
SELECT 'd_' || n, 'messenger:' || n % 100, 'fetch', 't_' || n, '', now(), CASE WHEN n % 2 = 0 THEN now() END
FROM generate_series(1, 9000) AS n;
INSERT INTO dead_letter_payloads SELECT dead_letter_id, '{}' FROM dead_letters WHERE closed_at IS NULL;
INSERT INTO missed_conversations
SELECT 'messenger:' || n % 100, 't_' || n, now() FROM generate_series(1, 9000) AS n;
INSERT INTO forgotten SELECT 'messenger', n % 100, 'contact', 'c_' || n FROM generate_series(1, 9000) AS n;
ANALYZE;
"""
INSTANT = "2026-03-01T12:00:00.000Z"
# Of the type that the statement wants; with NULL the planner would drop the whole condition.
VALUES: dict[str, object] = {
    "after": 7,
    "limit": 7,
    "version": 7,
    "seq": 7,
    "deletion": 7,
    "open": True,
    "closed": True,
    "has_stretch": True,
    "newer_than": INSTANT,
    "older_than": INSTANT,
    "until": INSTANT,
    "now": INSTANT,
    "latest": INSTANT,
    "offset": 7,
    "sweep_started_at": INSTANT,
    "conversations": ["t_1"],
    "contacts": ["c_1"],
    "interaction_events": ["m_1"],
    "event_ids": ["m_1"],
    "conversation_id": "t_1",
    "back_to": INSTANT,
    "newest_at": INSTANT,
    "as_of": INSTANT,
    "oldest": [INSTANT],
    "newest": [INSTANT],
    "subjects": ["t_1"],
    "seen": ["t_1"],
    "moved": ["t_1"],
    "named": ["t_1"],
    "pages": ["1", "2"],
    "at": INSTANT,
    "streams": ["messenger:1"],
    "rows": "[]",
}
TEXT_AFTER = {"dead_letters_after", "stream_dead_letters_after"}
Node = dict[str, Any]


def parameters(name: str, statement: str) -> dict[str, object] | list[object]:
    named = re.findall(r"%\((\w+)\)s", statement)
    if named:
        values = {each: VALUES.get(each, "x") for each in named} | dict.fromkeys(columns_of(statement), "{}")
        return values | ({"after": "d_1"} if name in TEXT_AFTER else {})
    return [_value(kind) for kind in re.findall(r"%s(::text\[\])?", statement)]


def columns_of(statement: str) -> list[str]:
    """Return the columns of the rows that a statement is given, each as an array."""
    offered = re.search(r"FROM unnest\(\n(.*?)\n *\) (?:WITH ORDINALITY )?AS", statement, re.DOTALL)
    return re.findall(r"%\((\w+)\)s", offered[1]) if offered else []


def _value(kind: str) -> object:
    return ["x"] if kind else "7"


@pytest.fixture
def grown(postgres: Server) -> Database:
    """Return a database whose tables are large enough for a planner: a hundred streams, and thousands of rows.

    It is one for all tests, which only have statements planned.
    """

    async def grow(store_url: StoreUrl) -> None:
        async with open_store(store_url):
            pass
        connection = await psycopg.AsyncConnection.connect(store_url.url, password=store_url.password, autocommit=True)
        async with connection:
            await connection.execute(GROWTH)

    return Database(postgres, postgres.template("template_grown", grow))


def steps(database: Database, name: str) -> Iterator[Node]:
    """Plan a statement with everything left to indexes that they can do, and yield the nodes of the plan."""
    statement = SQL[name]
    with database.connect() as connection:
        connection.execute("SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off")
        connection.execute("SET enable_incremental_sort = off")
        asked = parameters(name, statement)
        if isinstance(asked, list):
            asked = [_of_its_type(name, place, value) for place, value in enumerate(asked)]
        ((plan,),) = connection.execute(f"EXPLAIN (FORMAT JSON) {statement.rstrip(';')}".encode(), asked).fetchall()
    yield from _nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])


def _of_its_type(name: str, place: int, value: object) -> object:
    return INSTANT if (name, place) == ("drop_notes_of_other_sweeps", 1) else value


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for each in node.get("Plans", ()):
        yield from _nodes(each)


FINDS = {"Index Cond", "TID Cond"}  # by a key, or by where a row lies, which a key has told


def walks(found: list[Node]) -> list[str]:
    """Return the scans of growing tables: of a whole table, or along an index without a beginning."""
    return [
        f"{node['Node Type']} of {node['Relation Name']}"
        for node in found
        if node.get("Relation Name") in GROWING and "Scan" in node["Node Type"] and not node.keys() & FINDS
    ]


# A statement that writes a row of values finds it by the key of its ON CONFLICT.
ASKED = {name for name, statement in SQL.items() if "set_config" not in statement and "VALUES (%s" not in statement}


@pytest.mark.parametrize("name", sorted(ASKED - READ_EVERYTHING - ARE_LIMITED))
def test_a_statement_finds_its_rows_by_a_key(grown: Database, name: str) -> None:
    assert walks(list(steps(grown, name))) == []


@pytest.mark.parametrize("name", sorted(ARE_LIMITED))
def test_a_limited_statement_stops_after_a_few_rows(grown: Database, name: str) -> None:
    found = list(steps(grown, name))

    assert any(node["Node Type"] == "Limit" or node.get("Subplan Name") for node in found)
    assert all(node["Node Type"] != "Seq Scan" for node in found if node.get("Relation Name") == "journal")


@pytest.mark.parametrize(
    "name", sorted({"journal", "entries_after", "runs_before", "stream_runs_before", "due_dead_letters"})
)
def test_rows_that_an_index_orders_are_not_sorted(grown: Database, name: str) -> None:
    assert not any(node["Node Type"] == "Sort" for node in steps(grown, name))


def test_the_statements_that_read_everything_exist() -> None:
    assert SQL.keys() >= READ_EVERYTHING | ARE_LIMITED
