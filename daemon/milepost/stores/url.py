"""Where a database is, and how to connect to it."""

from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

_SQLITE = "sqlite:///"

CONNECT_TIMEOUT_SECONDS = 10
# With these, a vanished server is noticed within about half a minute.
KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


class StoreUrl(Struct, frozen=True):
    """A database, as `store` in config.yaml describes it. The password is not part of the URL, and is never shown.

    PostgreSQL has a schema as well and, if wanted, another that shows its tables as `views`. With `is_pooled`, the URL
    leads to a pooler that may give each transaction another session, so no session state can be relied on.
    """

    url: str
    password: str = ""
    schema: str = "milepost"
    is_pooled: bool = False
    views: str = ""

    @property
    def file(self) -> Path | None:
        """The database's file; None for a database on a server."""
        return Path(self.url.removeprefix(_SQLITE)) if self.url.startswith(_SQLITE) else None

    @property
    def name(self) -> str:
        """The URL for messages, without connection parameters."""
        return urlsplit(self.url)._replace(query="").geturl()

    @property
    def channel(self) -> str:
        """The channel that announces commits to this schema; the name stays short whatever the schema's is."""
        return f"milepost_{sha256(self.schema.encode()).hexdigest()[:16]}"

    def connect_kwargs(self) -> dict[str, Any]:
        """Return what psycopg takes besides the URL.

        Every connection sets the encoding, whatever ALTER ROLE, ALTER DATABASE, postgresql.conf or PGCLIENTENCODING
        set for clients: in LATIN1 most names cannot be sent, and SQL_ASCII returns bytes for text.
        """
        kwargs: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": "milepost",
            "client_encoding": "UTF8",
        }
        if self.is_pooled:
            kwargs["prepare_threshold"] = None  # a statement could be prepared in one session and executed in another
        if self.password:
            kwargs["password"] = self.password
        return KEEPALIVES | kwargs

    def __str__(self) -> str:
        return self.url if self.file is None else str(self.file)

    def __repr__(self) -> str:
        return f"StoreUrl({self.url!r})"
