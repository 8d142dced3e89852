"""`milepost dead-letters`: what could not be read or written, and what to do about it."""

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from milepost.cli.dead_letter_choice import MAX_AT_ONCE, chosen, letters_of, named
from milepost.cli.dead_letter_table import MAX_SUBJECT, as_json, described, rendered, shortened
from milepost.cli.known_streams import demand_known
from milepost.cli.options import config_option, load_settings
from milepost.core.checkpoint import DeadLetter
from milepost.core.letters import MAX_REASON_CHARACTERS
from milepost.core.summary import ExitCode
from milepost.engine.errands import Discard, LetterErrand, Redrive
from milepost.place import place_of
from milepost.service.phrases import ago
from milepost.settings import Settings, secrets
from milepost.stores.opening import open_archive

MAX_ROWS = 1_000

stream_option = click.option(
    "--stream", metavar="STREAM", help="Only this stream: messenger:<page id> or instagram:<page id>."
)

BY = "command line"  # who asks, as the journal keeps it


@click.group(name="dead-letters")
def command() -> None:
    """List, show, redrive or discard dead letters: what could not be read or written, kept for another try.

    An ID may be shortened to as many characters as tell it from the others.
    """


# --- looking ----------------------------------------------------------------------------------------------------------


@command.command(name="list")
@config_option
@click.option("--all", "lists_closed", is_flag=True, help="Also those that are closed, and how they were.")
@stream_option
@click.option(
    "--json", "writes_json", is_flag=True, help="Write JSON Lines: an object a letter, with times in ISO 8601."
)
def list_(config: str | None, stream: str | None, *, lists_closed: bool, writes_json: bool) -> None:
    """List the open dead letters, the oldest first.

    The objects of --json have dead_letter_id, stream, stage (fetch, store or events), subject, reason, opened_at,
    attempts, redrive_at (when it is tried again by itself), closed_at, resolution (redriven, recovered, discarded or
    forgotten), note (why it was discarded) and fingerprint. What does not apply is null.
    """
    asyncio.run(_list(load_settings(config), stream, open_only=not lists_closed, writes_json=writes_json))


async def _list(settings: Settings, stream: str | None, *, open_only: bool, writes_json: bool) -> None:
    rows: list[DeadLetter] = []
    number = 0
    async with open_archive(place_of(settings)) as archive:
        await demand_known(stream, archive, settings)
        async for letter in letters_of(archive, stream, open_only=open_only):
            number += 1
            if writes_json:
                click.echo(as_json(letter))
            elif number <= MAX_ROWS:
                rows.append(letter)
    if writes_json:
        return
    if not rows:
        click.echo(_none(stream, open_only=open_only))
        return
    click.echo(rendered(rows, datetime.now(UTC)))
    if number > MAX_ROWS:
        click.echo(f"… and {number - MAX_ROWS:,} more: --json lists them all")


def _none(stream: str | None, *, open_only: bool) -> str:
    where = "" if stream is None else f" of {stream}"
    if open_only:
        return f"No dead letter{where} is open; `milepost dead-letters list --all` lists those that were closed"
    return f"There never was a dead letter{where}"


@command.command()
@config_option
@click.option(
    "--json", "writes_json", is_flag=True, help="Write one JSON object: that of `list --json`, and the payload."
)
@click.argument("dead_letter_id", metavar="ID")
def show(config: str | None, dead_letter_id: str, *, writes_json: bool) -> None:
    """Show all that is known of a dead letter, with the payload that is kept for a redrive: it is personal data."""
    letter, payload = asyncio.run(_shown(load_settings(config), dead_letter_id))
    if writes_json:
        click.echo(
            msgspec.json.format(as_json(letter, payload=None if payload is None else msgspec.Raw(payload.encode())))
        )
    else:
        click.echo(described(letter, payload, datetime.now(UTC)))


async def _shown(settings: Settings, beginning: str) -> tuple[DeadLetter, str | None]:
    async with open_archive(place_of(settings)) as archive:
        (letter,) = await named(archive, [beginning])
        return await archive.letter(letter.dead_letter_id) or (letter, None)


# --- acting -----------------------------------------------------------------------------------------------------------


@command.command()
@config_option
@stream_option
@click.argument("ids", metavar="[ID]...", nargs=-1)
def redrive(config: str | None, stream: str | None, ids: Sequence[str]) -> None:
    """Try dead letters again now: those that are named, or all that are open.

    A daemon that holds the database is asked to do it, over its HTTP service.

    Exit codes: 0 all are closed · 1 some are open still · 75 a rate limit or a stop kept some from being tried, they
    take long, or there are more than fit in one go · 77 their stream is stopped for authorization · 78 bad
    configuration · 2 wrong usage
    """
    if ids and stream is not None:
        raise click.UsageError("--stream chooses among all open dead letters: leave it out, or the IDs")
    settings = load_settings(config)
    letters = asyncio.run(chosen(settings, ids, stream))
    if not letters and not ids:
        click.echo(_none(stream, open_only=True))
    errands = [(letter, Redrive(letter.dead_letter_id, BY)) for letter in letters if _is_open(letter)]
    code = _performed(settings, errands, "closed")
    sys.exit(ExitCode.PROGRESS_SAVED if code is ExitCode.COMPLETE and len(letters) == MAX_AT_ONCE else code)


@command.command()
@config_option
@click.option("--reason", metavar="TEXT", required=True, help="Why; without names or texts, as it is journaled.")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def discard(config: str | None, reason: str, ids: Sequence[str]) -> None:
    """Give dead letters up. What they are about is kept out until it changes, and their payload is removed.

    The exit codes are those of redrive.
    """
    reason = reason.strip()
    if not 1 <= len(reason) <= MAX_REASON_CHARACTERS:
        raise click.BadParameter(f"write 1 to {MAX_REASON_CHARACTERS} characters", param_hint="--reason")
    settings = load_settings(config)
    letters = asyncio.run(chosen(settings, ids, None))
    errands = [(letter, Discard(letter.dead_letter_id, reason, BY)) for letter in letters if _is_open(letter)]
    sys.exit(_performed(settings, errands, "discarded"))


def _is_open(letter: DeadLetter) -> bool:
    """Whether anything is left to do; where nothing is, that is told."""
    if letter.closed_at is not None:
        how = f"{letter.resolution} {ago(letter.closed_at, datetime.now(UTC))}"
        click.echo(f"{letter.dead_letter_id}  {shortened(letter.subject, MAX_SUBJECT)}: closed already, {how}")
    return letter.closed_at is None


def _performed(settings: Settings, errands: Sequence[tuple[DeadLetter, LetterErrand]], done: str) -> ExitCode:
    """Do the errands, and give what that comes to. `done` is what is said of a letter that is closed by it."""
    if not errands:
        return ExitCode.COMPLETE
    # Imported here: who only looks need not wait for what works to load.
    from milepost.cli.dead_letter_actions import perform  # noqa: PLC0415
    from milepost.service.logs import logged  # noqa: PLC0415
    from milepost.service.redaction import Redactor  # noqa: PLC0415

    log = settings.log
    with logged(log.format, "warning", Redactor(secrets(settings)), stream=sys.stderr, environment=os.environ):
        return asyncio.run(perform(settings, errands, done))
