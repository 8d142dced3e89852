"""The response to a request: the honest one, or what a fault makes of it."""

from collections.abc import Callable, Mapping

import msgspec

from milepost.simulator import refusals
from milepost.simulator.conditions import Limit, Usage
from milepost.simulator.faults import FaultKind, Strike
from milepost.simulator.graph import GraphApi
from milepost.simulator.refusals import HTML, Garbled, Refusal
from milepost.simulator.requests import ApiRequest


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


_REFUSALS: Mapping[FaultKind, Callable[[int], Refusal]] = {
    FaultKind.SERVICE_DOWN: refusals.service_down,
    FaultKind.ERROR_IN_SUCCESS: refusals.service_down,
    FaultKind.UNKNOWN_ERROR: refusals.unknown_error,
    FaultKind.DEAD_CURSOR: lambda drawn: (
        refusals.bad_parameter("Invalid parameter") if drawn % 2 else refusals.dead_cursor()
    ),
    FaultKind.HTML_OUTAGE: lambda _: refusals.spoilt("html"),
    FaultKind.EMPTY_BODY: lambda _: refusals.spoilt("empty"),
    FaultKind.RESET: lambda _: refusals.spoilt("reset"),
}
"""The faults that refuse a request, by what the strike leaves open."""


def respond(request: ApiRequest, api: GraphApi, strike: Strike) -> ApiResponse:
    """Return the response with its fault; waiting is left to the server."""
    fault = strike.fault
    if fault is FaultKind.RATE_LIMIT:
        response = _briefly_limited(request, strike.seed)
    elif fault is not None and fault in _REFUSALS:
        response = refused(request, _REFUSALS[fault](strike.seed))
    else:
        response = _honest(request, api)
    if fault is FaultKind.TRUNCATED:
        response = msgspec.structs.replace(response, body=response.body[: len(response.body) // 2])
    if fault is FaultKind.ERROR_IN_SUCCESS:
        response = msgspec.structs.replace(response, status=200)
    return msgspec.structs.replace(response, fault=fault and fault.value, odd_draw=_odd_draw(strike))


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
    return strike.seed >> 16 if strike.fault is FaultKind.ODD_USAGE else None


def _briefly_limited(request: ApiRequest, seed: int) -> ApiResponse:
    """Return one of the limits at random: an odd seed means a limit of the page."""
    refusal = refusals.limited((613 if seed // 2 % 2 else 80006) if seed % 2 else 4, request.platform)
    usage = Usage(percent=100 + seed % 20, regain_minutes=seed // 4 % 2)
    return msgspec.structs.replace(refused(request, refusal), usage=usage)
