"""`milepost dead-letters`: what could not be read or written, and what to do about it."""

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from milepost.app.database import store_url_of
from milepost.cli.dead_letter_choice import MAX_AT_ONCE, chosen, dead_letters_of, named
from milepost.cli.dead_letter_table import MAX_SUBJECT, as_json, described, rendered, shortened
from milepost.cli.known_streams import demand_known
from milepost.cli.options import config_option, load_settings
from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import DeadLetterCommand, Discard, Redrive
from milepost.core.dead_letters import MAX_REASON_CHARACTERS
from milepost.reporting.humanize import ago
from milepost.reporting.summary import ExitCode
from milepost.settings import Settings, secrets
from milepost.stores.open import open_reader

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
    async with open_reader(store_url_of(settings)) as journal_reader:
        await demand_known(stream, journal_reader, settings)
        async for dead_letter in dead_letters_of(journal_reader, stream, open_only=open_only):
            number += 1
            if writes_json:
                click.echo(as_json(dead_letter))
            elif number <= MAX_ROWS:
                rows.append(dead_letter)
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
    dead_letter, payload = asyncio.run(_shown(load_settings(config), dead_letter_id))
    if writes_json:
        click.echo(
            msgspec.json.format(
                as_json(dead_letter, payload=None if payload is None else msgspec.Raw(payload.encode()))
            )
        )
    else:
        click.echo(described(dead_letter, payload, datetime.now(UTC)))


async def _shown(settings: Settings, beginning: str) -> tuple[DeadLetter, str | None]:
    async with open_reader(store_url_of(settings)) as journal_reader:
        (dead_letter,) = await named(journal_reader, [beginning])
        return await journal_reader.dead_letter(dead_letter.dead_letter_id) or (dead_letter, None)


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
    dead_letters = asyncio.run(chosen(settings, ids, stream))
    if not dead_letters and not ids:
        click.echo(_none(stream, open_only=True))
    mailbox = [
        (dead_letter, Redrive(dead_letter.dead_letter_id, BY)) for dead_letter in dead_letters if _is_open(dead_letter)
    ]
    code = _performed(settings, mailbox, "closed")
    sys.exit(ExitCode.PROGRESS_SAVED if code is ExitCode.COMPLETE and len(dead_letters) == MAX_AT_ONCE else code)


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
    dead_letters = asyncio.run(chosen(settings, ids, None))
    mailbox = [
        (dead_letter, Discard(dead_letter.dead_letter_id, reason, BY))
        for dead_letter in dead_letters
        if _is_open(dead_letter)
    ]
    sys.exit(_performed(settings, mailbox, "discarded"))


def _is_open(dead_letter: DeadLetter) -> bool:
    """Whether anything is left to do; where nothing is, that is told."""
    if dead_letter.closed_at is not None:
        how = f"{dead_letter.resolution} {ago(dead_letter.closed_at, datetime.now(UTC))}"
        click.echo(
            f"{dead_letter.dead_letter_id}  {shortened(dead_letter.subject, MAX_SUBJECT)}: closed already, {how}"
        )
    return dead_letter.closed_at is None


def _performed(settings: Settings, mailbox: Sequence[tuple[DeadLetter, DeadLetterCommand]], done: str) -> ExitCode:
    """Do the errands, and give what that comes to. `done` is what is said of a letter that is closed by it."""
    if not mailbox:
        return ExitCode.COMPLETE
    # Imported here: who only looks need not wait for what works to load.
    from milepost.cli.dead_letter_actions import perform  # noqa: PLC0415
    from milepost.service.logs.output import logged  # noqa: PLC0415
    from milepost.service.logs.redaction import Redactor  # noqa: PLC0415

    log = settings.log
    with logged(log.format, "warning", Redactor(secrets(settings)), stream=sys.stderr, environment=os.environ):
        return asyncio.run(perform(settings, mailbox, done))
