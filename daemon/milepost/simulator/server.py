"""The simulator as an HTTP server: `GraphApi` with faults, limits, headers and a record of the traffic round it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from milepost.core.errors import MilepostError
from milepost.simulator import refusals
from milepost.simulator.conditions import Conditions, Hold, Limit, Told, drawn_limit
from milepost.simulator.control import Control
from milepost.simulator.faults import CALM, FaultPlan
from milepost.simulator.graph import GraphApi
from milepost.simulator.plan import SimulatedPage, WorldPlan
from milepost.simulator.question import Question
from milepost.simulator.reply import Reply, limited, refused, reply_to, too_fast
from milepost.simulator.strikes import Bending, Strike
from milepost.simulator.traffic import Pace, SeenRequest, Traffic
from milepost.simulator.usage import Usage
from milepost.simulator.world import World

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

    @property
    def pages(self) -> tuple[SimulatedPage, ...]:
        """The world's pages, with their tokens."""
        return self.world.pages

    @property
    def base_url(self) -> str:
        """Where the API is, to be used in place of https://graph.facebook.com."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def held(self) -> int:
        """How many requests wait for `release` now."""
        return self._hold.waiting

    async def __aenter__(self) -> Self:
        application = web.Application()
        Control(self, self._clock).add_to(application.router)
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

    def limit(self, code: int, seconds: float, page_id: str | None = None, told: Told = Told.USAGE) -> None:
        """Let a rate limit begin, which lasts this long by the world's clock.

        Code 4 is for the whole app, without a page; every other of `refusals.LIMITS` is a page's.

        Raises:
            ValueError: there is no such limit.
            KeyError: there is no such page.
        """
        page_id = page_id and self.world.access.page(page_id).id
        until = self._clock() + timedelta(seconds=seconds)
        self._conditions.begin(Limit(code=code, until=until, page_id=page_id, told=told))

    def lift(self, page_id: str | None = None) -> None:
        """End the limits of a page, or of the app, before their time."""
        self._conditions.lift(page_id)

    def break_page(
        self, page_id: str, code: int = 2, subcode: int | None = None, is_transient: bool | None = None
    ) -> None:
        """Let a page answer everything with this error until it is mended.

        Raises:
            KeyError: there is no such page.
        """
        refusal = refusals.broken(code, subcode, is_transient)
        self._conditions.broken[self.world.access.page(page_id).id] = refusal

    def mend_page(self, page_id: str) -> None:
        """End what `break_page` began."""
        self._conditions.broken.pop(page_id, None)

    def hold(self, after: int = 0) -> None:
        """Answer nothing until `release`, but for the first `after` requests of each stream.

        Requests are counted as for faults: from the simulator's start, threads apart from lists. What is held may be
        given up by who asked: it is no answer.
        """
        self._hold.begin(after)

    def release(self) -> None:
        """Answer what is held, and all that comes."""
        self._hold.end()

    def usage(self, percent: float) -> None:
        """Say from now on in the headers of every answer that this much of each limit is used."""
        self._usage_percent = percent

    def calm(self) -> None:
        """Let nothing strike by luck any more; rules, limits and what was done by hand remain."""
        self.faults = msgspec.structs.replace(self.faults, faults=())

    async def _serve(self, request: web.Request) -> web.Response:
        now_seconds = asyncio.get_running_loop().time
        asked = _question(request, self._clock())
        page_id, stream = self._api.counted_with(asked)
        if page_id is not None:
            self.requests.arrive(page_id, now_seconds())
        during_limit = self._conditions.ignored_by(page_id, asked.at, now_seconds(), self.faults.prolong_seconds)
        number = self.requests.next_number(stream)
        strike = self.faults.strike(stream, number, has_cursor="after" in asked.query)
        await asyncio.sleep(strike.wait_seconds)
        await self._hold.passed(number)
        question = msgspec.structs.replace(asked, at=self._clock(), bend=_bend(strike), seed=strike.seed)
        reply = self._reply(question, page_id, strike, now_seconds())
        self.requests.note(_seen(asked, page_id, number, reply, during_limit=during_limit))
        if reply.status == 0 and request.transport is not None:
            request.transport.abort()
        return self._response(question, reply, page_id)

    def _reply(self, question: Question, page_id: str | None, strike: Strike, now_seconds: float) -> Reply:
        limit = self._conditions.limit_on(page_id, question.at)
        if limit is None and strike.limit_seconds:
            limit = drawn_limit(page_id, question.at, strike.limit_seconds, strike.seed)
            self._conditions.begin(limit)
        if limit is not None:
            limit.tell(now_seconds)
            return limited(question, limit, strike)
        if page_id is not None and not self._pace.allows(page_id, now_seconds):
            self.requests.too_fast[page_id] += 1
            return too_fast(question, strike)
        if (refusal := self._conditions.broken.get(page_id or "")) is not None:
            return msgspec.structs.replace(refused(question, refusal), fault="broken")
        return reply_to(question, self._api, strike)

    def _response(self, question: Question, reply: Reply, page_id: str | None) -> web.Response:
        usage = reply.usage or Usage(self._usage_percent)
        headers = {
            "Date": format_datetime(question.at.astimezone(UTC), usegmt=True),
            **usage.headers(page_id or question.owner, question.platform, reply.odd_luck),
        }
        if reply.retry_after_seconds is not None:
            headers["Retry-After"] = str(reply.retry_after_seconds)
        if question.is_versioned:
            headers["facebook-api-version"] = question.version
        return web.Response(
            status=reply.status or 500,
            body=reply.body,
            headers=headers,
            content_type=reply.content_type,
            charset="utf-8",
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


def _bend(strike: Strike) -> Bending | None:
    return strike.fault if isinstance(strike.fault, Bending) else None


def _seen(question: Question, page_id: str | None, number: int, reply: Reply, *, during_limit: bool) -> SeenRequest:
    query = question.query
    return SeenRequest(
        number=number,
        at=question.at,
        page_id=page_id,
        owner=question.owner,
        edge=question.edge,
        platform=query.get("platform"),
        after=query.get("after"),
        limit=query.get("limit"),
        fields=query.get("fields"),
        status=reply.status,
        fault=reply.fault,
        during_limit=during_limit,
    )
