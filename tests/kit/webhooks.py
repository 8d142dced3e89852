"""Webhooks as Meta sends them, with their signature, and an inbox that refuses every call."""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from kit.builders import STREAM
from milepost.core.model import Stream
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.facebook.webhooks import UnknownAccount

SECRET = "app-secret"


def body_of(*message_ids: str, page_id: str = STREAM.page_id) -> bytes:
    """Return a delivery of these messages to a page."""
    messages = [
        {"sender": {"id": "9001"}, "timestamp": 1790000000123, "message": {"mid": message_id}}
        for message_id in message_ids
    ]
    return json.dumps({"object": "page", "entry": [{"id": page_id, "messaging": messages}]}).encode()


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    """Return the header with the signature of a body."""
    return {"X-Hub-Signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"}


async def found_nowhere(account: UnknownAccount) -> bool:
    """Return False: no stream has the account."""
    return account is None


class NoInbox:
    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        raise NotImplementedError(events, now)

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        raise NotImplementedError(now)

    async def announced(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        raise NotImplementedError(message_ids)

    async def instagram_stream(self, message_ids: tuple[str, ...], contact_ids: tuple[str, ...]) -> Stream | None:
        raise NotImplementedError(message_ids, contact_ids)

    async def streams_with_facts(self) -> tuple[Stream, ...]:
        return ()

    async def trim(self, received_before: datetime, max_events: int) -> Counter[WebhookKind]:
        raise NotImplementedError(received_before, max_events)
