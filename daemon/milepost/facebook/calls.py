"""Calls to the Graph API: paced, none during a rate limit, and the budgets of each response passed on at once."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.ports import Gate, Held, Refused
from milepost.core.problems import Problem
from milepost.facebook.client import GraphClient, GraphResponse, Method
from milepost.facebook.headers import usages, wait_seconds
from milepost.facebook.problems import problem_of
from milepost.facebook.rate_limiter import RateLimiter

T = TypeVar("T")

Decoder = Callable[[GraphResponse], T | Problem]  # of a successful response


class Access(Struct, eq=False):
    """What a page's calls are made with: its token and its pace.

    The token may be replaced at any time, and applies from the next call on. While there is a `problem`, no call is
    made, and the problem is the outcome. The repr leaves the token out.
    """

    token: str
    rate_limiter: RateLimiter
    problem: Problem | None = None

    def __repr__(self) -> str:
        return f"Access(problem={self.problem!r})"


class Decoded(Struct, Generic[T], frozen=True):
    """A decoded response, when it was requested and how long that took (see core/ports.py, Fetched)."""

    value: T
    asked_at: datetime
    took_seconds: float


class Calls:
    """Makes the calls of one stream, or of the discovery of pages; `name` tells them apart for the pace.

    `own_ids` are the known ids of the page and its Instagram account: budgets under these ids are ours.
    """

    def __init__(self, client: GraphClient, access: Access, gate: Gate, name: str) -> None:
        self.own_ids: frozenset[str] = frozenset()
        self._client = client
        self._access = access
        self._gate = gate
        self._name = name

    async def get(self, path: str, parameters: Mapping[str, str], decode: Decoder[T]) -> Decoded[T] | Refused | Held:
        """Wait for the pace, make one call unless it is forbidden by then, and decode the response."""
        return await self._call("GET", path, parameters, decode)

    async def post(self, path: str, parameters: Mapping[str, str], decode: Decoder[T]) -> Decoded[T] | Refused | Held:
        """Change something at the API, as `get` reads."""
        return await self._call("POST", path, parameters, decode)

    async def _call(
        self, method: Method, path: str, parameters: Mapping[str, str], decode: Decoder[T]
    ) -> Decoded[T] | Refused | Held:
        await self._access.rate_limiter.wait()
        # Nothing is awaited between here and the call: a rate limit that begins later could not be known.
        if self._access.problem is not None:
            return Refused(self._access.problem, 0.0)
        if self._gate.is_closed():
            return Held()
        answer = await self._client.call(path, parameters, self._access.token, partial(_answer, decode), method)
        outcome = answer if isinstance(answer, Refused) else self._decoded(*answer)
        if isinstance(outcome, Refused):
            return replace(outcome, refused_at=self._gate.refused(outcome.problem))
        return outcome

    def _decoded(self, head: GraphResponse, value: T | Problem) -> Decoded[T] | Refused:
        used = usages(head.headers, self.own_ids)
        self._access.rate_limiter.update(self._name, used)
        self._gate.used(used)
        if isinstance(value, Problem):
            waits = wait_seconds(head.headers, value.code, self.own_ids)
            return Refused(replace(value, wait_seconds=waits), head.took_seconds)
        return Decoded(value, head.asked_at, head.took_seconds)


def plain(outcome: Decoded[T] | Refused | Held) -> T | Problem | Held:
    """Return the value or the problem of a call, without its times."""
    match outcome:
        case Decoded(value=value):
            return value
        case Refused(problem=problem):
            return problem
        case Held():
            return outcome


def _answer(decode: Decoder[T], response: GraphResponse) -> tuple[GraphResponse, T | Problem]:
    """Return a response without its body, and what the body says."""
    value = problem_of(response.body, response.status) if response.status >= 300 else decode(response)
    return replace(response, body=b""), value
