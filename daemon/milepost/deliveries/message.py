"""The request to a receiver: the body and headers of a Standard Webhooks message (standardwebhooks.com)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from milepost.core.changes import Change
from milepost.core.journal import instant_text

TYPE = "milepost.changes"
MAX_BODY_BYTES = 900_000  # nginx takes up to 1 MiB by default; a single change may be larger


class Message(msgspec.Struct, frozen=True):
    """A body, and the headers that sign it. Equal changes have an equal id, so that a receiver knows a repetition."""

    body: bytes
    headers: Mapping[str, str]


def fitting(changes: Sequence[Change]) -> Sequence[Change]:
    """Return as many of the changes, from the first on, as fit in a body; at least one."""
    left = MAX_BODY_BYTES
    for count, change in enumerate(changes):
        left -= len(msgspec.json.encode(change)) + 1
        if left < 0 and count > 0:
            return changes[:count]
    return changes


def message_of(sent_for: str, changes: Sequence[Change], secrets: Sequence[SecretStr], now: datetime) -> Message:
    """Return the message with these changes, signed with each of the secrets.

    Its id depends on the changes and on what they are `sent_for`: a destination, and which replay of it.
    """
    content = msgspec.json.encode(changes)
    message_id = f"msg_{sha256(sent_for.encode() + b' ' + content).hexdigest()[:32]}"
    data: dict[str, Any] = {"type": TYPE, "timestamp": instant_text(now), "data": {"changes": msgspec.Raw(content)}}
    body = msgspec.json.encode(data)
    signed = (Webhook(secret.get_secret_value()).sign(message_id, now, body.decode()) for secret in secrets)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signed),
    }
    return Message(body, headers)
