"""The control interface beside the Graph API, for tests in another process.

`GET /simulator/truth` and `/simulator/requests` return the true state and the requests seen. `POST /simulator/<action>`
calls a method with a JSON object of its arguments; it is only allowed from this machine.
"""

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from ipaddress import IPv6Address, ip_address
from typing import get_type_hints

import msgspec
from aiohttp import web

from milepost.simulator.conditions import Hold
from milepost.simulator.plan import PLATFORMS
from milepost.simulator.traffic import Traffic
from milepost.simulator.world import World

Action = Callable[..., object]


class Control:
    """The routes under `/simulator`. None needs a token, and no GET returns one.

    `actions` are those of the server, beside those of the world.
    """

    def __init__(
        self,
        world: World,
        requests: Traffic,
        hold: Hold,
        actions: Mapping[str, Action],
        clock: Callable[[], datetime],
    ) -> None:
        self._world = world
        self._requests = requests
        self._hold = hold
        self._actions = {**_world_actions(world), **actions}
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


def _world_actions(world: World) -> Mapping[str, Action]:
    access = world.access
    return {
        "receive": world.receive,
        "delete": world.delete,
        "edit": world.edit,
        "unsend": world.unsend,
        "react": world.react,
        "refer": world.refer,
        "empty": world.empty,
        "poison": world.poison,
        "cure": world.cure,
        "kill_cursors": world.kill_cursors,
        "add_page": world.add_page,
        "manage": access.manage,
        "unmanage": access.unmanage,
        "revoke": access.revoke,
        "expire": access.expire,
        "renew": access.renew,
        "subscribe": access.subscribe,
        "forbid": access.forbid,
        "allow": access.allow,
    }


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
    ]


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
