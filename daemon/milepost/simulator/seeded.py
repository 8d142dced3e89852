"""Seeded randomness: each choice of the simulated world is a hash of its subject, so it is the same every time."""

import base64
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

Choice = TypeVar("Choice")

_ID_BITS = 60
_ID_BASE = 1 << _ID_BITS
_SPREAD = 0x9E3779B97F4A7C15 % _ID_BASE | 1
_GATHER = pow(_SPREAD, -1, _ID_BASE)


def draw(*about: object) -> bytes:
    """Return 64 random bytes that depend only on `about`."""
    return blake2b("\x1f".join(map(str, about)).encode()).digest()


def number(*about: object) -> int:
    """Return a number below 2^64 that depends only on `about`."""
    return int.from_bytes(draw(*about)[:8], "big")


def share(*about: object) -> float:
    """Return a number in [0, 1) that depends only on `about`."""
    return (number(*about) >> 11) / (1 << 53)


def pick(choices: Sequence[Choice], seed: int) -> Choice:
    """Return one of `choices`, each equally likely."""
    return choices[seed % len(choices)]


def scattered(value: int) -> int:
    """Return a value below 2^60 as a unique id above 2^53; neighbours end up far apart (`gathered` inverts it)."""
    return _ID_BASE + value * _SPREAD % _ID_BASE


def gathered(scattered_id: int) -> int:
    """Return the value that `scattered` turned into this id."""
    return (scattered_id - _ID_BASE) * _GATHER % _ID_BASE


def url_safe(raw: bytes) -> str:
    """Return Base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sealed(text: str) -> str:
    """Return Base64 as in the Graph API's cursors and Instagram ids: Z becomes ZA, and the padding ZD."""
    return base64.urlsafe_b64encode(text.encode()).decode().replace("Z", "ZA").replace("=", "ZD")


def unsealed(text: str) -> str | None:
    """Return the text that `sealed` encoded; None if `sealed` cannot have returned this."""
    try:
        opened = base64.urlsafe_b64decode(text.replace("ZD", "=").replace("ZA", "Z")).decode()
    except ValueError:
        return None
    return opened if sealed(opened) == text else None
