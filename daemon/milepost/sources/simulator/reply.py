"""What goes out for a question: the honest answer, or what a fault makes of it."""

from typing import assert_never

import msgspec

from milepost.sources.simulator import refusals
from milepost.sources.simulator.faults import (
    ConnectionReset,
    EmptyBatch,
    EqualCursors,
    ErrorInSuccess,
    Hang,
    HtmlOutage,
    RateLimited,
    ServiceDown,
    Strike,
    TruncatedJson,
    UnknownError,
    name_of,
)
from milepost.sources.simulator.graph import GraphApi
from milepost.sources.simulator.question import Question
from milepost.sources.simulator.refusals import Refusal, Usage

_HTML = b'<html><body><h1 id="sorry">Sorry, something went wrong.</h1><p>We are working on it.</p></body></html>'


class Reply(msgspec.Struct, frozen=True):
    """Status and body; status 0 stands for a connection that is reset. `fault` names what struck, if anything did."""

    status: int
    body: bytes = b""
    fault: str | None = None
    content_type: str = "application/json"
    usage: Usage = Usage(percent=5)


def reply_to(question: Question, api: GraphApi, strike: Strike) -> Reply:
    """The reply, with what strikes it; waiting is left to the server."""
    match strike.fault:
        case None:
            return _honest(question, api)
        case Hang() | EmptyBatch() | EqualCursors():
            reply = _honest(question, api)
        case TruncatedJson():
            reply = _honest(question, api)
            reply = msgspec.structs.replace(reply, body=reply.body[: len(reply.body) // 2])
        case ServiceDown():
            reply = _refused(question, refusals.service_down())
        case UnknownError():
            reply = _refused(question, refusals.unknown_error())
        case ErrorInSuccess():
            reply = msgspec.structs.replace(_refused(question, refusals.service_down()), status=200)
        case HtmlOutage():
            reply = Reply(502, _HTML, content_type="text/html")
        case RateLimited():
            reply = _limited(question, strike.luck)
        case ConnectionReset():
            reply = Reply(0)
        case _:
            assert_never(strike.fault)
    return msgspec.structs.replace(reply, fault=name_of(strike.fault))


def too_fast(question: Question, strike: Strike) -> Reply:
    """The reply to a call beyond the allowed pace."""
    return msgspec.structs.replace(_limited(question, strike.luck | 1), fault="pace")


def _honest(question: Question, api: GraphApi) -> Reply:
    try:
        return Reply(200, msgspec.json.encode(api.answer(question)))
    except Refusal as refusal:
        return _refused(question, refusal)


def _refused(question: Question, refusal: Refusal) -> Reply:
    return Reply(refusal.status, msgspec.json.encode(refusal.body(question.trace_id)))


def _limited(question: Question, luck: int) -> Reply:
    """One of the limits by luck: an odd one is the page's."""
    refusal = refusals.page_limit(question.platform, luck // 2) if luck % 2 else refusals.app_limit()
    usage = Usage(percent=100 + luck % 20, regain_minutes=luck // 4 % 2)
    return msgspec.structs.replace(_refused(question, refusal), usage=usage)
