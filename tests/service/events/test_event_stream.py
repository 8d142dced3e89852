"""`GET /api/events` over real connections: what is sent, in which order, from where on, and who is disconnected."""

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from kit.binary import until
from kit.builders import STREAM, at
from kit.event_source import Heard, listening
from kit.notices import COMMIT_SECONDS, FETCH_SECONDS, passed, store_retried, usage_told
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreAway, StoreRefused
from milepost.core.model import Stream
from milepost.core.ports import Committed
from milepost.engine.feed import Recorded
from milepost.service import http as http_module
from milepost.service.endpoint import routes_of
from milepost.service.events import broadcast, route
from milepost.service.events.broadcast import Broadcast
from milepost.service.events.messages import Status
from milepost.service.events.route import event_stream
from milepost.service.http import serve
from milepost.stores.reader import StoredEntry
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.sqlite.reader import SqliteReader, open_sqlite_reader
from milepost.stores.sqlite.store import SqliteStore, open_sqlite
from service.events.journals import STREAMS, write_lives
from stores.histories import next_commit
from stores.sqlite_files import execute

KEPT = 200  # for all readers: fewer than usual, so that a journal need not be long to have more
ONE, ANOTHER, _ = STREAMS


class WatchedReader(SqliteReader):
    """A journal reader that counts its queries, and that fails or is slow where a test wants it so."""

    queries = 0
    is_away = False
    is_broken = False
    takes_seconds = 0.0

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        self._count()
        await asyncio.sleep(self.takes_seconds)
        return await super().entries(after=after, limit=limit, stream=stream)

    async def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        self._count()
        return await super().latest(limit=limit, stream=stream)

    def _count(self) -> None:
        self.queries += 1
        if self.is_away:
            raise StoreAway("the database does not answer: it is locked")
        if self.is_broken:
            raise StoreRefused("the database cannot be used: it is damaged")


class Daemon:
    """The parts of a daemon that the event stream needs: a store to commit to, the broadcast, and its listener."""

    def __init__(self, store: SqliteStore, journal_reader: WatchedReader, followed: Broadcast, url: str) -> None:
        self.journal_reader = journal_reader
        self.broadcast = followed
        self.url = url
        self._store = store
        self._checkpoints: dict[str, Checkpoint] = {}

    async def commit(self, *streams: Stream, is_announced: bool = True) -> int:
        """Commit once more for each stream, as another worker where not announced; return the number of entries."""
        entries = 0
        for stream in streams:
            notice = await self.record(stream)
            if is_announced:
                self.broadcast.read(notice)
            entries += len(notice.entries)
        return entries

    async def record(self, stream: Stream) -> Recorded:
        """Commit once more for a stream, and return the notice that announces it."""
        checkpoint = self._checkpoints.get(stream.key) or await self._store.load(stream)
        commit = next_commit(checkpoint)
        committed = await self._store.commit(commit)
        assert isinstance(committed, Committed)
        self._checkpoints[stream.key] = commit.checkpoint
        return Recorded(commit.entries, committed, commit.checkpoint, COMMIT_SECONDS, FETCH_SECONDS)

    async def has_readers(self, readers: int) -> None:
        """Wait until that many readers are connected."""
        await until(lambda: self.broadcast._readers == readers)


@asynccontextmanager
async def daemon_on(
    path: Path, *, heartbeat_seconds: float = 30.0, max_readers: int = 300, max_write_seconds: float = 20.0
) -> AsyncIterator[Daemon]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(broadcast, "HEARTBEAT_SECONDS", heartbeat_seconds)
        patched.setattr(broadcast, "MAX_READERS", max_readers)
        patched.setattr(route, "MAX_WRITE_SECONDS", max_write_seconds)
        async with open_sqlite(path, synchronous="normal") as store, open_sqlite_reader(path) as opened:
            journal_reader = WatchedReader(opened._database)
            followed = Broadcast(journal_reader, lambda: at(0))
            async with serve("127.0.0.1", 0, routes_of(event_stream(followed))) as url, followed.running():
                yield Daemon(store, journal_reader, followed, url)


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """Return a database with a short history of each stream."""
    path = tmp_path / "milepost.db"
    migrate(path)
    write_lives(path, commits=5)
    return path


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a database with more entries than are kept for all readers, which are read by many pages."""
    monkeypatch.setattr(broadcast, "MAX_KEPT", KEPT)
    monkeypatch.setattr(broadcast, "PAGE", 40)
    path = tmp_path / "milepost.db"
    migrate(path)
    assert write_lives(path, commits=60) > 2 * KEPT
    return path


async def everything(daemon: Daemon) -> list[Heard]:
    """Return all events, from the first to the newest entry."""
    newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
    async with listening(daemon.url, last_event_id="0") as source:
        return await source.events(newest)


def ids(events: Sequence[Heard]) -> list[int]:
    return [int(event.id) for event in events]


# --- what is sent -----------------------------------------------------------------------------------------------------


async def test_each_committed_entry_is_sent_as_one_event(short: Path) -> None:
    async with daemon_on(short) as daemon:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        live: list[Heard] = []
        async with listening(daemon.url) as source:
            for _ in range(3):
                live += await source.events(await daemon.commit(*STREAMS))
        assert ids(live) == list(range(newest + 1, newest + len(live) + 1))
        assert {event.told["stream"] for event in live} == {stream.key for stream in STREAMS}
        assert (await everything(daemon))[newest:] == live


async def test_the_response_is_an_event_stream_that_no_proxy_may_cache_or_buffer(short: Path) -> None:
    async with daemon_on(short) as daemon, listening(daemon.url) as source:
        headers = source.response.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in headers
        assert source.retry == 3000


async def test_committed_entries_are_sent_from_memory_without_reading_the_journal(short: Path) -> None:
    async with daemon_on(short) as daemon, listening(daemon.url) as source:
        queries = daemon.journal_reader.queries
        for _ in range(3):
            entries = await daemon.commit(*STREAMS)
            assert len(await source.events(entries)) == entries
        assert daemon.journal_reader.queries == queries


async def test_what_another_worker_committed_comes_in_its_order(short: Path) -> None:
    async with daemon_on(short) as daemon:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        live: list[Heard] = []
        async with listening(daemon.url) as source:
            for _ in range(3):
                entries = await daemon.commit(ANOTHER, is_announced=False) + await daemon.commit(ONE)
                live += await source.events(entries)
        assert ids(live) == list(range(newest + 1, newest + len(live) + 1))
        assert (await everything(daemon))[newest:] == live


async def test_without_readers_nothing_is_read(short: Path) -> None:
    async with daemon_on(short, heartbeat_seconds=0.05) as daemon:
        async with listening(daemon.url):
            await daemon.has_readers(1)
        await daemon.has_readers(0)
        asked = daemon.journal_reader.queries
        await daemon.commit(*STREAMS)
        daemon.broadcast.read(passed())
        await asyncio.sleep(0)
        assert daemon.journal_reader.queries == asked


async def test_two_hundred_readers_all_get_the_same_events(short: Path) -> None:
    async with daemon_on(short) as daemon, AsyncExitStack() as stack:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        sources = [await stack.enter_async_context(listening(daemon.url)) for _ in range(200)]
        entries = 0
        for _ in range(20):
            entries += await daemon.commit(*STREAMS)
            await asyncio.sleep(0.01)
        received = await asyncio.gather(*(source.events(entries) for source in sources))
        assert ids(received[0]) == list(range(newest + 1, newest + entries + 1))
        assert all(events == received[0] for events in received)


# --- from where on ----------------------------------------------------------------------------------------------------


async def test_a_reader_that_reconnects_gets_what_it_missed_without_gaps_or_duplicates(long: Path) -> None:
    async with daemon_on(long, heartbeat_seconds=0.05) as daemon:
        whole = await everything(daemon)
        for place in (0, 1, 57, len(whole) // 2, -KEPT - 1, -KEPT, -KEPT + 1, -1):
            await daemon.has_readers(0)  # so that what is kept for all begins anew, so far from the end
            after = place if place >= 0 else len(whole) + place
            async with listening(daemon.url, last_event_id=str(after)) as source:
                more = await daemon.commit(*STREAMS)
                received = await source.events(len(whole) - after + more)
            assert ids(received) == list(range(after + 1, len(whole) + more + 1))
            assert received[: len(whole) - after] == whole[after:]
            whole += received[-more:]


async def test_a_reader_of_old_entries_misses_none_while_more_than_is_kept_is_committed(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "MAX_KEPT", 10)
    monkeypatch.setattr(broadcast, "PAGE", 4)
    async with daemon_on(short) as daemon:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        async with listening(daemon.url, last_event_id="0") as source:
            more = sum([await daemon.commit(*STREAMS) for _ in range(20)])
            assert ids(await source.events(newest + more)) == list(range(1, newest + more + 1))


async def test_a_reader_begins_with_the_requested_number_of_newest_entries(long: Path) -> None:
    async with daemon_on(long) as daemon:
        whole = await everything(daemon)
        for last in (1, 7, 500):
            async with listening(daemon.url, ("last", str(last))) as source:
                assert await source.events(last) == whole[-last:]
            of_one = [event for event in whole if event.told["stream"] == ONE.key]
            async with listening(daemon.url, ("last", str(last)), ("stream", ONE.key)) as source:
                assert await source.events(min(last, len(of_one))) == of_one[-last:]


async def test_a_reader_gets_all_entries_where_there_are_fewer_than_requested(tmp_path: Path) -> None:
    migrate(tmp_path / "milepost.db")
    async with daemon_on(tmp_path / "milepost.db") as daemon:
        async with listening(daemon.url, ("last", "500")) as source:
            assert source.last_event_id == "0"
            entries = await daemon.commit(ONE)
            assert ids(await source.events(entries)) == list(range(1, entries + 1))
        async with listening(daemon.url, ("last", "500")) as source:
            assert ids(await source.events(entries)) == list(range(1, entries + 1))


async def test_the_last_event_id_wins_over_the_requested_number(short: Path) -> None:
    async with daemon_on(short) as daemon:
        whole = await everything(daemon)
        async with listening(daemon.url, ("last", "500"), last_event_id=str(len(whole) - 2)) as source:
            assert await source.events(2) == whole[-2:]


async def test_a_reader_of_a_longer_journal_begins_at_the_end_of_this_one(short: Path) -> None:
    async with daemon_on(short) as daemon:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        async with listening(daemon.url, last_event_id=str(newest + 1000)) as source:
            assert source.last_event_id == str(newest)
            assert ids(await source.events(await daemon.commit(ONE)))[0] == newest + 1


async def test_the_last_event_id_is_known_before_the_first_event(short: Path) -> None:
    async with daemon_on(short) as daemon:
        async with listening(daemon.url) as source:
            place = source.last_event_id
        entries = await daemon.commit(ONE)
        async with listening(daemon.url, last_event_id=place) as source:
            assert ids(await source.events(entries))[0] == int(place) + 1


# --- filters ----------------------------------------------------------------------------------------------------------


async def test_only_wanted_events_are_sent_whether_old_or_new(long: Path) -> None:
    async with daemon_on(long) as daemon:
        whole = await everything(daemon)
        for query in (
            [("stream", ONE.key)],
            [("stream", ONE.key), ("stream", ANOTHER.key)],
            [("status", "batch_failed"), ("status", "complete_with_errors")],
            [("stream", ANOTHER.key), ("status", "batch_limit_warning")],
        ):
            streams = {value for name, value in query if name == "stream"} or {stream.key for stream in STREAMS}
            statuses = {value for name, value in query if name == "status"} or set(Status)
            wanted = [e for e in whole if e.told["stream"] in streams and e.told["status"] in statuses]
            assert 0 < len(wanted) < len(whole)
            async with listening(daemon.url, *query, last_event_id="0") as source:
                assert await source.events(len(wanted)) == wanted


async def test_a_reader_that_wants_little_reconnects_where_it_was(short: Path) -> None:
    async with (
        daemon_on(short, heartbeat_seconds=0.05) as daemon,
        listening(daemon.url, ("stream", STREAM.key)) as source,
    ):
        await daemon.commit(*STREAMS)
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        while source.last_event_id != str(newest):
            await source.heartbeat()


# --- notices without an entry -----------------------------------------------------------------------------------------


async def test_a_notice_without_an_entry_is_sent_without_an_id_to_readers_that_keep_up(short: Path) -> None:
    async with daemon_on(short) as daemon, listening(daemon.url) as source:
        place = source.last_event_id
        daemon.broadcast.read(passed(Checkpoint(ONE)))
        (batch,) = await source.events(1)
        daemon.broadcast.read(store_retried(ANOTHER))
        (retried,) = await source.events(1)
        assert (batch.id, batch.told["status"], batch.told["stream"]) == ("", "progress", ONE.key)
        assert (retried.id, retried.told["status"], retried.told["stream"]) == ("", "db_retrying", ANOTHER.key)
        assert source.last_event_id == place
        async with listening(daemon.url, ("last", "1")) as another:
            assert (await another.events(1))[0].id == place


async def test_of_many_notices_without_entries_the_latest_of_each_stream_is_sent(short: Path) -> None:
    async with daemon_on(short) as daemon, listening(daemon.url) as source:
        recorded = await daemon.record(ANOTHER)
        for _ in range(1000):
            daemon.broadcast.read(passed(Checkpoint(ONE)))
            daemon.broadcast.read(store_retried(ANOTHER))
        daemon.broadcast.read(usage_told())
        daemon.broadcast.read(recorded)  # which tells more, and comes before the next beat: nothing is awaited here
        received = await source.events(len(recorded.entries) + 1)
        assert [event.id != "" for event in received] == [True] * len(recorded.entries) + [False]
        assert received[-1].told["stream"] == ONE.key


async def test_a_notice_without_an_entry_is_filtered_like_all_events(short: Path) -> None:
    async with daemon_on(short) as daemon, listening(daemon.url, ("status", "db_retrying")) as source:
        daemon.broadcast.read(passed(Checkpoint(ONE)))
        daemon.broadcast.read(store_retried(ANOTHER))
        assert [event.told["status"] for event in await source.events(1)] == ["db_retrying"]


# --- through failures and the end -------------------------------------------------------------------------------------


async def test_heartbeats_come_however_briefly_connections_may_be_idle(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "MAX_IDLE_SECONDS", 0.01)
    async with daemon_on(short, heartbeat_seconds=0.05) as daemon, listening(daemon.url) as source:
        for _ in range(5):
            await source.heartbeat()
        assert len(await source.events(await daemon.commit(ONE))) > 0


async def test_an_unavailable_database_is_read_again(short: Path) -> None:
    async with daemon_on(short) as daemon, listening(daemon.url) as source:
        daemon.journal_reader.is_away = True
        entries = await daemon.commit(ANOTHER, is_announced=False) + await daemon.commit(ONE)
        asked = daemon.journal_reader.queries
        await until(lambda: daemon.journal_reader.queries > asked + 1)
        daemon.journal_reader.is_away = False
        assert len(await source.events(entries)) == entries


async def test_a_damaged_database_ends_the_stream_for_all_readers(short: Path) -> None:
    with capture_logs() as lines:
        async with daemon_on(short) as daemon, listening(daemon.url) as source:
            daemon.journal_reader.is_broken = True
            await daemon.commit(ANOTHER, is_announced=False)
            await daemon.commit(ONE)
            assert await source.events() == []
            async with aiohttp.ClientSession() as session, session.get(f"{daemon.url}/api/events") as response:
                assert response.status == 503
    assert [(line["part"], line["error"]) for line in lines if line["log_level"] == "error"] == [
        ("events", "the database cannot be used: it is damaged")
    ]


async def test_readers_resume_where_the_journal_has_lost_its_last_entries(short: Path) -> None:
    """As after a failover to a replica that had not received them: then their seqs are assigned again."""
    async with daemon_on(short) as daemon:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        async with listening(daemon.url) as source:
            await source.events(await daemon.commit(ANOTHER) + await daemon.commit(ANOTHER))
            execute(short, f"DROP TRIGGER journal_refuses_delete; DELETE FROM journal WHERE seq > {newest}")
            entries = await daemon.commit(ONE)
            assert await source.events() == []
        await daemon.has_readers(0)
        async with listening(daemon.url, last_event_id=source.last_event_id) as source:
            heard = await source.events(entries)
            assert ids(heard) == list(range(newest + 1, newest + entries + 1))
            assert {event.told["stream"] for event in heard} == {ONE.key}
            assert len(await source.events(await daemon.commit(ONE))) > 0


async def test_the_stream_is_there_again_once_the_database_is_sound(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "RESTART_SECONDS", 0.01)
    async with daemon_on(short) as daemon:
        async with listening(daemon.url) as source:
            daemon.journal_reader.is_broken = True
            await daemon.commit(ANOTHER, is_announced=False)
            await daemon.commit(ONE)
            assert await source.events() == []
        daemon.journal_reader.is_broken = False
        await until(lambda: not daemon.broadcast._is_over)
        async with listening(daemon.url) as source:
            await daemon.has_readers(1)
            entries = await daemon.commit(ANOTHER)
            assert len(await source.events(entries)) == entries


async def test_readers_get_the_rest_and_end_when_the_daemon_does(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "GRACE_SECONDS", 60.0)  # for requests that do not end by themselves
    async with AsyncExitStack() as readers:
        async with daemon_on(short) as daemon:
            sources = [await readers.enter_async_context(listening(daemon.url)) for _ in range(3)]
            await sources[0].events(await daemon.commit(ONE))  # so that the next ones are not sent at once
            entries = await daemon.commit(*STREAMS)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < http_module.GRACE_SECONDS / 2
        assert len(await sources[0].events()) == entries


async def test_readers_get_the_rest_even_where_it_takes_long_to_read(short: Path) -> None:
    async with AsyncExitStack() as readers:
        async with daemon_on(short, heartbeat_seconds=0.02) as daemon:
            source = await readers.enter_async_context(listening(daemon.url))
            await daemon.has_readers(1)
            daemon.journal_reader.takes_seconds = 0.2  # readers look for events many times meanwhile
            entries = await daemon.commit(ANOTHER, is_announced=False) + await daemon.commit(*STREAMS)
        assert len(await source.events()) == entries


# --- who is disconnected ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def unread_connection(url: str) -> AsyncIterator[socket.socket]:
    """Open a connection that requests everything and reads nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(connection, ("127.0.0.1", int(url.rpartition(":")[2])))
        request = "GET /api/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n"
        await loop.sock_sendall(connection, request.encode())
        yield connection


async def test_a_reader_that_takes_nothing_is_disconnected_and_fills_no_memory(tmp_path: Path) -> None:
    readers, path = 10, tmp_path / "milepost.db"
    migrate(path)
    write_lives(path, commits=400)  # 1.5 MB: more than the buffers of a connection hold
    async with daemon_on(path, max_write_seconds=3.0, heartbeat_seconds=0.1) as daemon, AsyncExitStack() as stack:
        size = sum(len(event.data) for event in await everything(daemon))
        await daemon.has_readers(0)
        with capture_logs() as lines:
            tracemalloc.start()
            for _ in range(readers):
                await stack.enter_async_context(unread_connection(daemon.url))
            await until(lambda: len(lines) == readers)
            await daemon.has_readers(0)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert [line["event"] for line in lines] == ["event reader disconnected"] * readers
        assert peak < readers * 0.4 * 2**20 < readers * size / 3
        async with listening(daemon.url) as source:  # the others go on
            assert await source.events(await daemon.commit(ONE))


async def test_readers_beyond_the_limit_are_refused_until_one_disconnects(short: Path) -> None:
    async with daemon_on(short, heartbeat_seconds=0.05, max_readers=2) as daemon:
        async with (
            listening(daemon.url),
            listening(daemon.url),
            aiohttp.ClientSession() as session,
            session.get(f"{daemon.url}/api/events") as response,
        ):
            assert (response.status, response.headers["Retry-After"]) == (503, "60")
            assert "2 readers are connected already" in (await response.json(content_type=None))["detail"]
        await daemon.has_readers(0)
        async with listening(daemon.url):
            pass


async def test_an_invalid_query_is_refused_with_its_parameter(short: Path) -> None:
    queries = (
        ("last=501", "last"),
        ("last=-1", "last"),
        ("last=x", "last"),
        ("last=1&last=2", "last"),
        ("status=nonsense", "status"),
        ("stream=nonsense", "stream"),
        ("&".join(f"stream=messenger:{number}" for number in range(51)), "stream"),
        ("streams=messenger:1", "streams"),
    )
    async with daemon_on(short) as daemon, aiohttp.ClientSession() as session:
        for query, parameter in queries:
            async with session.get(f"{daemon.url}/api/events?{query}") as response:
                assert response.status == 400, query
                assert f" {parameter}: " in (await response.json(content_type=None))["detail"]


async def test_an_invalid_last_event_id_is_refused(short: Path) -> None:
    async with daemon_on(short) as daemon, aiohttp.ClientSession() as session:
        for place in ("x", "-1", "1.5", "9" * 30, "१"):
            async with session.get(f"{daemon.url}/api/events", headers={"Last-Event-ID": place}) as response:
                assert response.status == 400, place
                assert "Last-Event-ID" in (await response.json(content_type=None))["detail"]


async def test_a_head_request_is_refused(short: Path) -> None:
    async with (
        daemon_on(short) as daemon,
        aiohttp.ClientSession() as session,
        session.head(f"{daemon.url}/api/events") as response,
    ):
        assert (response.status, response.headers["Allow"]) == (405, "GET")


async def test_an_unavailable_database_is_reported(short: Path) -> None:
    async with daemon_on(short) as daemon, aiohttp.ClientSession() as session:
        daemon.journal_reader.is_away = True
        async with session.get(f"{daemon.url}/api/events") as response:
            assert response.status == 503
            assert "does not answer" in (await response.json(content_type=None))["detail"]
        await daemon.has_readers(0)
