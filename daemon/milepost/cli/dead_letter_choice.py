"""Which dead letters are meant: those of a stream, or those that ids or the beginnings of ids name."""

from collections.abc import AsyncIterator, Sequence

import click

from milepost.cli.known_streams import demand_known
from milepost.core.checkpoint import DeadLetter
from milepost.place import place_of
from milepost.service.phrases import counted
from milepost.settings import Settings
from milepost.stores.archive import Archive, LetterState
from milepost.stores.opening import open_archive

MAX_READ = 500
MAX_AT_ONCE = 10_000
MAX_CANDIDATES = 5


async def letters_of(archive: Archive, stream: str | None, *, open_only: bool) -> AsyncIterator[DeadLetter]:
    """Give the letters of a stream, or all there are; the oldest first."""
    state, after = LetterState.OPEN if open_only else LetterState.ALL, None
    while letters := await archive.letters(state, stream=stream, after=after, limit=MAX_READ):
        for letter in letters:
            yield letter
        after = letters[-1].dead_letter_id


async def chosen(settings: Settings, ids: Sequence[str], stream: str | None) -> Sequence[DeadLetter]:
    """Give the letters that are named, or else the open ones, the oldest first."""
    async with open_archive(place_of(settings)) as archive:
        if ids:
            return await named(archive, ids)
        await demand_known(stream, archive, settings)
        letters: list[DeadLetter] = []
        async for letter in letters_of(archive, stream, open_only=True):
            if len(letters) == MAX_AT_ONCE:
                click.echo(f"More than {MAX_AT_ONCE:,} are open: the oldest come first; then run it again", err=True)
                break
            letters.append(letter)
        return letters


async def named(archive: Archive, beginnings: Sequence[str]) -> Sequence[DeadLetter]:
    """Give the one letter that each id, or beginning of one, names. Raises BadParameter where it is not one."""
    named: dict[str, DeadLetter] = {}
    for beginning in beginnings:
        exact = await archive.letter(beginning)
        letter = exact[0] if exact is not None else await _begun(archive, beginning)
        named[letter.dead_letter_id] = letter
    return list(named.values())


async def _begun(archive: Archive, beginning: str) -> DeadLetter:
    candidates: list[DeadLetter] = []
    async for letter in letters_of(archive, None, open_only=False):
        if letter.dead_letter_id.startswith(beginning):
            candidates.append(letter)
            if len(candidates) > MAX_CANDIDATES:
                break
    match candidates:
        case [letter]:
            return letter
        case []:
            problem = f"no dead letter begins with {beginning!r}; `milepost dead-letters list --all` lists them"
        case _:
            ids = ", ".join(letter.dead_letter_id for letter in candidates[:MAX_CANDIDATES])
            more = ", …" if len(candidates) > MAX_CANDIDATES else ""
            problem = f"{beginning!r} begins {counted(len(candidates), 'dead letter')}: {ids}{more}"
    raise click.BadParameter(problem, param_hint="ID")
