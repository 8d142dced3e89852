"""How to connect to a PostgreSQL database, and the schema in it."""

from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from milepost.stores.url import StoreUrl

CONNECT_TIMEOUT_SECONDS = 10
# So a server that vanished is noticed within about half a minute.
KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


class Dsn(Struct, frozen=True, repr_omit_defaults=True):
    """A database and the schema in it.

    With `is_pooled` the URL leads to a pooler that gives each transaction another session, so that nothing of a session
    can be relied on. `views` is a schema in which the tables are shown as views, if any. `name` is for messages.
    """

    conninfo: str
    name: str
    schema: str
    is_pooled: bool = False
    views: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Dsn({self.name!r}, {self.schema!r})"

    @property
    def channel(self) -> str:
        """The channel on which commits to this schema are announced; its name is short enough for any schema."""
        return f"milepost_{sha256(self.schema.encode()).hexdigest()[:16]}"

    def connect_kwargs(self) -> dict[str, Any]:
        """Return what psycopg takes besides the conninfo.

        The encoding is asked for by every connection, which overrides what ALTER ROLE, ALTER DATABASE, postgresql.conf
        or PGCLIENTENCODING set for clients: in LATIN1 most names cannot be sent, and SQL_ASCII gives bytes for text.
        """
        kwargs: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": "milepost",
            "client_encoding": "UTF8",
        }
        if self.is_pooled:
            kwargs["prepare_threshold"] = None  # or it would be prepared in one session and executed in another
        if self.password:
            kwargs["password"] = self.password
        return KEEPALIVES | kwargs


def dsn_of(store_url: StoreUrl) -> Dsn:
    """Return how to connect to a database."""
    return Dsn(
        store_url.url,
        urlsplit(store_url.url)._replace(query="").geturl(),
        store_url.schema,
        is_pooled=store_url.is_pooled,
        views=store_url.views if store_url.views != store_url.schema else "",
        password=store_url.password,
    )
