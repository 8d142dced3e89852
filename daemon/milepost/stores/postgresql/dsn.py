"""A PostgreSQL URL: libpq's part of it, and ours."""

import re
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from msgspec import Struct

from milepost.core.errors import BadConfiguration
from milepost.stores.url import StoreUrl

SCHEMA = "milepost"  # of its own: `public` is often open to others, over an API as well
OURS = frozenset({"schema", "pooler", "views"})
CONNECT_TIMEOUT_SECONDS = 10
# So a server that vanished is noticed within about half a minute.
KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


class Dsn(Struct, frozen=True, repr_omit_defaults=True):
    """A database and the schema in it.

    With `is_pooled` the URL leads to a pooler that gives each transaction another session, so that nothing of a session
    can be relied on. `has_views` asks for views of the tables in the schema `public`. `name` is for messages.
    """

    conninfo: str
    name: str
    schema: str = SCHEMA
    is_pooled: bool = False
    has_views: bool = False
    password: str = ""

    def __repr__(self) -> str:
        return f"Dsn({self.name!r}, {self.schema!r})"

    @property
    def channel(self) -> str:
        """The channel on which commits to this schema are announced; its name is short enough for any schema."""
        return f"milepost_{sha256(self.schema.encode()).hexdigest()[:16]}"

    def connect_kwargs(self) -> dict[str, Any]:
        """Return what psycopg takes beside the conninfo."""
        kwargs: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "milepost"}
        if self.is_pooled:
            kwargs["prepare_threshold"] = None  # or it would be prepared in one session and executed in another
        if self.password:
            kwargs["password"] = self.password
        return KEEPALIVES | kwargs


def dsn_of(store_url: StoreUrl) -> Dsn:
    """Parse a URL. Raises BadConfiguration if a parameter of ours is wrong."""
    parts = urlsplit(store_url.url)
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    ours = {key: value for key, value in parameters if key in OURS}
    schema, pooler, views = ours.get("schema", SCHEMA), ours.get("pooler"), ours.get("views")
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema) or schema.startswith("pg_"):
        raise _wrong("schema", schema, "a name of up to 63 small letters, digits and _, which begins with no digit")
    if pooler not in {None, "transaction", "session"}:
        raise _wrong("pooler", pooler or "", "transaction or session")
    if views not in {None, "public"}:
        raise _wrong("views", views or "", "public")
    theirs = urlencode([(key, value) for key, value in parameters if key not in OURS])
    return Dsn(
        parts._replace(query=theirs).geturl(),
        parts._replace(query="").geturl(),
        schema,
        is_pooled=pooler == "transaction",
        has_views=views == "public" and schema != "public",
        password=store_url.password,
    )


def _wrong(key: str, found: str, allowed: str) -> BadConfiguration:
    return BadConfiguration(f"store.url: {key}={found} is not valid; allowed: {allowed}", hint="docs/postgresql.md")
