"""Keeps the set of pages up to date: those in the configuration, and those that the manager's token can access."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import structlog
from msgspec import Struct

from milepost.app.pages import PageRegistry, configured_pages
from milepost.core.ports import Clock, Held
from milepost.core.problems import Problem, ProblemKind, Remedy, rule_for
from milepost.engine.interrupt import Interrupt, Stop
from milepost.engine.supervisor import Supervisor
from milepost.facebook.pages import Page
from milepost.reporting.health import Issue, IssueKind
from milepost.settings.model import Settings

LOOK_SECONDS = 10.0  # between checks of the clock: it may have been set, or the machine suspended
DISCOVERY_SECONDS = 900.0
EMPTY_SECONDS = 3_600.0  # before an empty list is believed where pages were discovered: as long as an outage
DISCOVERY_RETRY_SECONDS = 60.0  # after a failure that may pass, or when a rate limit forbade the call

log = structlog.get_logger("milepost")


class _Failure(Struct, frozen=True):
    """When discovery began to fail, why its latest attempt failed, and what a person can do."""

    since: datetime
    reason: str
    advice: str


class PageDiscovery:
    """Adds and removes the streams of pages while the supervisor runs.

    `learn_secret` is called with every page token before the token is used.
    """

    def __init__(
        self,
        registry: PageRegistry,
        supervisor: Supervisor,
        settings: Settings,
        learn_secret: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._failure: _Failure | None = None
        self._has_succeeded = False
        self._registry = registry
        self._supervisor = supervisor
        self._settings = settings
        self._learn_secret = learn_secret
        self._discovered: frozenset[str] = frozenset()
        self._empty_since: float | None = None  # by the steady clock
        self._next_seconds = DISCOVERY_SECONDS
        self._requested = Interrupt()

    async def run(self, clock: Clock, stop: Stop) -> None:
        """Discover pages every quarter of an hour, and on request, until a stop is requested."""
        due_at = clock.steady() + self._next_seconds
        while not stop.is_requested:
            if self._requested.is_set or clock.steady() >= due_at:
                self._requested.clear()
                async with stop.interruptible():
                    await self.discover()
                due_at = clock.steady() + self._next_seconds
            await stop.sleep(clock, LOOK_SECONDS, self._requested)

    def request(self) -> None:
        """Make a discovery due now."""
        self._requested.set()

    def adopt(self, settings: Settings) -> None:
        """Apply new settings to the pages: pace, tokens, and which pages are listed."""
        self._settings = settings
        self._registry.set_pace(settings.source.calls_per_second)
        if settings.source.kind == "facebook":  # a simulated world has pages and tokens of its own
            self._registry.rotate_manager_token(settings.source.access_token.get_secret_value())
            pages = configured_pages(settings)
            self._retain(pages)
            self._add(pages)

    async def discover(self) -> Problem | Held | None:
        """Look up the managed pages; add the new ones and suspend the lost ones. Return what prevented it, if anything.

        If the settings change during the call, its answer is discarded and Held is returned: the token may be another.
        """
        settings = self._settings
        if not settings.source.discover_pages:
            self._failure = None
            return None
        found = self._unless_suddenly_empty(await self._registry.fetch_managed())
        if self._settings is not settings:
            return Held()
        self._note(found)
        self._next_seconds = DISCOVERY_RETRY_SECONDS if _may_pass(found) else DISCOVERY_SECONDS
        if isinstance(found, Held):
            return found
        if isinstance(found, Problem):
            log.error("pages could not be discovered", problem=str(found), hint=discovery_hint(found))
            return found
        configured = {page.id for page in settings.pages}
        pages = [page for page in found if page.id not in configured]
        self._add(pages)
        self._suspend_lost(frozenset(page.id for page in pages))
        return None

    def _unless_suddenly_empty(self, found: tuple[Page, ...] | Problem | Held) -> tuple[Page, ...] | Problem | Held:
        """Return what was found, or why it is not believed: an incident can look like a list without pages.

        To believe it would stop every stream, although the pages' own tokens may be as good as before.
        """
        if isinstance(found, Problem | Held):
            return found
        if found or not self._discovered:
            self._empty_since = None
            return found
        now = self._clock.steady()
        self._empty_since = now if self._empty_since is None else self._empty_since
        if now - self._empty_since >= EMPTY_SECONDS:
            return found
        return Problem(ProblemKind.INVALID_RESPONSE, "the list of managed pages is empty, and was not before")

    @property
    def is_up(self) -> bool | None:
        """Whether the latest discovery succeeded; None while discovery is off."""
        if not self._settings.source.discover_pages:
            return None
        return self._failure is None and self._has_succeeded

    def issues(self) -> Iterator[Issue]:
        """Yield an issue if no page is known, and one if discovery fails."""
        failure = self._failure if self._settings.source.discover_pages else None
        if not self._supervisor.streams:
            yield Issue(IssueKind.NOTHING_TO_DO, "there is no stream to work on", reason=self._why_no_streams(failure))
        if failure is not None:
            what = "the pages that source.access_token manages cannot be discovered"
            yield Issue(IssueKind.DISCOVERY_FAILED, what, failure.since, failure.reason, failure.advice)

    def _why_no_streams(self, failure: "_Failure | None") -> str:
        if failure is not None:
            return "no page could be discovered"
        if self._settings.source.discover_pages:
            return "source.access_token manages no page"
        return "the configuration lists no page"

    def _note(self, found: Sequence[Page] | Problem | Held) -> None:
        """Remember whether discovery fails, and since when. A call that a rate limit forbade changes nothing."""
        since = self._clock.now() if self._failure is None else self._failure.since
        match found:
            case Problem():
                self._failure = _Failure(since, str(found), discovery_hint(found))
            case Held() if not self._has_succeeded and self._failure is None:
                self._failure = _Failure(since, "a rate limit forbids the call", "nothing to do: it is retried")
            case Held():
                pass
            case _:
                self._failure, self._has_succeeded = None, True

    def _suspend_lost(self, managed: frozenset[str]) -> None:
        for stream in self._registry.suspend(self._discovered - managed):
            log.warning("page lost", stream=stream.key, hint="source.access_token does not manage it any more")
            self._supervisor.wake(stream)
        self._discovered |= managed

    def _add(self, pages: Sequence[Page]) -> None:
        for page in pages:
            self._learn_secret(page.access_token)
        for stream, source in self._registry.add(pages).items():
            if stream not in self._supervisor.streams:
                log.info("stream added", stream=stream.key)
            self._supervisor.admit(stream, source)
        for stream in self._registry.rotate_tokens(pages):
            log.info("access renewed", stream=stream.key)
            self._supervisor.wake(stream)

    def _retain(self, pages: Sequence[Page]) -> None:
        """Drop every page but these and, while discovery is on, the discovered ones."""
        listed = {page.id for page in pages}
        self._discovered = self._discovered - listed if self._settings.source.discover_pages else frozenset()
        for stream in self._registry.retain(pages, besides=self._discovered):
            log.info("stream removed", stream=stream.key, hint="it ends after the current batch; copied rows stay")
            self._supervisor.dismiss(stream)


def _may_pass(found: Sequence[Page] | Problem | Held) -> bool:
    """Return whether a discovery failed for a reason that may pass soon."""
    match found:
        case Problem():
            return rule_for(found, has_cursor=False).remedy in {Remedy.RETRY, Remedy.SHRINK}
        case Held():
            return True
        case _:
            return False


def discovery_hint(problem: Problem) -> str:
    """Return what a person can do about a discovery that failed."""
    match rule_for(problem, has_cursor=False).remedy:
        case Remedy.STOP_AUTHORIZATION:
            return (
                "give source.access_token a new token; it is picked up without a restart, unless it is a credential"
                " of a systemd unit: then restart that"
            )
        case Remedy.STOP_CONFIGURATION:
            return "check source.access_token, source.app_secret and source.version"
        case _:
            return "retried automatically; known pages are still synced"
