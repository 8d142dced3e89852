"""Tries tokens against the API: makes the requests that each page's streams will make, and looks up permissions."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.app.pages import PageRegistry, configured_pages, graph_client
from milepost.core.model import Batch, OwnId, OwnIdState, Platform, Stream
from milepost.core.ports import Fetched, Held, Refused, Request, Source
from milepost.core.problems import Problem
from milepost.engine.clock import SystemClock
from milepost.engine.feed import Feed
from milepost.engine.rate_limits import RateLimits
from milepost.facebook.client import GraphClient
from milepost.facebook.pages import InspectedToken, Page, Subscription
from milepost.facebook.responses import problem_of
from milepost.reporting.advice import PERMISSIONS, SUBSCRIBE, advice_on
from milepost.reporting.humanize import counted, on_one_line
from milepost.reporting.status import SET_OWN_ID, own_id_in_words
from milepost.reporting.summary import ExitCode, exit_code_of, most_serious
from milepost.settings.model import Settings

# The permissions without which the platform refuses the list of conversations, or shows it empty.
ESSENTIAL = {Platform.MESSENGER: "pages_messaging", Platform.INSTAGRAM: "instagram_manage_messages"}
MAX_AT_ONCE = 8
MORE_CONVERSATIONS = 25  # enough to find out which participant is us
SOON = timedelta(days=14)


class Owner(Struct):
    """The owner of a token: the response to `GET /me` (Meta, "Graph API: User", "Page")."""

    id: str
    name: str = ""


class _Tried(Struct, frozen=True):
    """The result of a trial: lines for people, and the exit code."""

    lines: tuple[str, ...] = ()
    code: ExitCode = ExitCode.COMPLETE


async def try_tokens(settings: Settings, report: Callable[[str], None]) -> ExitCode:
    """Try the token of every page, listed or discovered, and report each result."""
    client = graph_client(settings.source, settings.source.base_url, lambda: datetime.now(UTC))
    codes = set()
    if client.proxy is not None:
        report(f"The API is called through the proxy {client.proxy}")
    async with client:
        trial = _Trial(settings, client)
        listed = configured_pages(settings)
        keys = {page.id: f"pages[{index}].access_token" for index, page in enumerate(listed)}
        codes.add(await trial.try_pages(listed, keys, report))
        if settings.source.discover_pages:
            found = await trial.registry.fetch_managed()
            discovered = _under("source.discover_pages: ", _findings(found))
            report("\n".join(discovered.lines))
            codes.add(discovered.code)
            others = [page for page in found if page.id not in keys] if isinstance(found, tuple) else []
            codes.add(await trial.try_pages(others, {}, report))
    return most_serious(codes)


class _Trial:
    """Makes the same requests to the API as the streams will, at the same pace."""

    def __init__(self, settings: Settings, client: GraphClient) -> None:
        rate_limits = RateLimits(SystemClock(), Feed(), floor_seconds=settings.source.rate_limit_floor_seconds)
        token = settings.source.access_token.get_secret_value()
        self.registry = PageRegistry(client, rate_limits, settings.source.calls_per_second, token)
        self._client = client
        self._request = Request(None, 1, settings.sync.messages_per_conversation, batches_left=0)
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._takes_webhooks = bool(settings.webhooks.listen)

    async def try_pages(
        self, pages: Sequence[Page], keys: Mapping[str, str], report: Callable[[str], None]
    ) -> ExitCode:
        """Try several pages concurrently, and report them in order. `keys` says where each token is configured."""
        sources = self.registry.add(pages)
        trials = [self._try_page(page, sources, keys.get(page.id, "source.access_token")) for page in pages]
        tried = await asyncio.gather(*trials)
        for each in tried:
            report("\n".join(each.lines))
        return most_serious(each.code for each in tried)

    async def _try_page(self, page: Page, sources: Mapping[Stream, Source], key: str) -> _Tried:
        async with self._slots:
            name = f"page {page.id}{f' ({on_one_line(page.name)})' if page.name else ''}"
            owner = _on_owner(key, page, await self._owner(page.access_token))
            if owner.code is not ExitCode.COMPLETE:
                return _under(f"{name}: ", owner)
            streams = [await self._try_stream(stream, sources[stream]) for stream in page.streams]
            inspected = await self.registry.inspect_token(page.id)
            token = _on_token(page, inspected, key, datetime.now(UTC))
            if self._takes_webhooks:
                app_id = inspected.app_id if isinstance(inspected, InspectedToken) else ""
                streams.append(await self._try_webhooks(page, app_id))
        first, *rest = token.lines
        lines = first, *(f"  {line}" for each in streams for line in each.lines), *rest
        return _under(f"{name}: ", _Tried(lines, most_serious({token.code, *(each.code for each in streams)})))

    async def _owner(self, access_token: str) -> Owner | Problem:
        answer = await self._client.get("me", {"fields": "id,name"}, access_token)
        if isinstance(answer, Refused):
            return answer.problem
        try:
            return msgspec.json.decode(answer.body, type=Owner)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return problem_of(answer.body, answer.status)

    async def _try_stream(self, stream: Stream, source: Source) -> _Tried:
        """Ask for the newest conversation of a stream."""
        match await source.fetch(self._request):
            case Held():
                return _Tried((f"{stream.platform}: not tried: a rate limit forbids the call",), ExitCode.WITH_ERRORS)
            case Refused(problem=problem):
                code = _code_of(problem)
                lines = f"{stream.platform}: {on_one_line(problem)}", f"  → {advice_on(problem, stream)}"
                return _Tried(lines, code)
            case Fetched(batch=batch) if batch.conversations or batch.unreadable:
                return _on_own_id(f"{stream.platform}: conversations can be read", await self._own_id(source, batch))
            case Fetched():
                return _Tried((f"{stream.platform}: conversations can be read, but there are none so far",))

    async def _try_webhooks(self, page: Page, app_id: str) -> _Tried:
        """Check a page's subscription to webhooks."""
        subscriptions = self.registry.subscriptions(page.id)
        found = Held() if subscriptions is None else await subscriptions.look(app_id)
        match found:
            case Subscription(missing=(), lacking=()):
                return _Tried(("webhooks: the page is subscribed",))
            case Subscription(missing=(), lacking=lacking):
                without = f"without {', '.join(lacking)}, which only webhooks report"
                return _Tried((f"webhooks: the page is subscribed, {without}", f"  → {SUBSCRIBE}"))
            case Subscription(missing=missing):
                lines = f"webhooks: the page is not subscribed to {', '.join(missing)}", f"  → {SUBSCRIBE}"
                return _Tried(lines, ExitCode.WITH_ERRORS)
            case Problem():
                return _Tried((f"webhooks: the subscription cannot be read: {on_one_line(found)}",))
            case Held():
                return _Tried(("webhooks: not tried: a rate limit forbids the call",), ExitCode.WITH_ERRORS)

    async def _own_id(self, source: Source, newest: Batch) -> OwnId | None:
        """Return whether participants confirm our own id. Reads more conversations if the newest does not have it."""
        if newest.own_id is not None and newest.own_id.state is OwnIdState.EXPECTED:
            return newest.own_id
        more = await source.fetch(replace(self._request, limit=MORE_CONVERSATIONS))
        return more.batch.own_id if isinstance(more, Fetched) else None


def _on_own_id(readable: str, found: OwnId | None) -> _Tried:
    match found:
        case OwnId(state=OwnIdState.ANOTHER, own_id=own_id):
            advice = f"  → set the page's instagram_account_id to {on_one_line(own_id or '')}"
            return _Tried((readable, f"  {own_id_in_words(found)}", advice))
        case OwnId(state=OwnIdState.UNKNOWN):
            return _Tried((readable, f"  {own_id_in_words(found)}", f"  → {SET_OWN_ID}"), ExitCode.WITH_ERRORS)
        case _:
            return _Tried((readable,))


def _under(heading: str, tried: _Tried) -> _Tried:
    first, *rest = tried.lines
    return _Tried((f"{heading}{first}", *rest), tried.code)


def _findings(found: tuple[Page, ...] | Problem | Held) -> _Tried:
    match found:
        case Problem():
            return _refusal("source.access_token", found)
        case Held():
            return _Tried(("not checked: a rate limit forbids the call",), ExitCode.WITH_ERRORS)
        case ():
            return _Tried(("source.access_token works, but manages no page",), ExitCode.WITH_ERRORS)
        case pages:
            names = ", ".join(f"{page.id} ({on_one_line(page.name)})" for page in pages)
            return _Tried((f"source.access_token manages {counted(len(pages), 'page')}: {names}",))


def _on_owner(key: str, page: Page, answer: Owner | Problem) -> _Tried:
    match answer:
        # If only Instagram is copied, the token may be the account's own, which has a different id.
        case Owner() if answer.id == page.id or Platform.MESSENGER not in page.platforms:
            return _Tried()
        case Owner():
            text = f"the token belongs to {on_one_line(answer.name)} ({answer.id}), not to this page"
            return _Tried((text, f"  → set {key} to the token of this page itself"), ExitCode.CONFIGURATION)
        case Problem():
            return _refusal(key, answer)


def _on_token(page: Page, found: InspectedToken | Problem | Held, key: str, now: datetime) -> _Tried:
    """Return what the platform says about a token that works: how long it is valid, and what it permits."""
    if not isinstance(found, InspectedToken):  # such as the API of Instagram Login, which has no debug_token
        return _Tried(("the token works; its lifetime and permissions are unknown",))
    if not found.health.is_valid:
        return _Tried(("the token is not valid any more", f"  → set {key} to a new token"), ExitCode.AUTHORIZATION)
    ends_at = found.health.ends_at
    lines = [f"the token works, {'and never expires' if ends_at is None else f'until {ends_at:%Y-%m-%d}'}"]
    if ends_at is not None and ends_at - now < SOON:
        lines.append(f"  → set {key} to a new token before then")
    code = ExitCode.COMPLETE
    for platform in page.platforms if found.permissions else ():
        missing = [each for each in PERMISSIONS[platform] if each not in found.permissions]
        if missing:
            lines.append(f"  {platform}: the token does not have the permission {', '.join(missing)}")
        if ESSENTIAL[platform] in missing:
            lines.append(f"  → grant it, and set {key} to a new token that has it")
            code = ExitCode.AUTHORIZATION
    return _Tried(tuple(lines), code)


def _refusal(key: str, problem: Problem) -> _Tried:
    advice = {
        ExitCode.AUTHORIZATION: f"set {key} to a new token with the required permissions",
        ExitCode.CONFIGURATION: "check source.version and source.app_secret",
        ExitCode.WITH_ERRORS: "the token could not be tried; try again later",
    }
    code = _code_of(problem)
    return _Tried((on_one_line(problem), f"  → {advice[code]}"), code)


def _code_of(problem: Problem) -> ExitCode:
    code = exit_code_of(problem)
    return ExitCode.WITH_ERRORS if code is ExitCode.PROGRESS_SAVED else code  # a trial has no progress
