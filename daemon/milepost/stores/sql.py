"""The named statements of a .sql file: SQL is written as SQL, in one place for each store."""

import re
from pathlib import Path

from milepost.core.model import Stream

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_statements(store: str, part: str = "statements") -> dict[str, str]:
    """Read `<store>/<part>.sql`: each statement under its `-- name:` line, with its comments."""
    text = (Path(__file__).parent / store / f"{part}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {parts[i]: parts[i + 1].strip() for i in range(0, len(parts), 2)}


def stream_parameters(stream: Stream) -> dict[str, str]:
    """Return the parameters by which statements find the rows of a stream, or of its page."""
    return {"stream": stream.key, "platform": stream.platform.value, "page_id": stream.page_id}
