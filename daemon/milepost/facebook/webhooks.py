"""Reads webhook requests: verifies that they come from Meta, and finds the updates and events in their bodies.

A body is only assumed to be JSON. An update is recognised by a key that it has; unknown updates are counted.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Struct

from milepost.core.model import Stream
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.facebook.leniency import parse_json
from milepost.facebook.webhook_facts import (
    Envelope,
    Json,
    count_in,
    facts_in,
    id_in,
    instant_in,
    is_edit,
    is_true,
    is_unsent,
    list_in,
    object_in,
    objects_in,
)

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
FIELD_OF = {
    WebhookKind.MESSAGE: "messages",
    WebhookKind.REVISION: "message_edits",
    WebhookKind.EDIT: "message_edits",
    WebhookKind.UNSEND: "messages",
    WebhookKind.REACTION: "message_reactions",
    WebhookKind.REFERRAL: "messaging_referrals",
    WebhookKind.READ: "message_reads",
}
# What the Test button of the dashboard sends.
_TEST_ACCOUNT = "0"
_TEST_MESSAGES = {"random_mid", "test_message_id"}
_MAX_NAMED = 20  # updates of an entry that are used to find the stream of an unknown account


class UpdateResult(StrEnum):
    """The result of an update."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # stored before, or about a person who was erased
    IGNORED = "ignored"  # it gives no reason to copy anything
    TEST = "test"  # sent by the dashboard's Test button
    UNKNOWN_PAGE = "unknown_page"
    WITHOUT_SENDER = "without_sender"  # the app is not set up to receive senders
    WITHOUT_VALUES = "without_values"  # the app is set up to receive only the names of fields


class Update(Struct, frozen=True):
    """An update of a request: its field, the events that it holds, and its result if that is known."""

    field: str
    result: UpdateResult | None
    events: tuple[WebhookEvent, ...] = ()


class UnknownAccount(Struct, frozen=True):
    """An Instagram account whose stream is unknown, with the messages and people that updates about it name."""

    account_id: str
    message_ids: tuple[str, ...]
    people: tuple[str, ...]


class Malformed(ValueError):
    """The body is not one of a webhook."""


def updates_in(body: bytes, route: Route, received_at: datetime) -> Iterator[Update]:
    """Yield the updates of a request. Raises Malformed."""
    return _updates(_root(body), route, received_at)


def unknown_accounts(body: bytes, route: Route) -> Iterator[UnknownAccount]:
    """Yield the Instagram accounts in a request whose streams are unknown. Raises Malformed."""
    root = _root(body)
    if root.get("object") != "instagram":
        return
    for entry in objects_in(root, "entry"):
        account_id = id_in(entry.get("id"))
        if account_id is None or account_id == _TEST_ACCOUNT or route("instagram", account_id) is not None:
            continue
        items = [*objects_in(entry, "messaging"), *objects_in(entry, "standby")][:_MAX_NAMED]
        message_ids = [id_in(object_in(item, _key(item)).get("mid")) for item in items]
        people = [id_in(object_in(item, role).get("id")) for item in items for role in ("sender", "recipient")]
        yield UnknownAccount(account_id, _distinct(message_ids), _distinct(people, besides=account_id))


def _root(body: bytes) -> Json:
    try:
        root = parse_json(body)
    except ValueError:
        raise Malformed("the body is not JSON") from None
    if not isinstance(root, dict):
        raise Malformed("the body is not a JSON object")
    return root


def _distinct(ids: Iterable[str | None], besides: str = "") -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in ids if each and each != besides))


def _updates(root: Json, route: Route, received_at: datetime) -> Iterator[Update]:
    kind = root.get("object")
    if not isinstance(kind, str):  # the Test button leaves it out
        items = [root, *objects_in(root, "messaging")]
        yield from (Update(_field(item, key), UpdateResult.TEST) for item in items if (key := _key(item)))
        return
    for entry in objects_in(root, "entry"):
        account_id = id_in(entry.get("id"))
        sent_at = instant_in(entry.get("time"), received_at, received_at)
        stream = route(kind, account_id) if account_id is not None else None
        for item in (*objects_in(entry, "messaging"), *objects_in(entry, "standby")):
            occurred_at = instant_in(item.get("timestamp"), sent_at, received_at)
            yield _update(item, stream, account_id, occurred_at)
        for change in objects_in(entry, "changes"):
            field = change.get("field")
            result = UpdateResult.TEST if account_id == _TEST_ACCOUNT else UpdateResult.IGNORED
            yield Update(_known(field), result)
        for field in list_in(entry, "changed_fields"):  # they come without their values
            yield Update(_known(field), _without_values(stream, account_id))


def _without_values(stream: Stream | None, account_id: str | None) -> UpdateResult:
    if account_id == _TEST_ACCOUNT:
        return UpdateResult.TEST
    return UpdateResult.UNKNOWN_PAGE if stream is None else UpdateResult.WITHOUT_VALUES


def _known(field: object) -> str:
    return field if isinstance(field, str) and field in FIELDS else OTHER


def _update(item: Json, stream: Stream | None, account_id: str | None, occurred_at: datetime) -> Update:
    key = _key(item)
    field, detail = _field(item, key), object_in(item, key)
    message_id = id_in(detail.get("mid"))
    if account_id == _TEST_ACCOUNT or message_id in _TEST_MESSAGES:
        return Update(field, UpdateResult.TEST)
    if stream is None or account_id is None:
        return Update(field, UpdateResult.UNKNOWN_PAGE)
    sender = id_in(object_in(item, "sender").get("id"))
    people = (sender, id_in(object_in(item, "recipient").get("id")))
    contact_id = next((person for person in people if person not in (account_id, None)), None)
    has_nobody = people == (None, None) and key in ("message", "message_edit", "read")
    envelope = Envelope(stream, account_id, sender, contact_id, occurred_at)
    events = (*_hints(key, detail, envelope), *facts_in(key, detail, envelope))
    if not events:
        return Update(field, UpdateResult.WITHOUT_SENDER if has_nobody else UpdateResult.IGNORED)
    return Update(field, UpdateResult.WITHOUT_SENDER if has_nobody else None, events)


def _hints(key: str, detail: Json, envelope: Envelope) -> Iterator[WebhookEvent]:
    """Yield the events that make a sweep read the update's message.

    A `message_edit` with `num_edit` 0 announces a message: it comes a second after the message, without its text.
    """
    message_id = id_in(detail.get("mid"))
    if message_id is None or is_unsent(key, detail):
        return
    if is_edit(key, detail) and (envelope.contact_id is None or not isinstance(detail.get("text"), str)):
        yield envelope.event(WebhookKind.REVISION, message_id, str(count_in(detail.get("num_edit"))))
    elif key in ("message", "postback") or (key == "message_edit" and not is_edit(key, detail)):
        yield envelope.event(WebhookKind.MESSAGE, message_id)


def _field(item: Json, key: str) -> str:
    if key == "message" and is_true(object_in(item, key).get("is_echo")):
        return ECHOES
    return _FIELDS.get(key, OTHER)


def _key(item: Json) -> str:
    """Return the key that identifies an update; "" if none is known."""
    return next((key for key in _FIELDS if key in item), "")


# --- verifying that a request comes from Meta -------------------------------------------------------------------------

SIGNATURE_HEADER = "X-Hub-Signature-256"
_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})")
# Meta's documentation shows an integer, but its own test with curl sends letters.
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{1,128}")
ALGORITHM = "HMAC-SHA256"


class SignedRequest(Struct, frozen=True):
    """What Meta says about a person who logged in to the app; `user_id` identifies the person in this app only."""

    algorithm: str
    user_id: str


def challenge_of(query: Mapping[str, str], verify_token: str) -> str | None:
    """Return the challenge to answer a handshake with; None if the verify token is wrong."""
    challenge, token = query.get("hub.challenge", ""), query.get("hub.verify_token", "")
    is_known = hmac.compare_digest(token.encode(errors="replace"), verify_token.encode())
    if is_known and verify_token and query.get("hub.mode") == "subscribe" and _CHALLENGE.fullmatch(challenge):
        return challenge
    return None


def signing_secret(body: bytes, signature: str, secrets: Iterable[str]) -> int | None:
    """Return the index of the secret that signed the received body; None if none did.

    Every secret is tried, so that the time does not reveal which one matches. An empty secret never matches.
    """
    found = _SIGNATURE.fullmatch(signature)
    matched = None
    for index, secret in enumerate(secrets):
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if secret and hmac.compare_digest(digest, found[1] if found else "") and matched is None:
            matched = index
    return matched


def signed_request_of(text: str, secrets: Iterable[str]) -> SignedRequest | None:
    """Return the content of a `signed_request`; None if no secret signed it (Meta, "Data Deletion Callback").

    The signature is over the encoded payload. Only HMAC-SHA256 is accepted.
    """
    signature, _, payload = text.partition(".")
    try:
        found, decoded = _decoded(signature), _decoded(payload)
    except ValueError:
        return None
    digests = [hmac.new(secret.encode(), payload.encode(), hashlib.sha256).digest() for secret in secrets if secret]
    is_signed = [hmac.compare_digest(digest, found) for digest in digests]
    if not any(is_signed):
        return None
    try:
        said = msgspec.json.decode(decoded, type=SignedRequest)
    except msgspec.MsgspecError:
        return None
    return said if said.algorithm.upper() == ALGORITHM else None


def _decoded(text: str) -> bytes:
    """Return the bytes of Base64 for URLs without padding. Raises ValueError."""
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
