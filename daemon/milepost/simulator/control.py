"""What the simulator tells and is told beside the Graph API, for whoever tests with it from another process.

`GET /simulator/truth` and `/simulator/requests` tell what is true and what was asked; `POST /simulator/<action>` makes
something happen, with the arguments of the method that `_actions` names as a JSON object; it hears this machine only.
"""

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, get_type_hints

import msgspec
from aiohttp import web

from milepost.simulator.plan import PLATFORMS
from milepost.simulator.traffic import Traffic
from milepost.simulator.world import World

if TYPE_CHECKING:
    from milepost.simulator.server import SimulatorServer

Action = Callable[..., object]


def _actions(server: "SimulatorServer") -> Mapping[str, Action]:
    world, access = server.world, server.world.access
    return {
        "receive": world.receive,
        "delete": world.delete,
        "poison": world.poison,
        "cure": world.cure,
        "kill_cursors": world.kill_cursors,
        "add_page": world.add_page,
        "manage": access.manage,
        "unmanage": access.unmanage,
        "revoke": access.revoke,
        "expire": access.expire,
        "renew": access.renew,
        "forbid": access.forbid,
        "allow": access.resize,
        "limit": server.limit,
        "lift": server.lift,
        "break_page": server.break_page,
        "mend_page": server.mend_page,
        "hold": server.hold,
        "release": server.release,
        "usage": server.usage,
        "calm": server.calm,
    }


class Control:
    """The addresses under `/simulator`. None needs a token, and none that is only read tells one."""

    def __init__(self, server: "SimulatorServer", clock: Callable[[], datetime]) -> None:
        self._server = server
        self._world: World = server.world
        self._requests: Traffic = server.requests
        self._actions = _actions(server)
        self._clock = clock

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Serve the addresses."""
        router.add_get("/simulator/truth", self._tell_truth)
        router.add_get("/simulator/requests", self._tell_requests)
        router.add_post("/simulator/{action}", self._act)

    async def _tell_truth(self, request: web.Request) -> web.Response:
        at = self._clock()
        page_id, platform = request.query.get("page", ""), request.query.get("platform", "messenger")
        for known in PLATFORMS:
            if known == platform and self._world.inbox(page_id, known) is not None:
                return _json({"at": at, "conversations": self._world.truth(page_id, known, at)})
        streams = [{"page": inbox.page.id, "platform": inbox.platform} for inbox in self._world.inboxes]
        return _json({"error": "say ?page=…&platform=… of one of these streams", "streams": streams}, status=404)

    async def _tell_requests(self, _: web.Request) -> web.Response:
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
                "held": self._server.held,
                "last": tuple(seen.last),
            }
        )

    async def _act(self, request: web.Request) -> web.Response:
        if not _is_near(request.remote):
            return _json({"error": "only who is on the simulator's own machine may act"}, status=403)
        action = self._actions.get(request.match_info["action"])
        if action is None:
            known = {name: _arguments_of(each) for name, each in self._actions.items()}
            return _json({"error": "no such action", "actions": known}, status=404)
        # A web page that a person happens to look at cannot send this type without being asked first.
        if request.content_type != "application/json":
            return _json({"error": "send a JSON object as application/json"}, status=415)
        return self._done(action, await request.read())

    def _done(self, action: Action, body: bytes) -> web.Response:
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
        told = msgspec.json.decode(body or b"{}", type=dict[str, object])
        if "at" in hints:
            told = {"at": self._clock(), **told}
        inspect.signature(action).bind(**told)
        return {name: msgspec.convert(value, hints[name]) for name, value in told.items()}


def _is_near(address: str | None) -> bool:
    """Whether a client is on this machine; a loopback address is one in IPv6's clothes, too."""
    if address is None:
        return False
    known = ip_address(address)
    mapped = known.ipv4_mapped if isinstance(known, IPv6Address) else None
    return (mapped or known).is_loopback


def _arguments_of(action: Action) -> list[str]:
    return [
        name if parameter.default is parameter.empty else f"{name}={parameter.default}"
        for name, parameter in inspect.signature(action).parameters.items()
    ]


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
