"""The response to a request: the honest one, or what a fault makes of it."""

from typing import assert_never

import msgspec

from milepost.simulator import refusals
from milepost.simulator.conditions import Limit, Usage
from milepost.simulator.graph import GraphApi
from milepost.simulator.refusals import HTML, Garbled, Refusal
from milepost.simulator.requests import ApiRequest
from milepost.simulator.strikes import (
    ConnectionReset,
    DeadCursor,
    EmptyBatch,
    EmptyBody,
    EqualCursors,
    ErrorInSuccess,
    Hang,
    HtmlOutage,
    LoopingCursor,
    OddUsage,
    RateLimited,
    ServiceDown,
    Strike,
    TruncatedJson,
    UnknownError,
    name_of,
)


class ApiResponse(msgspec.Struct, frozen=True):
    """Status and body; status 0 stands for a reset connection. `fault` names the fault that struck, if any."""

    status: int
    body: bytes = b""
    fault: str | None = None
    content_type: str = "application/json"
    usage: Usage | None = None
    """None for the server's usual headers."""
    odd_draw: int | None = None
    """The random draw that makes the usage headers odd, if they are."""
    retry_after_seconds: int | None = None


def respond(request: ApiRequest, api: GraphApi, strike: Strike) -> ApiResponse:  # noqa: C901, PLR0912  a table of all the faults
    """Return the response with its fault; waiting is left to the server."""
    match strike.fault:
        case None:
            return _honest(request, api)
        case Hang() | EmptyBatch() | EqualCursors() | LoopingCursor():
            response = _honest(request, api)
        case OddUsage():
            response = msgspec.structs.replace(_honest(request, api), odd_draw=_odd_draw(strike))
        case TruncatedJson():
            response = _honest(request, api)
            response = msgspec.structs.replace(response, body=response.body[: len(response.body) // 2])
        case EmptyBody():
            response = ApiResponse(200)
        case ServiceDown():
            response = refused(request, refusals.service_down(strike.seed))
        case UnknownError():
            response = refused(request, refusals.unknown_error(strike.seed))
        case ErrorInSuccess():
            response = msgspec.structs.replace(refused(request, refusals.service_down(strike.seed)), status=200)
        case DeadCursor():
            plain = refusals.bad_parameter("Invalid parameter")
            response = refused(request, plain if strike.seed % 2 else refusals.dead_cursor())
        case HtmlOutage():
            response = ApiResponse(502, HTML, content_type="text/html")
        case RateLimited():
            response = _briefly_limited(request, strike.seed)
        case ConnectionReset():
            response = ApiResponse(0)
        case _:
            assert_never(strike.fault)
    return msgspec.structs.replace(response, fault=name_of(strike.fault))


def too_fast(request: ApiRequest, strike: Strike) -> ApiResponse:
    """Return the response to a call beyond the allowed pace."""
    return msgspec.structs.replace(_briefly_limited(request, strike.seed | 1), fault="pace")


def limited(request: ApiRequest, limit: Limit, strike: Strike) -> ApiResponse:
    """Return the response to a call during a limit."""
    if limit.code == 429:
        response = ApiResponse(429, HTML if strike.seed % 2 else b"", content_type="text/html")
    else:
        response = refused(request, refusals.limited(limit.code, request.platform))
    return msgspec.structs.replace(
        response,
        fault="limit",
        usage=limit.usage(request.at),
        odd_draw=_odd_draw(strike),
        retry_after_seconds=limit.retry_after_seconds(request.at),
    )


def refused(request: ApiRequest, refusal: Refusal) -> ApiResponse:
    """Return an error response."""
    if isinstance(refusal, Garbled):
        return ApiResponse(refusal.status, refusal.raw, content_type=refusal.content_type)
    return ApiResponse(refusal.status, msgspec.json.encode(refusal.body(request.trace_id, request.seed)))


def _honest(request: ApiRequest, api: GraphApi) -> ApiResponse:
    try:
        return ApiResponse(200, msgspec.json.encode(api.respond(request)))
    except Refusal as refusal:
        return refused(request, refusal)


def _odd_draw(strike: Strike) -> int | None:
    return strike.seed >> 16 if isinstance(strike.fault, OddUsage) else None


def _briefly_limited(request: ApiRequest, seed: int) -> ApiResponse:
    """Return one of the limits at random: an odd seed means a limit of the page."""
    refusal = refusals.limited((613 if seed // 2 % 2 else 80006) if seed % 2 else 4, request.platform)
    usage = Usage(percent=100 + seed % 20, regain_minutes=seed // 4 % 2)
    return msgspec.structs.replace(refused(request, refusal), usage=usage)
