"""Calls to the Graph API: each in its turn, none inside a pause, and what it tells of limits passed on at once."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.ports import Gate, Held, Refused
from milepost.core.problems import Problem
from milepost.facebook.access import Access
from milepost.facebook.client import Answer, GraphClient
from milepost.facebook.problems import problem_of
from milepost.facebook.rate_limiter import RateLimiter
from milepost.facebook.usage import usages, wait_seconds

T = TypeVar("T")

# Makes something of a successful answer; the token is the one it was got with, to be kept out of what is made.
Reading = Callable[[Answer, str], T | Problem]


class Read(Struct, Generic[T], frozen=True):
    """What an answer says, when it was asked for and how long that took (see core/ports.py, Fetched)."""

    value: T
    asked_at: datetime
    took_seconds: float


class Calls:
    """Makes the calls of one stream, or of the discovery of pages; `name` tells them apart for the pace.

    `own_ids` are the page's and its Instagram account's, as far as they are known: the budgets that go by them are
    ours.
    """

    def __init__(self, client: GraphClient, access: Access, rate_limiter: RateLimiter, gate: Gate, name: str) -> None:
        self.own_ids: frozenset[str] = frozenset()
        self._client = client
        self._access = access
        self._rate_limiter = rate_limiter
        self._gate = gate
        self._name = name

    async def ask(self, path: str, parameters: Mapping[str, str], reading: Reading[T]) -> Read[T] | Refused | Held:
        """Wait for the turn, ask once unless that is forbidden by then, and read the answer."""
        await self._rate_limiter.turn()
        # Nothing is awaited between here and the call: a pause that begins later than this could not be known of.
        if self._access.problem is not None:
            return Refused(self._access.problem, 0.0)
        if self._gate.is_closed():
            return Held()
        token = self._access.token
        answer = await self._client.get(path, parameters, token)
        outcome = self._read(answer, reading, token) if isinstance(answer, Answer) else answer
        if isinstance(outcome, Refused):
            self._gate.refused(outcome.problem)
        return outcome

    def _read(self, answer: Answer, reading: Reading[T], token: str) -> Read[T] | Refused:
        used = usages(answer.headers, self.own_ids)
        self._rate_limiter.heed(self._name, used)
        self._gate.used(used)
        if answer.status >= 300:
            value: T | Problem = problem_of(answer.body, answer.status, token)
        else:
            value = reading(answer, token)
        if isinstance(value, Problem):
            waits = wait_seconds(answer.headers, value.code, self.own_ids)
            return Refused(replace(value, wait_seconds=waits), answer.took_seconds)
        return Read(value, answer.asked_at, answer.took_seconds)
