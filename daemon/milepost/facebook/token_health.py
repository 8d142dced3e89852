"""How a page's token stands: `GET /debug_token` (Meta, "Debug Token")."""

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct, ValidationError

from milepost.core.model import TokenHealth
from milepost.core.ports import Gate, Held, Refused
from milepost.core.problems import Problem
from milepost.facebook.access import Access
from milepost.facebook.calls import Calls
from milepost.facebook.client import Answer, GraphClient
from milepost.facebook.leniency import lenient, read_json
from milepost.facebook.problems import problem_of
from milepost.facebook.rate_limiter import RateLimiter

PATH = "debug_token"

Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]  # Unix time up to the year 9999; 0 is never


class _Facts(Struct):
    is_valid: bool
    expires_at: Seconds = 0
    data_access_expires_at: Seconds = 0


class _Told(Struct):
    data: _Facts


async def token_health(
    client: GraphClient, access: Access, rate_limiter: RateLimiter, gate: Gate
) -> TokenHealth | Problem | Held:
    """Ask how the token in `access` stands, with the token itself, which a page's token may do.

    The API wants the token that is asked about in the query. The query goes nowhere but to the API: neither errors nor
    logs tell it.
    """
    calls = Calls(client, access, rate_limiter, gate, PATH)
    answer = await calls.ask(PATH, {"input_token": access.token}, _read)
    match answer:
        case Held():
            return answer
        case Refused(problem=problem):
            return problem
        case read:
            return read.value


def _read(answer: Answer, access_token: str) -> TokenHealth | Problem:
    try:
        facts = lenient(read_json(answer.body), _Told).data
    except (ValidationError, ValueError):
        return problem_of(answer.body, answer.status, access_token)
    return TokenHealth(facts.is_valid, _instant(facts.expires_at), _instant(facts.data_access_expires_at))


def _instant(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
