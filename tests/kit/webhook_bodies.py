"""Webhooks as Meta sends them: a body with messages, and its signature."""

import hashlib
import hmac
import json

from kit.builders import STREAM

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
