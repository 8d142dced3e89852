"""Texts as every database takes them.

PostgreSQL stores no NUL, and UTF-8 has no half of a surrogate pair; neither means anything in what people wrote. Such
a character is replaced, alike for every database, so that the rest of its row is kept.
"""

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")


def storable(text: str) -> tuple[str, int]:
    """Return a text with U+FFFD for each NUL and each half of a surrogate pair, and how many those were."""
    return _UNSTORABLE.subn(REPLACEMENT, text)


def storable_id(text: str) -> tuple[str, int]:
    """Return an id with U+FFFD for each half of a surrogate pair. A NUL stays, for such an id is refused."""
    return _HALF.subn(REPLACEMENT, text)
