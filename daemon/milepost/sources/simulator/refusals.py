"""The error answers of the simulated Graph API, and the usage headers that come with every answer."""

from collections.abc import Mapping
from typing import Literal

import msgspec

ErrorKind = Literal["OAuthException", "GraphMethodException"]


class Refusal(Exception):
    """A question that is answered with an error: an HTTP status and what goes into the `error` object."""

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        subcode: int | None = None,
        kind: ErrorKind = "OAuthException",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.subcode = subcode
        self.kind = kind

    def body(self, trace_id: str) -> dict[str, object]:
        """The envelope. What the API leaves out where it does not apply is left out."""
        error: dict[str, object] = {"message": str(self), "type": self.kind, "code": self.code}
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.code in (2, 4):
            error["is_transient"] = True
        return {"error": {**error, "fbtrace_id": trace_id}}


def invalid_token() -> Refusal:
    """The token is nobody's."""
    return Refusal(400, 190, "Invalid OAuth access token - Cannot parse access token")


def no_token() -> Refusal:
    """There is no token in the request."""
    return Refusal(400, 104, "An access token is required to request this resource.")


def page_token_required() -> Refusal:
    """The token is somebody's, but not this page's."""
    return Refusal(400, 210, "(#210) A page access token is required to request this resource.")


def proof_missing() -> Refusal:
    """The app demands that calls be signed."""
    message = "API calls from the server require an appsecret_proof argument"
    return Refusal(400, 100, message, kind="GraphMethodException")


def proof_wrong() -> Refusal:
    """The signature is not this token's with this app's secret."""
    message = "Invalid appsecret_proof provided in the API argument"
    return Refusal(400, 100, message, kind="GraphMethodException")


def object_missing(object_id: str) -> Refusal:
    """There is no such thing, or it has no such edge."""
    message = (
        f"Unsupported get request. Object with ID '{object_id}' does not exist, cannot be loaded due to missing "
        "permissions, or does not support this operation. Please read the Graph API documentation at "
        "https://developers.facebook.com/docs/graph-api"
    )
    return Refusal(400, 100, message, subcode=33, kind="GraphMethodException")


def bad_parameter(message: str) -> Refusal:
    """A parameter has a value that cannot be."""
    return Refusal(400, 100, f"(#100) {message}")


def bad_query(message: str) -> Refusal:
    """The path or the fields cannot be read."""
    return Refusal(400, 2500, message)


def dead_cursor() -> Refusal:
    """The cursor is none of this list's."""
    return Refusal(400, 2642, "(#2642) Invalid cursors values")


def service_down() -> Refusal:
    """An outage, as the API admits it."""
    return Refusal(500, 2, "An unexpected error has occurred. Please retry your request later.")


def unknown_error() -> Refusal:
    """An outage, as the API does not."""
    return Refusal(500, 1, "An unknown error has occurred.")


def app_limit() -> Refusal:
    """The app has made too many calls, for all pages together."""
    return Refusal(403, 4, "(#4) Application request limit reached")


def page_limit(platform: str, luck: int) -> Refusal:
    """Too many calls for one page: by the general code or, if luck will have it, the messaging one."""
    if luck % 2:
        return Refusal(400, 613, "(#613) Calls to this api have exceeded the rate limit.")
    code = 80006 if platform == "messenger" else 80002
    return Refusal(400, code, f"(#{code}) There have been too many calls to this account. Wait a bit and try again.")


class Usage(msgspec.Struct, frozen=True):
    """How much of its limits a page has used, in percent, and in how many minutes it may call again."""

    percent: int
    regain_minutes: int = 0

    def headers(self, page_id: str, platform: str) -> Mapping[str, str]:
        """The three usage headers, JSON in strings."""
        spent = {"call_count": self.percent, "total_cputime": self.percent // 2, "total_time": self.percent * 2 // 3}
        regain = {"type": platform, **spent, "estimated_time_to_regain_access": self.regain_minutes}
        app = {**spent, "call_count": self.percent // 2}
        headers = {"X-App-Usage": app, "X-Page-Usage": spent, "X-Business-Use-Case-Usage": {page_id: [regain]}}
        return {name: msgspec.json.encode(value).decode() for name, value in headers.items()}
