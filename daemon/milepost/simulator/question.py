"""A question to the simulated Graph API, and what can be read out of it."""

import re
from collections.abc import Mapping
from datetime import datetime

import msgspec

from milepost.simulator import refusals, seeded
from milepost.simulator.fields import Field, FieldsSyntax, parse_fields
from milepost.simulator.messages import Link
from milepost.simulator.strikes import Bending

MAX_LIMIT = 200
"""The most rows of a list; a larger `limit` is cut to it in silence."""
_DEFAULT_LIMIT = 25
_VERSION = re.compile(r"v\d+\.\d+", re.ASCII)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One GET request. Its repr leaves the token out."""

    origin: str
    """Scheme, host and port that the client used: paging links begin with it."""
    path: str
    query: Mapping[str, str]
    token: str | None
    at: datetime
    bend: Bending | None = None
    """How a list of conversations is to be bent."""
    seed: int = 0
    """Settles in which of several ways a refusal is worded."""

    def __repr__(self) -> str:
        return f"Question(path={self.path!r}, at={self.at.isoformat()})"

    @property
    def version(self) -> str:
        """The first part of the path, whatever it is."""
        return self._parts[0]

    @property
    def is_versioned(self) -> bool:
        """Whether the path begins with a version of the API, as it has to."""
        return _VERSION.fullmatch(self.version) is not None

    @property
    def owner(self) -> str:
        """The object that is asked for, which may be `me`; nothing where the path ends before it."""
        return self._parts[1] if len(self._parts) > 1 else ""

    @property
    def edge(self) -> str:
        """What of the object is asked for; nothing for the object itself."""
        return "/".join(self._parts[2:])

    @property
    def platform(self) -> str:
        """As asked; Messenger where nothing was said."""
        return self.query.get("platform", "messenger").lower()

    @property
    def stream(self) -> str:
        """What the request is counted under: requests of one stream are numbered together."""
        if self.edge == "conversations":
            return f"{self.platform}:{self.owner}"
        return f"{self.owner}/{self.edge}" if self.edge else self.owner

    @property
    def fields(self) -> tuple[Field, ...]:
        """What is wanted of each node.

        Raises:
            Refusal: the parameter cannot be read.
        """
        try:
            return parse_fields(self.query.get("fields", ""))
        except FieldsSyntax as problem:
            raise refusals.bad_query(str(problem)) from problem

    @property
    def limit(self) -> int:
        """How many rows are wanted, cut to what there may be.

        Raises:
            Refusal: it is no whole number above 0.
        """
        text = self.query.get("limit", str(_DEFAULT_LIMIT))
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise refusals.bad_parameter("Param limit must be an integer greater than 0")
        return min(int(text), MAX_LIMIT)

    @property
    def link(self) -> Link:
        """For the paging of the answer."""
        return Link(self.origin, self.version, self.token or "")

    @property
    def trace_id(self) -> str:
        """What a provider's support would ask for."""
        return "A" + seeded.url_safe(seeded.draw(self.path, self.at.isoformat())[:16])

    @property
    def _parts(self) -> list[str]:
        return self.path.strip("/").split("/")
