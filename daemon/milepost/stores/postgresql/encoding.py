"""What PostgreSQL keeps of a text: all but the NUL character, and no half of a surrogate pair."""

from collections.abc import Iterable


def storable(text: str) -> str:
    """Give a text with U+FFFD where it holds a NUL. For words about rows; a row itself is refused."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def askable(keys: Iterable[str]) -> list[str]:
    """Give those of the keys that a row can have."""
    return [key for key in keys if "\0" not in key and _is_whole(key)]


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
