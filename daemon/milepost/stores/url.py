"""Where a database is."""

from pathlib import Path

from msgspec import Struct

_SQLITE = "sqlite:///"


class StoreUrl(Struct, frozen=True):
    """A database, by the keys of `store` in config.yaml. The password is not part of the URL, and never shown.

    For PostgreSQL also the schema, whether the URL leads to a pooler in transaction mode, and the schema in which the
    tables are shown as views, if any.
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

    def __str__(self) -> str:
        return self.url if self.file is None else str(self.file)

    def __repr__(self) -> str:
        return f"StoreUrl({self.url!r})"
