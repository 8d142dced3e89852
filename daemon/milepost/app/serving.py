"""What a daemon serves over HTTP: all that can be asked, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from msgspec import Struct

from milepost.app.build import Parts
from milepost.reporting.live import LiveStreams
from milepost.service.api.background import BackgroundWork, background_work
from milepost.service.api.dead_letters import dead_letter_actions, dead_letters
from milepost.service.api.endpoint import AnyOperation, routes_of
from milepost.service.api.journal import journal
from milepost.service.api.login import login
from milepost.service.api.openapi import described
from milepost.service.api.runs import runs
from milepost.service.api.streams import Overview, stream_actions, streams
from milepost.service.auth import Sessions
from milepost.service.http import serve
from milepost.service.page.pages import pages
from milepost.service.wrong_tokens import WrongTokens
from milepost.settings import Settings
from milepost.stores.reader import JournalReader


class Shown(Struct, frozen=True, eq=False):
    """What the API shows of the work: the journal, what streams are at, and what other readers of the feed tell."""

    journal_reader: JournalReader
    live: LiveStreams
    telling: Sequence[AnyOperation]


@asynccontextmanager
async def serving(
    settings: Settings,
    parts: Parts,
    shown: Shown,
    others: Sequence[web.AbstractRouteDef] = (),
    wrong_tokens: WrongTokens | None = None,
) -> AsyncIterator[str]:
    """Serve the API, the status page and the `others` during the block; give the URL.

    Raises BadConfiguration where the address cannot be listened on.
    """
    http, journal_reader = settings.http, shown.journal_reader
    wrong_tokens = wrong_tokens or WrongTokens()
    token = http.token.get_secret_value()
    async with background_work() as desk:
        operations = described(
            [
                *_about_streams(parts, shown, desk),
                *runs(journal_reader),
                *journal(journal_reader),
                *dead_letters(journal_reader),
                *dead_letter_actions(desk, parts.supervisor.do, parts.store.find_open_dead_letters),
                *shown.telling,
                *login(Sessions(token) if token else None, wrong_tokens, parts.clock.now),
            ]
        )
        routes = [*others, *routes_of(operations), *pages(asks_for_token=bool(token))]
        async with serve(http.host, http.port, routes, token=token, wrong_tokens=wrong_tokens) as url:
            yield url


def _about_streams(parts: Parts, shown: Shown, desk: BackgroundWork) -> list[AnyOperation]:
    supervisor, upkeep = parts.supervisor, parts.upkeep

    def worked() -> Sequence[str]:
        return [stream.key for stream in supervisor.streams]

    overview = Overview(
        shown.journal_reader, shown.live, parts.clock.now, worked, parts.page_names, lambda: upkeep.settings.sync
    )
    return [*streams(overview), *stream_actions(desk, supervisor.ask, worked)]
