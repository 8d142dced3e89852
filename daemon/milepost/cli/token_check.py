"""Tries tokens on the API: whether each page's works and is its own, and which pages the manager's token finds."""

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
    """Whose token it is: the answer to `GET /me` (Meta, "Graph API: User", "Page")."""

    id: str
    name: str = ""


async def try_tokens(settings: Settings, say: Callable[[str], None]) -> ExitCode:
    """Ask `GET /me` with every page's token, then for the pages to be discovered, and say what came of each."""
    source = settings.source
    client = GraphClient(
        source.base_url,
        source.version,
        clock=lambda: datetime.now(UTC),
        app_secret=source.app_secret.get_secret_value(),
        request_timeout_seconds=source.request_timeout_seconds,
    )
    codes = set()
    async with client:
        for place, page in enumerate(settings.pages):
            answer = await _owner(client, page.access_token.get_secret_value())
            text, code = _verdict(place, page, answer)
            say(f"page {page.id}{f' ({page.name})' if page.name else ''}: {text}")
            codes.add(code)
        if settings.source.discover_pages:
            text, code = _findings(await _managed(client, settings))
            say(f"source.discover_pages: {text}")
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
        case Held():  # no pause is known here
            return "not asked for", ExitCode.WITH_ERRORS
        case ():
            return "source.access_token works, but manages no page", ExitCode.WITH_ERRORS
        case pages:
            names = ", ".join(f"{page.id} ({on_one_line(page.name)})" for page in pages)
            return f"source.access_token manages {counted(len(pages), 'page')}: {names}", ExitCode.COMPLETE


def _verdict(place: int, page: PageSettings, answer: Owner | Problem) -> tuple[str, ExitCode]:
    match answer:
        # Where only Instagram is copied the token may be of the account, whose id here is another one.
        case Owner() if answer.id == page.id or "messenger" not in page.platforms:
            return "the token works", ExitCode.COMPLETE
        case Owner():
            text = f"the token is not of this page, but of {on_one_line(answer.name)} ({answer.id})"
            return f"{text}\n  → give pages[{place}] the access_token of its own page", ExitCode.CONFIGURATION
        case Problem():
            return _refusal(f"pages[{place}].access_token", answer)


def _refusal(key: str, problem: Problem) -> tuple[str, ExitCode]:
    text = on_one_line(problem)
    match rule_for(problem, has_cursor=False).remedy:
        case Remedy.STOP_AUTHORIZATION:
            return f"{text}\n  → give {key} a new token, with its permissions", ExitCode.AUTHORIZATION
        case Remedy.STOP_CONFIGURATION:
            return f"{text}\n  → look at source.version and source.app_secret", ExitCode.CONFIGURATION
        case Remedy.RETRY | Remedy.WAIT | Remedy.SHRINK | Remedy.RESET:
            return f"{text}\n  → the token could not be tried; try again later", ExitCode.WITH_ERRORS
