"""Which dead letters are meant: those of a stream, or those that ids or the beginnings of ids name."""

from collections.abc import AsyncIterator, Sequence

import click

from milepost.app.database import store_url_of
from milepost.cli.known_streams import demand_known
from milepost.core.checkpoint import DeadLetter
from milepost.reporting.humanize import counted
from milepost.settings import Settings
from milepost.stores.open import open_reader
from milepost.stores.reader import DeadLetterState, JournalReader

MAX_READ = 500
MAX_AT_ONCE = 10_000
MAX_CANDIDATES = 5


async def dead_letters_of(
    journal_reader: JournalReader, stream: str | None, *, open_only: bool
) -> AsyncIterator[DeadLetter]:
    """Give the letters of a stream, or all there are; the oldest first."""
    state, after = DeadLetterState.OPEN if open_only else DeadLetterState.ALL, None
    while dead_letters := await journal_reader.dead_letters(state, stream=stream, after=after, limit=MAX_READ):
        for dead_letter in dead_letters:
            yield dead_letter
        after = dead_letters[-1].dead_letter_id


async def chosen(settings: Settings, ids: Sequence[str], stream: str | None) -> Sequence[DeadLetter]:
    """Give the letters that are named, or else the open ones, the oldest first."""
    async with open_reader(store_url_of(settings)) as journal_reader:
        if ids:
            return await named(journal_reader, ids)
        await demand_known(stream, journal_reader, settings)
        dead_letters: list[DeadLetter] = []
        async for dead_letter in dead_letters_of(journal_reader, stream, open_only=True):
            if len(dead_letters) == MAX_AT_ONCE:
                click.echo(f"More than {MAX_AT_ONCE:,} are open: the oldest come first; then run it again", err=True)
                break
            dead_letters.append(dead_letter)
        return dead_letters


async def named(journal_reader: JournalReader, beginnings: Sequence[str]) -> Sequence[DeadLetter]:
    """Give the one letter that each id, or beginning of one, names. Raises BadParameter where it is not one."""
    named: dict[str, DeadLetter] = {}
    for beginning in beginnings:
        exact = await journal_reader.dead_letter(beginning)
        dead_letter = exact[0] if exact is not None else await _begun(journal_reader, beginning)
        named[dead_letter.dead_letter_id] = dead_letter
    return list(named.values())


async def _begun(journal_reader: JournalReader, beginning: str) -> DeadLetter:
    candidates: list[DeadLetter] = []
    async for dead_letter in dead_letters_of(journal_reader, None, open_only=False):
        if dead_letter.dead_letter_id.startswith(beginning):
            candidates.append(dead_letter)
            if len(candidates) > MAX_CANDIDATES:
                break
    match candidates:
        case [dead_letter]:
            return dead_letter
        case []:
            problem = f"no dead letter begins with {beginning!r}; `milepost dead-letters list --all` lists them"
        case _:
            ids = ", ".join(dead_letter.dead_letter_id for dead_letter in candidates[:MAX_CANDIDATES])
            more = ", …" if len(candidates) > MAX_CANDIDATES else ""
            problem = f"{beginning!r} begins {counted(len(candidates), 'dead letter')}: {ids}{more}"
    raise click.BadParameter(problem, param_hint="ID")
