"""The facts in webhook updates that no sweep can find: see core/facts.py.

Their texts are stored like those of messages: without characters that a database refuses, and without signatures. An
update that does not name its contact makes no fact with a text, because that could not be erased with the contact.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.facts import Edited, Reacted, detail_of
from milepost.core.model import Platform, Stream
from milepost.core.texts import storable
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.facebook.redaction import redact, unsigned

Json = dict[str, object]

# The stored part of a referral: Meta documents a `ref` of up to 2,083 characters, and an ad's data two levels deep.
MAX_CHARACTERS = 2_500
MAX_KEYS = 30
MAX_DEPTH = 3
_ID = re.compile(r"[!-~]{1,512}")
_MAX_SECONDS = 100_000_000_000  # a larger number is in milliseconds


# --- values of unknown shape ------------------------------------------------------------------------------------------


def list_in(owner: Json, key: str) -> list[object]:
    """Return a list; an empty one if there is none."""
    found = owner.get(key)
    return found if isinstance(found, list) else []


def objects_in(owner: Json, key: str) -> list[Json]:
    """Return the objects of a list; none if there is no list."""
    return [each for each in list_in(owner, key) if isinstance(each, dict)]


def object_in(owner: Json, key: str) -> Json:
    """Return an object; an empty one if there is none."""
    found = owner.get(key)
    return found if isinstance(found, dict) else {}


def id_in(value: object) -> str | None:
    """Return an id, which may be written as a number; None if it is not one."""
    text = str(value) if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)) else ""
    return text if _ID.fullmatch(text) else None


def is_true(value: object) -> bool:
    """Return whether a flag is set; it may be text, as it once was."""
    return value is True or value == "true"


def instant_in(value: object, otherwise: datetime, latest: datetime) -> datetime:
    """Return an instant written in seconds or milliseconds, as a number or text, but `latest` at most.

    Return `otherwise` if it is not an instant.
    """
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        return otherwise
    number = int(text)
    seconds = number / 1000 if number > _MAX_SECONDS else float(number)
    return min(datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds), latest)


def count_in(value: object) -> int:
    """Return a small number, which may be written as text; 0 if it is not one."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0


# --- facts ------------------------------------------------------------------------------------------------------------


class Envelope(Struct, frozen=True):
    """The common part of every update: its account, its sender, its contact, and its time."""

    stream: Stream
    account_id: str
    sender_id: str | None
    contact_id: str | None
    occurred_at: datetime

    def event(self, kind: WebhookKind, message_id: str, which: str = "") -> WebhookEvent:
        """Return an event about a message."""
        return WebhookEvent(
            self.stream, kind, _as_in_the_list(self.stream, message_id), self.contact_id, self.occurred_at, which
        )

    def fact(self, kind: WebhookKind, message_id: str, detail: str | None = None, *, of: str = "") -> WebhookEvent:
        """Return a fact. It has no id of its own, so its time and `of`, the person, make it unique."""
        which = f"{of} {round(self.occurred_at.timestamp() * 1000)}".strip()
        return replace(self.event(kind, message_id, which), detail=detail)


def is_unsent(key: str, detail: Json) -> bool:
    """Return whether an update says that its message was unsent."""
    return key == "message" and is_true(detail.get("is_deleted"))


def is_edit(key: str, detail: Json) -> bool:
    """Return whether an update is an edit; with the number 0 and without a text it announces a new message."""
    return key == "message_edit" and bool(count_in(detail.get("num_edit")) or detail.get("text"))


def facts_in(key: str, detail: Json, envelope: Envelope) -> Iterator[WebhookEvent]:
    """Yield the facts of an update."""
    message_id = id_in(detail.get("mid"))
    if envelope.contact_id is None:
        # An unsent message's update holds no text, and is needed to erase the text of the message.
        if message_id is not None and is_unsent(key, detail):
            yield envelope.fact(WebhookKind.UNSEND, message_id)
        return
    if message_id is not None:
        yield from _about_message(key, detail, message_id, envelope)
    if key == "referral" and (referral := _referral(detail)) is not None:
        # The API has the times of messages in whole seconds.
        since = envelope.occurred_at.replace(microsecond=0)
        fact = envelope.fact(WebhookKind.REFERRAL, "", referral, of=envelope.contact_id)
        yield replace(fact, actor=envelope.contact_id, occurred_at=since)
    is_ours = envelope.sender_id == envelope.account_id  # the contact's reading changes nothing that is stored
    if key == "read" and is_ours:
        until = instant_in(detail.get("watermark"), envelope.occurred_at, envelope.occurred_at)
        yield replace(envelope.fact(WebhookKind.READ, message_id or "", of=envelope.contact_id), occurred_at=until)


def _about_message(key: str, detail: Json, message_id: str, envelope: Envelope) -> Iterator[WebhookEvent]:
    if is_unsent(key, detail):
        yield envelope.fact(WebhookKind.UNSEND, message_id)
        return
    text = detail.get("text")
    if is_edit(key, detail) and isinstance(text, str):
        edited = detail_of(Edited(unsigned(storable(text)[0])))
        yield envelope.fact(WebhookKind.EDIT, message_id, edited, of=str(count_in(detail.get("num_edit"))))
    if key == "reaction" and envelope.sender_id is not None:
        yield from _reaction(detail, message_id, envelope.sender_id, envelope)
    if key in ("message", "postback") and (referral := _referral(object_in(detail, "referral"))) is not None:
        yield envelope.fact(WebhookKind.REFERRAL, message_id, referral)


def _reaction(detail: Json, message_id: str, actor: str, envelope: Envelope) -> Iterator[WebhookEvent]:
    action = detail.get("action")
    if action in ("react", "unreact"):
        said = None
        if action == "react":
            said = detail_of(Reacted(_word(detail.get("reaction")), _word(detail.get("emoji"))))
        yield replace(envelope.fact(WebhookKind.REACTION, message_id, said, of=f"{actor} {action}"), actor=actor)


def _word(value: object) -> str | None:
    """Return a reaction or an emoji. The longest known emoji has ten characters."""
    return storable(value)[0][:64] if isinstance(value, str) and value else None


def _referral(said: Json) -> str | None:
    """Return the JSON of a referral; None if it is empty."""
    kept = _kept(said, MAX_DEPTH)
    return detail_of(kept) if isinstance(kept, dict) and kept else None


def _kept(value: object, depth: int) -> object:
    match value:
        case str():
            return redact(unsigned(storable(value)[0]))[:MAX_CHARACTERS]
        case int() if abs(value) >= 2**63:  # an id that was sent as a number
            return str(value)
        case bool() | int() | float():
            return value
        case dict() if depth:
            members = (
                (storable(str(name))[0][:64], _kept(_plain(name, each), depth - 1)) for name, each in value.items()
            )
            return dict([(name, each) for name, each in members if each is not None][:MAX_KEYS])
        case _:
            return None


def _plain(name: object, value: object) -> object:
    """Return a value; a URL, such as that of an ad's picture, without its query, which may hold a signature."""
    return re.split(r"[?#]", value, maxsplit=1)[0] if str(name).endswith("url") and isinstance(value, str) else value


def _as_in_the_list(stream: Stream, message_id: str) -> str:
    """Return a message's id as lists have it: Messenger's older webhooks leave out the `m_`."""
    is_short = message_id and stream.platform is Platform.MESSENGER and not message_id.startswith("m_")
    return f"m_{message_id}" if is_short else message_id
