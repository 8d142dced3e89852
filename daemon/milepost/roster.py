"""The pages that are worked, and their access: tokens change, pages come and go, and nothing has to be restarted."""

from collections.abc import Iterable

from msgspec import Struct

from milepost.core.model import Platform, Stream, TokenHealth
from milepost.core.ports import Held, Source
from milepost.core.problems import Problem, ProblemKind
from milepost.engine.pauses import Pauses
from milepost.settings import Settings
from milepost.sources.facebook.access import Access
from milepost.sources.facebook.client import GraphClient
from milepost.sources.facebook.inbox import FacebookInbox
from milepost.sources.facebook.managed_pages import ManagedPage, managed_pages
from milepost.sources.facebook.pace import Budget, Pace
from milepost.sources.facebook.token_health import token_health

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
    pace: Pace
    streams: list[Stream] = []


class Roster:
    """Knows every page's access, and makes the sources of its streams.

    `manager_token` is that of the user whose pages can be discovered; empty where there is none.
    """

    def __init__(self, client: GraphClient, pauses: Pauses, calls_per_second: float, manager_token: str) -> None:
        self._client = client
        self._pauses = pauses
        self._calls_per_second = calls_per_second
        self._app_budget = Budget()
        self._manager = Access(manager_token)
        self._manager_pace = Pace(calls_per_second, self._app_budget)
        self._members: dict[str, _Member] = {}

    def page_names(self) -> dict[str, str]:
        """Give the names of the pages by their ids; "" for one whose name nobody has told."""
        return {page_id: member.name for page_id, member in self._members.items()}

    def enrol(self, pages: Iterable[Page]) -> dict[Stream, Source]:
        """Take up the pages, and the platforms of pages, that are new, and give the sources of their streams."""
        new: dict[Stream, Source] = {}
        for page in pages:
            member = self._members.get(page.id)
            if member is None:
                pace = Pace(self._calls_per_second, self._app_budget)
                member = self._members[page.id] = _Member(page.name, Access(page.access_token), pace)
            for platform in page.platforms:
                stream = Stream(platform, page.id)
                if stream not in member.streams:
                    member.streams.append(stream)
                    new[stream] = self._source(stream, member, page.instagram_account_id)
        return new

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

    def park(self, page_ids: Iterable[str]) -> tuple[Stream, ...]:
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
        return await managed_pages(self._client, self._manager, self._manager_pace, self._pauses.gate(DISCOVERY))

    def tokens(self) -> dict[str, str]:
        """Give the token of every page that may be called for, by the page's id."""
        return {page_id: each.access.token for page_id, each in self._members.items() if each.access.problem is None}

    def streams_of(self, page_id: str) -> tuple[Stream, ...]:
        """Give the streams of a page."""
        return tuple(self._members[page_id].streams)

    async def token_health(self, page_id: str) -> TokenHealth | Problem | Held:
        """Ask how the token of a page stands."""
        member = self._members[page_id]
        return await token_health(self._client, member.access, member.pace, self._pauses.gate(member.streams[0]))

    def renew_manager(self, token: str) -> None:
        """Take over the token of the user whose pages are discovered."""
        self._manager.token = token

    def _source(self, stream: Stream, member: _Member, instagram_account_id: str | None) -> Source:
        gate = self._pauses.gate(stream)
        return FacebookInbox(self._client, stream, member.access, member.pace, gate, instagram_account_id)
