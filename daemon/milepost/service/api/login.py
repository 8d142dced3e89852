"""`/login` and `/logout`: the status page's way in, where a token is asked for."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from milepost.service.allowance import client_of, too_many
from milepost.service.api.endpoint import AnyOperation, Call, Nothing, Operation
from milepost.service.sessions import COOKIE, MAX_SECONDS, Sessions
from milepost.service.wrong_tokens import WrongTokens


class Credentials(Struct, frozen=True, forbid_unknown_fields=True):
    """What lets somebody in: the value of http.token."""

    token: Annotated[str, Meta(max_length=1000)]

    def __repr__(self) -> str:
        return "Credentials(…)"


def login(sessions: Sessions | None, wrong_tokens: WrongTokens, now: Callable[[], datetime]) -> Sequence[AnyOperation]:
    """Declare how one logs in and out. `sessions` is None where no token is asked for."""

    async def log_in(call: Call[Nothing, Credentials]) -> web.Response:
        if sessions is None:
            raise web.HTTPConflict(text="http.token is not set: nobody need log in")
        if not sessions.is_token(call.body.token):
            if wait_seconds := wrong_tokens.count(client_of(call.request)):
                raise too_many("too many wrong tokens", wait_seconds)
            raise web.HTTPForbidden(text="this is not the token: it is the value of http.token")
        response = web.Response(status=204)
        response.set_cookie(COOKIE, sessions.open(now()), max_age=MAX_SECONDS, httponly=True, samesite="Strict")
        return response

    async def log_out(_: Call[Nothing, Nothing]) -> web.Response:
        response = web.Response(status=204)
        response.del_cookie(COOKIE, httponly=True, samesite="Strict")
        return response

    return [
        Operation(
            "POST",
            "/login",
            "Open a session, which a cookie stands for",
            asked=Nothing,
            body=Credentials,
            answer=None,
            handle=log_in,
            statuses=(204,),
            problems={403: "it is not the token", 409: "no token is asked for"},
        ),
        Operation(
            "POST",
            "/logout",
            "Forget the cookie",
            asked=Nothing,
            body=Nothing,
            answer=None,
            handle=log_out,
            statuses=(204,),
        ),
    ]
