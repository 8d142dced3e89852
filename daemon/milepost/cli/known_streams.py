"""Which streams there are, as far as can be told without asking the API."""

from collections.abc import Sequence

import click

from milepost.core.model import Platform, Stream
from milepost.settings import Settings
from milepost.stores.reader import JournalReader


def configured_streams(settings: Settings) -> Sequence[str] | None:
    """Name the streams that the configuration lists; None where it leaves that to discovery or the simulator."""
    if settings.source.discover_pages or not settings.pages:
        return None
    return [Stream(Platform(platform), page.id).key for page in settings.pages for platform in page.platforms]


async def demand_known(
    stream: str | None, journal_reader: JournalReader, settings: Settings, given_as: str = "--stream"
) -> None:
    """Raise BadParameter for a stream that is neither journaled nor configured; None is all of them.

    One that was removed has its journal still, but nobody is told of it.
    """
    checkpoints, configured = await journal_reader.checkpoints(), {*(configured_streams(settings) or ())}
    if stream is not None and stream not in {checkpoint.stream for checkpoint in checkpoints} | configured:
        stored = {checkpoint.stream for checkpoint in checkpoints if checkpoint.removed_at is None}
        names = ", ".join(sorted(stored | configured)) or "none so far"
        raise click.BadParameter(f"there is no stream {stream}; known are {names}", param_hint=given_as)
