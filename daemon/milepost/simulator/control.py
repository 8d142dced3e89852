"""The control interface beside the Graph API, for tests in another process, and the record of requests that it shows.

`GET /simulator/truth` and `/simulator/requests` return the true state and the requests seen. `POST /simulator/<action>`
calls a method with a JSON object of its arguments; it is only allowed from this machine.
"""

import inspect
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import datetime
from ipaddress import IPv6Address, ip_address
from typing import get_type_hints

import msgspec
from aiohttp import web

from milepost.simulator.conditions import Hold
from milepost.simulator.plan import PLATFORMS
from milepost.simulator.world import World

Action = Callable[..., object]

_MAX_KEPT_REQUESTS = 10_000


class SeenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the Graph API and its outcome."""

    number: int
    """In its stream, from 1: the fault plan's random draws depend on it."""
    at: datetime
    """When it arrived, by the world's clock."""
    page_id: str | None
    """The page that the call counts for; for a thread, the thread's page."""
    owner: str
    edge: str
    platform: str | None
    after: str | None
    limit: str | None
    fields: str | None
    status: int
    """Of the response; 0 if none was sent."""
    fault: str | None
    """The name of the fault that struck, if any."""
    during_limit: bool
    """Whether a limit was active that the client knew of."""


class Traffic:
    """Counts all requests and keeps the last ten thousand."""

    def __init__(self) -> None:
        self.last: deque[SeenRequest] = deque(maxlen=_MAX_KEPT_REQUESTS)
        self.total = 0
        self.by_stream: Counter[str] = Counter()
        self.by_page: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.too_fast: Counter[str] = Counter()
        """Calls beyond the plan's pace, by page."""
        self.during_limit: Counter[str] = Counter()
        """Calls during a limit that the client knew of, by page; those of no page by the requested object."""
        self.max_calls_in_a_second: Counter[str] = Counter()
        """The most calls that arrived within any second of real time, by page."""
        self._arrivals: defaultdict[str, deque[float]] = defaultdict(deque)

    def next_number(self, stream: str) -> int:
        """Count an arriving request of this stream and return its number, from 1."""
        self.total += 1
        self.by_stream[stream] += 1
        return self.by_stream[stream]

    def arrive(self, page_id: str, now_seconds: float) -> None:
        """Count a call of a page that arrives at this instant of a monotonic clock."""
        self.by_page[page_id] += 1
        recent = self._arrivals[page_id]
        recent.append(now_seconds)
        while recent[0] <= now_seconds - 1:
            recent.popleft()
        self.max_calls_in_a_second[page_id] = max(self.max_calls_in_a_second[page_id], len(recent))

    def note(self, request: SeenRequest) -> None:
        """Record the outcome of a request."""
        self.last.append(request)
        self.by_status[request.status] += 1
        if request.fault is not None:
            self.by_fault[request.fault] += 1
        if request.during_limit:
            self.during_limit[request.page_id or request.owner] += 1


class Control:
    """The routes under `/simulator`. None needs a token, and no GET returns one.

    `actions` are those of the server, besides those of the world.
    """

    def __init__(
        self,
        world: World,
        requests: Traffic,
        hold: Hold,
        actions: Iterable[Action],
        clock: Callable[[], datetime],
    ) -> None:
        self._world = world
        self._requests = requests
        self._hold = hold
        self._actions = {each.__name__: each for each in (*_world_actions(world), *actions)}
        self._clock = clock

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/simulator/truth", self._truth)
        router.add_get("/simulator/requests", self._seen_requests)
        router.add_post("/simulator/{action}", self._act)

    async def _truth(self, request: web.Request) -> web.Response:
        at = self._clock()
        page_id, platform = request.query.get("page", ""), request.query.get("platform", "messenger")
        for known in PLATFORMS:
            if known == platform and self._world.inbox(page_id, known) is not None:
                return _json({"at": at, "conversations": self._world.truth(page_id, known, at)})
        streams = [{"page": inbox.page.id, "platform": inbox.platform} for inbox in self._world.inboxes]
        return _json({"error": "give ?page=…&platform=… of one of these streams", "streams": streams}, status=404)

    async def _seen_requests(self, _: web.Request) -> web.Response:
        seen = self._requests
        return _json(
            {
                "total": seen.total,
                "by_page": seen.by_page,
                "by_stream": seen.by_stream,
                "by_status": seen.by_status,
                "by_fault": seen.by_fault,
                "too_fast": seen.too_fast,
                "during_limit": seen.during_limit,
                "max_calls_in_a_second": seen.max_calls_in_a_second,
                "held": self._hold.waiting,
                "last": tuple(seen.last),
            }
        )

    async def _act(self, request: web.Request) -> web.Response:
        if not _is_local(request.remote):
            return _json({"error": "actions are only allowed from the simulator's own machine"}, status=403)
        action = self._actions.get(request.match_info["action"])
        if action is None:
            known = {name: _arguments_of(each) for name, each in self._actions.items()}
            return _json({"error": "no such action", "actions": known}, status=404)
        # A web page in a browser cannot send this type across origins without a preflight request.
        if request.content_type != "application/json":
            return _json({"error": "send a JSON object as application/json"}, status=415)
        return self._call(action, await request.read())

    def _call(self, action: Action, body: bytes) -> web.Response:
        try:
            arguments = self._arguments(action, body)
        except (TypeError, msgspec.DecodeError) as problem:
            return _json({"error": str(problem), "arguments": _arguments_of(action)}, status=400)
        try:
            return _json({"result": action(**arguments)})
        except KeyError as missing:
            return _json({"error": f"there is no {missing.args[0]}"}, status=404)
        except (ValueError, OverflowError) as problem:
            return _json({"error": str(problem), "arguments": _arguments_of(action)}, status=400)

    def _arguments(self, action: Action, body: bytes) -> dict[str, object]:
        hints = get_type_hints(action)
        given = msgspec.json.decode(body or b"{}", type=dict[str, object])
        if "at" in hints:
            given = {"at": self._clock(), **given}
        inspect.signature(action).bind(**given)
        return {name: msgspec.convert(value, hints[name]) for name, value in given.items()}


def _world_actions(world: World) -> tuple[Action, ...]:
    access = world.access
    return (
        *(world.receive, world.delete, world.edit, world.unsend, world.react, world.refer, world.empty),
        *(world.poison, world.cure, world.kill_cursors, world.add_page),
        *(access.manage, access.unmanage, access.revoke, access.expire, access.renew, access.subscribe),
        *(access.forbid, access.allow),
    )


def _is_local(address: str | None) -> bool:
    """Return whether a client is on this machine: its address is loopback, possibly mapped to IPv6."""
    if address is None:
        return False
    known = ip_address(address)
    mapped = known.ipv4_mapped if isinstance(known, IPv6Address) else None
    return (mapped or known).is_loopback


def _arguments_of(action: Action) -> list[str]:
    return [
        name if parameter.default is parameter.empty else f"{name}={parameter.default}"
        for name, parameter in inspect.signature(action).parameters.items()
        if name != "at"  # the world's time
    ]


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
