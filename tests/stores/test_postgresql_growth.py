"""What a statement reads stays the same while tables grow that nobody analyses.

The tests count the pages that PostgreSQL touches, in its memory or on the disk, not time. All rows are of one stream: a
planner without statistics expects few rows of each stream, but here they are the whole table.
"""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, sweep_started, walking
from kit.postgres import Database, Release, Server, fresh_database, on_both_releases, running
from milepost.core.events import BatchStored, RunStarted, Tally
from milepost.core.model import Changes, Keys
from milepost.core.position import Stretch
from milepost.stores.open import open_store
from milepost.stores.postgresql.connection import NO_TIMEOUT, settings
from milepost.stores.reader import load_statements
from milepost.stores.url import StoreUrl
from stores.histories import commit_after, contact_row, conversation_row, event_row
from stores.test_postgresql_plans import READ_EVERYTHING, columns_of

# --- each statement, on tables of two sizes ---------------------------------------------------------------------------

SQL = load_statements("postgresql")
# These read all rows of a page on purpose: to erase a person, to see whether a payload is about an erased person, to
# remove a stream, to move an account, when an id turns out to be our own, and to judge the end of a full sweep.
READ_A_PAGE = {
    "clear_own_contact",
    "count_stored",
    "forget_conversations",
    "forgotten_contacts",
    "is_about_forgotten",
    "erase_interaction_events",  # looks through who was forgotten
    "contacts_on_other_pages",  # when somebody is forgotten, by a person's command
    "owed_elsewhere",
    "remove_stream_contacts",
    "remove_stream_conversations",
    "remove_stream_gaps",
    "remove_stream_runs",
    "payloads_about",  # of the open dead letters of a stream, where a message was unsent
}
WRITES_WHAT_IT_IS_GIVEN = {
    name for name, text in SQL.items() if "VALUES (%s" in text or "json_to_recordset" in text or columns_of(text)
}
# An UPDATE has no key of an ON CONFLICT to find its rows by.
HELD = sorted(
    (SQL.keys() - READ_EVERYTHING - READ_A_PAGE - WRITES_WHAT_IT_IS_GIVEN - {"settings"})
    | {"revise_interaction_events"}
)

LOOKUPS = {"known", "known_of_sweep", "count_stored", "count_messages"}

FEW, MANY = 4_000, 40_000
NOTES = 100  # of the stream; all others are of another one, as all notes of a stream are read
KEYS = 50
# On a larger table an index is a level higher, and 50 keys lie on 50 of its pages instead of on a few: a batch asks for
# keys of six kinds.
MOST_MORE = 6 * KEYS
GROWTH = f"""
SET search_path TO milepost;
ALTER TABLE journal DISABLE TRIGGER USER;
CREATE TEMPORARY TABLE numbers AS SELECT generate_series({{first}}, {{last}}) AS n;
INSERT INTO journal
SELECT
    n, 'messenger:1', n, 'run-' || to_char(n / 20, 'FM00000'), now(),
    CASE WHEN n % 20 = 0 THEN 'run_started' ELSE 'batch_stored' END, '{{{{}}}}', ''
FROM numbers;
INSERT INTO conversations (conversation_id, platform, page_id, contact_id, updated_time, first_synced_at, synced_at)
SELECT 't_' || n, 'messenger', '1', 'c_' || n, timestamptz '2026-03-01Z' - n * interval '1 minute', now(), now()
FROM numbers;
INSERT INTO contacts SELECT 'messenger', '1', 'c_' || n, NULL, NULL, now(), now(), now() FROM numbers;
INSERT INTO contact_interaction_events
SELECT 'm_' || n, 't_' || n, 'messenger', '1', 'c_' || n, 'in', 'message', NULL, NULL, now() FROM numbers;
INSERT INTO runs
SELECT
    'run-' || to_char(n, 'FM00000'), 'messenger:1', NULL, 'complete', NULL, now(), now(), 1, 1, 1, 1, 1, 1, 1, 1, 1,
    NULL
FROM numbers;
INSERT INTO dead_letters (dead_letter_id, stream, stage, subject, reason, opened_at, closed_at, redrive_at)
SELECT
    'd_' || n, 'messenger:1', 'fetch', 't_' || n, '', timestamptz '2026-03-01Z' + n * interval '1 minute',
    CASE WHEN n % 2 = 0 THEN now() END, now()
FROM numbers;
INSERT INTO dead_letter_payloads SELECT 'd_' || n, '{{{{}}}}' FROM numbers WHERE n % 2 = 1;
INSERT INTO missed_conversations
SELECT CASE WHEN n <= {NOTES} THEN 'messenger:1' ELSE 'messenger:2' END, 't_' || n, '2026-03-01Z' FROM numbers;
INSERT INTO message_backlog
SELECT
    'g_' || n, 'messenger:1', 't_' || n, now(), timestamptz '2026-03-01Z' - n * interval '1 minute', now(), 0, 0, NULL,
    '{{{{}}}}'
FROM numbers;
INSERT INTO forgotten SELECT 'messenger', '1', 'contact', 'f_' || n FROM numbers;
INSERT INTO checkpoints (stream, version, hash, open_dead_letters, state)
SELECT 'messenger:' || n, 1, '', 0, '{{{{}}}}' FROM numbers;
"""
SWEEP_STARTED_AT = "2026-03-01T00:00:00Z"
THREADS, DEAD_LETTERS, RUNS = (
    [f"{dead_letter}{number:{width}}" for number in range(1, 2 * KEYS, 2)]
    for dead_letter, width in (("t_", ""), ("d_", ""), ("run-", "05"))
)
PEOPLE, MESSAGES = ([each.replace("t_", dead_letter) for each in THREADS] for dead_letter in ("c_", "m_"))
NAMED: dict[str, object] = {
    "stream": "messenger:1",
    "streams": ["messenger:1"],
    "platform": "messenger",
    "page_id": "1",
    "own_id": "c_7",
    "at": SWEEP_STARTED_AT,
    "moved": THREADS,
    "named": THREADS,
    "pages": ["1", "2"],
    "conversations": THREADS,
    "contacts": PEOPLE,
    "interaction_events": MESSAGES,
    "conversation_id": "t_7",
    "back_to": SWEEP_STARTED_AT,
    "newest_at": "2036-03-01T00:00:00Z",
    "as_of": SWEEP_STARTED_AT,
    "oldest": [SWEEP_STARTED_AT] * KEYS,
    "newest": ["2036-03-01T00:00:00Z"] * KEYS,
    "subjects": THREADS,
    "seen": THREADS,
    "has_stretch": True,
    "newer_than": "2026-02-28T22:00:00Z",
    "older_than": "2026-02-28T23:00:00Z",
    "until": "2026-02-28T23:00:00Z",
    "now": "2036-03-01T00:00:00Z",
    "latest": "2036-03-02T00:00:00Z",
    "offset": KEYS,
    "sweep_started_at": SWEEP_STARTED_AT,
    "before": "run-02000",
    "limit": KEYS,
    "open": True,
    "closed": True,
    "channel": "any",
}
COLUMNS = {
    "event_id": MESSAGES,
    "kind": ["message"] * KEYS,
    "edited_at": [SWEEP_STARTED_AT] * KEYS,
    "versions": [1] * KEYS,
}
IN_ORDER: dict[str, tuple[object, ...]] = {
    "drop_found_notes": ("messenger:1", THREADS),
    "drop_notes_of_other_sweeps": ("messenger:1", SWEEP_STARTED_AT),
    "drop_notes": ("messenger:1",),
    "unsent_messages": (["messenger:1"],),
    "delete_payload": (["d_7"],),
    "delete_gap": (["g_7"],),
    "dead_letter": ("d_7",),
    "dead_letters_with_payloads": (DEAD_LETTERS,),
    "checkpoint": ("messenger:1",),
    "recorded_at": (7,),
    "stored_checkpoints": (["messenger:1"],),
    "stored_runs": (RUNS,),
    "stored_dead_letters": (DEAD_LETTERS,),
    "threads": (THREADS,),
    "stored_gaps": ([each.replace("d_", "g_") for each in DEAD_LETTERS],),
    "record_source": ("facebook", ""),
    "replace_source": ("facebook", ""),
    "conversations_after": ("t_7", KEYS),
    "settle_facts": (MESSAGES,),
}


def parameters(name: str, size: int) -> dict[str, object] | tuple[object, ...]:
    """Return a statement's parameters; for a journal, the position of a reader who follows it."""
    newest = {"entry_at": ("messenger:1", size), "entries_since": ("messenger:1", size - 3)}
    at_the_end = {
        "version": size,
        "seq": size,
        "deletion": size,
        "after": f"d_{size // 2}" if name.endswith("dead_letters_after") else size - 3,
    }
    named = re.findall(r"%\((\w+)\)s", SQL[name])
    if named:
        columns = {each: COLUMNS.get(each, [None] * KEYS) for each in columns_of(SQL[name])}
        return {each: (NAMED | at_the_end | columns)[each] for each in named}
    return (IN_ORDER | newest)[name] if "%s" in SQL[name] else ()


def pages_touched(database: Database, name: str, size: int) -> int:
    """Run a statement as the store does, count its pages, and roll it back."""
    asked = f"EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT JSON) {SQL[name].rstrip().rstrip(';')}"
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute(SQL["settings"].encode(), settings("milepost", NO_TIMEOUT, is_lookup=name in LOOKUPS))
        ((plan_as_json,),) = connection.execute(asked.encode(), parameters(name, size)).fetchall()
    plan: dict[str, Any] = (json.loads(plan_as_json) if isinstance(plan_as_json, str) else plan_as_json)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


@pytest.fixture
def grown(postgres: Server) -> Iterator[dict[int, Database]]:
    """Yield two databases that were never analysed, of few rows and of many."""

    def template(size: int) -> str:
        async def grow(store_url: StoreUrl) -> None:
            async with open_store(store_url):
                pass
            connection = await psycopg.AsyncConnection.connect(
                store_url.url, password=store_url.password, autocommit=True
            )
            async with connection:
                await connection.execute(GROWTH.format(first=1, last=size).encode())

        return postgres.template(f"template_of_{size}", grow)

    with (
        fresh_database(postgres, template=template(FEW)) as few,
        fresh_database(postgres, template=template(MANY)) as many,
    ):
        yield {FEW: few, MANY: many}


@on_both_releases
def test_no_statement_reads_more_where_tables_have_grown_and_were_never_analysed(grown: dict[int, Database]) -> None:
    found = {name: [pages_touched(database, name, size) for size, database in grown.items()] for name in HELD}

    assert {name: counts for name, counts in found.items() if counts[1] > counts[0] + MOST_MORE} == {}


# --- the store, from its first batch ----------------------------------------------------------------------------------

# A statement is prepared after some executions, and its plan kept after some more: by then there are a few rows.
SMALL, SIZE, BATCHES = 20, 200, 100
# Pages are counted between the first and the second, and the third and the last of these batches.
WINDOWS = (SMALL + 4, SMALL + 9, SMALL + BATCHES - 6, SMALL + BATCHES - 1)
FEW_PAGES = 8
LEAST_STATEMENTS = 8  # that read or write growing tables
COUNTED = """
SELECT regexp_replace(query, '\\s+', ' ', 'g'), calls, shared_blks_hit + shared_blks_read
FROM public.pg_stat_statements AS stats JOIN pg_database AS at ON at.oid = stats.dbid
WHERE datname = current_database() AND query ~ 'conversation|contact|journal|dead_letter|forgotten|runs|checkpoint'
"""
# From 2,000 rows to 20,000 an index grows by one level at most: from two pages for each key to three.
MOST_TIMES = 2.0


@pytest.fixture
def counting(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Yield a server that counts the pages that each statement touches."""
    release: Release = request.param
    with running(
        release, shared_preload_libraries="pg_stat_statements", **{"pg_stat_statements.track": "all"}
    ) as server:
        yield server


def batch_of(first: int, size: int) -> tuple[Keys, Changes]:
    """Return a batch of a full sweep, and what it stores: conversations from newer to older."""
    numbers = range(first, first + size)
    threads = tuple(
        replace(conversation_row(f"t_{n}", contact_id=f"c_{n}"), updated_time=NOON - timedelta(seconds=n))
        for n in numbers
    )
    people = tuple(contact_row(f"c_{n}") for n in numbers)
    messages = tuple(event_row(f"m_{n}", conversation_id=f"t_{n}") for n in numbers)
    names = tuple(row.conversation_id for row in threads)
    stretch = Stretch(NOON, threads[-1].updated_time, threads[0].updated_time, names)
    keys = Keys(
        STREAM,
        names,
        tuple(row.contact_id for row in people),
        tuple(row.event_id for row in messages),
        names,
        full_sweep_at=NOON,
        stretch=stretch,
    )
    return keys, Changes(threads, people, messages, missed=stretch)


def counts(database: Database) -> dict[str, tuple[int, int]]:
    """Return the calls of each statement so far, and the pages that they touched."""
    return {query: (calls, pages) for query, calls, pages in database.sql(COUNTED)}


def a_call(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Return the pages that a call of each statement touched in between."""
    came = {
        query: (calls - before[query][0], pages - before[query][1])
        for query, (calls, pages) in after.items()
        if query in before
    }
    return {query: pages / calls for query, (calls, pages) in came.items() if calls}


def most(pages: float) -> float:
    """Return how many pages a statement may touch that touched so many at first."""
    return MOST_TIMES * pages + FEW_PAGES


async def synced(database: Database, *, is_analysed_once: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Store batches as a full sweep does, small ones first; return what the first large ones took, and the last."""
    taken = []
    async with open_store(database.store_url) as store:
        database.sql("CREATE EXTENSION pg_stat_statements SCHEMA public")
        checkpoint, first, before = await store.load(STREAM), 0, counts(database)
        for number in range(SMALL + BATCHES):
            if is_analysed_once and number == SMALL:
                database.sql("ANALYZE")
            keys, changes = batch_of(first, 1 if number < SMALL else SIZE)
            first += len(keys.conversations)
            await store.known(keys)
            begun = (RunStarted(NOON), sweep_started(walk_started_at=NOON)) if number == 0 else ()
            stored = BatchStored(walking(f"cursor-{number}"), Tally(batches=1, inserted=len(keys.conversations)))
            following = commit_after(checkpoint, *begun, stored, changes=changes)
            await store.commit(following)
            checkpoint = following.checkpoint
            if number in WINDOWS:
                before, until = counts(database), before
                taken.append(a_call(until, before))
    return taken[1], taken[3]


@pytest.mark.long
@pytest.mark.parametrize("counting", ["newest", "oldest"], indirect=True)
@pytest.mark.parametrize("is_analysed_once", [True, False], ids=["analysed when it was tiny", "never analysed"])
async def test_the_last_batch_of_twenty_thousand_conversations_reads_no_more_than_an_early_one(
    counting: Server, *, is_analysed_once: bool
) -> None:
    with fresh_database(counting, template=None) as database:
        early, last = await synced(database, is_analysed_once=is_analysed_once)

    assert len(last) >= LEAST_STATEMENTS, "what a batch asks and writes is counted"
    grew = {query: (early.get(query), pages) for query, pages in last.items() if pages > most(early.get(query, 0.0))}
    assert grew == {}
