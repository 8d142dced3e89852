"""`milepost contacts forget`: erases a person on request, and keeps them out."""

import asyncio

import click

from milepost.app.database import store_url_of
from milepost.cli.groups import Group
from milepost.cli.options import config_option, confirm, demand_known, load_settings, yes_option
from milepost.cli.terminal import echo_wrapped
from milepost.core.model import Platform, Stream
from milepost.reporting.humanize import in_columns, on_one_line
from milepost.settings import Settings
from milepost.stores.commit import Forgotten
from milepost.stores.open import forget, open_reader

RIGHT = frozenset({1})


@click.group(cls=Group, name="contacts")
def command() -> None:
    """Erase a person on request."""


@command.command(name="forget")
@config_option
@yes_option
@click.argument("platform", type=click.Choice([platform.value for platform in Platform]))
@click.argument("page")
@click.argument("contact")
def forget_(config: str | None, platform: str, page: str, contact: str, *, is_confirmed: bool) -> None:
    """Erase a contact with all conversations, messages and dead-letter payloads, and keep them out of later sweeps.

    PLATFORM and PAGE are those of the stream, CONTACT is the contact_id. A person is a different contact on each page
    and platform: forget each of them. The daemon may be running. This cannot be undone.
    """
    settings = load_settings(config)
    stream = Stream(Platform(platform), page)
    if not contact or not contact.isprintable():
        raise click.BadParameter("a contact_id is not empty and has only printable characters", param_hint="CONTACT")
    if not is_confirmed:
        confirm(f"Erase contact {contact} of {stream.key}, with their conversations and messages, for good?")
    forgotten = asyncio.run(_forget(settings, stream, contact))
    lines = [*_removed(forgotten, stream, contact), *_elsewhere(forgotten, stream), "", *_not_reached(settings)]
    echo_wrapped(*lines)


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
        return [f"Nothing was stored for {who}; they are recorded to be kept out"]
    table = in_columns([("table", "rows removed"), *((name, f"{number:,}") for name, number in rows.items())], RIGHT)
    return [f"Erased {who}", *table]


def _elsewhere(forgotten: Forgotten, stream: Stream) -> list[str]:
    """Return where the id stands that need not be the same person's."""
    if not forgotten.elsewhere:
        return []
    pages = ", ".join(f"{stream.platform}:{page_id}" for page_id in forgotten.elsewhere)
    advice = f"if {stream.page_id} has taken over its account, forget them there too, or wait until it reads a thread"
    return [f"Not erased: a contact with this id on {pages}, who may be somebody else", f"  → {advice}"]


def _not_reached(settings: Settings) -> list[str]:
    """Return where else the person's data may be."""
    store_url = store_url_of(settings)
    if store_url.file is not None:
        log = f"{store_url}-wal, if another program was reading the database: run this again once it has closed it"
    else:
        log = "the server's own files, until the tables are vacuumed, and its write-ahead log"
    return [
        "Later sweeps keep them out. The journal is unchanged: it holds ids, counts and times, never names or texts.",
        "Not erased:",
        "  → backups and snapshots: delete older ones, or forget the person again after a restore",
        f"  → {log}",
        "  → the inbox at Meta itself, and copies made elsewhere, such as an export of the tables",
    ]
