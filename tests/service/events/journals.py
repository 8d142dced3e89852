"""Databases whose journals come from elsewhere: from a simulation, or from the histories of the tests of stores."""

import sqlite3
from contextlib import closing
from pathlib import Path

from kit.memory_store import MemoryStore
from milepost.core.model import Stream
from milepost.core.ports import Commit
from milepost.stores import rows
from milepost.stores.reader import load_statements
from stores.histories import life, stream

SQL = load_statements("sqlite")
STREAMS = tuple(stream(number) for number in range(3))
KEYS = tuple(each.key for each in STREAMS)


def write_simulated(path: Path, store: MemoryStore) -> None:
    """Write the journal and the runs of a simulation into a migrated database."""
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = [
            (each.stream, each.version, each.run_id, each.recorded_at, each.type, each.data, each.hash)
            for each in store.journal
        ]
        connection.executemany(SQL["insert_entries"], columns)
        streams = {each.run_id: each.stream for each in store.journal}
        connection.executemany(
            SQL["upsert_run"], [rows.run_tuple(Stream.parse(streams[key]), run) for key, run in store.runs.items()]
        )


def write_lives(path: Path, commits: int) -> int:
    """Write that many commits of three streams, in turn; return the number of entries."""
    made = [each for row in zip(*(life(each, commits) for each in STREAMS), strict=True) for each in row]
    return write(path, *made)


def write(path: Path, *commits: Commit) -> int:
    """Write the entries and the runs of commits, without their rows; return the number of entries."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for commit in commits:
            connection.executemany(SQL["insert_entries"], map(rows.entry_tuple, commit.entries))
            if commit.run is not None:
                connection.execute(SQL["upsert_run"], rows.run_tuple(commit.checkpoint.stream, commit.run))
    return sum(len(commit.entries) for commit in commits)
