"""Where a database is: what its URL says."""

from pathlib import Path

from msgspec import Struct

_SQLITE = "sqlite:///"


class StoreUrl(Struct, frozen=True):
    """A database, by the URL that config.yaml gives it. The password is not part of the URL, and never shown."""

    url: str
    password: str = ""

    @property
    def file(self) -> Path | None:
        """The file that all of it is in; None where a server keeps it."""
        return Path(self.url.removeprefix(_SQLITE)) if self.url.startswith(_SQLITE) else None

    def __str__(self) -> str:
        return self.url if self.file is None else str(self.file)

    def __repr__(self) -> str:
        return f"Place({self.url!r})"
