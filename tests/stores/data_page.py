"""docs/data.md, taken apart: the columns that it lists, its diagram, and the questions that it answers with SQL."""

import re
from pathlib import Path

from msgspec import Struct

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
