"""Conversations and messages as the Graph API writes them.

Some fields are missing, participants come in any order, counts are estimates, and every level has paging.
"""

from collections.abc import Callable, Mapping

from milepost.simulator import refusals, seeded
from milepost.simulator.inbox import MAX_DETAILED_MESSAGES, Moment, Thread
from milepost.simulator.plan import instant
from milepost.simulator.requests import ApiRequest, Field, Link, Node, paging_node, pruned

_DEFAULT_NESTED_LIMIT = 25
# Shares in 256ths; the rest is plain text.
_MESSENGER_KINDS = (("image", 16), ("video", 4), ("file", 4), ("sticker", 10), ("share", 8), ("withheld", 3))
_INSTAGRAM_KINDS = (("image", 18), ("video", 6), ("story_reply", 20), ("share", 12), ("unsupported", 3))


class UnknownField(LookupError):
    """Nodes of this kind do not have the field."""


def node_of(node_id: str, fields: tuple[Field, ...], value_of: Callable[[Field], object]) -> Node:
    """Return a node with the requested fields that have a value, and the id, as in the API.

    Raises:
        UnknownField: `value_of` raises it for a field that such nodes do not have.
    """
    node = {field.name: value for field in fields if (value := value_of(field)) is not None}
    return node if "id" in node else {**node, "id": node_id}


def written_time(at_us: int) -> str:
    """Return an instant as the API writes it: whole seconds, `+0000` without a colon."""
    return instant(at_us).strftime("%Y-%m-%dT%H:%M:%S+0000")


# --- messages ---------------------------------------------------------------------------------------------------------


class Message:
    """A moment of a thread, and the content that its seed determines."""

    def __init__(self, thread: Thread, moment: Moment) -> None:
        self.thread = thread
        self.moment = moment
        self.seed = moment.seed
        self.is_outgoing = moment.seed[16] < 100
        self.kind = _kind(moment.seed[17], _MESSENGER_KINDS if thread.platform == "messenger" else _INSTAGRAM_KINDS)
        if moment.is_empty:
            self.kind = "empty"

    @property
    def text(self) -> str | None:
        """The text. A message without text has an empty one or none at all, at random."""
        if self.moment.edited is not None and self.kind != "empty":
            return self.moment.edited
        if self.kind in ("text", "story_reply"):
            sentence = seeded.pick(seeded.SENTENCES, self.seed[18])
            return f"{sentence[:3]}\0{sentence[3:]}" if self.seed[19:21] < b"\x00\x80" else sentence
        return "" if self.kind == "sticker" or self.seed[18] < 128 else None


def _kind(drawn: int, shares: tuple[tuple[str, int], ...]) -> str:
    for kind, part in shares:
        if drawn < part:
            return kind
        drawn -= part
    return "text"


def message_node(message: Message, fields: tuple[Field, ...], link: Link) -> Node:
    """Return a message with the requested fields.

    Raises:
        UnknownField: a message has no such field.
    """

    def value_of(field: Field) -> object:
        if field.name == "attachments":
            return pruned(_attachments_edge(message, link), field.fields)
        if field.name not in _MESSAGE_FIELDS:
            raise UnknownField(field.name)
        return pruned(_MESSAGE_FIELDS[field.name](message), field.fields)

    return node_of(message.moment.id, fields or _DEFAULT_MESSAGE_FIELDS, value_of)


def person_node(thread: Thread) -> Node:
    """Return the contact as the platform shows it; the email address is not real."""
    if thread.platform == "instagram":
        return {"username": thread.contact.username, "id": thread.contact.id}
    return {
        "name": thread.contact.name,
        "email": f"{thread.contact.id}@facebook.com",
        "id": thread.contact.id,
    }


def page_node(thread: Thread) -> Node:
    """Return the page as a participant of its own conversations: on Instagram with the account's id."""
    page = thread.page
    if thread.platform == "instagram":
        account_id = page.account_id("instagram")
        return {"username": f"page_{account_id[-6:]}", "id": account_id}
    return {"name": page.name, "email": f"{page.id}@facebook.com", "id": page.id}


def _to(message: Message) -> Node:
    return {"data": [person_node(message.thread) if message.is_outgoing else page_node(message.thread)]}


def _tags(message: Message) -> Node | None:
    if message.thread.platform == "instagram":
        return None
    names = ("inbox", "read", "sent", "source:web") if message.is_outgoing else ("inbox", "source:chat")
    return {"data": [{"name": name} for name in names]}


def _attachments_edge(message: Message, link: Link) -> Node | None:
    if message.kind not in ("image", "video", "file", "withheld"):
        return None
    cursors = {"before": seeded.sealed("0"), "after": seeded.sealed("0")}
    following = link.to(f"{message.moment.id}/attachments", pretty="0", limit="25", after=cursors["after"])
    return {"data": [_attachment(message)], "paging": {"cursors": cursors, "next": following}}


def _attachment(message: Message) -> Node:
    file_id = str(seeded.scattered(int.from_bytes(message.seed[24:31], "big")))
    match message.kind:
        case "withheld":
            return {"id": file_id, "name": "Media not available due to privacy rules in Europe."}
        case "file":
            name = seeded.pick(seeded.FILE_NAMES, message.seed[34])
            url = _signed_url(message, f"{file_id}.bin")
            return _file(message, file_id, "application/octet-stream", name) | {"file_url": url}
        case "image":
            return _picture(message, file_id, "image_data", "image/jpeg")
        case _:
            return _picture(message, file_id, "video_data", "video/mp4")


def _picture(message: Message, file_id: str, data_name: str, mime_type: str) -> Node:
    url = _signed_url(message, f"{file_id}_n.{mime_type[-3:]}")
    if message.thread.platform == "instagram":
        return {"id": file_id, data_name: {"url": url}}
    data = {"width": 1920, "height": 1213, "url": url, "preview_url": f"{url}&preview=1"}
    return _file(message, file_id, mime_type, f"{message.kind}-{file_id}") | {data_name: data}


def _file(message: Message, file_id: str, mime_type: str, name: str) -> Node:
    size = None if message.seed[31] < 64 else 1000 + int.from_bytes(message.seed[32:34], "big")
    return {"id": file_id, "mime_type": mime_type, "name": name, "size": size}


def _sticker(message: Message) -> str | None:
    return _signed_url(message, "sticker.png") if message.kind == "sticker" else None


def _shares(message: Message) -> Node | None:
    if message.kind != "share":
        return None
    if message.thread.platform == "instagram":
        return {"data": [{"link": _signed_url(message, "share")}]}
    engine = f"https://example.org/{message.seed[24:28].hex()}.png"
    return {"data": [{"id": None, "link": engine, "name": "", "description": None, "picture": None}]}


def _story(message: Message) -> Node | None:
    if message.kind != "story_reply":
        return None
    story_id = str(seeded.scattered(int.from_bytes(message.seed[24:31], "big")))
    return {"reply_to": {"link": _signed_url(message, "story"), "id": story_id}}


def _signed_url(message: Message, name: str) -> str:
    signature = message.seed[36:56].hex()
    return f"https://scontent.example.net/v/t1.15752-9/{name}?_nc_cat=107&_nc_ht=scontent&oh={signature}&oe=6A1F7644"


_MESSAGE_FIELDS: Mapping[str, Callable[[Message], object]] = {
    "id": lambda message: message.moment.id,
    "created_time": lambda message: written_time(message.moment.at_us),
    "from": lambda message: (page_node if message.is_outgoing else person_node)(message.thread),
    "to": _to,
    "message": lambda message: message.text,
    "tags": _tags,
    "sticker": _sticker,
    "shares": _shares,
    "story": _story,
    # The API sends this boolean as a string.
    "is_unsupported": lambda message: "true" if message.kind == "unsupported" else None,
}

_DEFAULT_MESSAGE_FIELDS = (Field("id"), Field("created_time"))


# --- conversations ----------------------------------------------------------------------------------------------------


def conversation_node(thread: Thread, fields: tuple[Field, ...], link: Link) -> Node:
    """Return a conversation with the requested fields.

    Raises:
        UnknownField: a conversation, or a message in it, has no such field.
    """

    def value_of(field: Field) -> object:
        if field.name == "messages":
            return _messages_edge(thread, field, link)
        if field.name not in _FIELDS:
            raise UnknownField(field.name)
        return pruned(_FIELDS[field.name](thread), field.fields)

    return node_of(thread.id, fields or _DEFAULT_FIELDS, value_of)


def message_list(thread: Thread, messages: tuple[Moment, ...], request: ApiRequest) -> Node:
    """Return those of a thread's messages that were requested, newest first.

    It has a `next` as long as the thread has more messages, even if those cannot be read.

    Raises:
        Refusal: the cursor is of none of these messages, or the request pages backwards.
        UnknownField: a message has no such field.
    """
    if "before" in request.query:
        raise refusals.bad_parameter("The simulator does not page backwards")
    start = 0
    if "after" in request.query:
        cursors = [_cursor(moment) for moment in messages]
        if request.query["after"] not in cursors:
            raise refusals.dead_cursor()
        start = cursors.index(request.query["after"]) + 1
    shown = messages[start : start + request.limit]
    if not shown:
        return {"data": []}
    has_more = thread.message_count > start + len(shown)
    paging = paging_node(request, before=_cursor(shown[0]), after=_cursor(shown[-1]), has_more=has_more)
    nodes = [message_node(Message(thread, moment), request.fields, request.link) for moment in shown]
    return {"data": nodes, "paging": paging}


def nested_limit(fields: tuple[Field, ...]) -> int:
    """Return how many messages of each conversation these fields request, at most 20."""
    return max((_limit(field) for field in fields if field.name == "messages"), default=0)


def _limit(edge: Field) -> int:
    return min(_DEFAULT_NESTED_LIMIT if edge.limit is None else edge.limit, MAX_DETAILED_MESSAGES)


def _messages_edge(thread: Thread, edge: Field, link: Link) -> Node:
    limit = _limit(edge)
    shown = thread.newest[:limit]
    if not shown:
        return {"data": []}
    before, after = _cursor(shown[0]), _cursor(shown[-1])
    paging: Node = {"cursors": {"before": before, "after": after}}
    if thread.message_count > len(shown):
        paging["next"] = link.to(f"{thread.id}/messages", pretty="0", limit=str(limit), after=after)
    return {"data": [message_node(Message(thread, moment), edge.fields, link) for moment in shown], "paging": paging}


def _cursor(moment: Moment) -> str:
    return seeded.sealed(f"message:{moment.id}")


def _participants(thread: Thread) -> Node | None:
    if not thread.shows_participants:
        return None
    both = [person_node(thread), page_node(thread)]
    turned = thread.newest[0].seed[21] < 100
    return {"data": both[::-1] if turned else both}


def _snippet(thread: Thread) -> str | None:
    if thread.seed[1] < 5:
        return None
    newest = Message(thread, thread.newest[0])
    return (newest.text or f"{'You' if newest.is_outgoing else thread.contact.name} sent an attachment.")[:80]


def _page_link(thread: Thread) -> str | None:
    if thread.platform == "instagram" or thread.seed[2] < 5:
        return None
    return f"/{thread.page.id}/inbox/{seeded.gathered(int(thread.id[2:]))}/"


def _unread_count(thread: Thread) -> int | None:
    drawn = thread.newest[0].seed[22]
    return None if thread.seed[3] < 5 else max(0, drawn - 250)


def _message_count(thread: Thread) -> int:
    """Return an estimate, as in the API: now and then one too many."""
    return thread.message_count + (thread.newest[0].seed[23] < 10)


_FIELDS: Mapping[str, Callable[[Thread], object]] = {
    "id": lambda thread: thread.id,
    "updated_time": lambda thread: written_time(thread.position.updated_us),
    "participants": _participants,
    "senders": _participants,
    "snippet": _snippet,
    "link": _page_link,
    "message_count": _message_count,
    "unread_count": _unread_count,
    "can_reply": lambda thread: thread.newest[0].seed[35] >= 20,
    "is_subscribed": lambda _: True,
    "scoped_thread_key": lambda thread: thread.id,
}

_DEFAULT_FIELDS = (Field("id"), Field("link"), Field("updated_time"))
