"""The pages that are worked, and their access: tokens change, pages come and go, and nothing has to be restarted."""

from collections.abc import Collection, Iterable

from msgspec import Struct

from milepost.core.model import Platform, Stream, TokenHealth
from milepost.core.ports import Held, Source
from milepost.core.problems import Problem, ProblemKind
from milepost.engine.rate_limits import RateLimits
from milepost.facebook.access import Access
from milepost.facebook.client import GraphClient
from milepost.facebook.inbox import FacebookInbox
from milepost.facebook.managed_pages import ManagedPage, managed_pages
from milepost.facebook.rate_limiter import Budget, RateLimiter
from milepost.facebook.token_health import token_health
from milepost.settings import Settings

# Discovery calls like a stream of its own: what it meets of the app's limit holds up all, of the user's only itself.
DISCOVERY = Stream(Platform.MESSENGER, "me/accounts")
LOST = Problem(ProblemKind.NOT_MANAGED, "the page is not among those that source.access_token manages any more")


class Page(Struct, frozen=True, repr_omit_defaults=True):
    """A page to work, wherever it was named: in the configuration, by discovery or by the simulated world."""

    id: str
    name: str
    platforms: tuple[Platform, ...]
    access_token: str
    instagram_account_id: str | None = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        """A stream for each platform."""
        return tuple(Stream(platform, self.id) for platform in self.platforms)

    def __repr__(self) -> str:
        return f"Page({self.id!r}, {self.platforms!r})"


def configured_pages(settings: Settings) -> list[Page]:
    """Give the pages that the configuration lists."""
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


class _Member(Struct, eq=False):
    """A page of the roster. Its streams share one access and one pace."""

    name: str
    access: Access
    rate_limiter: RateLimiter
    instagram_account_id: str | None
    streams: list[Stream] = []
    sharers: int = 1


class PageRegistry:
    """Knows every page's access, and makes the sources of its streams.

    `manager_token` is that of the user whose pages can be discovered; empty where there is none.
    """

    def __init__(
        self, client: GraphClient, rate_limits: RateLimits, calls_per_second: float, manager_token: str
    ) -> None:
        self._client = client
        self._rate_limits = rate_limits
        self._calls_per_second = calls_per_second
        self._app_budget = Budget()
        self._manager = Access(manager_token)
        self._manager_rate_limiter = RateLimiter(calls_per_second, self._app_budget)
        self._members: dict[str, _Member] = {}

    def page_names(self) -> dict[str, str]:
        """Give the names of the pages by their ids; "" for one whose name nobody has told."""
        return {page_id: member.name for page_id, member in self._members.items()}

    @property
    def calls_per_second(self) -> float:
        """The pace of each page; 0 is no pacing."""
        return self._calls_per_second

    @calls_per_second.setter
    def calls_per_second(self, calls_per_second: float) -> None:
        if calls_per_second == self._calls_per_second:
            return
        self._calls_per_second = calls_per_second
        self._manager_rate_limiter.change(calls_per_second)
        for member in self._members.values():
            member.rate_limiter.change(calls_per_second / member.sharers)

    def share(self, page_id: str, sharers: int) -> None:
        """Keep the calls for a page to this one's part, while as many processes call for it."""
        member = self._members.get(page_id)
        if member is not None and member.sharers != sharers:
            member.sharers = sharers
            member.rate_limiter.change(self._calls_per_second / sharers)

    def add(self, pages: Iterable[Page]) -> dict[Stream, Source]:
        """Take up the pages, and the platforms of pages, that are new, and give the sources of their streams.

        A stream whose page has another Instagram account than before gets a new source, too.
        """
        new: dict[Stream, Source] = {}
        for page in pages:
            member = self._members.get(page.id)
            if member is None:
                rate_limiter = RateLimiter(self._calls_per_second, self._app_budget)
                member = _Member(page.name, Access(page.access_token), rate_limiter, page.instagram_account_id)
                self._members[page.id] = member
            member.name = page.name
            is_same = member.instagram_account_id == page.instagram_account_id
            member.instagram_account_id = page.instagram_account_id
            for stream in page.streams:
                if stream not in member.streams:
                    member.streams.append(stream)
                elif is_same:
                    continue
                new[stream] = self._source(stream, member)
        return new

    def keep(self, pages: Iterable[Page], besides: Collection[str]) -> tuple[Stream, ...]:
        """Drop all streams but those of the pages, and of the pages `besides`, by their ids; give the dropped ones."""
        kept = {stream for page in pages for stream in page.streams}
        dropped: list[Stream] = []
        for page_id, member in list(self._members.items()):
            if page_id in besides:
                continue
            dropped += [stream for stream in member.streams if stream not in kept]
            member.streams = [stream for stream in member.streams if stream in kept]
            if not member.streams:
                del self._members[page_id]
        return tuple(dropped)

    def renew(self, pages: Iterable[Page]) -> tuple[Stream, ...]:
        """Take over the tokens of the pages; give the streams whose access that changes."""
        renewed: list[Stream] = []
        for page in pages:
            member = self._members.get(page.id)
            if member is None:
                continue
            access = member.access
            if access.problem is not None or access.token != page.access_token:
                access.token, access.problem = page.access_token, None
                renewed += member.streams
        return tuple(renewed)

    def suspend(self, page_ids: Iterable[str]) -> tuple[Stream, ...]:
        """Call for these pages no more, until their access is renewed; give the streams that this is news to."""
        lost: list[Stream] = []
        for page_id in page_ids:
            member = self._members[page_id]
            if member.access.problem is None:
                member.access.problem = LOST
                lost += member.streams
        return tuple(lost)

    async def managed(self) -> tuple[ManagedPage, ...] | Problem | Held:
        """Ask which pages the manager's token manages."""
        return await managed_pages(
            self._client, self._manager, self._manager_rate_limiter, self._rate_limits.gate(DISCOVERY)
        )

    def tokens(self) -> dict[str, str]:
        """Give the token of every page that may be called for, by the page's id."""
        return {page_id: each.access.token for page_id, each in self._members.items() if each.access.problem is None}

    def streams_of(self, page_id: str) -> tuple[Stream, ...]:
        """Give the streams of a page; none where it is on the roster no more."""
        member = self._members.get(page_id)
        return () if member is None else tuple(member.streams)

    async def token_health(self, page_id: str) -> TokenHealth | Problem | Held:
        """Ask how the token of a page stands, unless it is on the roster no more."""
        member = self._members.get(page_id)
        if member is None:
            return Held()
        return await token_health(
            self._client, member.access, member.rate_limiter, self._rate_limits.gate(member.streams[0])
        )

    def rotate_manager_token(self, token: str) -> None:
        """Take over the token of the user whose pages are discovered."""
        self._manager.token = token

    def _source(self, stream: Stream, member: _Member) -> Source:
        gate = self._rate_limits.gate(stream)
        return FacebookInbox(
            self._client, stream, member.access, member.rate_limiter, gate, member.instagram_account_id
        )
