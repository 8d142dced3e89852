"""The simulator as an HTTP server: `GraphApi` with faults, rate limits, headers and a record of the traffic."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from milepost.core.errors import MilepostError
from milepost.simulator import refusals
from milepost.simulator.conditions import Conditions, Hold, Limit, Pace, Usage, WaitHint, drawn_limit
from milepost.simulator.control import Control, SeenRequest, Traffic
from milepost.simulator.faults import CALM, FaultKind, FaultPlan, Strike
from milepost.simulator.graph import GraphApi
from milepost.simulator.plan import SimulatedPage, WorldPlan
from milepost.simulator.refusals import HTML, Garbled, Refusal
from milepost.simulator.requests import ApiRequest
from milepost.simulator.webhooks import NO_FAULTS, WebhookFaults, WebhookSender
from milepost.simulator.world import World

_SHUTDOWN_SECONDS = 0.1
_OTHER_PORT = "choose another port, or port 0 for any that is free"
_OTHER_HOST = "choose an address of this machine, such as 127.0.0.1"


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


class SimulatorServer:
    """Serves a simulated world while its context lasts.

    `clock` is the world's time, which may stand still or run differently; latencies and the pace are in real time.
    With an `app_secret`, requests must carry a valid `appsecret_proof`. Port 0 takes a free one; see `base_url`.

    Raises:
        MilepostError: on entering, if the address cannot be bound.
    """

    def __init__(
        self,
        plan: WorldPlan,
        *,
        clock: Callable[[], datetime],
        faults: FaultPlan = CALM,
        host: str = "127.0.0.1",
        port: int = 0,
        app_secret: str = "",
    ) -> None:
        self.world = World(plan, faults)
        self.requests = Traffic()
        self.faults = faults
        self.host = host
        self.port = port
        self._clock = clock
        self._api = GraphApi(self.world, app_secret, faults)
        self._conditions = Conditions()
        self._hold = Hold()
        self._usage_percent = faults.usage_percent
        self._pace = Pace(faults.max_calls_per_second)
        self._runner: web.AppRunner | None = None
        self.webhooks: WebhookSender | None = None
        self._sending: asyncio.Task[None] | None = None

    @property
    def pages(self) -> tuple[SimulatedPage, ...]:
        """The world's pages, with their tokens."""
        return self.world.pages

    @property
    def base_url(self) -> str:
        """The URL to use in place of https://graph.facebook.com."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def held(self) -> int:
        """The number of requests that wait for `release`."""
        return self._hold.waiting

    async def __aenter__(self) -> Self:
        application = web.Application()
        actions = (
            *(self.limit, self.lift, self.break_page, self.mend_page, self.hold, self.release, self.usage, self.calm),
            *(self.hold_webhooks, self.release_webhooks),
        )
        Control(self.world, self.requests, self._hold, actions, self._clock).add_to(application.router)
        application.router.add_get("/{path:.*}", self._serve)
        application.router.add_post("/{path:.*}/subscribed_apps", self._serve)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except (OSError, UnicodeError) as problem:  # UnicodeError: the host cannot be a DNS name
            await runner.cleanup()
            code = None if isinstance(problem, UnicodeError | socket.gaierror) else problem.errno
            reason = os.strerror(code).lower() if code else "the host has no address"
            raise MilepostError(
                f"the simulator cannot listen on {self.host}:{self.port}: {reason}",
                hint=_OTHER_PORT if code in {errno.EADDRINUSE, errno.EACCES} else _OTHER_HOST,
            ) from problem
        self.port = runner.addresses[0][1]
        self._runner = runner
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        if self._runner is not None:
            await self._runner.cleanup()

    def limit(self, code: int, seconds: float, page_id: str | None = None, told: WaitHint = WaitHint.USAGE) -> None:
        """Begin a rate limit of this length by the world's clock; `told` is where responses state the length.

        Code 4 is for the whole app and takes no page; every other code of `refusals.LIMITS` is for a page.

        Raises:
            ValueError: no such limit exists.
            KeyError: no such page exists.
        """
        page_id = page_id and self.world.access.page(page_id).id
        until = self._clock() + timedelta(seconds=seconds)
        self._conditions.begin(Limit(code=code, until=until, page_id=page_id, hint=told))

    def lift(self, page_id: str | None = None) -> None:
        """End the limits of a page, or of the app, early."""
        self._conditions.lift(page_id)

    def break_page(
        self, page_id: str, code: int = 2, subcode: int | None = None, is_transient: bool | None = None
    ) -> None:
        """Make every request of a page fail with this error until `mend_page`.

        Raises:
            KeyError: no such page exists.
        """
        refusal = refusals.broken(code, subcode, is_transient)
        self._conditions.broken[self.world.access.page(page_id).id] = refusal

    def mend_page(self, page_id: str) -> None:
        """Undo `break_page`."""
        self._conditions.broken.pop(page_id, None)

    def hold(self, after: int = 0) -> None:
        """Hold every response until `release`, except for the first `after` requests of each stream.

        Requests are counted as for faults: from the simulator's start, threads apart from lists. A client may time out
        while it is held.
        """
        self._hold.begin(after)

    def release(self) -> None:
        """Respond to the held requests, and to all later ones."""
        self._hold.end()

    def usage(self, percent: float) -> None:
        """Report this usage of each limit in the headers of every response from now on."""
        self._usage_percent = percent

    def calm(self) -> None:
        """Turn random faults off; rules, limits and manual changes remain."""
        self.faults = msgspec.structs.replace(self.faults, faults=())

    def send_webhooks(self, url: str, secret: str, faults: WebhookFaults = NO_FAULTS) -> WebhookSender:
        """Send webhooks about everything from now on to a URL, signed with the secret, as long as the server runs."""
        if self._sending is not None:
            self._sending.cancel()
        self.webhooks = WebhookSender(self.world, url, secret, clock=self._clock, faults=faults)
        self._sending = asyncio.create_task(self.webhooks.run(), name="webhooks of the simulator")
        return self.webhooks

    def hold_webhooks(self) -> None:
        """Collect webhooks, as during an outage, until `release_webhooks`.

        Raises:
            ValueError: none are sent.
        """
        self._demand_webhooks().is_held = True

    def release_webhooks(self) -> None:
        """Send all collected webhooks at once, and go on sending.

        Raises:
            ValueError: none are sent.
        """
        self._demand_webhooks().is_held = False

    def _demand_webhooks(self) -> WebhookSender:
        if self.webhooks is None:
            raise ValueError("no webhooks are sent: start the simulator with --webhooks")
        return self.webhooks

    async def _serve(self, http: web.Request) -> web.Response:
        now_seconds = asyncio.get_running_loop().time
        received = _api_request(http, self._clock())
        page_id, stream = self._api.counted_with(received)
        if page_id is not None:
            self.requests.arrive(page_id, now_seconds())
        during_limit = self._conditions.ignored_by(page_id, received.at, now_seconds(), self.faults.prolong_seconds)
        number = self.requests.next_number(stream)
        strike = self.faults.strike(stream, number, has_cursor="after" in received.query)
        await asyncio.sleep(strike.wait_seconds)
        await self._hold.passed(number)
        request = msgspec.structs.replace(received, at=self._clock(), fault=strike.fault, seed=strike.seed)
        response = self._outcome(request, page_id, strike, now_seconds())
        self.requests.note(_seen(received, page_id, number, response, during_limit=during_limit))
        if response.status == 0 and http.transport is not None:
            http.transport.abort()
        return self._response(request, response, page_id)

    def _outcome(self, request: ApiRequest, page_id: str | None, strike: Strike, now_seconds: float) -> ApiResponse:
        limit = self._conditions.limit_on(page_id, request.at)
        if limit is None and strike.limit_seconds:
            limit = drawn_limit(page_id, request.at, strike.limit_seconds, strike.seed)
            self._conditions.begin(limit)
        if limit is not None:
            limit.announce(now_seconds)
            return _limited(request, limit, strike)
        if page_id is not None and not self._pace.allows(page_id, now_seconds):
            self.requests.too_fast[page_id] += 1
            return _too_fast(request, strike)
        if (refusal := self._conditions.broken.get(page_id or "")) is not None:
            return msgspec.structs.replace(_refused(request, refusal), fault="broken")
        return _respond(request, self._api, strike)

    def _response(self, request: ApiRequest, response: ApiResponse, page_id: str | None) -> web.Response:
        usage = response.usage or Usage(self._usage_percent)
        headers = {
            "Date": format_datetime(request.at.astimezone(UTC), usegmt=True),
            **usage.headers(page_id or request.owner, request.platform, response.odd_draw),
        }
        if response.retry_after_seconds is not None:
            headers["Retry-After"] = str(response.retry_after_seconds)
        if request.is_versioned:
            headers["facebook-api-version"] = request.version
        return web.Response(
            status=response.status or 500,
            body=response.body,
            headers=headers,
            content_type=response.content_type,
            charset="utf-8",
        )


def _api_request(http: web.Request, at: datetime) -> ApiRequest:
    scheme, _, bearer = http.headers.get("Authorization", "").partition(" ")
    return ApiRequest(
        origin=f"{http.scheme}://{http.host}",
        path=http.path,
        query=dict(http.query),
        token=bearer if scheme.lower() == "bearer" else http.query.get("access_token"),
        at=at,
        is_post=http.method == "POST",
    )


def _seen(
    request: ApiRequest, page_id: str | None, number: int, response: ApiResponse, *, during_limit: bool
) -> SeenRequest:
    query = request.query
    return SeenRequest(
        number=number,
        at=request.at,
        page_id=page_id,
        owner=request.owner,
        edge=request.edge,
        platform=query.get("platform"),
        after=query.get("after"),
        limit=query.get("limit"),
        fields=query.get("fields"),
        status=response.status,
        fault=response.fault,
        during_limit=during_limit,
    )


# --- the response to a request: the honest one, or a faulty one -------------------------------------------------------

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
"""The faults that refuse a request, as functions of the strike's seed."""


def _respond(request: ApiRequest, api: GraphApi, strike: Strike) -> ApiResponse:
    """Return the response with its fault; waiting is left to the server."""
    fault = strike.fault
    if fault is FaultKind.RATE_LIMIT:
        response = _briefly_limited(request, strike.seed)
    elif fault is not None and fault in _REFUSALS:
        response = _refused(request, _REFUSALS[fault](strike.seed))
    else:
        response = _honest(request, api)
    if fault is FaultKind.TRUNCATED:
        response = msgspec.structs.replace(response, body=response.body[: len(response.body) // 2])
    if fault is FaultKind.ERROR_IN_SUCCESS:
        response = msgspec.structs.replace(response, status=200)
    return msgspec.structs.replace(response, fault=fault and fault.value, odd_draw=_odd_draw(strike))


def _too_fast(request: ApiRequest, strike: Strike) -> ApiResponse:
    """Return the response to a call beyond the allowed pace."""
    return msgspec.structs.replace(_briefly_limited(request, strike.seed | 1), fault="pace")


def _limited(request: ApiRequest, limit: Limit, strike: Strike) -> ApiResponse:
    """Return the response to a call during a limit."""
    if limit.code == 429:
        response = ApiResponse(429, HTML if strike.seed % 2 else b"", content_type="text/html")
    else:
        response = _refused(request, refusals.limited(limit.code, request.platform))
    return msgspec.structs.replace(
        response,
        fault="limit",
        usage=limit.usage(request.at),
        odd_draw=_odd_draw(strike),
        retry_after_seconds=limit.retry_after_seconds(request.at),
    )


def _refused(request: ApiRequest, refusal: Refusal) -> ApiResponse:
    """Return an error response."""
    if isinstance(refusal, Garbled):
        return ApiResponse(refusal.status, refusal.raw, content_type=refusal.content_type)
    return ApiResponse(refusal.status, msgspec.json.encode(refusal.body(request.trace_id, request.seed)))


def _honest(request: ApiRequest, api: GraphApi) -> ApiResponse:
    try:
        return ApiResponse(200, msgspec.json.encode(api.respond(request)))
    except Refusal as refusal:
        return _refused(request, refusal)


def _odd_draw(strike: Strike) -> int | None:
    return strike.seed >> 16 if strike.fault is FaultKind.ODD_USAGE else None


def _briefly_limited(request: ApiRequest, seed: int) -> ApiResponse:
    """Return one of the limits at random: an odd seed means a limit of the page."""
    refusal = refusals.limited((613 if seed // 2 % 2 else 80006) if seed % 2 else 4, request.platform)
    usage = Usage(percent=100 + seed % 20, regain_minutes=seed // 4 % 2)
    return msgspec.structs.replace(_refused(request, refusal), usage=usage)
