"""Checks a page's token and its subscription to webhooks from time to time.

`GET /debug_token` (Meta, "Debug Token"), `GET` and `POST /{page-id}/subscribed_apps` (Meta, "Page Subscribed Apps").
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from milepost.core.model import Platform, TokenHealth
from milepost.core.ports import Gate, Held
from milepost.core.problems import Problem
from milepost.facebook.calls import Access, Calls, plain
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.responses import problem_of
from milepost.facebook.wire import lenient, read_json

# --- the token --------------------------------------------------------------------------------------------------------

PATH = "debug_token"

Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]  # Unix time up to the year 9999; 0 means never


class InspectedToken(Struct, frozen=True):
    """What the platform says about a token. `permissions` and the `app_id` of its app are empty if it says none."""

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

    Meta documents an app token (`id|secret`) or a developer's user token for this ("Debug Token", Permissions). But no
    setting has the app's id, and connectors inspect page tokens with themselves; if that is refused, the token's health
    stays unknown. The API requires the inspected token in the query, which is kept out of errors and logs.
    """
    calls = Calls(client, access, gate, PATH)
    return plain(await calls.make(PATH, {"input_token": access.token}, _decode_token))


def _decode_token(response: GraphResponse) -> InspectedToken | Problem:
    try:
        facts = lenient(read_json(response.body), _DebugToken).data
    except ValueError:  # ValidationError is one
        return problem_of(response.body, response.status)
    health = TokenHealth(facts.is_valid, _instant(facts.expires_at), _instant(facts.data_access_expires_at))
    return InspectedToken(health, frozenset(facts.scopes), facts.app_id)


def _instant(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


# --- webhooks ---------------------------------------------------------------------------------------------------------

EDGE = "subscribed_apps"
# The fields of a page. An Instagram account gets all the fields that are chosen for the app, once its page has any.
FIELDS = {
    Platform.MESSENGER: ("messages", "message_echoes", "messaging_postbacks", "standby"),
    Platform.INSTAGRAM: ("messages",),
}
# The fields of facts (core/facts.py). All messages are copied without them as well.
FACT_FIELDS: dict[Platform, tuple[str, ...]] = {
    Platform.MESSENGER: ("message_edits", "message_reactions", "messaging_referrals"),
    Platform.INSTAGRAM: (),
}


class _App(Struct):
    id: str | None = None
    subscribed_fields: list[str] = []


class Subscription(Struct, frozen=True):
    """The fields that a page is subscribed to as far as is known, the required ones, and those of facts."""

    fields: frozenset[str]
    needed: frozenset[str]
    of_facts: frozenset[str]

    @property
    def missing(self) -> tuple[str, ...]:
        """The required fields that the page is not subscribed to."""
        return tuple(sorted(self.needed - self.fields))

    @property
    def lacking(self) -> tuple[str, ...]:
        """The fields of facts that the page is not subscribed to."""
        return tuple(sorted(self.of_facts - self.fields))


class Subscriptions:
    """Reads and repairs a page's subscription."""

    def __init__(
        self, client: GraphClient, access: Access, gate: Gate, page_id: str, platforms: Iterable[Platform]
    ) -> None:
        self._calls = Calls(client, access, gate, EDGE)
        self._path = f"{page_id}/{EDGE}"
        on = tuple(platforms)
        self._needed = frozenset(field for platform in on for field in FIELDS[platform])
        self._of_facts = frozenset(field for platform in on for field in FACT_FIELDS[platform])

    async def look(self, app_id: str) -> Subscription | Problem | Held:
        """Return the subscription of an app; with an empty id, that of all listed apps, which is often only one."""
        decode = partial(self._decode, app_id)
        return plain(await self._calls.make(self._path, {"fields": "id,subscribed_fields"}, decode))

    async def mend(self, found: Subscription, missing: Iterable[str]) -> Problem | Held | None:
        """Subscribe to the missing fields and to the present ones, because a new subscription replaces the old one."""
        wanted = ",".join(sorted(found.fields.union(missing)))
        outcome = plain(await self._calls.make(self._path, {"subscribed_fields": wanted}, _done, "POST"))
        return outcome if isinstance(outcome, Problem | Held) else None

    def _decode(self, app_id: str, response: GraphResponse) -> Subscription | Problem:
        try:
            answer = read_json(response.body)
            apps = msgspec.convert(answer["data"], list[_App])
        except (ValueError, TypeError, KeyError):
            return problem_of(response.body, response.status)
        own = (app for app in apps if not app_id or app.id in (None, app_id))
        return Subscription(
            frozenset(field for app in own for field in app.subscribed_fields), self._needed, self._of_facts
        )


def _done(response: GraphResponse) -> int | Problem:
    return response.status
