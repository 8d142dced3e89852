"""The change feed of a SQLite database."""

import re
from pathlib import Path

import pytest

from contracts.changes_contract import OTHER
from milepost.core.changes import ALL_KINDS
from milepost.core.model import Stream
from milepost.stores.changes import ChangesAsked
from milepost.stores.sql import load_statements
from stores.sqlite_files import raw

SQL = load_statements("sqlite", "changes")


@pytest.mark.parametrize("stream", [None, OTHER])
@pytest.mark.parametrize("name", sorted(SQL))
def test_a_statement_finds_its_rows_by_their_numbers(path: Path, name: str, stream: Stream | None) -> None:
    parameters = ChangesAsked(7, 10, ALL_KINDS, stream).parameters(7, 20)
    with raw(path) as connection:
        steps = [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", parameters)]

    reads = [step for step in steps if re.match(r"(SEARCH|SCAN) (contact|conversation|deleted)", step)]
    assert reads
    assert all(re.search(r"\((change_seq|rowid)>\? AND (change_seq|rowid)<\?\)", step) for step in reads)
    sorted_pages = 4 if name == "changes_up_to" else 0  # which merges a page of each table
    assert sum("TEMP B-TREE" in step for step in steps) == sorted_pages
