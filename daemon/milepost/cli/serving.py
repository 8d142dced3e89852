"""What a daemon serves over HTTP: everything that there is to ask, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from milepost.assembly import Parts
from milepost.service.api.dead_letters import dead_letters
from milepost.service.api.desk import open_desk
from milepost.service.api.journal import journal
from milepost.service.api.letter_actions import letter_actions
from milepost.service.api.login import login
from milepost.service.api.openapi import described
from milepost.service.api.operations import routes_of
from milepost.service.api.runs import runs
from milepost.service.api.stream_actions import stream_actions
from milepost.service.api.streams import Overview, streams
from milepost.service.http import serve
from milepost.service.metrics import Metrics
from milepost.service.monitoring import exposition, probes
from milepost.service.sessions import Sessions
from milepost.settings import Settings
from milepost.stores.archive import open_archive


@asynccontextmanager
async def serving(settings: Settings, parts: Parts, metrics: Metrics) -> AsyncIterator[str]:
    """Serve during the block, and give the URL. Raises BadConfiguration where the address cannot be listened on."""
    sync, http, supervisor, now = settings.sync, settings.http, parts.supervisor, parts.clock.now
    token = http.token.get_secret_value()

    def worked() -> Sequence[str]:
        return [stream.key for stream in supervisor.streams]

    async with open_archive(settings.store.sqlite_path) as archive, open_desk() as desk:
        overview = Overview(archive, now, worked, parts.page_names, sync.interval_seconds, sync.batch_size)
        operations = [
            *streams(overview),
            *stream_actions(desk, supervisor.ask, worked),
            *runs(archive),
            *journal(archive),
            *dead_letters(archive),
            *letter_actions(desk, supervisor.do, parts.store.open_letters),
            *login(Sessions(token) if token else None, now),
        ]
        routes = [
            *probes(parts.store.answers, supervisor.stalled),
            *exposition(metrics.expose),
            *routes_of(described(operations)),
        ]
        async with serve(http.host, http.port, routes, token=token) as url:
            yield url
