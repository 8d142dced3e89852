"""Watches what the platform says of each page: its token, once a day, and its subscription to webhooks.

The expiry of a token is known before it comes. A subscription ends unseen: somebody removes it, or Meta does after an
hour of failures. Nothing is lost then, as sweeps go on; but it has to be said.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import structlog
from msgspec import Struct

from milepost.app.pages import PageRegistry
from milepost.core.commands import RecordTokenHealth
from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.core.ports import Clock, Held
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Supervisor
from milepost.facebook.page_health import InspectedToken, Subscription, Subscriptions
from milepost.reporting.health import Issue, IssueKind
from milepost.reporting.humanize import counted

LOOK_SECONDS = 30.0  # before the first call, which must not delay the first batch, and between looks for new tokens
CHECK_SECONDS = 86_400.0
CHECK_AGAIN_SECONDS = 3_600.0  # after a check that failed
MAX_AT_ONCE = 8

log = structlog.get_logger("milepost")


# --- tokens -----------------------------------------------------------------------------------------------------------


class _Checked(Struct, frozen=True):
    """The token that was checked, and when to check again, by the steady clock."""

    token: str
    next_at: float


class TokenWatch:
    """Records the health of every token in the journal. A new token is checked soon; a failed check does no harm."""

    def __init__(self, registry: PageRegistry, supervisor: Supervisor) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._checked: dict[str, _Checked] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def run(self, clock: Clock, stop: Stop) -> None:
        """Check tokens until a stop is requested."""
        async with stop.interruptible():
            while True:
                await clock.sleep_until(clock.now() + timedelta(seconds=LOOK_SECONDS))
                await self.check_due(clock)

    async def check_due(self, clock: Clock) -> None:
        """Check the tokens that are new, and those whose check is due."""
        tokens = self._registry.tokens()
        async with asyncio.TaskGroup() as tasks:
            for page_id, token in tokens.items():
                checked = self._checked.get(page_id)
                if checked is None or checked.token != token or checked.next_at <= clock.steady():
                    tasks.create_task(self._check(page_id, token, clock), name=f"token of page {page_id}")

    async def _check(self, page_id: str, token: str, clock: Clock) -> None:
        async with self._slots:
            found = await self._registry.inspect_token(page_id)
        seconds = CHECK_SECONDS if isinstance(found, InspectedToken) else CHECK_AGAIN_SECONDS
        self._checked[page_id] = _Checked(token, clock.steady() + seconds)
        if not isinstance(found, InspectedToken):
            log.debug("token not checked", page=page_id, reason=str(found))
            return
        for stream in self._registry.streams_of(page_id):
            try:
                await self._supervisor.ask(stream, RecordTokenHealth(found.health))
            except MilepostError as error:
                log.debug("token health not recorded", stream=stream.key, reason=error.message)


# --- subscriptions ----------------------------------------------------------------------------------------------------

FIRST_SECONDS = 60.0  # so that the first batches are not delayed
SUBSCRIPTION_SECONDS = 3 * 3600.0
SUBSCRIPTION_AGAIN_SECONDS = 900.0  # after what has failed, or was mended
MAX_NAMED = 5
SUBSCRIBE_ADVICE = "subscribe each page to these fields, or set webhooks.subscribe: true (docs/webhooks.md)"


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
                self._look_at[page_id] = clock.steady() + (
                    SUBSCRIPTION_SECONDS if is_settled else SUBSCRIPTION_AGAIN_SECONDS
                )

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
            yield Issue(IssueKind.UNSUBSCRIBED, what, reason="; ".join([*named, *more]), advice=SUBSCRIBE_ADVICE)

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
            log.warning("page not subscribed to webhooks", page=page_id, reason=str(problem), hint=SUBSCRIBE_ADVICE)
        elif found.missing and not self._missing.get(page_id):
            log.warning(
                "webhooks not subscribed", page=page_id, missing=", ".join(found.missing), hint=SUBSCRIBE_ADVICE
            )
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
