"""Tries tokens against the API: whether each page's works and is its own, and which pages a manager's token finds."""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from milepost.app.pages import PageRegistry
from milepost.core.ports import Held, Refused
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy, rule_for
from milepost.engine.clock import SystemClock
from milepost.engine.feed import Feed
from milepost.engine.rate_limits import RateLimits
from milepost.facebook.client import GraphClient
from milepost.facebook.pages import Page
from milepost.facebook.problems import problem_of
from milepost.reporting.humanize import counted, on_one_line
from milepost.reporting.summary import ExitCode, most_serious
from milepost.settings import PageSettings, Settings


class Owner(Struct):
    """The owner of a token: the response to `GET /me` (Meta, "Graph API: User", "Page")."""

    id: str
    name: str = ""


async def try_tokens(settings: Settings, report: Callable[[str], None]) -> ExitCode:
    """Call `GET /me` with the token of every page, then discover pages, and report each result."""
    source = settings.source
    client = GraphClient(
        source.base_url,
        source.version,
        clock=lambda: datetime.now(UTC),
        app_secret=source.app_secret.get_secret_value(),
        request_timeout_seconds=source.request_timeout_seconds,
    )
    codes = set()
    if client.proxy is not None:
        report(f"The API is called through the proxy {client.proxy}")
    async with client:
        for index, page in enumerate(settings.pages):
            answer = await _owner(client, page.access_token.get_secret_value())
            text, code = _verdict(index, page, answer)
            report(f"page {page.id}{f' ({page.name})' if page.name else ''}: {text}")
            codes.add(code)
        if settings.source.discover_pages:
            text, code = _findings(await _managed(client, settings))
            report(f"source.discover_pages: {text}")
            codes.add(code)
    return most_serious(codes)


async def _owner(client: GraphClient, access_token: str) -> Owner | Problem:
    answer = await client.get("me", {"fields": "id,name"}, access_token)
    if isinstance(answer, Refused):
        return answer.problem
    try:
        return msgspec.json.decode(answer.body, type=Owner)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return problem_of(answer.body, answer.status)


async def _managed(client: GraphClient, settings: Settings) -> tuple[Page, ...] | Problem | Held:
    rate_limits = RateLimits(SystemClock(), Feed(), floor_seconds=settings.source.rate_limit_floor_seconds)
    token = settings.source.access_token.get_secret_value()
    return await PageRegistry(client, rate_limits, settings.source.calls_per_second, token).fetch_managed()


def _findings(found: tuple[Page, ...] | Problem | Held) -> tuple[str, ExitCode]:
    match found:
        case Problem():
            return _refusal("source.access_token", found)
        case Held():  # no rate limit is known here
            return "not checked", ExitCode.WITH_ERRORS
        case ():
            return "source.access_token works, but manages no page", ExitCode.WITH_ERRORS
        case pages:
            names = ", ".join(f"{page.id} ({on_one_line(page.name)})" for page in pages)
            return f"source.access_token manages {counted(len(pages), 'page')}: {names}", ExitCode.COMPLETE


def _verdict(index: int, page: PageSettings, answer: Owner | Problem) -> tuple[str, ExitCode]:
    match answer:
        # Where only Instagram is copied, the token may be that of the account, whose id is another one.
        case Owner() if answer.id == page.id or "messenger" not in page.platforms:
            return "the token works", ExitCode.COMPLETE
        case Owner():
            text = f"the token belongs to {on_one_line(answer.name)} ({answer.id}), not to this page"
            return f"{text}\n  → set the access_token of pages[{index}] to that of its own page", ExitCode.CONFIGURATION
        case Problem():
            return _refusal(f"pages[{index}].access_token", answer)


def _refusal(key: str, problem: Problem) -> tuple[str, ExitCode]:
    text = on_one_line(problem)
    match rule_for(problem, has_cursor=False).remedy:
        case Remedy.STOP_AUTHORIZATION:
            return f"{text}\n  → set {key} to a new token with the required permissions", ExitCode.AUTHORIZATION
        case Remedy.STOP_CONFIGURATION:
            return f"{text}\n  → check source.version and source.app_secret", ExitCode.CONFIGURATION
        case Remedy.RETRY | Remedy.WAIT | Remedy.SHRINK | Remedy.RESET:
            return f"{text}\n  → the token could not be tried; try again later", ExitCode.WITH_ERRORS
