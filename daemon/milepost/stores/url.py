"""Where a database is, and how to get in."""

from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

_SQLITE = "sqlite:///"

CONNECT_TIMEOUT_SECONDS = 10
# So a server that vanished is noticed within about half a minute.
KEEPALIVES = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


class StoreUrl(Struct, frozen=True):
    """A database, by the keys of `store` in config.yaml. The password is not part of the URL, and never shown.

    For PostgreSQL also the schema, and the one in which its tables are shown as `views`, if any. With `is_pooled` the
    URL leads to a pooler that gives each transaction another session: nothing of a session can be relied on.
    """

    url: str
    password: str = ""
    schema: str = "milepost"
    is_pooled: bool = False
    views: str = ""

    @property
    def file(self) -> Path | None:
        """The file that all of it is in; None where a server keeps it."""
        return Path(self.url.removeprefix(_SQLITE)) if self.url.startswith(_SQLITE) else None

    @property
    def name(self) -> str:
        """The URL for messages: without the parameters of its connections."""
        return urlsplit(self.url)._replace(query="").geturl()

    @property
    def channel(self) -> str:
        """The channel on which commits to this schema are announced; its name is short enough for any schema."""
        return f"milepost_{sha256(self.schema.encode()).hexdigest()[:16]}"

    def connect_kwargs(self) -> dict[str, Any]:
        """Return what psycopg takes besides the URL.

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

    def __str__(self) -> str:
        return self.url if self.file is None else str(self.file)

    def __repr__(self) -> str:
        return f"StoreUrl({self.url!r})"
