"""Access to SQLite databases beside the store, as with other programs: reading, dumping, tampering."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

DROP_TRIGGERS = "".join(f"DROP TRIGGER journal_refuses_{what};" for what in ("gaps", "update", "delete"))


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Connect as the sqlite3 shell would: each statement a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def execute(path: Path, script: str) -> None:
    with raw(path) as connection:
        connection.executescript(script)


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    with raw(path) as connection:
        return connection.execute(query).fetchall()


def names_in(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir()}
