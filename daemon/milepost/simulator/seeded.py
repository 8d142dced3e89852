"""Seeded luck: each choice of the simulated world is a hash of what it is about, so it is the same every time."""

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
    """64 bytes of luck that depend on nothing but `about`."""
    return blake2b("\x1f".join(map(str, about)).encode()).digest()


def number(*about: object) -> int:
    """A number below 2^64 that depends on nothing but `about`."""
    return int.from_bytes(draw(*about)[:8], "big")


def share(*about: object) -> float:
    """A number from 0 up to, not including, 1, that depends on nothing but `about`."""
    return (number(*about) >> 11) / (1 << 53)


def pick(choices: Sequence[Choice], seed: int) -> Choice:
    """One of `choices`, each as likely as the next."""
    return choices[seed % len(choices)]


def scattered(value: int) -> int:
    """A value below 2^60 as an id above 2^53; neighbours land far apart and no two meet (`gathered` undoes it)."""
    return _ID_BASE + value * _SPREAD % _ID_BASE


def gathered(scattered_id: int) -> int:
    """The value that `scattered` made this id of."""
    return (scattered_id - _ID_BASE) * _GATHER % _ID_BASE


def url_safe(raw: bytes) -> str:
    """Base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sealed(text: str) -> str:
    """Base64 as the Graph API writes its cursors and Instagram ids: Z becomes ZA, and the padding ZD."""
    return base64.urlsafe_b64encode(text.encode()).decode().replace("Z", "ZA").replace("=", "ZD")


def unsealed(text: str) -> str | None:
    """What `sealed` was given, or None where the text is none of its making."""
    try:
        opened = base64.urlsafe_b64decode(text.replace("ZD", "=").replace("ZA", "Z")).decode()
    except ValueError:
        return None
    return opened if sealed(opened) == text else None
