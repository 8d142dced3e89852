"""A request to the simulated Graph API: its parameters and fields, and the cursor and paging of its list."""

import re
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode

import msgspec

from milepost.simulator import refusals, seeded
from milepost.simulator.faults import FaultKind
from milepost.simulator.inbox import HEAD, Inbox, Position
from milepost.simulator.plan import instant_us

MAX_LIMIT = 200
"""The most rows of a list; a larger `limit` is silently reduced to it."""
_DEFAULT_LIMIT = 25
_CURSOR = re.compile(r"([0-9a-f]{8}):(\d{1,9}):(\d{1,20}):(\d{1,20}):(\d{1,20}):(\d{1,9})")
_VERSION = re.compile(r"v\d+\.\d+", re.ASCII)

Node = dict[str, object]


# --- fields: `id,participants{id,name},messages.limit(20){id,from}` ---------------------------------------------------

_NAME = "[A-Za-z0-9][A-Za-z0-9_]*"
_FIELD = re.compile(rf"({_NAME})((?:\.{_NAME}\({_NAME}\))*)(\{{?)")
_LIMIT = re.compile(r"\.limit\((\d+)\)")
_MAX_DEPTH = 8


class Field(msgspec.Struct, frozen=True):
    """A requested field: its name, the `.limit(…)` of an edge, and the requested fields of its nodes, if given."""

    name: str
    limit: int | None = None
    fields: "tuple[Field, ...]" = ()


def parse_fields(text: str) -> tuple[Field, ...]:
    """Parse the parameter; an empty one names no field.

    Raises:
        Refusal: it is malformed; the message has the position.
    """
    fields, end = _fields_at(text, 0, 0) if text else ((), 0)
    if end < len(text):
        raise _unexpected(text, end, "end of string")
    return fields


def _fields_at(text: str, at: int, depth: int) -> tuple[tuple[Field, ...], int]:
    """Return the fields from a position on, and the position after them."""
    found: list[Field] = []
    while True:
        field = _FIELD.match(text, at)
        if field is None or depth > _MAX_DEPTH:
            raise _unexpected(text, at, "name" if depth <= _MAX_DEPTH else f"at most {_MAX_DEPTH} levels")
        at = field.end()
        below: tuple[Field, ...] = ()
        if field[3]:
            below, at = _fields_at(text, at, depth + 1)
            if text[at : at + 1] != "}":
                raise _unexpected(text, at, '"}"')
            at += 1
        limits = _LIMIT.findall(field[2])
        found.append(Field(field[1], int(limits[-1]) if limits else None, below))
        if text[at : at + 1] != ",":
            return tuple(found), at
        at += 1


def _unexpected(text: str, at: int, wanted: str) -> refusals.Refusal:
    message = f'Syntax error "Expected {wanted} instead of "{text[at : at + 1]}"." at character {at}: {text}'
    return refusals.bad_query(message)


def pruned(value: object, fields: tuple[Field, ...]) -> object:
    """Return a node, or an edge's `data`, with only the requested fields; the id always stays, as in the API."""
    if not fields or not isinstance(value, dict):
        return value
    if "data" in value:
        return {**value, "data": [pruned(node, fields) for node in value["data"]]}
    wanted = {field.name: field.fields for field in fields} | {"id": ()}
    return {name: pruned(part, wanted[name]) for name, part in value.items() if name in wanted}


# --- requests ---------------------------------------------------------------------------------------------------------


class Link(msgspec.Struct, frozen=True):
    """The basis of paging links. The API writes the access token into every one of them."""

    origin: str
    version: str
    token: str

    def __repr__(self) -> str:
        return f"Link(origin={self.origin!r}, version={self.version!r})"

    def to(self, path: str, **query: str) -> str:
        """Return the URL of an edge, token included."""
        return f"{self.origin}/{self.version}/{path}?{urlencode({'access_token': self.token, **query})}"


class ApiRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One GET or POST request. Its repr leaves the token out."""

    origin: str
    """Scheme, host and port that the client used: paging links begin with it."""
    path: str
    query: Mapping[str, str]
    token: str | None
    at: datetime
    is_post: bool = False
    fault: FaultKind | None = None
    """What strikes it: some faults distort a list of conversations."""
    seed: int = 0
    """Determines which of several wordings a refusal has."""

    def __repr__(self) -> str:
        return f"ApiRequest(path={self.path!r}, at={self.at.isoformat()})"

    @property
    def version(self) -> str:
        """The first part of the path, valid or not."""
        return self._parts[0]

    @property
    def is_versioned(self) -> bool:
        """Whether the path begins with an API version, as it must."""
        return _VERSION.fullmatch(self.version) is not None

    @property
    def owner(self) -> str:
        """The requested object, which may be `me`; empty if the path has none."""
        return self._parts[1] if len(self._parts) > 1 else ""

    @property
    def edge(self) -> str:
        """The requested edge of the object; empty for the object itself."""
        return "/".join(self._parts[2:])

    @property
    def platform(self) -> str:
        """The requested platform; Messenger by default."""
        return self.query.get("platform", "messenger").lower()

    @property
    def stream(self) -> str:
        """The key under which requests are numbered together."""
        if self.edge == "conversations":
            return f"{self.platform}:{self.owner}"
        return f"{self.owner}/{self.edge}" if self.edge else self.owner

    @property
    def fields(self) -> tuple[Field, ...]:
        """The requested fields of each node.

        Raises:
            Refusal: the parameter is malformed.
        """
        return parse_fields(self.query.get("fields", ""))

    @property
    def limit(self) -> int:
        """The requested number of rows, at most `MAX_LIMIT`.

        Raises:
            Refusal: it is not a whole number above 0.
        """
        text = self.query.get("limit", str(_DEFAULT_LIMIT))
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise refusals.bad_parameter("Param limit must be an integer greater than 0")
        return min(int(text), MAX_LIMIT)

    @property
    def link(self) -> Link:
        """The basis of the response's paging links."""
        return Link(self.origin, self.version, self.token or "")

    @property
    def trace_id(self) -> str:
        """The id that Meta's support would ask for."""
        return "A" + seeded.url_safe(seeded.draw(self.path, self.at.isoformat())[:16])

    @property
    def _parts(self) -> list[str]:
        return self.path.strip("/").split("/")


# --- the list of conversations ----------------------------------------------------------------------------------------


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """A position in an inbox, and when the cursor was issued.

    `generation` counts how often all cursors were killed. `turn` distinguishes cursors of one position: the API repeats
    none, so neither do we.
    """

    salt: int
    generation: int
    issued_us: int
    position: Position = HEAD
    turn: int = 0

    def sealed(self) -> str:
        """Return the opaque text that clients see."""
        position = f"{self.position.updated_us}:{self.position.index}:{self.turn}"
        return seeded.sealed(f"{self.salt:08x}:{self.generation}:{self.issued_us}:{position}")

    def turned(self) -> "Cursor":
        """Return another cursor of the same position."""
        return msgspec.structs.replace(self, turn=self.turn + 1)

    def moved(self, position: Position) -> "Cursor":
        """Return a cursor of another position, issued at the same time."""
        return msgspec.structs.replace(self, position=position, turn=0)


def cursor_of(request: ApiRequest, inbox: Inbox, generation: int, life_seconds: float) -> Cursor:
    """Return the cursor of the request, issued anew; the head, if it has none.

    Raises:
        Refusal: the cursor is of another inbox or has expired, or the request pages backwards.
    """
    if "before" in request.query:
        raise refusals.bad_parameter("The simulator does not page backwards")
    now_us = instant_us(request.at)
    head = Cursor(salt=inbox.salt, generation=generation, issued_us=now_us)
    if "after" not in request.query:
        return head
    found = _CURSOR.fullmatch(seeded.unsealed(request.query["after"]) or "")
    if found is None or int(found[1], 16) != inbox.salt or int(found[2]) < generation:
        raise refusals.dead_cursor()
    if 0 < life_seconds * 1_000_000 < now_us - int(found[3]):
        raise refusals.dead_cursor()
    return msgspec.structs.replace(head, position=Position(int(found[4]), int(found[5])), turn=int(found[6]))


def paging_node(request: ApiRequest, *, before: str, after: str, has_more: bool) -> Node:
    """Return the `paging` of a list: cursors always, and links, which hold the token, if there is more."""
    kept = {name: request.query[name] for name in ("platform", "fields") if name in request.query}
    path = f"{request.owner}/{request.edge}"
    paging: Node = {"cursors": {"before": before, "after": after}}
    if has_more:
        paging["next"] = request.link.to(path, **kept, limit=str(request.limit), after=after)
    if "after" in request.query:
        paging["previous"] = request.link.to(path, **kept, limit=str(request.limit), before=before)
    return paging
