"""Tries the token of each page on the API: whether it works, and whether it is of the page that it stands with."""

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from milepost.cli.phrases import on_one_line
from milepost.core.ports import Refused
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy, remedy
from milepost.core.summary import SERIOUSNESS, ExitCode
from milepost.settings import PageSettings, Settings
from milepost.sources.facebook.client import GraphClient
from milepost.sources.facebook.problems import problem_of


class Owner(Struct):
    """Whose token it is: the answer to `GET /me` (Meta, "Graph API: User", "Page")."""

    id: str
    name: str = ""


async def try_tokens(settings: Settings, say: Callable[[str], None]) -> ExitCode:
    """Ask `GET /me` with every page's token, one after the other, and say how each did."""
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
    return next((code for code in SERIOUSNESS if code in codes), ExitCode.COMPLETE)


async def _owner(client: GraphClient, access_token: str) -> Owner | Problem:
    answer = await client.get("me", {"fields": "id,name"}, access_token)
    if isinstance(answer, Refused):
        return answer.problem
    try:
        return msgspec.json.decode(answer.body, type=Owner)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return problem_of(answer.body, answer.status, access_token)


def _verdict(place: int, page: PageSettings, answer: Owner | Problem) -> tuple[str, ExitCode]:
    match answer:
        # Where only Instagram is copied the token may be of the account, whose id here is another one.
        case Owner() if answer.id == page.id or "messenger" not in page.platforms:
            return "the token works", ExitCode.COMPLETE
        case Owner():
            text = f"the token is not of this page, but of {on_one_line(answer.name)} ({answer.id})"
            return f"{text}\n  → give pages[{place}] the access_token of its own page", ExitCode.CONFIGURATION
        case Problem():
            return _refusal(place, answer)


def _refusal(place: int, problem: Problem) -> tuple[str, ExitCode]:
    text = on_one_line(problem)
    match remedy(problem):
        case Remedy.STOP_AUTHORIZATION:
            return f"{text}\n  → give pages[{place}] a new access_token, with its permissions", ExitCode.AUTHORIZATION
        case Remedy.STOP_CONFIGURATION:
            return f"{text}\n  → look at source.version and source.app_secret", ExitCode.CONFIGURATION
        case Remedy.WAIT | Remedy.RETRY:
            return f"{text}\n  → the token could not be tried; try again later", ExitCode.WITH_ERRORS
