"""What shows that a request comes from Meta: the handshake's verify token, and signatures."""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

SIGNATURE_HEADER = "X-Hub-Signature-256"
_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})")
# Meta's documentation has an integer; its own test with curl sends letters.
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{1,128}")


ALGORITHM = "HMAC-SHA256"


class SignedRequest(Struct, frozen=True):
    """What Meta says of a person who logged in to the app; `user_id` means somebody in this app only."""

    algorithm: str
    user_id: str


def challenge_of(query: Mapping[str, str], verify_token: str) -> str | None:
    """Return the challenge to answer a handshake with; None if it does not know the verify token."""
    challenge, token = query.get("hub.challenge", ""), query.get("hub.verify_token", "")
    is_known = hmac.compare_digest(token.encode(errors="replace"), verify_token.encode())
    if is_known and verify_token and query.get("hub.mode") == "subscribe" and _CHALLENGE.fullmatch(challenge):
        return challenge
    return None


def signing_secret(body: bytes, signature: str, secrets: Iterable[str]) -> int | None:
    """Return the index of the secret that signed a body, as it was received; None if none did.

    Every secret is tried, so that the time does not tell which one is right. An empty one signs nothing.
    """
    found = _SIGNATURE.fullmatch(signature)
    matched = None
    for index, secret in enumerate(secrets):
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if secret and hmac.compare_digest(digest, found[1] if found else "") and matched is None:
            matched = index
    return matched


def signed_request_of(text: str, secrets: Iterable[str]) -> SignedRequest | None:
    """Return what a `signed_request` says; None if none of the secrets signed it (Meta, "Data Deletion Callback").

    What is signed is its payload as it is encoded. No other algorithm is accepted.
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
