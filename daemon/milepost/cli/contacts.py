"""`milepost contacts forget`: erases a person who asks for it, and keeps them out."""

import asyncio
import sys

import click

from milepost.app.database import store_url_of
from milepost.cli.known_streams import demand_known
from milepost.cli.options import config_option, load_settings
from milepost.core.model import Platform, Stream
from milepost.reporting.humanize import in_columns, on_one_line
from milepost.settings import Settings
from milepost.stores.erasure import Forgotten
from milepost.stores.open import forget, open_reader

RIGHT = frozenset({1})


@click.group(name="contacts")
def command() -> None:
    """Erase a person who asks for it."""


@command.command(name="forget")
@config_option
@click.option("--yes", "is_confirmed", is_flag=True, help="Don't ask whether to do it.")
@click.argument("platform", type=click.Choice([platform.value for platform in Platform]))
@click.argument("page")
@click.argument("contact")
def forget_(config: str | None, platform: str, page: str, contact: str, *, is_confirmed: bool) -> None:
    """Remove a person's contact, conversations, messages and dead letters' payloads, and keep them out of later sweeps.

    PLATFORM and PAGE are those of the stream, CONTACT is the contact_id. A person is another contact on each page and
    platform: forget each. It works while the daemon runs. It cannot be undone.
    """
    settings = load_settings(config)
    stream = Stream(Platform(platform), page)
    if not contact or not contact.isprintable():
        raise click.BadParameter(
            "a contact_id has at least one character, and printable ones only", param_hint="CONTACT"
        )
    if not is_confirmed:
        _confirm(stream, contact)
    forgotten = asyncio.run(_forget(settings, stream, contact))
    click.echo("\n".join([*_removed(forgotten, stream, contact), "", *_left(settings)]))


def _confirm(stream: Stream, contact: str) -> None:
    """Ask whether to do it. Raises UsageError where nobody can be asked, Abort where the answer is no."""
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here whether to do it: --yes says so")
    click.confirm(
        f"Erase contact {contact} of {stream.key}, with their conversations and messages, for good?", abort=True
    )


async def _forget(settings: Settings, stream: Stream, contact: str) -> Forgotten:
    async with open_reader(store_url_of(settings)) as journal_reader:
        await demand_known(stream.key, journal_reader, settings, "PLATFORM PAGE")
    return await forget(store_url_of(settings), stream, contact)


def _removed(forgotten: Forgotten, stream: Stream, contact: str) -> list[str]:
    who = f"contact {on_one_line(contact)} of {stream.key}"
    rows = {
        "contacts": forgotten.contacts,
        "conversations": forgotten.conversations,
        "contact_interaction_events": forgotten.interaction_events,
        "dead_letter_payloads": forgotten.payloads,
    }
    if not any(rows.values()):
        return [f"Nothing was stored of {who}; it is on record that they stay out"]
    table = in_columns([("table", "rows removed"), *((name, f"{number:,}") for name, number in rows.items())], RIGHT)
    return [f"Erased {who}", *table]


def _left(settings: Settings) -> list[str]:
    """Say what becomes of them, and where else they may be."""
    store_url = store_url_of(settings)
    if store_url.file is not None:
        log = f"{store_url}-wal, if another program was reading the database: run this again when it has ended"
    else:
        log = "the server's own files, until it has vacuumed the tables, and its write-ahead log"
    return [
        "Later sweeps keep them out. The journal is untouched: it holds ids, counts and times, never names or texts.",
        "What this does not reach:",
        "  → backups and snapshots: delete those from before, or forget the person again in what you restore",
        f"  → {log}",
        "  → the inbox at Meta itself, and what was copied elsewhere, such as an export of the tables",
    ]
