"""What must not leave this source: access tokens, and media URLs that are signed and die within days."""

import re
from typing import Any

REDACTED = "[redacted]"
SECRET_PARAMETER = re.compile(
    r"\b(access_token|input_token|fb_exchange_token|appsecret_proof|client_secret)([\"']?\s*[=:]\s*[\"']?)[^&\s\"'<>]+",
    re.IGNORECASE,
)
TOKEN = re.compile(r"\b(?:EAA|IGQ|IGAA)[A-Za-z0-9_-]{16,}")
URL = re.compile(r"https?://([^/\s?#]+)\S*", re.IGNORECASE)
EMAIL_ADDRESS = re.compile(r"[^\s@<>\"'(),:;]+(?:@|%40)[^\s@<>\"'(),:;]*", re.IGNORECASE)
# The hosts of media URLs in captured answers; lookaside.* is matched by its first label.
MEDIA_DOMAINS = ("fbcdn.net", "cdninstagram.com", "fbsbx.com")


def redact(text: str, access_token: str) -> str:
    """Take access tokens out of a text: the one that was used, and whatever looks like one."""
    if access_token:
        text = text.replace(access_token, REDACTED)
    return TOKEN.sub(REDACTED, SECRET_PARAMETER.sub(rf"\1\2{REDACTED}", text))


def impersonal(text: str, max_characters: int) -> str:
    """Cut a text, which must have been redacted, and take out of it what looks like an e-mail address."""
    return EMAIL_ADDRESS.sub(REDACTED, text[: 2 * max_characters])[:max_characters]


def unsigned(text: str) -> str:
    """Take the query, where the signature is, off the URLs of media hosts in a text."""
    return URL.sub(_without_signature, text) if "://" in text else text


def scrub(value: Any, access_token: str) -> Any:  # noqa: ANN401 -- JSON of any shape
    """Copy JSON without tokens, signatures and `paging`, whose URLs carry the token at every depth."""
    match value:
        case str():
            return redact(unsigned(value), access_token)
        case list():
            return [scrub(element, access_token) for element in value]
        case dict():
            return {
                redact(key, access_token): scrub(member, access_token)
                for key, member in value.items()
                if key != "paging"
            }
        case _:
            return value


def _without_signature(match: re.Match[str]) -> str:
    url, authority = match.group(0, 1)
    host = authority.rpartition("@")[2].partition(":")[0].lower().rstrip(".")
    is_media = host.startswith("lookaside.") or any(
        host == domain or host.endswith(f".{domain}") for domain in MEDIA_DOMAINS
    )
    return re.split(r"[?#]", url, maxsplit=1)[0] if is_media else url
