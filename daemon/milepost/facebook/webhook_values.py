"""Values in the updates of webhooks, none of which is taken for granted."""

import re
from datetime import UTC, datetime, timedelta

Json = dict[str, object]

_ID = re.compile(r"[!-~]{1,512}")
_MAX_SECONDS = 100_000_000_000  # a larger number is of milliseconds


def objects_in(owner: Json, key: str) -> list[Json]:
    """Return the objects of a list; none where there is no list."""
    found = owner.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def object_in(owner: Json, key: str) -> Json:
    """Return an object; an empty one where there is none."""
    found = owner.get(key)
    return found if isinstance(found, dict) else {}


def id_in(value: object) -> str | None:
    """Return an id, which may be written as a number; None for what is none."""
    text = str(value) if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)) else ""
    return text if _ID.fullmatch(text) else None


def is_true(value: object) -> bool:
    """Return whether a flag is set: once it was sent as text."""
    return value is True or value == "true"


def instant_in(value: object, otherwise: datetime, latest: datetime) -> datetime:
    """Return an instant written in seconds or milliseconds, as a number or as text; none that is later than `latest`.

    `otherwise` is returned for what is none.
    """
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        return otherwise
    number = int(text)
    seconds = number / 1000 if number > _MAX_SECONDS else float(number)
    return min(datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds), latest)


def count_in(value: object) -> int:
    """Return a small number, which may be written as text; 0 for what is none."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0
