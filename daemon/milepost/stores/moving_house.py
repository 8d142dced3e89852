"""Copies a database into another one, whichever two they are, from the mark that is set to the mark that is removed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from msgspec import Struct

from milepost.core.errors import BadConfiguration, JournalDamaged, MilepostError, StoreBusy
from milepost.core.journal import instant_text
from milepost.stores.audit import Audit
from milepost.stores.moving import FORGOTTEN, JOURNAL, TABLES, Origin, Row, Target
from milepost.stores.moving_walk import Copied, Doing, Passage, Tell, audited, check, copy, demand_common_past
from milepost.stores.unfinished import Mark
from milepost.stores.url import StoreUrl

NUL, REPLACEMENT = "\0", "\N{REPLACEMENT CHARACTER}"


class Move(Struct, frozen=True):
    """What is copied where. `replaces_nul` writes U+FFFD where a person's text holds the NUL character."""

    origin: StoreUrl
    target: StoreUrl
    replaces_nul: bool = False


class Moved(Struct, frozen=True):
    """A copy that is verified."""

    tables: tuple[Copied, ...]
    audit: Audit


async def move(what: Move, now: datetime, tell: Tell) -> Moved:
    """Make the target equal to the origin, and prove it; what is there of an earlier attempt is not copied again.

    Raises StoreBusy where somebody works on one of them, StoreRefused where one cannot be used, or is not the other's
    copy, StoreAway where one does not answer, and MilepostError where a row is refused or the copy is not the same.
    """
    _demand_two(what)
    async with _origin_at(what.origin) as origin, _target_at(what.target) as target:
        await _demand_idle(what, origin, target)
        passage = Passage(origin, target, tell, _without_nul if what.replaces_nul else _as_it_is)
        await _begin(what, passage, Mark(what.origin.url, instant_text(now)))
        copied = [await copy(passage, table) for table in TABLES]
        audit = await _proven(passage)
        await _demand_idle(what, origin, target)
        await target.set_mark(None)
    return Moved(tuple(copied), audit)


def _demand_two(what: Move) -> None:
    one, other = what.origin.file, what.target.file
    if what.origin.url == what.target.url or (one and other and one.resolve() == other.resolve()):
        raise _same(what)


def _same(what: Move) -> BadConfiguration:
    return BadConfiguration(f"{what.target} is the database that is to be copied", hint="copy it into another one")


async def _begin(what: Move, passage: Passage, mark: Mark) -> None:
    """Set the mark, unless the target holds something else, or is the origin itself by another name."""
    origin, target = passage.origin, passage.target
    was_marked = await target.mark() is not None
    if not was_marked:
        await demand_common_past(passage)
    await target.set_mark(mark)
    try:
        if await origin.mark() is not None:
            raise _same(what)
        await _demand_idle(what, origin, target)  # who opened it before the mark was there is seen now
    except MilepostError:
        if not was_marked:
            await target.set_mark(None)
        raise


async def _demand_idle(what: Move, origin: Origin, target: Target) -> None:
    for store_url, database in ((what.origin, origin), (what.target, target)):
        if await database.is_at_work():
            raise StoreBusy(
                f"a Milepost works on the database {store_url}",
                hint="stop it first, and leave it stopped until the copy is made",
            )


async def _proven(passage: Passage) -> Audit:
    """Make the projections of the target, and verify all of it: the forgotten last, who may grow meanwhile."""
    try:
        await audited(passage, Doing.PROJECTING, passage.target.journal_reader.rebuild)
        for table in (*(each for each in TABLES if each is not FORGOTTEN), FORGOTTEN):
            await check(passage, table)
        audit = await audited(passage, Doing.VERIFYING, passage.target.journal_reader.verify)
    except JournalDamaged as error:
        raise MilepostError(
            f"the copy is not sound: {error.message}", hint="`milepost journal verify` tells how the database itself is"
        ) from error
    if await passage.origin.count(JOURNAL) != audit.entries:
        raise StoreBusy("somebody works on the database that is copied", hint="stop them, and run it again")
    return audit


def _as_it_is(row: Row) -> Row:
    return row


def _without_nul(row: Row) -> Row:
    return tuple(value.replace(NUL, REPLACEMENT) if isinstance(value, str) else value for value in row)


@asynccontextmanager
async def _origin_at(store_url: StoreUrl) -> AsyncIterator[Origin]:
    if store_url.file is not None:
        from milepost.stores.sqlite.moving import open_sqlite_origin  # noqa: PLC0415

        async with open_sqlite_origin(store_url.file) as origin:
            yield origin
    else:
        from milepost.stores.postgresql.moving import open_postgresql_origin  # noqa: PLC0415

        async with open_postgresql_origin(store_url) as origin:
            yield origin


@asynccontextmanager
async def _target_at(store_url: StoreUrl) -> AsyncIterator[Target]:
    if store_url.file is not None:
        from milepost.stores.sqlite.moving import open_sqlite_target  # noqa: PLC0415

        async with open_sqlite_target(store_url.file) as target:
            yield target
    else:
        from milepost.stores.postgresql.moving import open_postgresql_target  # noqa: PLC0415

        async with open_postgresql_target(store_url) as target:
            yield target
