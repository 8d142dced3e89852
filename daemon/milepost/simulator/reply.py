"""What goes out for a question: the honest answer, or what a fault makes of it."""

from typing import assert_never

import msgspec

from milepost.simulator import refusals
from milepost.simulator.conditions import Limit
from milepost.simulator.graph import GraphApi
from milepost.simulator.question import Question
from milepost.simulator.refusals import Refusal
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
from milepost.simulator.usage import Usage

_HTML = b'<html><body><h1 id="sorry">Sorry, something went wrong.</h1><p>We are working on it.</p></body></html>'


class Reply(msgspec.Struct, frozen=True):
    """Status and body; status 0 stands for a connection that is reset. `fault` names what struck, if anything did."""

    status: int
    body: bytes = b""
    fault: str | None = None
    content_type: str = "application/json"
    usage: Usage | None = None
    """None where nothing out of the ordinary is to be said of it."""
    odd_luck: int | None = None
    """By which luck the usage headers are odd, if they are."""
    retry_after_seconds: int | None = None


def reply_to(question: Question, api: GraphApi, strike: Strike) -> Reply:  # noqa: C901, PLR0912  a table of all the faults
    """The reply, with what strikes it; waiting is left to the server."""
    match strike.fault:
        case None:
            return _honest(question, api)
        case Hang() | EmptyBatch() | EqualCursors() | LoopingCursor():
            reply = _honest(question, api)
        case OddUsage():
            reply = msgspec.structs.replace(_honest(question, api), odd_luck=_odd_luck(strike))
        case TruncatedJson():
            reply = _honest(question, api)
            reply = msgspec.structs.replace(reply, body=reply.body[: len(reply.body) // 2])
        case EmptyBody():
            reply = Reply(200)
        case ServiceDown():
            reply = refused(question, refusals.service_down(strike.seed))
        case UnknownError():
            reply = refused(question, refusals.unknown_error(strike.seed))
        case ErrorInSuccess():
            reply = msgspec.structs.replace(refused(question, refusals.service_down(strike.seed)), status=200)
        case DeadCursor():
            plain = refusals.bad_parameter("Invalid parameter")
            reply = refused(question, plain if strike.seed % 2 else refusals.dead_cursor())
        case HtmlOutage():
            reply = Reply(502, _HTML, content_type="text/html")
        case RateLimited():
            reply = _briefly_limited(question, strike.seed)
        case ConnectionReset():
            reply = Reply(0)
        case _:
            assert_never(strike.fault)
    return msgspec.structs.replace(reply, fault=name_of(strike.fault))


def too_fast(question: Question, strike: Strike) -> Reply:
    """The reply to a call beyond the allowed pace."""
    return msgspec.structs.replace(_briefly_limited(question, strike.seed | 1), fault="pace")


def limited(question: Question, limit: Limit, strike: Strike) -> Reply:
    """The reply to a call while a limit is on."""
    if limit.code == 429:
        reply = Reply(429, _HTML if strike.seed % 2 else b"", content_type="text/html")
    else:
        reply = refused(question, refusals.limited(limit.code, question.platform))
    return msgspec.structs.replace(
        reply,
        fault="limit",
        usage=limit.usage(question.at),
        odd_luck=_odd_luck(strike),
        retry_after_seconds=limit.retry_after_seconds(question.at),
    )


def refused(question: Question, refusal: Refusal) -> Reply:
    """The reply that is an error."""
    return Reply(refusal.status, msgspec.json.encode(refusal.body(question.trace_id, question.seed)))


def _honest(question: Question, api: GraphApi) -> Reply:
    try:
        return Reply(200, msgspec.json.encode(api.answer(question)))
    except Refusal as refusal:
        return refused(question, refusal)


def _odd_luck(strike: Strike) -> int | None:
    return strike.seed >> 16 if isinstance(strike.fault, OddUsage) else None


def _briefly_limited(question: Question, seed: int) -> Reply:
    """One of the limits by luck: an odd one is the page's."""
    refusal = refusals.limited((613 if seed // 2 % 2 else 80006) if seed % 2 else 4, question.platform)
    usage = Usage(percent=100 + seed % 20, regain_minutes=seed // 4 % 2)
    return msgspec.structs.replace(refused(question, refusal), usage=usage)
