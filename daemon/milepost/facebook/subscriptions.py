"""The webhooks of a page: `GET` and `POST /{page-id}/subscribed_apps` (Meta, "Page Subscribed Apps")."""

from collections.abc import Iterable
from functools import partial

import msgspec
from msgspec import Struct

from milepost.core.model import Platform
from milepost.core.ports import Gate, Held
from milepost.core.problems import Problem
from milepost.facebook.calls import Access, Calls, plain
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.leniency import read_json
from milepost.facebook.problems import problem_of

EDGE = "subscribed_apps"
# The fields of a page. An account of Instagram gets all that are chosen for the app, once its page has any field.
FIELDS = {
    Platform.MESSENGER: ("messages", "message_echoes", "messaging_postbacks", "standby"),
    Platform.INSTAGRAM: ("messages",),
}
# Those of facts (core/facts.py), without which all messages are copied all the same.
FACT_FIELDS: dict[Platform, tuple[str, ...]] = {
    Platform.MESSENGER: ("message_edits", "message_reactions", "messaging_referrals"),
    Platform.INSTAGRAM: (),
}


class _App(Struct):
    id: str | None = None
    subscribed_fields: list[str] = []


class Subscription(Struct, frozen=True):
    """The fields that a page is known to be subscribed to, those that it has to be, and those of facts."""

    fields: frozenset[str]
    needed: frozenset[str]
    of_facts: frozenset[str]

    @property
    def missing(self) -> tuple[str, ...]:
        """The fields that webhooks are needed for and do not come for."""
        return tuple(sorted(self.needed - self.fields))

    @property
    def lacking(self) -> tuple[str, ...]:
        """The fields of facts that do not come."""
        return tuple(sorted(self.of_facts - self.fields))


class Subscriptions:
    """Looks at a page's subscription, and mends it."""

    def __init__(
        self, client: GraphClient, access: Access, gate: Gate, page_id: str, platforms: Iterable[Platform]
    ) -> None:
        self._calls = Calls(client, access, gate, EDGE)
        self._path = f"{page_id}/{EDGE}"
        on = tuple(platforms)
        self._needed = frozenset(field for platform in on for field in FIELDS[platform])
        self._of_facts = frozenset(field for platform in on for field in FACT_FIELDS[platform])

    async def look(self, app_id: str) -> Subscription | Problem | Held:
        """Return the subscription of an app; with an empty id, of all apps that are shown: often it is only one."""
        decode = partial(self._decode, app_id)
        return plain(await self._calls.make(self._path, {"fields": "id,subscribed_fields"}, decode))

    async def mend(self, found: Subscription, missing: Iterable[str]) -> Problem | Held | None:
        """Subscribe to what is missing. A subscription replaces the one before: so that nothing is lost, to both."""
        wanted = ",".join(sorted(found.fields.union(missing)))
        outcome = plain(await self._calls.make(self._path, {"subscribed_fields": wanted}, _done, "POST"))
        return outcome if isinstance(outcome, Problem | Held) else None

    def _decode(self, app_id: str, response: GraphResponse) -> Subscription | Problem:
        try:
            answer = read_json(response.body)
            apps = msgspec.convert(answer["data"], list[_App])
        except (ValueError, TypeError, KeyError):  # ValidationError is a ValueError
            return problem_of(response.body, response.status)
        own = (app for app in apps if not app_id or app.id in (None, app_id))
        return Subscription(
            frozenset(field for app in own for field in app.subscribed_fields), self._needed, self._of_facts
        )


def _done(response: GraphResponse) -> int | Problem:
    return response.status
