"""Responses that are no batch, as problems: error envelopes, and what the Graph API never sends."""

import html
import re
from typing import Any

from milepost.core.problems import MAX_MESSAGE_CHARACTERS, Problem, ProblemKind
from milepost.core.texts import visible
from milepost.facebook.leniency import read_json
from milepost.facebook.redaction import impersonal, redact

MAX_REDACTED_CHARACTERS = 64 * MAX_MESSAGE_CHARACTERS  # of a message, which may have millions
MAX_EXCERPT_CHARACTERS = 200
MAX_EXCERPT_BYTES = 4096
MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.IGNORECASE | re.DOTALL)
UNREADABLE = re.compile(r"[\x00\ufffd]+")  # a page in another encoding, or none


def problem_of(body: bytes, http_status: int) -> Problem:
    """Return the problem of a response that held no usable data."""
    try:
        value = read_json(body)
    except ValueError:
        return _not_json(body, http_status)
    if isinstance(value, dict) and value.get("error") is not None:
        return problem_of_error(value["error"], http_status)
    return invalid_response("the response is JSON but neither a batch nor an error", http_status)


def problem_of_error(error: Any, http_status: int) -> Problem:  # noqa: ANN401 -- JSON of any shape
    """Return the problem that an error envelope describes. Real ones lack fields, and have numbers as strings."""
    fields = error if isinstance(error, dict) else {"message": error}
    messages = (fields.get(name) for name in ("message", "error_user_msg", "error_user_title", "type"))
    message = next((each for each in messages if isinstance(each, str) and each.strip()), "an error without a message")
    return Problem(
        ProblemKind.API,
        visible(impersonal(redact(message[:MAX_REDACTED_CHARACTERS]), MAX_MESSAGE_CHARACTERS))[:MAX_MESSAGE_CHARACTERS],
        http_status=http_status,
        code=_number(fields.get("code")),
        subcode=_number(fields.get("error_subcode")),
        is_transient=_flag(fields.get("is_transient")),
    )


def invalid_response(message: str, http_status: int) -> Problem:
    """Return the problem of a response that cannot be interpreted. The message must quote only what was redacted."""
    return Problem(ProblemKind.INVALID_RESPONSE, message[:MAX_MESSAGE_CHARACTERS], http_status=http_status)


def is_gone(problem: Problem) -> bool:
    """Return whether the requested object no longer exists (captured: code 100 with subcode 33)."""
    return (problem.code, problem.subcode) == (100, 33)


def _not_json(body: bytes, http_status: int) -> Problem:
    if not body.strip():
        return invalid_response("the response is empty", http_status)
    if body.lstrip()[:1] in (b"{", b"["):
        return invalid_response("the response is JSON cut short, malformed or nested too deeply", http_status)
    if body.lstrip()[:1] != b"<":
        return invalid_response("the response is not JSON", http_status)  # quoting it might quote a conversation
    text = html.unescape(MARKUP.sub(" ", body[:MAX_EXCERPT_BYTES].decode(errors="replace")))
    excerpt = impersonal(redact(visible(UNREADABLE.sub(" ", text))), MAX_EXCERPT_CHARACTERS)
    return invalid_response(f"the response is not JSON: {excerpt}", http_status)


def _number(value: object) -> int | None:
    match value:
        case bool():
            return None
        case int() if abs(value) < 2**63:
            return value
        case str() if value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
        case _:
            return None


def _flag(value: object) -> bool | None:
    match value:
        case bool():
            return value
        case "true" | "false":
            return value == "true"
        case _:
            return None
