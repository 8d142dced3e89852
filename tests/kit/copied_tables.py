"""Compares the copied tables with the simulated world."""

from datetime import datetime

from kit.installation import Installation
from milepost.simulator.inbox import Inbox
from milepost.simulator.world import World


def assert_copied(installation: Installation, world: World, at: datetime, *, was_frozen: bool) -> None:
    """Assert that the tables hold the world's conversations, contacts and messages at an instant, and nothing else.

    If the world was not frozen, they may also hold messages that the API no longer lists.
    """
    for inbox in world.inboxes:
        _assert_inbox_copied(installation, world, inbox, at, was_frozen=was_frozen)


def _assert_inbox_copied(
    installation: Installation, world: World, inbox: Inbox, at: datetime, *, was_frozen: bool
) -> None:
    stream = (inbox.platform, inbox.page.id)
    truth = world.truth(inbox.page.id, inbox.platform, at)
    of_stream = "WHERE platform = ? AND page_id = ?"
    conversations = installation.rows(
        f"SELECT conversation_id, contact_id, updated_time FROM conversations {of_stream}",
        *stream,
    )
    assert {row[0]: row[1:] for row in conversations} == {
        each.id: (each.contact_id, _as_stored(each.updated_time)) for each in truth
    }
    contacts = installation.rows(f"SELECT contact_id FROM contacts {of_stream}", *stream)
    assert {row[0] for row in contacts} == {each.contact_id for each in truth if each.contact_id is not None}
    events = {
        tuple(row)
        for row in installation.rows(
            f"SELECT conversation_id, event_id FROM contact_interaction_events {of_stream}",
            *stream,
        )
    }
    listed = {(each.id, message_id) for each in truth for message_id in each.message_ids}
    assert listed <= events
    assert events == listed or not was_frozen


def _as_stored(instant: datetime) -> str:
    """Format an instant as the tables hold it, in whole seconds, which is all that the API reports."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.000Z")
