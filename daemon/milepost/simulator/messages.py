"""Messages as the Graph API writes them: odd ones, empty ones, with attachments, and with paging at every level."""

from collections.abc import Callable, Mapping
from urllib.parse import urlencode

import msgspec

from milepost.simulator import seeded, words
from milepost.simulator.arrivals import instant
from milepost.simulator.fields import Field, pruned
from milepost.simulator.inbox import Moment, Thread

Node = dict[str, object]

# Shares in 256ths; the rest is plain text.
_MESSENGER_KINDS = (("image", 16), ("video", 4), ("file", 4), ("sticker", 10), ("share", 8), ("withheld", 3))
_INSTAGRAM_KINDS = (("image", 18), ("video", 6), ("story_reply", 20), ("share", 12), ("unsupported", 3))


class Link(msgspec.Struct, frozen=True):
    """The basis of paging links. The API writes the access token into every one of them."""

    origin: str
    version: str
    token: str

    def __repr__(self) -> str:
        return f"Link(origin={self.origin!r}, version={self.version!r})"

    def to(self, path: str, **query: str) -> str:
        """Return the URL of an edge, token included."""
        return f"{self.origin}/{self.version}/{path}?{urlencode({'access_token': self.token, **query})}"


class UnknownField(LookupError):
    """Nodes of this kind do not have the field."""


def message_node(message: "Message", fields: tuple[Field, ...], link: Link) -> Node:
    """Return a message with the requested fields.

    Raises:
        UnknownField: a message has no such field.
    """
    node: Node = {}
    for field in fields or _DEFAULT_MESSAGE_FIELDS:
        value: object
        if field.name == "attachments":
            value = _attachments_edge(message, link)
        elif field.name not in _MESSAGE_FIELDS:
            raise UnknownField(field.name)
        else:
            value = _MESSAGE_FIELDS[field.name](message)
        if value is not None:
            node[field.name] = pruned(value, field.fields)
    return node if "id" in node else {**node, "id": message.moment.id}


def written_time(at_us: int) -> str:
    """Return an instant as the API writes it: whole seconds, `+0000` without a colon."""
    return instant(at_us).strftime("%Y-%m-%dT%H:%M:%S+0000")


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
            sentence = seeded.pick(words.SENTENCES, self.seed[18])
            return f"{sentence[:3]}\0{sentence[3:]}" if self.seed[19:21] < b"\x00\x80" else sentence
        return "" if self.kind == "sticker" or self.seed[18] < 128 else None


def _kind(drawn: int, shares: tuple[tuple[str, int], ...]) -> str:
    for kind, part in shares:
        if drawn < part:
            return kind
        drawn -= part
    return "text"


def person_node(thread: Thread) -> Node:
    """Return the contact as the platform shows one; the email address is not real."""
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
            name = seeded.pick(words.FILE_NAMES, message.seed[34])
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
