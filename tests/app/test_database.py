"""A database holds one source: it records the first, refuses another, and distinguishes invented people."""

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from kit.builders import NOON, sweep_started, walking
from kit.postgres import Server
from milepost.app.database import SIMULATOR, Holding, demand_source, holdings, source_of
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreRefused
from milepost.core.events import BatchStored, Event, RunStarted, SweepCompleted, Tally
from milepost.core.model import Changes, DataSource, Platform, Stream
from milepost.core.position import Mode
from milepost.settings.model import Settings
from milepost.simulator.plan import PLATFORMS, SimulatedPage, WorldPlan
from milepost.simulator.world import World
from milepost.stores.open import open_store
from milepost.stores.reader import Parameters
from stores.databases import AnyDatabase, databases
from stores.histories import commit_after, conversation_row

META = "https://graph.facebook.com"
PAGE_ID = "1234567890"
INBOX = Stream(Platform.MESSENGER, PAGE_ID)
DIRECT = Stream(Platform.INSTAGRAM, PAGE_ID)
NUMBERS = count(1)
STORED = BatchStored(walking("cursor"), Tally())
COMPLETED = SweepCompleted(Mode.FULL, NOON, NOON, Tally())
# An old inbox's thread ids are short, those of Instagram long: neither shows who invented it.
REAL = ("t_100123456789012", "t_1234567890123456789", "t_10")
REAL_DIRECT = ("aWdfZAG06MTpJR01lc3NhZA2VUaHJlYWQ6MTc4NDE0MDAwMDAwMDAwMDE6MzQwMjgyMzY2ODQxNzEwMzAwOTQ5MTI4",)


@pytest.fixture(params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, tmp_path: Path, postgres: Server) -> Iterator[AnyDatabase]:
    with databases(tmp_path, postgres) as builder:
        yield builder.build(request.param)


@pytest.fixture
def on_postgresql(tmp_path: Path, postgres: Server) -> Iterator[AnyDatabase]:
    with databases(tmp_path, postgres) as builder:
        yield builder.build("postgresql")


def settings(house: AnyDatabase, kind: str = "facebook", base_url: str = META) -> Settings:
    tree: dict[str, Any] = {
        "store": {"url": house.store_url.url, "password": house.store_url.password},
        "source": {"kind": kind, "base_url": base_url},
    }
    return Settings.model_validate(tree)


async def opened(
    house: AnyDatabase, kind: str = "facebook", base_url: str = META, *, brings: bool = True
) -> DataSource | None:
    """Open the database for work, store something, and return the source that is recorded then."""
    async with open_store(house.store_url) as store:
        await demand_source(store, settings(house, kind, base_url))
        number = next(NUMBERS)
        of = Stream(Platform.MESSENGER, f"{number}")
        changes = Changes((conversation_row(f"t_{number}", of=of, contact_id=None),)) if brings else Changes()
        await store.commit(commit_after(await store.load(of), changes=changes))
        return await store.source()


async def refused(house: AnyDatabase, kind: str = "facebook", base_url: str = META) -> StoreRefused:
    with pytest.raises(StoreRefused) as error:
        await opened(house, kind, base_url)
    return error.value


async def fill(house: AnyDatabase, of: Stream, *conversation_ids: str) -> None:
    """Store conversations as a version of Milepost that recorded no source."""
    async with open_store(house.store_url) as store:
        rows = tuple(conversation_row(each, of=of, contact_id=None) for each in conversation_ids)
        await store.commit(commit_after(await store.load(of), changes=Changes(rows)))


def invented(of: Stream, conversations: int = 30) -> tuple[str, ...]:
    """Return the ids of the conversations that the embedded world invented for a page of this id."""
    page = SimulatedPage(id=of.page_id, name="", token="x")
    world = World(WorldPlan(pages=(page,), conversations=conversations))
    (platform,) = (each for each in PLATFORMS if each == of.platform)
    return tuple(each.id for each in world.truth(of.page_id, platform, NOON))


class TestADatabaseRemembersItsSource:
    async def test_a_new_database_records_the_first_source(self, house: AnyDatabase) -> None:
        assert await opened(house) == DataSource("facebook", META)
        assert await opened(house) == DataSource("facebook", META)

    async def test_only_the_kind_of_the_embedded_simulator_counts(self, house: AnyDatabase) -> None:
        assert await opened(house, "simulator") == SIMULATOR
        assert await opened(house, "simulator", "https://graph.instagram.com") == SIMULATOR

    async def test_another_base_url_is_refused_and_both_are_named(self, house: AnyDatabase) -> None:
        await opened(house)
        error = await refused(house, base_url="https://graph.instagram.com")
        assert f"what came from facebook at {META}," in error.message
        assert "names facebook at https://graph.instagram.com" in error.message
        assert "store.url" in error.hint
        assert "`milepost store adopt`" in error.hint
        assert await opened(house) == DataSource("facebook", META), "nothing has changed"

    async def test_a_source_that_brought_nothing_may_be_changed(self, house: AnyDatabase) -> None:
        assert await opened(house, base_url="https://graph.facebok.example", brings=False) is None
        assert await opened(house) == DataSource("facebook", META)

    async def test_streams_that_begin_together_record_it_once(
        self, house: AnyDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with open_store(house.store_url) as store:
            await demand_source(store, settings(house))
            written, write = list[str](), store.write

            async def spy(statement: str, parameters: Parameters = ()) -> list[Any]:
                written.append(statement)
                return await write(statement, parameters)

            monkeypatch.setattr(store, "write", spy)
            streams = [Stream(Platform.MESSENGER, f"{number}") for number in range(5)]
            await asyncio.gather(*(store.commit(commit_after(Checkpoint(each), STORED)) for each in streams))
            assert written.count("record_source") == 1

    @pytest.mark.parametrize("event", [STORED, COMPLETED], ids=["batch", "sweep"])
    async def test_a_checkpoint_that_moved_records_the_source_too(self, house: AnyDatabase, event: Event) -> None:
        """The watermark of an empty inbox would hide what is older in another one."""
        async with open_store(house.store_url) as store:
            await demand_source(store, settings(house))
            await store.commit(commit_after(Checkpoint(INBOX), RunStarted(NOON), sweep_started(), event))
            assert await store.source() == DataSource("facebook", META)

    async def test_a_second_worker_with_another_source_stores_nothing(self, on_postgresql: AnyDatabase) -> None:
        async with open_store(on_postgresql.store_url) as one, open_store(on_postgresql.store_url) as other:
            await demand_source(one, settings(on_postgresql))
            await demand_source(other, settings(on_postgresql, base_url="https://graph.example"))
            row = Changes((conversation_row("t_1", of=INBOX, contact_id=None),))
            await one.commit(commit_after(Checkpoint(INBOX), changes=row))
            with pytest.raises(StoreRefused, match="belongs to another source"):
                await other.commit(commit_after(Checkpoint(DIRECT), changes=row))
        assert on_postgresql.rows("SELECT DISTINCT stream FROM journal") == [(INBOX.key,)]

    @pytest.mark.parametrize(("one", "other"), [("facebook", "simulator"), ("simulator", "facebook")])
    async def test_a_source_of_another_kind_is_refused(self, house: AnyDatabase, one: str, other: str) -> None:
        await opened(house, one)
        error = await refused(house, other)
        assert "from the embedded simulator" in error.message or "names the embedded simulator" in error.message

    async def test_the_case_of_a_host_does_not_matter(self, house: AnyDatabase) -> None:
        await opened(house, base_url="https://graph.example/API")
        assert await opened(house, base_url="https://Graph.Example/API") == DataSource(
            "facebook", "https://graph.example/API"
        )
        await refused(house, base_url="https://graph.example/api")

    async def test_a_database_with_a_replaced_source_refuses_the_previous_one(self, house: AnyDatabase) -> None:
        await opened(house, "simulator")
        async with open_store(house.store_url) as store:
            await store.replace_source(source_of(settings(house)))
        assert await opened(house) == DataSource("facebook", META)
        await refused(house, "simulator")

    async def test_of_workers_that_start_at_once_with_different_sources_one_wins(
        self, on_postgresql: AnyDatabase
    ) -> None:
        urls = [f"https://graph.example/{number}" for number in range(3)] * 3
        found = await asyncio.gather(*(opened(on_postgresql, base_url=url) for url in urls), return_exceptions=True)
        recorded = {each for each in found if isinstance(each, DataSource)}
        assert len(recorded) == 1
        assert [isinstance(each, StoreRefused) for each in found].count(True) == 6
        assert await opened(on_postgresql, base_url=recorded.pop().base_url)


class TestADatabaseWithoutARecordedSource:
    """It has rows, because it is older than the record of sources."""

    async def test_a_database_with_real_conversations_is_accepted_silently(self, house: AnyDatabase) -> None:
        await fill(house, INBOX, *REAL)
        await fill(house, DIRECT, *REAL_DIRECT)
        assert await opened(house) == DataSource("facebook", META)

    async def test_a_database_of_the_simulated_world_is_accepted_silently(self, house: AnyDatabase) -> None:
        await fill(house, INBOX, *invented(INBOX))
        await fill(house, DIRECT, *invented(DIRECT))
        assert await opened(house, "simulator") == SIMULATOR

    @pytest.mark.parametrize("stream", [INBOX, DIRECT])
    async def test_a_database_with_invented_people_is_refused_with_a_remedy(
        self, house: AnyDatabase, stream: Stream
    ) -> None:
        await fill(house, stream, *invented(stream))
        error = await refused(house)
        assert (
            f"holds people that the simulator invented, in {stream.key}, and the configuration names" in error.message
        )
        assert f"`milepost streams remove {stream.key}`, then `milepost store adopt`" in error.hint
        assert "store.url" in error.hint

    async def test_a_database_that_mixes_real_and_invented_people_is_refused_to_both(self, house: AnyDatabase) -> None:
        await fill(house, INBOX, *REAL, invented(INBOX)[0])
        assert INBOX.key in (await refused(house)).message
        assert INBOX.key in (await refused(house, "simulator")).message

    async def test_a_database_with_real_conversations_is_refused_to_the_simulator(self, house: AnyDatabase) -> None:
        await fill(house, INBOX, *REAL)
        error = await refused(house, "simulator")
        assert f"holds real conversations, of {INBOX.key}, and source.kind is simulator" in error.message
        assert "source.kind: facebook" in error.hint

    async def test_a_database_is_accepted_once_the_invented_people_are_removed(self, house: AnyDatabase) -> None:
        await fill(house, INBOX, *invented(INBOX))
        await refused(house)
        house.execute("DELETE FROM conversations")
        assert await opened(house) == DataSource("facebook", META)

    async def test_only_a_few_of_many_streams_are_named(self, house: AnyDatabase) -> None:
        streams = [Stream(Platform.MESSENGER, str(number)) for number in range(6)]
        for stream in streams:
            await fill(house, stream, *invented(stream, 1))
        error = await refused(house)
        assert "messenger:0, messenger:1, messenger:2, messenger:3, 2 more" in error.message
        assert "`milepost streams remove STREAM…`" in error.hint

    async def test_a_database_is_read_to_its_end_chunk_by_chunk(
        self, house: AnyDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("milepost.app.database.CHUNK_ROWS", 7)
        await fill(house, INBOX, *REAL, *invented(INBOX))
        await fill(house, DIRECT, *invented(DIRECT))
        async with open_store(house.store_url) as store:
            assert await holdings(store) == [Holding(DIRECT.key, 30, 30), Holding(INBOX.key, 33, 30)]
