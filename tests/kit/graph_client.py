"""A client of the Graph API for a server on the loopback interface, and access whose calls are not paced."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from kit.graph_answers import TOKEN
from kit.loopback import Answering, serving
from milepost.core.problems import Problem
from milepost.facebook.calls import Access, Budget, RateLimiter
from milepost.facebook.client import GraphClient


def access_of(token: str = TOKEN, problem: Problem | None = None, rate_limiter: RateLimiter | None = None) -> Access:
    return Access(token, rate_limiter or RateLimiter(0, Budget()), problem)


@asynccontextmanager
async def client_of(answer: Answering) -> AsyncIterator[GraphClient]:
    """Serve every path with one function; yields a client of it."""
    async with (
        serving(answer) as base_url,
        GraphClient(base_url, "v26.0", clock=lambda: datetime.now(UTC)) as client,
    ):
        yield client
