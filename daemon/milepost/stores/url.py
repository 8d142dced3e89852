"""The URL of a database."""

from pathlib import Path

from msgspec import Struct

_SQLITE = "sqlite:///"


class StoreUrl(Struct, frozen=True):
    """The URL of a database, as in config.yaml. The password is not part of it, and never shown."""

    url: str
    password: str = ""

    @property
    def file(self) -> Path | None:
        """The file that holds it; None for a server."""
        return Path(self.url.removeprefix(_SQLITE)) if self.url.startswith(_SQLITE) else None

    def __str__(self) -> str:
        return self.url if self.file is None else str(self.file)

    def __repr__(self) -> str:
        return f"StoreUrl({self.url!r})"
