"""The updates of webhooks: what happened in a simulated world, in Meta's form."""

from collections.abc import Iterator

from milepost.simulator import seeded
from milepost.simulator.inbox import Happening, Moment, Thread
from milepost.simulator.messages import Message, Node

APP_ID = 263902037430900  # of Meta's inbox, which writes the page's own messages
EMOJI = {
    "smile": "\U0001f606",
    "angry": "\U0001f620",
    "sad": "\U0001f622",
    "wow": "\U0001f62e",
    "love": "\u2764",
    "like": "\U0001f44d",
    "dislike": "\U0001f44e",
}
# Of the messages of contacts, those that come from an ad; of the page's, those to which the contact reacts, and those
# that the contact is said to have read.
AD_SHARE, REACTION_SHARE, READ_SHARE = 0.05, 0.1, 0.3


def updates_of_message(thread: Thread, moment: Moment) -> Iterator[Node]:
    """Yield the update of a message, the contact's or, as an echo, the page's, and what the contact does with it."""
    message = Message(thread, moment)
    update = _message_update(message)
    yield update
    if not message.is_outgoing:
        return
    at_ms = moment.at_us // 1000
    if seeded.share(moment.id, "reacts") < REACTION_SHARE:
        yield _by_contact(thread, at_ms, "reaction", _reaction(moment.id, seeded.pick(tuple(EMOJI), moment.seed[40])))
    if seeded.share(moment.id, "reads") < READ_SHARE:
        read: Node = {"mid": moment.id} if thread.platform == "instagram" else {"watermark": at_ms}
        yield _by_contact(thread, at_ms, "read", read)


def updates_of_happening(thread: Thread, happening: Happening, at_us: int) -> Iterator[Node]:
    """Yield the update of something that was done by hand; none for what the platform does not say."""
    message_id, at_ms = happening.message_id, at_us // 1000
    match happening.kind:
        case "edit":
            edit: Node = {"mid": message_id, "text": happening.text, "num_edit": 1}
            yield _by_contact(thread, at_ms, "message_edit", edit)
        case "unsend":
            if thread.platform == "instagram":  # Messenger has no field for it
                yield _by_contact(thread, at_ms, "message", {"mid": message_id, "is_deleted": True})
        case "react":
            yield _by_contact(thread, at_ms, "reaction", _reaction(message_id, happening.text))
        case "refer":
            opened: Node = {"ref": happening.text, "source": "SHORTLINK", "type": "OPEN_THREAD"}
            yield _by_contact(thread, at_ms, "referral", opened)


def _reaction(message_id: str, reaction: str | None) -> Node:
    if reaction is None:
        return {"mid": message_id, "action": "unreact"}
    return {"mid": message_id, "action": "react", "reaction": reaction, "emoji": EMOJI.get(reaction, "\u2728")}


def _by_contact(thread: Thread, at_ms: int, key: str, said: Node) -> Node:
    page = thread.page.account_id(thread.platform)
    return {"sender": {"id": thread.contact.id}, "recipient": {"id": page}, "timestamp": at_ms, key: said}


def _message_update(message: Message) -> Node:
    thread, moment = message.thread, message.moment
    told: Node = {"mid": moment.id}
    if message.text:
        told["text"] = message.text
    if message.kind in ("image", "video", "file"):
        told["attachments"] = [{"type": message.kind, "payload": {"url": "https://scontent.example.net/v"}}]
    if message.kind == "unsupported":
        told["is_unsupported"] = True
    update = _by_contact(thread, moment.at_us // 1000, "message", told)
    if not message.is_outgoing:
        if seeded.share(moment.id, "ad") < AD_SHARE:
            told["referral"] = _ad(moment)
        return update
    told["is_echo"] = True
    if thread.platform == "messenger":
        told["app_id"] = APP_ID
    return {**update, "sender": update["recipient"], "recipient": update["sender"]}


def _ad(moment: Moment) -> Node:
    ad_id = str(seeded.scattered(int.from_bytes(moment.seed[41:48], "big")))
    picture = f"https://scontent.example.net/v/ad.jpg?oh={moment.seed[48:56].hex()}"
    data: Node = {"ad_title": "Fresh bread, every morning", "photo_url": picture}
    return {"source": "ADS", "type": "OPEN_THREAD", "ad_id": ad_id, "ads_context_data": data}
