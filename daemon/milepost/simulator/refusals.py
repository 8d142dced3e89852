"""The error responses of the simulated Graph API."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from milepost.simulator import seeded

ErrorKind = Literal["OAuthException", "GraphMethodException"]


_MISSING_KEYS = (None, None, None, "type", "is_transient", "fbtrace_id")


class Refusal(Exception):
    """An error response: an HTTP status and the content of the `error` object."""

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        subcode: int | None = None,
        kind: ErrorKind = "OAuthException",
        is_transient: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.subcode = subcode
        self.kind = kind
        self.is_transient = is_transient

    def body(self, trace_id: str, drawn: int) -> dict[str, object]:
        """Return the envelope. As in the API, one of the keys that are not guaranteed is missing at random."""
        error = {
            "message": str(self),
            "type": self.kind,
            "code": self.code,
            "error_subcode": self.subcode,
            "is_transient": self.is_transient,
            "fbtrace_id": trace_id,
        }
        missing = seeded.pick(_MISSING_KEYS, drawn >> 24)
        return {"error": {key: value for key, value in error.items() if value is not None and key != missing}}


def invalid_token() -> Refusal:
    """The token is unknown."""
    return Refusal(400, 190, "Invalid OAuth access token - Cannot parse access token")


def dead_token(subcode: int) -> Refusal:
    """The token is no longer valid: 460 for a changed password, 463 for an expired one, and so on."""
    return Refusal(400, 190, "Error validating access token: it is no longer valid.", subcode=subcode)


def permission_missing(code: int) -> Refusal:
    """The token does not allow this: code 10 or one of 200 to 299."""
    return Refusal(403, code, f"(#{code}) This endpoint requires the 'pages_messaging' permission")


def no_token() -> Refusal:
    """The request has no token."""
    return Refusal(400, 104, "An access token is required to request this resource.")


def page_token_required() -> Refusal:
    """The token is valid, but not this page's."""
    return Refusal(400, 210, "(#210) A page access token is required to request this resource.")


def proof_missing() -> Refusal:
    """The app requires signed calls."""
    message = "API calls from the server require an appsecret_proof argument"
    return Refusal(400, 100, message, kind="GraphMethodException")


def proof_wrong() -> Refusal:
    """The signature does not match the token and the app secret."""
    message = "Invalid appsecret_proof provided in the API argument"
    return Refusal(400, 100, message, kind="GraphMethodException")


def object_missing(object_id: str) -> Refusal:
    """The object, or its edge, does not exist."""
    message = (
        f"Unsupported get request. Object with ID '{object_id}' does not exist, cannot be loaded due to missing "
        "permissions, or does not support this operation. Please read the Graph API documentation at "
        "https://developers.facebook.com/docs/graph-api"
    )
    return Refusal(400, 100, message, subcode=33, kind="GraphMethodException")


def bad_parameter(message: str) -> Refusal:
    """A parameter has an invalid value."""
    return Refusal(400, 100, f"(#100) {message}")


def bad_query(message: str) -> Refusal:
    """The path or the fields are malformed."""
    return Refusal(400, 2500, message)


def dead_cursor() -> Refusal:
    """The cursor is not valid for this list."""
    return Refusal(400, 2642, "(#2642) Invalid cursors values")


def service_down(drawn: int) -> Refusal:
    """An outage that the API admits, in a random language."""
    return Refusal(500, 2, seeded.pick(_SERVICE_DOWN, drawn >> 32), is_transient=True)


def unknown_error(drawn: int) -> Refusal:
    """An outage that the API does not admit, or a thread that it cannot return, in a random language."""
    return Refusal(500, 1, seeded.pick(_UNKNOWN_ERROR, drawn >> 32))


def too_heavy(drawn: int) -> Refusal:
    """More is requested than the API can gather: expressed in words or, at random, by the subcode."""
    if drawn % 2:
        return Refusal(500, 1, "An unknown error occurred", subcode=99)
    return Refusal(500, 1, "Please reduce the amount of data you're asking for, then retry your request")


class Garbled(Refusal):
    """A response that is not an error envelope: any status and bytes; status 0 stands for a connection that ends."""

    def __init__(self, status: int, raw: bytes, content_type: str) -> None:
        super().__init__(status, 0, "no envelope")
        self.raw = raw
        self.content_type = content_type


HTML = b'<html><body><h1 id="sorry">Sorry, something went wrong.</h1><p>We are working on it.</p></body></html>'
_GARBLED: Mapping[str, tuple[int, bytes, str]] = {
    "html": (502, HTML, "text/html"),
    "null": (200, b"null", "application/json"),
    "cut short": (200, b'{"data":[{"id":"t_1","updated_time":"2026-', "application/json"),
    "empty": (200, b"", "application/json"),
    "reset": (0, b"", "application/json"),
}
SPOILT_FORMS = ("2", "960", "100/2018001", "10", *_GARBLED)
"""Ways in which a thread was seen to spoil every list that holds it (reports of 2026-09), besides code 1."""


def spoilt(form: str) -> Refusal:
    """The response to a request for a thread that fails in one of SPOILT_FORMS, each time the same."""
    if form in _GARBLED:
        return Garbled(*_GARBLED[form])
    if form == "10":
        return permission_missing(10)
    code, _, subcode = form.partition("/")
    return broken(int(code), int(subcode) if subcode else None, True if code == "2" else None)


def broken(code: int, subcode: int | None, is_transient: bool | None) -> Refusal:
    """The error of every request of a broken page: any code, with the API's message for it."""
    message = _BROKEN.get((code, subcode)) or _BROKEN.get((code, None), f"(#{code}) Something unheard of went wrong")
    return Refusal(500 if code in (1, 2) else 400, code, message, subcode=subcode, is_transient=is_transient)


_SERVICE_DOWN = (
    "An unexpected error has occurred. Please retry your request later.",
    "Ein unerwarteter Fehler ist aufgetreten. Bitte versuche es später noch einmal.",
)
_UNKNOWN_ERROR = ("An unknown error has occurred.", "Ein unbekannter Fehler ist aufgetreten.")

_BROKEN: Mapping[tuple[int, int | None], str] = {
    (1, None): _UNKNOWN_ERROR[0],
    (2, None): _SERVICE_DOWN[0],
    (3, None): "(#3) Application does not have the capability to make this API call.",
    (12, None): "(#12) This endpoint is deprecated for this version",
    (100, None): "(#100) Invalid parameter",
    (100, 33): "Unsupported get request. The object does not exist or cannot be loaded due to missing permissions",
    (102, None): "Session key invalid or no longer valid",
    (104, None): "Incorrect signature",
    (2500, None): "An active access token must be used to query information about the current user.",
    (2635, None): "(#2635) You are calling a deprecated version of the API. Please update to the latest version.",
}


class _Limit(msgspec.Struct, frozen=True):
    status: int
    message: str
    subcode: int | None = None
    is_transient: bool | None = None


_TOO_MANY = "There have been too many calls to this account. Wait a bit and try again."

LIMITS: Mapping[int, _Limit] = {
    4: _Limit(403, "Application request limit reached", is_transient=True),
    17: _Limit(400, "User request limit reached", subcode=2446079, is_transient=False),
    32: _Limit(403, "Page request limit reached", is_transient=False),
    341: _Limit(400, "Feed action request limit reached", is_transient=True),
    368: _Limit(400, "The action attempted has been deemed abusive or is otherwise disallowed", is_transient=False),
    613: _Limit(400, "Calls to this api have exceeded the rate limit."),
    **{code: _Limit(400, _TOO_MANY, is_transient=False) for code in (*range(80000, 80010), 80014)},
    80001: _Limit(400, _TOO_MANY),
    429: _Limit(429, "no envelope but HTML, or nothing"),
}
"""The rate limits by code; 429 stands for the HTTP status, which comes without one. Code 4 is the app's."""


def limited(code: int, platform: str) -> Refusal:
    """Too many calls. Messenger's own code 80006 is 80002 on Instagram."""
    if code in (80002, 80006):
        code = 80002 if platform == "instagram" else 80006
    limit = LIMITS[code]
    message = f"(#{code}) {limit.message}"
    return Refusal(limit.status, code, message, subcode=limit.subcode, is_transient=limit.is_transient)
