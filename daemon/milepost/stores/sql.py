"""The named statements of a .sql file: SQL is written as SQL, in one place for each store."""

import re
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Protocol

Parameters = Mapping[str, Any] | tuple[Any, ...]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Fetch(Protocol):
    """Runs a statement, by its name, and returns its rows."""

    def __call__(self, statement: str, parameters: Parameters = ()) -> Awaitable[list[Any]]:
        """Run a statement."""
        ...


def load_statements(store: str, *parts: str) -> dict[str, str]:
    """Read `<store>/<part>.sql`, or `statements.sql`: each statement under its `-- name:` line, with its comments."""
    statements: dict[str, str] = {}
    for part in parts or ("statements",):
        _, *split = _NAME.split((Path(__file__).parent / store / f"{part}.sql").read_text(encoding="utf-8"))
        statements |= zip(split[::2], map(str.strip, split[1::2]), strict=True)
    return statements
