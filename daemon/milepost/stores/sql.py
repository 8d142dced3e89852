"""The named statements of a .sql file: SQL is written as SQL, in one place for each store."""

import re
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Protocol

from milepost.core.model import Stream

Parameters = Mapping[str, Any] | tuple[Any, ...]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Fetch(Protocol):
    """Runs a statement, by its name, and returns its rows."""

    def __call__(self, statement: str, parameters: Parameters = ()) -> Awaitable[list[Any]]:
        """Run a statement."""
        ...


def load_statements(store: str, part: str = "statements") -> dict[str, str]:
    """Read `<store>/<part>.sql`: each statement under its `-- name:` line, with its comments."""
    text = (Path(__file__).parent / store / f"{part}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {parts[i]: parts[i + 1].strip() for i in range(0, len(parts), 2)}


def stream_parameters(stream: Stream) -> dict[str, str]:
    """Return the parameters by which statements find the rows of a stream, or of its page."""
    return {"stream": stream.key, "platform": stream.platform.value, "page_id": stream.page_id}
