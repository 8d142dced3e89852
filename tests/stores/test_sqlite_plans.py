"""No statement that runs for every batch, start or poll walks through a table that grows."""

import re
from pathlib import Path

import pytest

from milepost.stores.sql import load_statements
from stores.sqlite_files import raw

OF_A_COPY = {name: text for name, text in load_statements("sqlite", "copy").items() if name.startswith("read_")}
SQL = load_statements("sqlite") | OF_A_COPY

# What reads everything does so because it is asked to: verify, rebuild, forget, remove, and `checkpoints` (a row for
# each stream). An index by which to forget or remove would be written for every event, and used once in a year.
READ_EVERYTHING = {
    "count_stream_rows",
    "removals",
    "remove_stream_dead_letters",
    "remove_stream_interaction_events",
    "remove_stream_payloads",
    "erase_interaction_events",
    "erase_payloads",
    "journal",
    "checkpoints",
    "count_checkpoints",
    "count_runs",
    "count_dead_letters",
    "clear_checkpoints",
    "clear_runs",
    "clear_dead_letters",
    *OF_A_COPY,
}
# Reads one row, or the newest few, in the order of the key.
ARE_LIMITED = {"latest_entries", "answers"}
STEPS_OVER_PARAMETERS = re.compile(r"SCAN json_each VIRTUAL TABLE INDEX \d+:")


def plan(path: Path, statement: str) -> list[str]:
    with raw(path) as connection:
        names = set(re.findall(r":(\w+)", re.sub(r"--.*", "", statement)))
        parameters: dict[str, int] | list[int] = dict.fromkeys(names, 0) if names else [0] * statement.count("?")
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return [detail for *_, detail in rows]


@pytest.mark.parametrize("name", sorted(SQL.keys() - READ_EVERYTHING - ARE_LIMITED))
def test_finds_its_rows_by_a_key(path: Path, name: str) -> None:
    steps = plan(path, SQL[name])

    walks = [step for step in steps if step.startswith("SCAN") and not STEPS_OVER_PARAMETERS.match(step)]
    assert walks == []
    assert not any("TEMP B-TREE" in step for step in steps), "what it finds is in order already"


@pytest.mark.parametrize("name", sorted(ARE_LIMITED))
def test_stops_after_a_few_rows(path: Path, name: str) -> None:
    assert "LIMIT" in SQL[name]
    assert not any("TEMP B-TREE" in step for step in plan(path, SQL[name]))


@pytest.mark.parametrize("name", sorted(READ_EVERYTHING))
def test_what_reads_everything_exists_and_needs_no_sorting(path: Path, name: str) -> None:
    assert not any("TEMP B-TREE" in step for step in plan(path, SQL[name]))
