"""What webhooks say of messages, with the real daemon: late, doubled, before their message, and through a kill."""

import json
from collections.abc import Mapping

import aiohttp

from kit.binary import started, until
from kit.installation import Installation, on_sqlite_first
from kit.simulated import BICYCLES, NOW
from system.test_webhooks import Hooked, hooked

MILLISECONDS = round(NOW.timestamp() * 1000)


async def post(hooks: Hooked, *said: Mapping[str, object], seconds: float = 0.0, contact_id: str) -> None:
    """Send updates of a contact, so many seconds after the messages of the world were written."""
    people = {"sender": {"id": contact_id}, "recipient": {"id": BICYCLES.id}}
    items = [{**people, "timestamp": MILLISECONDS + round(seconds * 1000), **each} for each in said]
    body = json.dumps({"object": "page", "entry": [{"id": BICYCLES.id, "messaging": items}]}).encode()
    await hooks.deliver_body(body)


def row(installation: Installation, message_id: str, columns: str) -> tuple[object, ...]:
    (found,) = installation.rows(f"SELECT {columns} FROM contact_interaction_events WHERE event_id = ?", message_id)
    return tuple(json.loads(each) if isinstance(each, str) and each[:1] in ("[", "{") else each for each in found)


def contact_of(hooks: Hooked, conversation_id: str) -> str:
    thread = hooks.simulator.world.find(conversation_id, NOW)
    assert thread is not None
    return thread.contact.id


async def worked_off(installation: Installation) -> None:
    waiting = "SELECT 1 FROM webhook_events WHERE due_at IS NOT NULL AND kind <> 'message'"
    await until(lambda: not installation.rows(waiting))


@on_sqlite_first
async def test_facts_are_applied_once_in_any_order_and_no_sweep_undoes_them(installation: Installation) -> None:
    async with hooked(installation) as hooks:
        conversation_id, message_id = hooks.arrive()
        contact_id = contact_of(hooks, conversation_id)
        await hooks.deliver(message_id)
        await hooks.stored(message_id)
        heart = {"mid": message_id, "action": "react", "reaction": "love", "emoji": "\u2764"}
        edits = [{"mid": message_id, "text": f"text {number}", "num_edit": number} for number in (1, 2)]
        await post(hooks, {"message_edit": edits[1]}, {"reaction": heart}, seconds=20, contact_id=contact_id)
        await post(
            hooks,
            {"message_edit": edits[0]},
            {"reaction": {**heart, "reaction": "sad"}},
            seconds=10,
            contact_id=contact_id,
        )
        await post(hooks, {"message_edit": edits[1]}, {"reaction": heart}, seconds=20, contact_id=contact_id)
        await worked_off(installation)
        text, is_edited, reactions = row(installation, message_id, "text, edited_at IS NOT NULL, reactions")
        assert (text, bool(is_edited)) == ("text 2", True)
        assert [(each["from"], each["reaction"]) for each in reactions] == [(contact_id, "love")]  # type: ignore[attr-defined]
        unreact = {"reaction": {"mid": message_id, "action": "unreact"}}
        await post(
            hooks, unreact, {"message": {"mid": message_id, "is_deleted": True}}, seconds=30, contact_id=contact_id
        )
        await worked_off(installation)
        assert row(installation, message_id, "text, attachments, reactions") == (None, None, None)
        await post(hooks, {"message_edit": {**edits[1], "num_edit": 3}}, seconds=40, contact_id=contact_id)
        await worked_off(installation)
        (is_deleted,) = row(installation, message_id, "deleted_at IS NOT NULL AND text IS NULL")
        assert is_deleted
        before = len(installation.rows("SELECT 1 FROM runs"))
        synced = await hooks.session.post(
            f"{await hooks.daemon.url()}/api/streams/messenger:{BICYCLES.id}/sync", json={}
        )
        assert synced.status == 200
        await until(lambda: len(installation.rows("SELECT 1 FROM runs WHERE status = 'complete'")) > before)
        assert row(installation, message_id, "text") == (None,), "the list has it still"
        journal = installation.rows("SELECT data FROM journal WHERE type = 'facts_applied'")
        assert not any("text" in data for (data,) in journal)
    await installation.verify()


async def test_facts_wait_for_their_message_through_a_kill(installation: Installation) -> None:
    async with hooked(installation) as hooks:
        hooks.simulator.hold()
        conversation_id, message_id = hooks.arrive()
        contact_id = contact_of(hooks, conversation_id)
        edit = {"message_edit": {"mid": message_id, "text": "hallo", "num_edit": 1}}
        opened = {"referral": {"ref": "spring", "source": "SHORTLINK"}}
        await post(hooks, edit, opened, seconds=20, contact_id=contact_id)
        await post(hooks, opened, seconds=-1, contact_id=contact_id)
        await hooks.daemon.kill()
        hooks.simulator.release()
        async with started(installation.folder, "run") as daemon:
            url = f"{await daemon.url()}/api/streams/messenger:{BICYCLES.id}/sync"
            async with aiohttp.ClientSession() as session, session.post(url, json={}) as synced:
                assert synced.status == 200
            await hooks.stored(message_id)
            await until(lambda: row(installation, message_id, "text") == ("hallo",))
            await until(
                lambda: row(installation, message_id, "referral") == ({"ref": "spring", "source": "SHORTLINK"},)
            )
            assert installation.rows("SELECT kind FROM webhook_events WHERE due_at IS NOT NULL") == [("referral",)]
