"""The health of a page's token: `GET /debug_token` (Meta, "Debug Token")."""

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct, ValidationError

from milepost.core.model import TokenHealth
from milepost.core.ports import Gate, Held
from milepost.core.problems import Problem
from milepost.facebook.calls import Access, Calls, plain
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.leniency import lenient, read_json
from milepost.facebook.problems import problem_of

PATH = "debug_token"

Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]  # Unix time up to the year 9999; 0 means never


class InspectedToken(Struct, frozen=True):
    """What the platform says of a token. `permissions` are those that it grants; empty where it does not say.

    So is the `app_id` of the app that it belongs to.
    """

    health: TokenHealth
    permissions: frozenset[str]
    app_id: str = ""


class _Facts(Struct):
    is_valid: bool
    expires_at: Seconds = 0
    data_access_expires_at: Seconds = 0
    scopes: list[str] = []
    app_id: str = ""


class _DebugToken(Struct):
    data: _Facts


async def inspect_token(client: GraphClient, access: Access, gate: Gate) -> InspectedToken | Problem | Held:
    """Inspect the token in `access`, with the token itself.

    Meta documents an app token (`id|secret`) or a developer's user token for this ("Debug Token", Permissions). No
    setting has the app's id; connectors inspect page tokens with themselves, and a refusal says only that the health is
    not known. The API wants the inspected token in the query. The query goes nowhere but to the API: neither errors nor
    logs have it.
    """
    return plain(await Calls(client, access, gate, PATH).make(PATH, {"input_token": access.token}, _decode))


def _decode(response: GraphResponse) -> InspectedToken | Problem:
    try:
        facts = lenient(read_json(response.body), _DebugToken).data
    except (ValidationError, ValueError):
        return problem_of(response.body, response.status)
    health = TokenHealth(facts.is_valid, _instant(facts.expires_at), _instant(facts.data_access_expires_at))
    return InspectedToken(health, frozenset(facts.scopes), facts.app_id)


def _instant(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
