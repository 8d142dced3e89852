"""Looks every few hours whether each page is subscribed to webhooks: a subscription ends unseen.

Somebody removes it, or Meta does after an hour of failures. Nothing is lost then, as sweeps go on; but it has to be
said.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import structlog

from milepost.app.pages import PageRegistry
from milepost.core.model import Stream
from milepost.core.ports import Clock, Held
from milepost.engine.interrupt import Stop
from milepost.facebook.page_health import InspectedToken, Subscription, Subscriptions
from milepost.reporting.health import Issue, IssueKind
from milepost.reporting.humanize import counted

FIRST_SECONDS = 60.0  # so that the first batches are not delayed
LOOK_SECONDS = 3 * 3600.0
AGAIN_SECONDS = 900.0  # after what has failed, or was mended
MAX_NAMED = 5
ADVICE = "subscribe each page to these fields, or set webhooks.subscribe: true (docs/webhooks.md)"

log = structlog.get_logger("milepost")


class SubscriptionWatch:
    """Knows the subscriptions of the registered pages. `subscribes` says whether to mend them."""

    def __init__(self, registry: PageRegistry, subscribes: Callable[[], bool]) -> None:
        self._registry = registry
        self._subscribes = subscribes
        self._missing: dict[str, tuple[str, ...]] = {}
        self._look_at: dict[str, float] = {}
        self._tried: set[str] = set()  # pages for which the fields of facts were requested

    async def run(self, clock: Clock, stop: Stop) -> None:
        """Look at subscriptions until a stop is requested."""
        async with stop.interruptible():
            while True:
                await clock.sleep_until(clock.now() + timedelta(seconds=FIRST_SECONDS))
                await self.look_due(clock)

    async def look_due(self, clock: Clock) -> None:
        """Look at the pages whose turn it is, one after the other: there is no hurry."""
        pages = self._registry.tokens()
        for gone in self._look_at.keys() - pages.keys():
            self._missing.pop(gone, None)
            del self._look_at[gone]
        for page_id in pages:
            if self._look_at.get(page_id, 0.0) <= clock.steady():
                is_settled = await self._look(page_id)
                self._look_at[page_id] = clock.steady() + (LOOK_SECONDS if is_settled else AGAIN_SECONDS)

    def missing(self) -> Mapping[Stream, bool]:
        """Return for each stream whose page's subscription is known whether anything is missing."""
        return {
            stream: bool(missing)
            for page_id, missing in self._missing.items()
            for stream in self._registry.streams_of(page_id)
        }

    def issues(self) -> Iterator[Issue]:
        """Yield which pages are not subscribed as they should be."""
        lacking = {page_id: missing for page_id, missing in self._missing.items() if missing}
        if lacking:
            named = [f"page {page_id}: {', '.join(missing)}" for page_id, missing in [*lacking.items()][:MAX_NAMED]]
            more = [f"{len(lacking) - MAX_NAMED} more"] if len(lacking) > MAX_NAMED else []
            what = f"webhooks are not subscribed for {counted(len(lacking), 'page')}"
            yield Issue(IssueKind.UNSUBSCRIBED, what, reason="; ".join([*named, *more]), advice=ADVICE)

    async def _look(self, page_id: str) -> bool:
        """Look at a page's subscription, and mend it; return whether the next look has time."""
        subscriptions = self._registry.subscriptions(page_id)
        if subscriptions is None:
            return True
        inspected = await self._registry.inspect_token(page_id)
        found = await subscriptions.look(inspected.app_id if isinstance(inspected, InspectedToken) else "")
        if not isinstance(found, Subscription):
            log.debug("webhook subscription not looked at", page=page_id, reason=str(found))
            return False
        if found.missing and self._subscribes():
            problem = await subscriptions.mend(found, found.missing)
            if problem is None:
                log.info("page subscribed to webhooks", page=page_id, added=", ".join(found.missing))
                self._missing[page_id] = ()
                return False
            log.warning("page not subscribed to webhooks", page=page_id, reason=str(problem), hint=ADVICE)
        elif found.missing and not self._missing.get(page_id):
            log.warning("webhooks not subscribed", page=page_id, missing=", ".join(found.missing), hint=ADVICE)
        elif found.lacking and self._subscribes() and page_id not in self._tried:
            await self._add_fields_of_facts(page_id, subscriptions, found)
        self._missing[page_id] = found.missing
        return not found.missing

    async def _add_fields_of_facts(self, page_id: str, subscriptions: Subscriptions, found: Subscription) -> None:
        """Subscribe a page to what is good to have, once: not every version of the API may know it."""
        problem = await subscriptions.mend(found, found.lacking)
        if isinstance(problem, Held):
            return
        self._tried.add(page_id)
        if problem is None:
            log.info("page subscribed to webhooks", page=page_id, added=", ".join(found.lacking))
        else:
            log.info("page not subscribed to webhooks of facts", page=page_id, reason=str(problem))
