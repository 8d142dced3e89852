"""`GET /api/changes` and `/api/changes/stream` over real connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kit.builders import STREAM
from kit.event_source import listening
from kit.notices import COMMIT_SECONDS, FETCH_SECONDS
from milepost.core.changes import ChangesPage
from milepost.core.errors import StoreAway
from milepost.core.model import Changes
from milepost.core.ports import Committed
from milepost.engine.feed import Recorded
from milepost.service.endpoint import routes_of
from milepost.service.events import changes as module
from milepost.service.events.broadcast import BEAT_SECONDS
from milepost.service.events.changes import ChangeStream, change_stream, changes
from milepost.service.http import serve
from milepost.stores.open import forget
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.sqlite.reader import SqliteReader, open_sqlite_reader
from milepost.stores.sqlite.store import SqliteStore, open_sqlite
from milepost.stores.url import StoreUrl
from stores.histories import ROWS, commit_after, contact_row, write
from stores.sqlite_files import DROP_TRIGGERS, execute

NEVER = 3_600.0
STREAM_PATH = "/api/changes/stream"


class WatchedReader(SqliteReader):
    """A reader that counts the pages that it reads, and fails where a test wants it so."""

    pages = 0
    is_away = False

    async def read_changes(self, *given: Any, **named: Any) -> ChangesPage:  # noqa: ANN401
        self.pages += 1
        if self.is_away:
            raise StoreAway("the database does not answer: it is locked")
        return await super().read_changes(*given, **named)


class Daemon:
    """A store to commit to, and what serves its changes."""

    def __init__(self, path: Path, store: SqliteStore, reader: WatchedReader, followed: ChangeStream, url: str) -> None:
        self.path = path
        self.store = store
        self.reader = reader
        self.followed = followed
        self.url = url

    async def commit(self, changes: Changes, *, is_announced: bool = True) -> None:
        """Commit changes; as another process where not announced."""
        commit = commit_after(await self.store.load(STREAM), changes=changes)
        committed = await self.store.commit(commit)
        assert isinstance(committed, Committed)
        if is_announced:
            self.followed.read(Recorded(commit.entries, committed, commit.checkpoint, COMMIT_SECONDS, FETCH_SECONDS))

    def lose_the_last_commit(self) -> None:
        """Remove the journal's last entry, as a restore or a failover does."""
        execute(self.path, f"{DROP_TRIGGERS} DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")


@asynccontextmanager
async def daemon_on(
    path: Path, *, heartbeat_seconds: float = NEVER, poll_seconds: float = NEVER, max_readers: int = 50
) -> AsyncIterator[Daemon]:
    migrate(path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "HEARTBEAT_SECONDS", heartbeat_seconds)
        patched.setattr(module, "POLL_SECONDS", poll_seconds)
        patched.setattr(module, "BEAT_SECONDS", min(BEAT_SECONDS, poll_seconds))
        patched.setattr(module, "MAX_READERS", max_readers)
        async with open_sqlite(path, synchronous="normal") as store, open_sqlite_reader(path) as opened:
            reader = WatchedReader(opened._database)
            followed = ChangeStream(reader)
            routes = routes_of([*changes(reader), *change_stream(followed)])
            async with serve("127.0.0.1", 0, routes) as url, followed.running():
                yield Daemon(path, store, reader, followed, url)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with daemon_on(tmp_path / "milepost.db") as daemon:
        yield daemon


async def listed(daemon: Daemon, query: str, status: int = 200) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{daemon.url}/api/changes?{query}") as response:
        assert response.status == status, await response.text()
        answer: dict[str, Any] = await response.json(content_type=None)
        return answer


class TestList:
    async def test_pages_go_on_where_the_last_one_ended(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)

        first = await listed(daemon, "limit=3")
        second = await listed(daemon, f"after={first['next']}&limit=3")
        third = await listed(daemon, f"after={second['next']}&limit=3")

        assert [len(page["changes"]) for page in (first, second, third)] == [3, 1, 0]
        assert third["next"] == second["next"]
        (change,) = second["changes"]
        assert change.keys() == {"seq", "kind", "op", "key", "row", "history"}
        assert (change["kind"], change["op"], change["key"]) == ("message", "upsert", {"event_id": "m_2"})

    @pytest.mark.parametrize(
        ("query", "kinds"),
        [
            ("kinds=contact", {"contact"}),
            ("kinds=contact,message", {"contact", "message"}),
            ("kinds=contact&kinds=conversation", {"contact", "conversation"}),
            (f"stream={STREAM}", {"contact", "conversation", "message"}),
            ("stream=instagram:7", set()),
        ],
    )
    async def test_some_kinds_or_one_stream(self, daemon: Daemon, query: str, kinds: set[str]) -> None:
        await daemon.commit(ROWS)

        assert {change["kind"] for change in (await listed(daemon, query))["changes"]} == kinds

    @pytest.mark.parametrize("query", ["after=-1", "after=x", "kinds=page", "kinds=", "stream=x", "limit=0", "seq=1"])
    async def test_what_is_invalid_is_refused(self, daemon: Daemon, query: str) -> None:
        problem = await listed(daemon, query, 400)
        assert problem["detail"].startswith("invalid query: ")

    async def test_a_page_that_a_client_has_already_is_not_sent_again(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)
        async with aiohttp.ClientSession(daemon.url) as session:
            async with session.get("/api/changes") as response:
                tag = {"If-None-Match": response.headers["ETag"]}
            async with session.get("/api/changes", headers=tag) as response:
                assert response.status == 304
            await daemon.commit(Changes(contacts=(contact_row(name="Countess"),)))
            async with session.get("/api/changes", headers=tag) as response:
                assert response.status == 200

    async def test_a_consumer_whose_changes_were_lost_is_told_to_begin_again(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)
        first = await listed(daemon, "limit=1")
        place = f"after={first['next']}&mark={first['mark']}"
        assert len((await listed(daemon, place))["changes"]) == 3
        daemon.lose_the_last_commit()
        await daemon.commit(ROWS)

        problem = await listed(daemon, place, 409)

        assert (problem["type"], problem["title"]) == ("history_rewritten", "Conflict")
        assert "begin again at 0" in problem["detail"]
        assert len((await listed(daemon, f"after=0&mark={first['mark']}"))["changes"]) == 4

    async def test_a_client_that_has_a_page_of_a_lost_history_gets_it_anew(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)
        async with aiohttp.ClientSession(daemon.url) as session:
            async with session.get("/api/changes?after=1") as response:
                tag = {"If-None-Match": response.headers["ETag"]}
            daemon.lose_the_last_commit()
            async with session.get("/api/changes?after=1", headers=tag) as response:
                assert response.status == 200

    async def test_a_database_that_is_away_is_a_503(self, daemon: Daemon) -> None:
        daemon.reader.is_away = True
        assert "locked" in (await listed(daemon, "", 503))["detail"]


class TestStream:
    async def test_everything_and_then_what_is_committed(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)
        async with listening(daemon.url, path=STREAM_PATH) as source:
            heard = await source.events(4)
            assert [each.told["kind"] for each in heard] == ["contact", "conversation", "message", "message"]
            assert [int(each.id.partition("-")[0]) for each in heard] == [each.told["seq"] for each in heard]

            await daemon.commit(Changes(contacts=(contact_row(name="Countess"),)))
            (news,) = await source.events(1)

        assert news.told["row"]["name"] == "Countess"

    async def test_a_reader_resumes_after_its_last_id(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)
        page = await listed(daemon, "limit=2")
        last_id = str(page["next"])
        async with listening(daemon.url, ("after", "0"), last_event_id=last_id, path=STREAM_PATH) as source:
            heard = await source.events(2)

        assert [each.told["key"] for each in heard] == [{"event_id": "m_1"}, {"event_id": "m_2"}]

    async def test_a_reader_from_before_a_restore_misses_nothing_if_it_is_cut_off_at_once(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)
        async with listening(daemon.url, last_event_id="999", path=STREAM_PATH) as source:
            last_id = source.last_event_id
        await daemon.commit(Changes(contacts=(contact_row(name="Countess"),)))
        async with listening(daemon.url, last_event_id=last_id, path=STREAM_PATH) as source:
            await daemon.commit(Changes(contacts=(contact_row("c_2", name="Earl"),)))
            names = [each.told["row"]["name"] for each in await source.events(2)]

        assert names == ["Countess", "Earl"]

    async def test_a_reader_whose_changes_are_lost_is_cut_off_and_told_when_it_reconnects(self, tmp_path: Path) -> None:
        async with daemon_on(tmp_path / "milepost.db", poll_seconds=0.01) as daemon:
            await daemon.commit(ROWS)
            async with listening(daemon.url, ("mark", ""), path=STREAM_PATH) as source:
                await source.events(4)
                daemon.lose_the_last_commit()
                await daemon.commit(ROWS)
                with pytest.raises(aiohttp.ClientError):
                    await source.events()

            resumed = {"Last-Event-ID": source.last_event_id}
            async with (
                aiohttp.ClientSession(daemon.url, headers=resumed) as session,
                session.get(STREAM_PATH) as response,
            ):
                assert response.status == 409
                assert (await response.json(content_type=None))["type"] == "history_rewritten"

    async def test_what_another_process_erases_is_found_by_the_next_poll(self, tmp_path: Path) -> None:
        path = tmp_path / "milepost.db"
        async with daemon_on(path, poll_seconds=0.01) as daemon:
            await write(daemon.store, ROWS)
            async with listening(daemon.url, ("kinds", "contact"), path=STREAM_PATH) as source:
                await source.events(1)

                await forget(StoreUrl(f"sqlite:///{path}"), STREAM, "c_1")
                (gone,) = await source.events(1)

        assert (gone.told["op"], gone.told["row"]) == ("delete", None)

    async def test_a_reader_who_gets_nothing_hears_how_far_it_is(self, tmp_path: Path) -> None:
        async with daemon_on(tmp_path / "milepost.db", poll_seconds=0.01, heartbeat_seconds=0.02) as daemon:
            await daemon.commit(ROWS)
            end = await daemon.reader.last_change()
            async with listening(daemon.url, ("stream", "instagram:7"), path=STREAM_PATH) as source:
                await source.heartbeat()

                assert source.last_event_id == str(end)

    async def test_the_ids_have_marks_for_a_reader_that_sends_one(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)
        page = await listed(daemon, "limit=10")
        for query in [("mark", "")], [("mark", page["mark"]), ("after", "1")]:
            async with listening(daemon.url, *query, path=STREAM_PATH) as source:
                await source.events(3)

                assert source.last_event_id.endswith(f"-{page['mark']}")

    @pytest.mark.parametrize("has_marks_in_ids", [True, False])
    async def test_a_mark_in_the_address_is_enough_to_find_out(self, daemon: Daemon, *, has_marks_in_ids: bool) -> None:
        await daemon.commit(ROWS)
        page = await listed(daemon, "limit=10")
        daemon.lose_the_last_commit()
        resumed = f"{page['next']}-{page['mark']}" if has_marks_in_ids else str(page["next"])
        query = {} if has_marks_in_ids else {"mark": page["mark"]}
        async with (
            aiohttp.ClientSession(daemon.url, headers={"Last-Event-ID": resumed}) as session,
            session.get(STREAM_PATH, params=query) as response,
        ):
            assert response.status == 409

    async def test_nobody_asks_the_database_without_readers(self, daemon: Daemon) -> None:
        await daemon.commit(ROWS)
        assert daemon.reader.pages == 0

    async def test_one_reader_too_many_is_refused(self, tmp_path: Path) -> None:
        async with (
            daemon_on(tmp_path / "milepost.db", max_readers=1) as daemon,
            listening(daemon.url, path=STREAM_PATH),
            aiohttp.ClientSession(daemon.url) as session,
            session.get(STREAM_PATH) as response,
        ):
            assert (response.status, response.headers["Retry-After"]) == (503, "60")

    async def test_a_database_that_goes_away_ends_the_connection(self, tmp_path: Path) -> None:
        async with (
            daemon_on(tmp_path / "milepost.db", poll_seconds=0.01) as daemon,
            listening(daemon.url, path=STREAM_PATH) as source,
        ):
            daemon.reader.is_away = True
            with pytest.raises(aiohttp.ClientError):
                await source.events()

    async def test_readers_end_with_the_daemon(self, tmp_path: Path) -> None:
        async with (
            asyncio.timeout(60),
            daemon_on(tmp_path / "milepost.db") as daemon,
            listening(daemon.url, path=STREAM_PATH) as source,
        ):
            async with daemon.followed.running():
                pass
            assert await source.events() == []
