"""Loads the named statements of a .sql file: SQL is written as SQL, in one place for each store."""

import re
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_statements(store: str, part: str = "statements") -> dict[str, str]:
    """Read `<store>/<part>.sql`: each statement under its `-- name:` line, comments and all."""
    text = (Path(__file__).parent / store / f"{part}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {parts[i]: parts[i + 1].strip() for i in range(0, len(parts), 2)}
