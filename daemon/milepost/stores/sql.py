"""Loads the named statements of a .sql file. Each store keeps its SQL in such files, not in strings."""

import re
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Protocol

Parameters = Mapping[str, Any] | tuple[Any, ...]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Fetch(Protocol):
    """Runs a named statement and returns its rows."""

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
