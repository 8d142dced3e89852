"""Webhooks: stores what the listener receives, passes it on to the streams, and watches the pages' subscriptions."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from milepost.app.build import Parts
from milepost.app.pages import PageRegistry
from milepost.core.commands import ApplyFacts
from milepost.core.model import Stream
from milepost.core.ports import Clock, Held
from milepost.engine.interrupt import Stop
from milepost.engine.webhooks import WebhookJudge, WebhookWorker
from milepost.facebook.pages import InspectedToken, Subscription, Subscriptions
from milepost.facebook.webhooks import UnknownAccount, UpdateResult
from milepost.reporting.advice import SUBSCRIBE
from milepost.reporting.health import Issue, IssueKind, WebhookStatus
from milepost.reporting.humanize import counted, listed
from milepost.service.metrics.traffic import EXPIRED, REQUEST, WebhookCounter
from milepost.service.webhooks import WebhookCredentials, WebhookIntake, WebhookRequests, serving_webhooks
from milepost.settings.model import Settings
from milepost.settings.types import split_address

UNKNOWN_SIGNATURE = (
    "webhooks come with a signature that none of the secrets made: one is wrong, or a stranger sends them"
)
SIGNING_ADVICE = "source.app_secret or webhooks.secrets must be the app's, and a proxy must not change the body"
FIELDS_ADVICE = "choose the field `messages` for the app in Meta's dashboard, and see that it has Advanced Access"
VALUES_ADVICE = "turn *Include Values* on for the app's webhooks in Meta's dashboard"
REFUSED_BY_STRANGERS = 10  # in a row, where others have had a known signature: anybody may sign something
EMBEDDED = "127.0.0.1:0"  # for a simulated world

log = structlog.get_logger("milepost")


class Webhooks:
    """The parts that receive webhooks and process them.

    `is_elsewhere` finds out whether another worker has a stream.
    """

    def __init__(self, parts: Parts, is_elsewhere: Callable[[Stream], Awaitable[bool]]) -> None:
        self._is_elsewhere = is_elsewhere
        self.subscriptions = SubscriptionWatch(parts.registry, lambda: parts.reloader.settings.webhooks.subscribe)
        self.counter = WebhookCounter(
            self.subscriptions.missing, lambda: parts.supervisor.streams if self._is_listening else ()
        )
        self.worker = WebhookWorker(
            parts.store.webhooks, parts.supervisor.prompt, self._apply_facts, parts.clock, self.counter.expire
        )
        self.judge = WebhookJudge(parts.store.webhooks, parts.clock, self.counter.count_misses)
        self._inbox = parts.store.webhooks
        self._registry = parts.registry
        self._supervisor = parts.supervisor
        self._reloader = parts.reloader
        self._is_listening = False
        self._send = parts.send_webhooks
        self._simulated_secret = secrets.token_hex(16)
        route, now = parts.registry.stream_of, parts.clock.now
        self._intake = WebhookIntake(self._inbox, route, self.counter, now, self.worker.notify, self._find_account)

    @asynccontextmanager
    async def listening(self, settings: Settings) -> AsyncIterator[None]:
        """Listen during the block if `webhooks.listen` is set. Raises as `serving_webhooks` does.

        For a simulated world it listens without any settings.
        """
        webhooks = settings.webhooks
        if not webhooks.listen and self._send is None:
            yield
            return
        host, port = split_address(webhooks.listen or EMBEDDED)
        requests = WebhookRequests(webhooks.path, self._credentials, self._intake.receive, self.counter.count_request)
        async with serving_webhooks(host, port, requests) as url:
            if self._send is not None:
                self._send(f"{url}{webhooks.path}", self._simulated_secret)
            log.info("listening for webhooks", url=f"{url}{webhooks.path}")
            self.judge.begin()
            self._is_listening = True
            yield

    async def _find_account(self, account: UnknownAccount) -> bool:
        """Find the stream of an Instagram account in what is stored; return whether it is known now.

        After a start, a stream learns its account's id with its first request to the API. That may take long: the
        stream may be paused or stopped, or another worker may have it. Also, the API and webhooks may use different ids
        for one account. If nothing stored shows whose the account is, every stream that it may belong to is run.
        """
        stream = await self._inbox.instagram_stream(account.message_ids, account.people)
        if stream is not None and self._registry.note_account(account.account_id, stream):
            return True
        for each in self._registry.streams_without_account():
            self._supervisor.prompt(each)
        return False

    async def _apply_facts(self, stream: Stream) -> None:
        """Apply the facts of a stream, unless another worker has it and does so.

        If this worker wrote to the stream, the other one would have to read a batch again, and all unchanged batches
        since its last entry.
        """
        if await self._is_elsewhere(stream):
            return
        await self._supervisor.ask(stream, ApplyFacts())

    async def work(self, stop: Stop) -> None:
        """Process webhooks until a stop is requested. If none are received, some may be left of earlier ones."""
        await (self.worker.run(stop) if self._is_listening else self.worker.work_off(stop))

    async def watch_subscriptions(self, clock: Clock, stop: Stop) -> None:
        """Watch the pages' subscriptions until a stop is requested, if webhooks are taken."""
        if self._is_listening:
            await self.subscriptions.run(clock, stop)

    def status(self) -> WebhookStatus | None:
        """Return the counts since the start; None if webhooks are not received."""
        if not self._is_listening:
            return None
        return WebhookStatus(self._taken(), self._intake.latest_at, self.counter.missed)

    def issues(self) -> Iterator[Issue]:
        """Yield what is wrong with the setup of webhooks, judged by the requests since the start."""
        yield from self.subscriptions.issues()
        totals = self.counter.totals
        if self.counter.refused > (REFUSED_BY_STRANGERS if self._taken() else 0):
            yield Issue(IssueKind.WEBHOOKS, UNKNOWN_SIGNATURE, advice=SIGNING_ADVICE)
        nameless = self._total(UpdateResult.WITHOUT_SENDER)
        messages = totals["messages", UpdateResult.STORED] + totals["messages", UpdateResult.DUPLICATE]
        if nameless and not messages:
            yield Issue(
                IssueKind.WEBHOOKS, "webhooks come without a sender, and none of a message", advice=FIELDS_ADVICE
            )
        if self._total(UpdateResult.WITHOUT_VALUES) and not messages:
            yield Issue(IssueKind.WEBHOOKS, "webhooks come without their values", advice=VALUES_ADVICE)

    def _taken(self) -> int:
        totals = self.counter.totals
        return sum(count for (field, result), count in totals.items() if field != REQUEST and result != EXPIRED)

    def _total(self, wanted: UpdateResult) -> int:
        return sum(count for (_, result), count in self.counter.totals.items() if result == wanted)

    def _credentials(self) -> WebhookCredentials:
        """Return the current credentials: a reload may change them."""
        settings = self._reloader.settings
        held = (settings.source.app_secret, *settings.webhooks.secrets)
        known = tuple(secret.get_secret_value() for secret in held)
        verify_token = settings.webhooks.verify_token.get_secret_value()
        return WebhookCredentials(verify_token, known if self._send is None else (*known, self._simulated_secret))


# --- subscriptions ----------------------------------------------------------------------------------------------------

# A subscription ends without notice: somebody removes it, or Meta does after an hour of failed requests. Sweeps go on,
# so nothing is lost; but the operator has to know.
FIRST_SECONDS = 60.0  # so that the first batches are not delayed
SUBSCRIPTION_SECONDS = 3 * 3600.0
SUBSCRIPTION_AGAIN_SECONDS = 900.0  # after a check that failed, or a repair
MAX_NAMED = 5


class SubscriptionWatch:
    """Checks the subscriptions of the registered pages. `subscribes` returns whether to repair them."""

    def __init__(self, registry: PageRegistry, subscribes: Callable[[], bool]) -> None:
        self._registry = registry
        self._subscribes = subscribes
        self._missing: dict[str, tuple[str, ...]] = {}
        self._look_at: dict[str, float] = {}
        self._tried: set[str] = set()  # pages for which the fields of facts were requested

    async def run(self, clock: Clock, stop: Stop) -> None:
        """Check subscriptions until a stop is requested."""
        async with stop.interruptible():
            while True:
                await clock.sleep_until(clock.now() + timedelta(seconds=FIRST_SECONDS))
                await self.look_due(clock)

    async def look_due(self, clock: Clock) -> None:
        """Check the pages that are due, one after the other: there is no hurry."""
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
        """Return for each stream whose page's subscription is known whether anything is missing.

        May be called from another thread.
        """
        return {
            stream: bool(missing)
            for page_id, missing in self._missing.copy().items()
            for stream in self._registry.streams_of(page_id)
        }

    def issues(self) -> Iterator[Issue]:
        """Yield which pages are not subscribed as they should be."""
        lacking = {page_id: missing for page_id, missing in self._missing.items() if missing}
        if lacking:
            named = [f"page {page_id}: {', '.join(missing)}" for page_id, missing in lacking.items()]
            what = f"webhooks are not subscribed for {counted(len(lacking), 'page')}"
            yield Issue(IssueKind.UNSUBSCRIBED, what, reason=listed(named, MAX_NAMED, "; "), advice=SUBSCRIBE)

    async def _look(self, page_id: str) -> bool:
        """Check a page's subscription and repair it; return whether the next check may wait for the usual interval."""
        subscriptions = self._registry.subscriptions(page_id)
        if subscriptions is None:
            return True
        inspected = await self._registry.inspect_token(page_id)
        found = await subscriptions.look(inspected.app_id if isinstance(inspected, InspectedToken) else "")
        if not isinstance(found, Subscription):
            log.debug("webhook subscription not checked", page=page_id, reason=str(found))
            return False
        if found.missing and self._subscribes():
            problem = await subscriptions.mend(found, found.missing)
            if problem is None:
                log.info("page subscribed to webhooks", page=page_id, added=", ".join(found.missing))
                self._missing[page_id] = ()
                return False
            log.warning("page not subscribed to webhooks", page=page_id, reason=str(problem), hint=SUBSCRIBE)
        elif found.missing and not self._missing.get(page_id):
            log.warning("webhooks not subscribed", page=page_id, missing=", ".join(found.missing), hint=SUBSCRIBE)
        elif found.lacking and self._subscribes() and page_id not in self._tried:
            await self._add_fields_of_facts(page_id, subscriptions, found)
        self._missing[page_id] = found.missing
        return not found.missing

    async def _add_fields_of_facts(self, page_id: str, subscriptions: Subscriptions, found: Subscription) -> None:
        """Subscribe a page to the optional fields, trying only once: some versions of the API may not know them."""
        problem = await subscriptions.mend(found, found.lacking)
        if isinstance(problem, Held):
            return
        self._tried.add(page_id)
        if problem is None:
            log.info("page subscribed to webhooks", page=page_id, added=", ".join(found.lacking))
        else:
            log.info("page not subscribed to webhooks of facts", page=page_id, reason=str(problem))
