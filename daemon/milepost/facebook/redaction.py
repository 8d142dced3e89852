"""What must not leave this package: access tokens, and media URLs that are signed and expire within days."""

import html
import json
import re
from typing import Any
from urllib.parse import quote

REDACTED = "[redacted]"
MIN_TOKEN_CHARACTERS = 12  # real ones have 100 and more; a short text would be found in keys and ids, too
BEGINNING_BYTES = 4  # so that those of many apps are few, and one is hardly ever found by chance
SECRET_PARAMETER = re.compile(
    r"\b(access_token|input_token|fb_exchange_token|appsecret_proof|client_secret)([\"']?\s*[=:]\s*[\"']?)[^&\s\"'<>]+",
    re.IGNORECASE,
)
TOKEN = re.compile(r"\b(?:EAA|IGQ|IGAA)[A-Za-z0-9_-]{16,}")
URL = re.compile(r"https?://([^/\s?#]+)\S*", re.IGNORECASE)
EMAIL_ADDRESS = re.compile(r"[^\s@<>\"'(),:;]+(?:@|%40)[^\s@<>\"'(),:;]*", re.IGNORECASE)
# The hosts of media URLs in captured responses; lookaside.* is matched by its first label.
MEDIA_DOMAINS = ("fbcdn.net", "cdninstagram.com", "fbsbx.com")


def without_token(body: bytes, access_token: str) -> bytes:
    """Return a response body without the token of its request, in any spelling of JSON, URLs and HTML."""
    if len(access_token) < MIN_TOKEN_CHARACTERS:
        return body
    for spelling in _spellings(access_token):
        body = body.replace(spelling, REDACTED.encode())
    return body


def _spellings(secret: str) -> set[bytes]:
    if secret.isascii() and secret.isalnum():  # as most are: nothing in it is ever escaped
        return {secret.encode()}
    in_json = json.dumps(secret)[1:-1]
    in_php = in_json.replace("/", "\\/")  # the Graph API is written in PHP, whose json_encode escapes slashes
    spellings = {secret, in_json, in_php, quote(secret, safe=""), html.escape(secret)}
    return {spelling.encode() for spelling in spellings}


class KnownTokens:
    """Our own secrets, which must not be stored even if somebody wrote one into a message."""

    def __init__(self) -> None:
        self._by_beginning: dict[bytes, dict[int, set[bytes]]] = {}  # by their first bytes, then by length

    def learn(self, secret: str) -> None:
        """Redact this secret as well from now on; earlier ones are still redacted after a rotation."""
        if len(secret) >= MIN_TOKEN_CHARACTERS:
            for spelling in _spellings(secret):
                beginning = self._by_beginning.setdefault(spelling[:BEGINNING_BYTES], {})
                beginning.setdefault(len(spelling), set()).add(spelling)

    def without(self, body: bytes) -> bytes:
        """Return a response body without the secrets. Their number and its text hardly affect the time it takes.

        A large body is cleaned in a thread, while another secret may be learned.
        """
        for beginning, spellings in self._by_beginning.copy().items():
            if beginning in body:  # hardly ever: an app's tokens begin alike, and other texts do not begin so
                body = _redacted(body, beginning, spellings)
        return body


def _redacted(body: bytes, beginning: bytes, spellings: dict[int, set[bytes]]) -> bytes:
    lengths = sorted(spellings, reverse=True)
    pieces, kept_until = [], 0
    at = body.find(beginning)
    while at >= 0:
        end = next((at + length for length in lengths if body[at : at + length] in spellings[length]), None)
        if end is not None:
            pieces += [body[kept_until:at], REDACTED.encode()]
            kept_until = end
        at = body.find(beginning, end or at + 1)
    return b"".join([*pieces, body[kept_until:]])


def redact(text: str) -> str:
    """Return a text without anything that looks like an access token or a signature."""
    return TOKEN.sub(REDACTED, SECRET_PARAMETER.sub(rf"\1\2{REDACTED}", text))


def impersonal(text: str, max_characters: int) -> str:
    """Return the beginning of a redacted text, without anything that looks like an e-mail address."""
    return EMAIL_ADDRESS.sub(REDACTED, text[: 2 * max_characters])[:max_characters]


def unsigned(text: str) -> str:
    """Return a text with the queries, which hold the signatures, removed from its media URLs."""
    return URL.sub(_without_signature, text) if "://" in text else text


def scrub(value: Any) -> Any:  # noqa: ANN401 -- JSON of any shape
    """Return a copy of JSON without tokens, signatures and `paging`, whose URLs carry the token at every depth."""
    match value:
        case str():
            return redact(unsigned(value))
        case list():
            return [scrub(element) for element in value]
        case dict():
            return {redact(key): scrub(member) for key, member in value.items() if key != "paging"}
        case _:
            return value


def _without_signature(match: re.Match[str]) -> str:
    url, authority = match.group(0, 1)
    host = authority.rpartition("@")[2].partition(":")[0].lower().rstrip(".")
    is_media = host.startswith("lookaside.") or any(
        host == domain or host.endswith(f".{domain}") for domain in MEDIA_DOMAINS
    )
    return re.split(r"[?#]", url, maxsplit=1)[0] if is_media else url
