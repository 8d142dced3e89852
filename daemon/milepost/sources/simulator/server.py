"""The simulator as an HTTP server: `GraphApi` with faults, a pace, headers and a record of the traffic round it.

Beside the Graph API, on paths of their own and without a token, it tells what is true and what it was asked:
`/simulator/truth` and `/simulator/requests`.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from milepost.core.errors import MilepostError
from milepost.sources.simulator.faults import CALM, EmptyBatch, EqualCursors, FaultPlan, Strike
from milepost.sources.simulator.graph import GraphApi
from milepost.sources.simulator.plan import PLATFORMS, SimulatedPage, WorldPlan
from milepost.sources.simulator.question import Question
from milepost.sources.simulator.reply import Reply, reply_to, too_fast
from milepost.sources.simulator.traffic import Pace, SeenRequest, Traffic
from milepost.sources.simulator.world import World

_SHUTDOWN_SECONDS = 0.1


class SimulatorServer:
    """Serves a simulated world while its context lasts.

    `clock` gives the world's time, which may stand still or run differently; latencies and the pace are in real time.
    With an `app_secret`, requests must carry a valid `appsecret_proof`. Port 0 takes a free one; see `base_url`.

    Raises:
        MilepostError: on entering, when the address cannot be listened on.
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
        self.world = World(plan)
        self.requests = Traffic()
        self.faults = faults
        self.host = host
        self.port = port
        self._clock = clock
        self._api = GraphApi(self.world, app_secret)
        self._pace = Pace(faults.max_calls_per_second)
        self._runner: web.AppRunner | None = None

    @property
    def pages(self) -> tuple[SimulatedPage, ...]:
        """The world's pages, with their tokens."""
        return self.world.pages

    @property
    def base_url(self) -> str:
        """Where the API is, to be used in place of https://graph.facebook.com."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/simulator/truth", self._tell_truth)
        application.router.add_get("/simulator/requests", self._tell_requests)
        application.router.add_get("/{path:.*}", self._serve)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as problem:
            await runner.cleanup()
            raise MilepostError(
                f"the simulator cannot listen on {self.host}:{self.port}: {problem.strerror}",
                hint="choose another port, or port 0 for any that is free",
            ) from problem
        self.port = runner.addresses[0][1]
        self._runner = runner
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        question = _question(request, self._clock())
        number = self.requests.next_number(question.stream)
        strike = self.faults.strike(question.stream, number)
        await asyncio.sleep(strike.wait_seconds)
        question = msgspec.structs.replace(question, at=self._clock(), bend=_bend(strike))
        page = self._api.page_of(question)
        if page is not None and not self._pace.allows(page.id, asyncio.get_running_loop().time()):
            self.requests.too_fast[page.id] += 1
            reply = too_fast(question, strike)
        else:
            reply = reply_to(question, self._api, strike)
        self.requests.note(_seen(question, number, reply))
        if reply.status == 0 and request.transport is not None:
            request.transport.abort()
        return _response(question, reply, page)

    async def _tell_truth(self, request: web.Request) -> web.Response:
        at = self._clock()
        page_id, platform = request.query.get("page", ""), request.query.get("platform", "messenger")
        for known in PLATFORMS:
            if known == platform and self.world.inbox(page_id, known) is not None:
                return _json({"at": at, "conversations": self.world.truth(page_id, known, at)})
        streams = [{"page": inbox.page.id, "platform": inbox.platform} for inbox in self.world.inboxes]
        return _json({"error": "say ?page=…&platform=… of one of these streams", "streams": streams}, status=404)

    async def _tell_requests(self, _: web.Request) -> web.Response:
        seen = self.requests
        return _json(
            {
                "total": seen.total,
                "by_stream": seen.by_stream,
                "by_status": seen.by_status,
                "by_fault": seen.by_fault,
                "too_fast": seen.too_fast,
                "last": tuple(seen.last),
            }
        )


def _question(request: web.Request, at: datetime) -> Question:
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    return Question(
        origin=f"{request.scheme}://{request.host}",
        path=request.path,
        query=dict(request.query),
        token=bearer if scheme.lower() == "bearer" else request.query.get("access_token"),
        at=at,
    )


def _bend(strike: Strike) -> EmptyBatch | EqualCursors | None:
    return strike.fault if isinstance(strike.fault, EmptyBatch | EqualCursors) else None


def _seen(question: Question, number: int, reply: Reply) -> SeenRequest:
    query = question.query
    return SeenRequest(
        number=number,
        at=question.at,
        owner=question.owner,
        edge=question.edge,
        platform=query.get("platform"),
        after=query.get("after"),
        limit=query.get("limit"),
        fields=query.get("fields"),
        status=reply.status,
        fault=reply.fault,
    )


def _response(question: Question, reply: Reply, page: SimulatedPage | None) -> web.Response:
    headers = {
        "Date": format_datetime(question.at.astimezone(UTC), usegmt=True),
        **reply.usage.headers(question.owner if page is None else page.id, question.platform),
    }
    if question.is_versioned:
        headers["facebook-api-version"] = question.version
    return web.Response(
        status=reply.status or 500, body=reply.body, headers=headers, content_type=reply.content_type, charset="utf-8"
    )


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
