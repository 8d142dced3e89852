"""Streams as people know them: by the name of their page first, then by their key."""

from collections.abc import Collection, Mapping, Sequence

from milepost.cli.terminal import Column, clipped, elided_key
from milepost.core.model import Stream
from milepost.reporting.humanize import on_one_line
from milepost.settings import Settings
from milepost.stores.reader import JournalReader

_PAGE = Column("page", shortest=12, shorten=clipped)
# Without the page's name the key has to be whole: it is what one types.
_STREAM, _SHORT_STREAM = Column("stream"), Column("stream", shortest=19, shorten=elided_key)


class Titles:
    """The titles of streams. `names` are those of pages by id, as far as they are known."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {page_id: on_one_line(name) for page_id, name in names.items() if name}

    def name(self, stream: Stream) -> str:
        """Return the name of a stream's page; "" if it is unknown."""
        return self._names.get(stream.page_id, "")

    def of(self, stream: Stream) -> str:
        """Return the title of a stream: `Corner Bakery (messenger:1234567890)`, or its key alone."""
        name = self.name(stream)
        return f"{name} ({stream.key})" if name else stream.key

    def short(self, stream: Stream) -> str:
        """Return what fits a narrow line: `Corner Bakery messenger`, or the key."""
        name = self.name(stream)
        return f"{name} {stream.platform}" if name else stream.key

    def columns(self, streams: Collection[Stream]) -> list[Column]:
        """Return the first columns of a table of these streams."""
        return [_PAGE, _SHORT_STREAM] if any(map(self.name, streams)) else [_STREAM]

    def cells(self, stream: Stream, columns: Sequence[Column]) -> list[str]:
        """Return the cells of a stream in those columns."""
        return [self.name(stream) or "-", stream.key] if _PAGE in columns else [stream.key]


NO_TITLES = Titles({})


def configured_names(settings: Settings) -> dict[str, str]:
    """Return the names of pages by id, as far as they are configured."""
    return {page.id: page.name for page in settings.pages if page.name}


async def known_names(settings: Settings, journal_reader: JournalReader) -> dict[str, str]:
    """Return the names of pages by id: as configured, or else as the database has them."""
    return {**await journal_reader.page_names(), **configured_names(settings)}


async def known_titles(settings: Settings, journal_reader: JournalReader) -> Titles:
    """Return the titles with those names."""
    return Titles(await known_names(settings, journal_reader))
