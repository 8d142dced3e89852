"""`/login` and `/logout`: sessions of the status page, where a token is required."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from milepost.service.api.endpoint import AnyOperation, Call, Nothing, Operation
from milepost.service.auth import COOKIE, MAX_SESSION_SECONDS, Sessions, came_over_tls
from milepost.service.limits import WrongTokens, client_of, too_many


class Credentials(Struct, frozen=True, forbid_unknown_fields=True):
    """The value of http.token."""

    token: Annotated[str, Meta(max_length=1000)]

    def __repr__(self) -> str:
        return "Credentials(…)"


def login(sessions: Sessions | None, wrong_tokens: WrongTokens, now: Callable[[], datetime]) -> Sequence[AnyOperation]:
    """Declare the operations that open and close a session. `sessions` is None if no token is required."""

    async def log_in(call: Call[Nothing, Credentials]) -> web.Response:
        if sessions is None:
            raise web.HTTPConflict(text="http.token is not set: there is nothing to log in to")
        if not sessions.is_token(call.body.token):
            if wait_seconds := wrong_tokens.count(client_of(call.request)):
                raise too_many("too many wrong tokens", wait_seconds)
            raise web.HTTPForbidden(text="wrong token: send the value of http.token")
        response = web.Response(status=204)
        response.set_cookie(
            COOKIE,
            sessions.open(now()),
            max_age=MAX_SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=came_over_tls(call.request),
        )
        return response

    async def log_out(call: Call[Nothing, Nothing]) -> web.Response:
        response = web.Response(status=204)
        response.del_cookie(COOKIE, httponly=True, samesite="Strict", secure=came_over_tls(call.request))
        return response

    return [
        Operation(
            "POST",
            "/login",
            "Open a session, kept in a cookie",
            parameters=Nothing,
            body=Credentials,
            response=None,
            handle=log_in,
            statuses=(204,),
            problems={403: "wrong token", 409: "no token is required"},
        ),
        Operation(
            "POST",
            "/logout",
            "Delete the session's cookie",
            parameters=Nothing,
            body=Nothing,
            response=None,
            handle=log_out,
            statuses=(204,),
        ),
    ]
