"""Consumers of the change feed: one for tests, and those in docs/changes.md, run exactly as printed there."""

import asyncio
import json
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangeOp, ChangeReader
from milepost.core.model import Stream

RowKey = tuple[ChangeKind, tuple[str, ...]]
TABLES = {
    ChangeKind.CONTACT: ("contacts", ("platform", "page_id", "contact_id")),
    ChangeKind.CONVERSATION: ("conversations", ("conversation_id",)),
    ChangeKind.MESSAGE: ("contact_interaction_events", ("event_id",)),
}


class Mirror:
    """Follows the feed and keeps its rows by their keys."""

    def __init__(self) -> None:
        self.rows: dict[RowKey, dict[str, Any]] = {}
        self.place = 0
        self.mark = ""

    def take(self, change: Change) -> None:
        """Apply one change."""
        key = change.kind, tuple(change.key.values())
        if change.op is ChangeOp.DELETE:
            assert change.row is None
            self.rows.pop(key, None)
        else:
            assert change.row is not None
            assert change.seq > self.place
            self.rows[key] = change.row
        self.place = change.seq

    async def follow(
        self,
        reader: ChangeReader,
        *,
        limit: int = 1000,
        kinds: AbstractSet[ChangeKind] = ALL_KINDS,
        stream: Stream | None = None,
    ) -> list[Change]:
        """Apply all new changes, and return them. Raises HistoryRewritten if changes were lost since the last call."""
        taken: list[Change] = []
        while True:
            page = await reader.read_changes(self.place, limit, kinds, stream, self.mark)
            self.mark = page.mark
            assert len(page.changes) <= limit
            for change in page.changes:
                self.take(change)
            taken += page.changes
            if page.next == self.place and not page.changes:
                return taken
            self.place = page.next


def stored_numbers(ask: Callable[[str], list[tuple[Any, ...]]]) -> dict[RowKey, tuple[int, int]]:
    """Return the version and the number of each row of the tables. Every change gives a row a new number."""
    found: dict[RowKey, tuple[int, int]] = {}
    for kind, (table, key) in TABLES.items():
        for version, seq, *columns in ask(f"SELECT version, change_seq, {', '.join(key)} FROM {table}"):
            found[kind, tuple(columns)] = (version, seq)
    return found


PAGE = Path(__file__).parents[2] / "docs" / "changes.md"
API = "http://127.0.0.1:9464"
ENDS = {
    "python": ("time.sleep(1)", "break"),
    "js": ("await new Promise((resolve) => setTimeout(resolve, 1000))", "break"),
}


def program(language: str, url: str, *, ends: bool) -> str:
    """Return a consumer in a language that follows a daemon; with `ends` it ends when it has everything."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert API in text
    waiting, breaking = ENDS[language]
    assert waiting in text
    return str(text).replace(API, url).replace(waiting, breaking if ends else waiting)


@asynccontextmanager
async def consuming(folder: Path, text: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a consumer in Python during the block, and kill it at the end."""
    with (folder / "consumer.stderr").open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", text, cwd=folder, stderr=stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def mirrored(folder: Path) -> dict[RowKey, dict[str, Any]]:
    """Return the rows of the consumer in Python; none before it has begun."""
    file = folder / "mirror.db"
    if not file.exists():
        return {}
    with closing(sqlite3.connect(file, timeout=30.0)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'mirrored'").fetchone():
            return {}
        return _rows(connection.execute("SELECT kind, key, row FROM mirrored").fetchall())


def mirrored_in_javascript(folder: Path) -> dict[RowKey, dict[str, Any]]:
    """Return the rows of the consumer in JavaScript."""
    kept = json.loads((folder / "mirror.json").read_text())["rows"]
    named = ((json.loads(name), row) for name, row in kept.items())
    return _rows([(kind, json.dumps(key), json.dumps(row)) for (kind, key), row in named])


def _rows(found: list[tuple[str, str, str]]) -> dict[RowKey, dict[str, Any]]:
    rows: dict[RowKey, dict[str, Any]] = {}
    for kind_name, key, text in found:
        kind, row = ChangeKind(kind_name), json.loads(text)
        assert json.loads(key) == {name: row[name] for name in TABLES[kind][1]}
        rows[kind, tuple(json.loads(key).values())] = row
    return rows


def numbers(rows: dict[RowKey, dict[str, Any]]) -> dict[RowKey, tuple[int, int]]:
    """Return the version and the number of each row."""
    return {key: (row["version"], row["change_seq"]) for key, row in rows.items()}
