"""The pages and their tokens. Both can change while the daemon runs; tokens are checked once a day."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from milepost.core.commands import RecordTokenHealth
from milepost.core.errors import MilepostError
from milepost.core.model import Platform, Stream
from milepost.core.ports import Clock, Held, Source
from milepost.core.problems import Problem, ProblemKind
from milepost.engine.interrupt import Stop
from milepost.engine.rate_limits import RateLimits
from milepost.engine.supervisor import Supervisor
from milepost.facebook.calls import Access, Budget, RateLimiter, Slowdown
from milepost.facebook.client import GraphClient
from milepost.facebook.inbox import FacebookInbox
from milepost.facebook.pages import InspectedToken, Page, Subscriptions, fetch_managed_pages, inspect_token
from milepost.settings.model import Settings, SourceSettings

# Discovery makes its calls as a stream of its own. So an app limit that it meets holds up every stream, and a user
# limit only discovery.
DISCOVERY = Stream(Platform.MESSENGER, "me/accounts")
LOST = Problem(ProblemKind.NOT_MANAGED, "the page is not among those that source.access_token manages any more")


def configured_pages(settings: Settings) -> list[Page]:
    """Return the pages that the configuration lists."""
    return [
        Page(
            page.id,
            page.name,
            tuple(Platform(each) for each in page.platforms),
            page.access_token.get_secret_value(),
            page.instagram_account_id,
        )
        for page in settings.pages
    ]


def graph_client(source: SourceSettings, base_url: str, now: Callable[[], datetime]) -> GraphClient:
    """Return a client of the Graph API at a URL, with the version and limits of the configuration."""
    return GraphClient(
        base_url,
        source.version,
        clock=now,
        app_secret=source.app_secret.get_secret_value(),
        request_timeout_seconds=source.request_timeout_seconds,
    )


class _Registration(Struct, eq=False):
    """A registered page. Its streams share one access, and so one pace."""

    name: str
    access: Access
    instagram_account_id: str | None
    streams: list[Stream] = []
    sharers: int = 1


class ClockDifference(Struct, frozen=True):
    """How far this machine's clock is ahead of the API's, and since when that is more than it should be."""

    ahead_seconds: float
    since: datetime | None


class PageRegistry:
    """Holds every page's access, and makes the sources of its streams.

    `manager_token` belongs to the user whose pages can be discovered; it is empty if there is none.
    """

    def __init__(
        self, client: GraphClient, rate_limits: RateLimits, calls_per_second: float, manager_token: str
    ) -> None:
        self._client = client
        self._rate_limits = rate_limits
        self._calls_per_second = calls_per_second
        self._app_budget = Budget()
        client.known_tokens.learn(manager_token)
        self._manager = Access(manager_token, RateLimiter(calls_per_second, self._app_budget))
        self._pages: dict[str, _Registration] = {}
        self._inboxes: dict[Stream, FacebookInbox] = {}
        self._accounts: dict[str, Stream] = {}  # the streams of Instagram accounts that webhooks named
        self._shown: dict[str, Stream] = {}  # likewise, where only stored rows show which page an account belongs to

    def page_names(self) -> dict[str, str]:
        """Return the pages' names by id; "" where the name is unknown. May be called from another thread."""
        # A list of the items would not do: the tuples that it makes can start the garbage collector, and with its
        # callbacks another thread (CPython before 3.12).
        return {page_id: page.name for page_id, page in self._pages.copy().items()}

    def set_pace(self, calls_per_second: float) -> None:
        """Change the pace of each page; 0 means no pacing."""
        if calls_per_second == self._calls_per_second:
            return
        self._calls_per_second = calls_per_second
        self._manager.rate_limiter.set_rate(calls_per_second)
        for page in self._pages.values():
            page.access.rate_limiter.set_rate(calls_per_second / page.sharers)

    def share(self, page_id: str, sharers: int) -> None:
        """Divide a page's pace by the number of processes that call for it."""
        page = self._pages.get(page_id)
        if page is not None and page.sharers != sharers:
            page.sharers = sharers
            page.access.rate_limiter.set_rate(self._calls_per_second / sharers)

    def add(self, pages: Iterable[Page]) -> dict[Stream, Source]:
        """Register new pages, and new platforms of known ones; return the sources of their streams.

        A stream whose page has another name or Instagram account than before gets a new source, too.
        """
        new: dict[Stream, Source] = {}
        for page in pages:
            self._client.known_tokens.learn(page.access_token)
            known = self._pages.get(page.id)
            if known is None:
                access = Access(page.access_token, RateLimiter(self._calls_per_second, self._app_budget))
                known = self._pages[page.id] = _Registration(page.name, access, page.instagram_account_id)
            is_same = (known.name, known.instagram_account_id) == (page.name, page.instagram_account_id)
            known.name, known.instagram_account_id = page.name, page.instagram_account_id
            for stream in page.streams:
                if stream not in known.streams:
                    known.streams.append(stream)
                elif is_same:
                    continue
                new[stream] = self._source(stream, known)
        return new

    def retain(self, pages: Iterable[Page], besides: Collection[str]) -> tuple[Stream, ...]:
        """Drop and return all streams but those of `pages`, and of the pages whose ids are in `besides`."""
        kept = {stream for page in pages for stream in page.streams}
        dropped: list[Stream] = []
        for page_id, page in list(self._pages.items()):
            if page_id in besides:
                continue
            dropped += [stream for stream in page.streams if stream not in kept]
            page.streams = [stream for stream in page.streams if stream in kept]
            if not page.streams:
                del self._pages[page_id]
        for stream in dropped:
            del self._inboxes[stream]
        for accounts in (self._accounts, self._shown):
            for account_id in [each for each, stream in accounts.items() if stream not in self._inboxes]:
                del accounts[account_id]
        return tuple(dropped)

    def rotate_tokens(self, pages: Iterable[Page]) -> tuple[Stream, ...]:
        """Use the pages' current tokens, and lift suspensions; return the streams whose access this changes."""
        changed: list[Stream] = []
        for page in pages:
            known = self._pages.get(page.id)
            if known is None:
                continue
            access = known.access
            self._client.known_tokens.learn(page.access_token)
            if access.problem is not None or access.token != page.access_token:
                access.token, access.problem = page.access_token, None
                changed += known.streams
        return tuple(changed)

    def suspend(self, page_ids: Iterable[str]) -> tuple[Stream, ...]:
        """Make no more calls for these pages until their tokens are rotated; return the newly suspended streams."""
        lost: list[Stream] = []
        for page_id in page_ids:
            page = self._pages[page_id]
            if page.access.problem is None:
                page.access.problem = LOST
                lost += page.streams
        return tuple(lost)

    def slowdowns(self) -> dict[str, Slowdown]:
        """Return the pages whose calls are notably slowed down, by page id."""
        now = asyncio.get_running_loop().time()
        found = {page_id: page.access.rate_limiter.slowdown(now) for page_id, page in self._pages.items()}
        return {page_id: slowdown for page_id, slowdown in found.items() if slowdown is not None}

    @property
    def clock_difference(self) -> ClockDifference:
        """How the clocks of this machine and of the API differ."""
        return ClockDifference(self._client.ahead_seconds, self._client.clocks_differ_since)

    def tokens(self) -> dict[str, str]:
        """Return the token of every page that is not suspended, by page id."""
        return {page_id: page.access.token for page_id, page in self._pages.items() if page.access.problem is None}

    def streams_of(self, page_id: str) -> tuple[Stream, ...]:
        """Return a page's streams; none if it is no longer registered."""
        page = self._pages.get(page_id)
        return () if page is None else tuple(page.streams)

    def stream_of(self, kind: str, account_id: str) -> Stream | None:
        """Return the stream of the account that webhooks name: a page, or a page's Instagram account, by its id.

        None if there is no such stream, or if it is not known yet to which page an Instagram account belongs.
        """
        if kind == "page":
            found = Stream(Platform.MESSENGER, account_id)
            return found if found in self.streams_of(account_id) else None
        if kind != "instagram":
            return None
        known = self._accounts.get(account_id)
        if known is None or not self._is_of(known, account_id):
            streams = (Stream(Platform.INSTAGRAM, page_id) for page_id in self._pages)
            known = next((stream for stream in streams if self._is_of(stream, account_id)), None)
            if known is not None:
                self._accounts[account_id] = known
        return known or self._shown.get(account_id)

    def note_account(self, account_id: str, stream: Stream) -> bool:
        """Note that webhooks about an Instagram account are for a stream. Return False if the stream is not here."""
        if stream in self._inboxes:
            self._shown[account_id] = stream
        return stream in self._inboxes

    def streams_without_account(self) -> tuple[Stream, ...]:
        """Return the Instagram streams that do not know their account's id from the API yet."""
        return tuple(stream for stream, inbox in self._inboxes.items() if not inbox.knows_own_ids)

    def _is_of(self, stream: Stream, account_id: str) -> bool:
        return stream in self.streams_of(stream.page_id) and account_id in self._inboxes[stream].own_ids

    def rotate_manager_token(self, token: str) -> None:
        """Replace the token of the user whose pages are discovered."""
        self._client.known_tokens.learn(token)
        self._manager.token = token

    async def fetch_managed(self) -> tuple[Page, ...] | Problem | Held:
        """Return the pages that the manager's token manages."""
        return await fetch_managed_pages(self._client, self._manager, self._rate_limits.gate(DISCOVERY))

    async def inspect_token(self, page_id: str) -> InspectedToken | Problem | Held:
        """Return what the platform says about a page's token; Held if the page is no longer registered."""
        page = self._pages.get(page_id)
        if page is None:
            return Held()
        return await inspect_token(self._client, page.access, self._rate_limits.gate(page.streams[0]))

    def subscriptions(self, page_id: str) -> Subscriptions | None:
        """Return the page's subscriptions to webhooks; None if it is no longer registered."""
        page = self._pages.get(page_id)
        if page is None or not page.streams:
            return None
        gate, platforms = self._rate_limits.gate(page.streams[0]), [stream.platform for stream in page.streams]
        return Subscriptions(self._client, page.access, gate, page_id, platforms)

    def _source(self, stream: Stream, page: _Registration) -> Source:
        gate = self._rate_limits.gate(stream)
        inbox = FacebookInbox(self._client, stream, page.access, gate, page.instagram_account_id, page.name)
        self._inboxes[stream] = inbox
        return inbox


# --- the health of their tokens ---------------------------------------------------------------------------------------

LOOK_SECONDS = 30.0  # between looks for new tokens, and before the first call, which must not delay the first batch
CHECK_SECONDS = 86_400.0
CHECK_AGAIN_SECONDS = 3_600.0  # after a check that failed
MAX_AT_ONCE = 8

log = structlog.get_logger("milepost")


class _Checked(Struct, frozen=True):
    """The token that was checked, and when to check it again by the steady clock."""

    token: str
    next_at: float


class TokenWatch:
    """Records the health of every token in the journal, so that people see an expiry before it comes.

    A new token is checked within LOOK_SECONDS. A check that fails does no harm.
    """

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
