"""A daemon's HTTP service as `milepost run` builds it, over a SQLite database with a history."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from kit.builders import NETWORK, STREAM, at, entries, problem, run_started, sweep_started, walking
from milepost.app.build import Parts, assembled
from milepost.app.daemon import Shown, serving
from milepost.core import events
from milepost.core.evolve import fold
from milepost.core.model import Changes, DeadLetterPayload, Platform, Stream
from milepost.core.ports import Commit
from milepost.engine.interrupt import Stop
from milepost.reporting.health import DaemonStatus
from milepost.reporting.live import LiveStreams
from milepost.service.activity import Activity, recent_activity
from milepost.service.endpoint import AnyOperation
from milepost.service.events.broadcast import Broadcast
from milepost.service.events.changes import ChangeStream, change_stream
from milepost.service.events.route import event_stream
from milepost.settings.model import Settings
from milepost.stores.sqlite.reader import SqliteReader, open_sqlite_reader
from milepost.stores.sqlite.store import SqliteStore, open_sqlite

OTHERS = [Stream(Platform.INSTAGRAM, str(number)) for number in range(3)]
STREAMS = [STREAM, *OTHERS]
RUNS = 6  # of each stream
PAYLOAD = '{"id":"t_1","unread_count":12345678901234567890}'


def dead_letter_id(stream: Stream, run: int) -> str:
    """Return the id of the dead letter that a run of a stream leaves."""
    return f"{run:08x}{STREAMS.index(stream):08x}"


def run_id(stream: Stream, run: int) -> str:
    """Return the id of a run of a stream; each ends a minute after the previous one."""
    return f"20260301T12{run:02}00Z-{STREAMS.index(stream):012x}"


@asynccontextmanager
async def served(
    path: Path, *, token: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[tuple[aiohttp.ClientSession, Parts]]:
    """Serve the database at `path`, created if there is none, without working any stream."""
    settings = Settings.model_validate(
        {
            "store": {"url": f"sqlite:///{path}"},
            "source": {"calls_per_second": 0},
            "http": {"listen": "127.0.0.1:0", "token": token},
        }
    )
    async with (
        assembled(settings, Stop()) as parts,
        open_sqlite_reader(path) as journal_reader,
        serving(settings, parts, shown(parts, journal_reader)) as url,
        aiohttp.ClientSession(url, headers=headers) as session,
    ):
        yield session, parts


def shown(parts: Parts, journal_reader: SqliteReader) -> Shown:
    """Return what the API shows of a daemon with which nothing is wrong."""

    def daemon() -> DaemonStatus:
        return DaemonStatus(parts.clock.now(), "1", (), {}, {})

    return Shown(journal_reader, LiveStreams(parts.clock.now), daemon, feed_operations(journal_reader, parts))


def feed_operations(journal_reader: SqliteReader, parts: Parts) -> list[AnyOperation]:
    """Return the operations of readers of the feed, which is silent here."""
    now = parts.clock.now
    return [
        *event_stream(Broadcast(journal_reader, now)),
        *change_stream(ChangeStream(journal_reader)),
        *recent_activity(Activity(now).past),
    ]


async def get_json(session: aiohttp.ClientSession, path: str, **query: str | int) -> dict[str, Any]:
    """Get something that exists."""
    async with session.get(path, params=query) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/json"
        answer: dict[str, Any] = await response.json()
        return answer


async def refused(session: aiohttp.ClientSession, path: str, **query: str | int) -> tuple[int, str]:
    """Get something that is refused; return the status and the detail of the problem."""
    async with session.get(path, params=query) as response:
        assert response.content_type == "application/problem+json"
        problem = await response.json()
        assert problem["status"] == response.status
        return response.status, problem["detail"]


async def fill(path: Path) -> None:
    """Store a history of each stream: runs with a batch each, some failed, and a dead letter each, some closed."""
    async with open_sqlite(path, synchronous="normal") as store:
        for run in range(RUNS):
            for stream in STREAMS:
                await _work(store, stream, run)


async def _work(store: SqliteStore, stream: Stream, run: int) -> None:
    before, dead_letter = await store.load(stream), dead_letter_id(stream, run)
    history: list[events.Event] = [
        run_started(at(60 * run)),
        *([sweep_started()] if before.sweep is None else []),
        events.DeadLetterOpened(dead_letter, events.Stage.FETCH, f"t_{run}", "it went wrong", at(10**9), "fp"),
        events.BatchStored(walking(f"c{run}", at(-60 * run)), events.Tally(batches=1, inserted=40, dead_lettered=1)),
        *([events.BatchFailed(events.Stage.FETCH, 3, NETWORK)] if run % 2 else []),
        *([events.DeadLetterClosed(dead_letter, events.Resolution.DISCARDED, reason="spam")] if run % 3 == 0 else []),
        events.RunEnded(
            events.RunStatus.PAUSED,
            events.Reason.BATCH_LIMIT,
            walking(f"c{run}"),
            problem=problem(1) if run % 2 else None,
        ),
    ]
    appended = entries(*history, after=before, run_id=run_id(stream, run), recorded_at=at(60 * run))
    after = fold(appended, before)
    payloads = () if run % 3 == 0 else (DeadLetterPayload(dead_letter, PAYLOAD),)
    await store.commit(Commit(appended, Changes(payloads=payloads), after, after.run))
