"""Makes texts safe to store in every database, and safe to show.

PostgreSQL cannot store NUL, and UTF-8 cannot encode half of a surrogate pair; neither means anything in what people
write. Such a character is replaced, for every database alike, so that the rest of its row can be stored.
"""

import re
from unicodedata import category

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
_JOINERS = "\u200c\u200d"  # they join emoji and letters, and hide nothing


def storable(text: str) -> tuple[str, int]:
    """Return a text with U+FFFD for each NUL and each half of a surrogate pair, and how many those were."""
    return _UNSTORABLE.subn(REPLACEMENT, text)


def storable_id(text: str) -> tuple[str, int]:
    """Return an id with U+FFFD for each half of a surrogate pair. A NUL stays, because such an id is refused later."""
    return _HALF.subn(REPLACEMENT, text)


def visible(text: str) -> str:
    """Return an untrusted text on one line, with deceptive and invisible characters escaped.

    Those are control characters, which can drive a terminal; changes of direction, which reorder what is seen; and
    characters that no font has.
    """
    if not text.isprintable():
        text = "".join(each if each.isprintable() else _escaped(each) for each in text)
    return " ".join(text.split())


def _escaped(character: str) -> str:
    if character.isspace() or character in _JOINERS:
        return character
    if category(character) == "Cs":
        return REPLACEMENT
    return ascii(character)[1:-1]
