"""No statement that runs for every batch, start or poll scans a table that grows."""

import re
from pathlib import Path

import pytest

from milepost.stores.reader import load_statements
from stores.sqlite_files import raw

OF_A_COPY = {name: text for name, text in load_statements("sqlite", "copy").items() if name.startswith("read_")}
SQL = load_statements("sqlite") | OF_A_COPY

# These read everything on purpose: verify, rebuild, forget, remove, `checkpoints` and `page_names` (a row for each
# stream). An index for forget or remove would be written for every event, and used once in a year.
READ_EVERYTHING = {
    "count_stream_rows",
    "removals",
    "remove_stream_dead_letters",
    "remove_stream_interaction_events",
    "remove_stream_payloads",
    "erase_payloads",
    "contact_pages",
    "journal",
    "checkpoints",
    "page_names",
    "count_checkpoints",
    "count_runs",
    "count_dead_letters",
    "count_gaps",
    "clear_checkpoints",
    "clear_runs",
    "clear_dead_letters",
    "clear_gaps",
    *OF_A_COPY,
}
# These read one row, or the newest few, in the order of the key.
ARE_LIMITED = {"latest_entries", "history", "answers", "holds_rows"}
# Keys of several columns: by a prefix, a statement would scan all that a page or stream has.
WHOLE_KEYS = {
    "known_contacts": "(platform=? AND page_id=? AND contact_id=?)",
    "known_dead_letters": "(stream=? AND subject=?)",
    "missed_among": "(stream=? AND conversation_id=?)",
    "drop_found_notes": "(stream=? AND conversation_id=?)",
    "forgotten_among": "(platform=? AND kind=? AND id=?)",
    "move_interaction_events": "(conversation_id=?)",
    "clear_own_contact": "(platform=? AND page_id=?)",
    "forget_conversations": "(platform=? AND page_id=?)",
    "erase_conversations": "(platform=? AND page_id=?)",
    "count_unseen": "(platform=? AND page_id=? AND updated_time>? AND updated_time<?)",
    "search_until": "(platform=? AND page_id=? AND updated_time>?)",
    "search_threads": "(platform=? AND page_id=? AND updated_time>? AND updated_time<?)",
    "note_missed": "(platform=? AND page_id=? AND updated_time>? AND updated_time<?)",
    "entries_of_run_before": "(stream=? AND version>? AND version<?)",
}
STEPS_OVER_PARAMETERS = re.compile(r"SCAN \w+ VIRTUAL TABLE INDEX 1:")
STEPS_OVER_FEW_ROWS = re.compile(r"SCAN (CONSTANT ROW|last_change|linked|pragma_page_\w+ VIRTUAL TABLE INDEX 0:)$")


def plan(path: Path, statement: str) -> list[str]:
    with raw(path) as connection:
        names = set(re.findall(r":(\w+)", re.sub(r"--.*", "", statement)))
        parameters: dict[str, int] | list[int] = dict.fromkeys(names, 0) if names else [0] * statement.count("?")
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return [detail for *_, detail in rows]


# By its plan it scans; its WHERE false reads nothing.
READS_NOTHING = {"demand_writable"}


@pytest.mark.parametrize("name", ["streams_with_unsent", "take_unsent", "follow_moves", "streams_with_facts"])
def test_a_look_for_facts_passes_over_the_messages_that_wait(path: Path, name: str) -> None:
    """Of a stream that is stopped, tens of thousands may wait."""
    steps = plan(path, load_statements("sqlite", "webhooks")[name])

    assert "webhook_events_of_facts" in steps[0]


@pytest.mark.parametrize("name", sorted(SQL.keys() - READ_EVERYTHING - ARE_LIMITED - READS_NOTHING))
def test_a_statement_finds_its_rows_by_a_key(path: Path, name: str) -> None:
    steps = plan(path, SQL[name])

    scans = [step for step in steps if step.startswith("SCAN") and not STEPS_OVER_FEW_ROWS.match(step)]
    walks = [step for step in scans if not STEPS_OVER_PARAMETERS.match(step)]
    assert walks == []
    assert not any("TEMP B-TREE" in step for step in steps), "what it finds is in order already"


@pytest.mark.parametrize("name", sorted(ARE_LIMITED))
def test_a_limited_statement_stops_after_a_few_rows(path: Path, name: str) -> None:
    assert "LIMIT" in SQL[name]
    assert not any("TEMP B-TREE" in step for step in plan(path, SQL[name]))


@pytest.mark.parametrize("name", sorted(READ_EVERYTHING - {"page_names"}))  # of which there are few
def test_the_statements_that_read_everything_exist_and_sort_nothing(path: Path, name: str) -> None:
    assert not any("TEMP B-TREE" in step for step in plan(path, SQL[name]))


@pytest.mark.parametrize("name", sorted(WHOLE_KEYS))
def test_a_key_of_several_columns_is_used_whole(path: Path, name: str) -> None:
    assert any(WHOLE_KEYS[name] in step for step in plan(path, SQL[name]))


def test_plans_depend_on_the_schema_alone_because_no_statistics_are_kept(path: Path) -> None:
    """So plans hold for any content of the tables: SQLite uses statistics only after somebody has run ANALYZE."""
    with raw(path) as connection:
        kept = connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'sqlite_stat*'").fetchall()

    assert kept == []
