"""The body of a webhook request: which updates it holds, and the events among them.

Nothing is taken for granted but JSON: an update is recognized by the key that is present, and what is unknown is
counted.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from msgspec import Struct

from milepost.core.model import Platform, Stream
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.facebook.leniency import parse_json

Json = dict[str, object]
Route = Callable[[str, str], Stream | None]
"""Finds the stream of an object (`page` or `instagram`) and an account's id."""

# An update's field, as pages subscribe to it, by the key that identifies it.
_FIELDS = {
    "message": "messages",
    "message_edit": "message_edits",
    "reaction": "message_reactions",
    "read": "message_reads",
    "delivery": "message_deliveries",
    "postback": "messaging_postbacks",
    "optin": "messaging_optins",
    "pass_thread_control": "messaging_handovers",
    "take_thread_control": "messaging_handovers",
    "request_thread_control": "messaging_handovers",
    "app_roles": "messaging_handovers",
    "policy_enforcement": "messaging_policy_enforcement",
    "account_linking": "messaging_account_linking",
    "response_feedback": "response_feedback",
    "order": "send_cart",
    "game_play": "messaging_game_plays",
    "referral": "messaging_referrals",
}
ECHOES, OTHER = "message_echoes", "other"
FIELDS = (*dict.fromkeys(_FIELDS.values()), ECHOES, OTHER)
# What the Test button of the dashboard sends.
_TEST_ACCOUNT = "0"
_TEST_MESSAGES = {"random_mid", "test_message_id"}
_ID = re.compile(r"[!-~]{1,512}")
_MAX_SECONDS = 100_000_000_000  # a larger number is of milliseconds


class UpdateResult(StrEnum):
    """What came of an update."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # stored before, or about a person who was erased
    IGNORED = "ignored"  # nothing is copied because of it
    TEST = "test"  # of the dashboard's Test button
    UNKNOWN_PAGE = "unknown_page"
    WITHOUT_SENDER = "without_sender"  # the app is not set up to receive who wrote


class Update(Struct, frozen=True):
    """An update of a request: its field, the event that it is, if it is one, and what came of it if that is known."""

    field: str
    result: UpdateResult | None
    event: WebhookEvent | None = None


class Malformed(ValueError):
    """The body is not one of a webhook."""


def updates_in(body: bytes, route: Route, received_at: datetime) -> Iterator[Update]:
    """Yield the updates of a request. Raises Malformed."""
    try:
        root = parse_json(body)
    except ValueError:
        raise Malformed("the body is not JSON") from None
    if not isinstance(root, dict):
        raise Malformed("the body is not a JSON object")
    return _updates(root, route, received_at)


def _updates(root: Json, route: Route, received_at: datetime) -> Iterator[Update]:
    kind = root.get("object")
    if not isinstance(kind, str):  # the Test button leaves it out
        items = [root, *_objects(root, "messaging")]
        yield from (Update(_field(item, key), UpdateResult.TEST) for item in items if (key := _key(item)))
        return
    for entry in _objects(root, "entry"):
        account_id = _id(entry.get("id"))
        at = _instant(entry.get("time"), received_at)
        stream = route(kind, account_id) if account_id is not None else None
        for item in (*_objects(entry, "messaging"), *_objects(entry, "standby")):
            yield _update(item, stream, account_id, at)
        for change in _objects(entry, "changes"):
            field = change.get("field")
            result = UpdateResult.TEST if account_id == _TEST_ACCOUNT else UpdateResult.IGNORED
            yield Update(field if isinstance(field, str) and field in FIELDS else OTHER, result)


def _update(item: Json, stream: Stream | None, account_id: str | None, at: datetime) -> Update:
    key = _key(item)
    field, detail = _field(item, key), _object(item, key)
    message_id = _id(detail.get("mid"))
    if account_id == _TEST_ACCOUNT or message_id in _TEST_MESSAGES:
        return Update(field, UpdateResult.TEST)
    if stream is None:
        return Update(field, UpdateResult.UNKNOWN_PAGE)
    people = [person for side in ("sender", "recipient") if (person := _id(_object(item, side).get("id"))) is not None]
    has_nobody = not people and key in ("message", "message_edit", "read")
    kind = _kind(key, detail)
    if message_id is None or kind is None:
        return Update(field, UpdateResult.WITHOUT_SENDER if has_nobody else UpdateResult.IGNORED)
    contact_id = next((person for person in people if person != account_id), None)
    occurred_at = _instant(item.get("timestamp"), at)
    which = "" if kind is WebhookKind.MESSAGE else str(_count(detail.get("num_edit")))
    event = WebhookEvent(stream, kind, _as_in_the_list(stream, message_id), contact_id, occurred_at, which)
    return Update(field, UpdateResult.WITHOUT_SENDER if has_nobody else None, event)


def _kind(key: str, detail: Json) -> WebhookKind | None:
    """Return what an update says of its message; None for nothing that is looked at.

    A `message_edit` with `num_edit` 0 announces a message: it comes a second after it was written, without its text.
    """
    match key:
        case "message":
            return WebhookKind.REVISION if _is_true(detail.get("is_deleted")) else WebhookKind.MESSAGE
        case "message_edit":
            is_edit = _count(detail.get("num_edit")) or detail.get("text")
            return WebhookKind.REVISION if is_edit else WebhookKind.MESSAGE
        case "postback":
            return WebhookKind.MESSAGE
        case _:
            return None


def _count(value: object) -> int:
    """Return a small number, which may be written as text; 0 for what is none."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0


def _as_in_the_list(stream: Stream, message_id: str) -> str:
    """Return a message's id as the list has it: older webhooks of Messenger leave the `m_` out."""
    is_short = stream.platform is Platform.MESSENGER and not message_id.startswith("m_")
    return f"m_{message_id}" if is_short else message_id


def _field(item: Json, key: str) -> str:
    if key == "message" and _is_true(_object(item, key).get("is_echo")):
        return ECHOES
    return _FIELDS.get(key, OTHER)


def _key(item: Json) -> str:
    """Return the key that identifies an update; "" if none is known."""
    return next((key for key in _FIELDS if key in item), "")


def _objects(owner: Json, key: str) -> list[Json]:
    found = owner.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _object(owner: Json, key: str) -> Json:
    found = owner.get(key)
    return found if isinstance(found, dict) else {}


def _id(value: object) -> str | None:
    """Return an id, which may be written as a number; None for what is none."""
    text = str(value) if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)) else ""
    return text if _ID.fullmatch(text) else None


def _is_true(value: object) -> bool:
    return value is True or value == "true"  # once it was sent as text


def _instant(value: object, otherwise: datetime) -> datetime:
    """Return an instant written in seconds or milliseconds, as a number or as text; never one later than now."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        return otherwise
    number = int(text)
    seconds = number / 1000 if number > _MAX_SECONDS else float(number)
    return min(datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds), otherwise)
