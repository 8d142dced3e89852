"""More messages than a list shows arrive between two syncs, and every one of them is stored."""

import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from kit.binary import Running, milepost, started, until
from kit.installation import Installation, on_both_databases, on_sqlite_first
from kit.simulated import BICYCLES, Clock, frozen_world
from milepost.core.position import MessagesMissed, Missed
from milepost.simulator import refusals
from milepost.simulator.graph import GraphApi
from milepost.simulator.plan import SimulatedPage, instant_us
from milepost.simulator.requests import ApiRequest, Node
from milepost.simulator.server import SimulatorServer

BURSTS = (20, 21, 45, 70)
PHOTOS = SimulatedPage(
    id="61550000000000003", name="Photos", token="EAAPhotos", platforms=("instagram",), instagram_account_id="178414"
)


class Edge:
    """What happens at each call for the messages of one conversation, in place of the answer or before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.happens: Callable[[], None] = lambda: None
        answer = GraphApi._messages

        def messages(api: GraphApi, request: ApiRequest) -> Node:
            self.happens()
            return answer(api, request)

        monkeypatch.setattr(GraphApi, "_messages", messages)

    def fails(self) -> None:
        """Fail each call like a poisoned one."""

        def fail() -> None:
            raise refusals.unknown_error(0)

        self.happens = fail

    def kills(self, running: Running, call: int) -> None:
        """Kill a process when it makes a call, before there is an answer."""
        calls = iter(range(1, call + 1))

        def kill() -> None:
            if next(calls, 0) == call:
                running.signal(signal.SIGKILL)

        self.happens = kill

    def works(self) -> None:
        self.happens = lambda: None


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Edge:
    return Edge(monkeypatch)


class Burst:
    """A world of 30 conversations, in some of which many messages arrive at once."""

    def __init__(self, page: SimulatedPage = BICYCLES, faults: str = "calm") -> None:
        self.page = page
        self.clock = Clock()
        self.simulator = frozen_world(30, faults, pages=(page,), clock=self.clock)

    def serving(self) -> AbstractAsyncContextManager[SimulatorServer]:
        return self.simulator

    def threads(self) -> list[str]:
        """Return the conversations that a list shows with all of their messages, the newest first."""
        truth = self.simulator.world.truth(self.page.id, self.page.platforms[0], self.clock())
        return [each.id for each in truth if each.message_count < 20]

    def arrive(self, threads: Sequence[str], counts: Sequence[int] = BURSTS) -> None:
        for thread, count in zip(threads, counts, strict=True):
            self.clock.now += timedelta(minutes=1)
            self.simulator.world.receive(self.page.id, self.page.platforms[0], self.clock(), thread, count)
        self.clock.now += timedelta(minutes=1)

    def readable(self, thread_id: str) -> list[str]:
        """Return the ids of all messages of a conversation that can be read."""
        inbox = self.simulator.world.inbox_with(thread_id)
        thread = self.simulator.world.find(thread_id, self.clock())
        assert inbox is not None
        assert thread is not None
        return sorted(each.id for each in inbox.messages(thread, instant_us(self.clock())))

    def calls_for_messages(self) -> int:
        """Count the calls for the messages of one conversation since the last count."""
        calls = sum(request.edge == "messages" for request in self.simulator.requests.last)
        self.simulator.requests.last.clear()
        return calls


def stored(installation: Installation, thread_id: str) -> list[str]:
    query = "SELECT event_id FROM contact_interaction_events WHERE conversation_id = ?"
    return sorted(event_id for (event_id,) in installation.rows(query, thread_id))


def records_of_missed(installation: Installation) -> list[Missed]:
    found = installation.rows("SELECT data FROM journal WHERE type = 'messages_missed' ORDER BY seq")
    return [each for (data,) in found for each in msgspec.json.decode(data, type=MessagesMissed).missed]


def missed(installation: Installation) -> list[tuple[str, str, int]]:
    """Return what is on record as missed: the conversation, why, and how many, give or take the API's estimate."""
    return [
        (each.conversation_id, each.reason.value, (each.count or 0) // 5 * 5)
        for each in records_of_missed(installation)
    ]


def entries(installation: Installation) -> list[str]:
    return [type_ for (type_,) in installation.rows("SELECT type FROM journal ORDER BY seq")]


@on_both_databases
async def test_every_message_is_stored_and_a_further_sync_asks_for_none(installation: Installation) -> None:
    world = Burst()
    async with world.serving() as simulator:
        await installation.sync_from(simulator)
        assert world.calls_for_messages() == 0, "nothing is owed of what is met for the first time"
        chosen = world.threads()[-4:]
        world.arrive(chosen)

        assert (await installation.sync()).code == 0

        for thread in chosen:
            assert stored(installation, thread) == world.readable(thread)
        assert 0 < world.calls_for_messages() <= 8
        assert installation.rows("SELECT * FROM message_backlog") == []
        before = len(entries(installation))
        assert (await installation.sync()).code == 0
        assert world.calls_for_messages() == 0
        assert len(entries(installation)) == before + 1
    await installation.verify()


@on_sqlite_first
async def test_a_process_that_is_killed_while_it_reads_owes_what_is_left(
    installation: Installation, edge: Edge
) -> None:
    world = Burst()
    async with world.serving() as simulator:
        await installation.sync_from(simulator)
        chosen = world.threads()[-4:]
        world.arrive(chosen, (60, 130, 45, 70))
        for call in (1, 2, 2, 3):
            async with started(installation.folder, "sync") as running:
                edge.kills(running, call)
                await until(lambda: running.has_ended)
            assert installation.rows("SELECT 1 FROM message_backlog"), "it was killed too late to prove anything"
            await installation.verify()
        edge.works()

        assert (await installation.sync()).code == 0

        for thread in chosen:
            assert stored(installation, thread) == world.readable(thread)
        assert installation.rows("SELECT * FROM message_backlog") == []


async def test_faults_delay_older_messages_and_lose_none(installation: Installation) -> None:
    world = Burst(faults="http_500=0.2,reset=0.1,truncated=0.1,dead_cursor=0.2,looping_cursor=0.1")
    async with world.serving() as simulator:
        installation.configure_for(simulator)
        await installation.sync_until_complete(most=30)
        chosen = world.threads()[-4:]
        world.arrive(chosen, (130, 45, 70, 33))

        for _ in range(30):
            await installation.sync()
            if not installation.rows("SELECT 1 FROM message_backlog"):
                break
        simulator.calm()
        await milepost(installation.folder, "dead-letters", "redrive")
        await installation.sync_until_complete()

        for thread in chosen:
            assert stored(installation, thread) == world.readable(thread)


@on_sqlite_first
async def test_messages_that_can_never_be_read_become_a_dead_letter_that_a_redrive_brings_back(
    installation: Installation, edge: Edge
) -> None:
    world = Burst()
    async with world.serving() as simulator:
        await installation.sync_from(simulator, retry={"attempts": 2})
        (thread,) = world.threads()[-1:]
        world.arrive([thread], [60])
        edge.fails()
        for _ in range(3):
            assert not installation.rows("SELECT 1 FROM dead_letters")
            await installation.sync()

        ((subject,),) = installation.rows("SELECT subject FROM dead_letters WHERE closed_at IS NULL")
        assert subject.startswith(f"{thread}/older/")
        edge.works()
        redriven = await milepost(installation.folder, "dead-letters", "redrive")
        assert redriven.code == 0, redriven
        await installation.sync()
        assert stored(installation, thread) == world.readable(thread)


async def test_a_backlog_is_shown_until_it_is_read(installation: Installation, edge: Edge) -> None:
    world = Burst()
    async with world.serving() as simulator:
        await installation.sync_from(simulator)
        world.arrive(world.threads()[-4:], (60, 60, 60, 60))
        edge.fails()
        await installation.sync()

        shown = await milepost(installation.folder, "status")
        assert "4 conversations with older messages that are still to be read" in shown.stdout
        as_json = msgspec.json.decode((await milepost(installation.folder, "status", "--json")).stdout)
        assert [stream["message_backlog"] for stream in as_json["streams"]] == [4]
        edge.works()
        assert (await installation.sync()).code == 0
        shown = await milepost(installation.folder, "status")
        assert "older messages" not in shown.stdout


@on_sqlite_first
async def test_what_instagram_withholds_is_said_once_and_not_asked_for_again(installation: Installation) -> None:
    world = Burst(PHOTOS)
    async with world.serving() as simulator:
        await installation.sync_from(simulator)
        first, second = world.threads()[-2:]
        before = set(stored(installation, first))
        world.arrive([first], [60])

        result = await installation.sync()

        assert result.code == 0
        assert "messages missed" in result.stderr
        assert set(stored(installation, first)) == before | set(world.readable(first))
        assert missed(installation) == [(first, "window", 40)]
        assert installation.rows("SELECT 1 FROM message_backlog WHERE conversation_id = ?", first) == []
        shown = await milepost(installation.folder, "status")
        assert "messages so far that the API withholds" in shown.stdout
        tail = await milepost(installation.folder, "journal", "tail")
        assert "the API lists no older ones" in tail.stdout
        world.calls_for_messages()
        world.arrive([second], [45])
        assert (await installation.sync()).code == 0
        assert world.calls_for_messages() == 0, "a stream whose API ends at a window was asked again"
        assert missed(installation) == [(first, "window", 40), (second, "window", 25)]
        entries_before = len(entries(installation))
        assert (await installation.sync()).code == 0
        assert len(entries(installation)) == entries_before + 1
    await installation.verify()


async def test_twenty_new_messages_on_instagram_are_all_there_and_none_is_missed(installation: Installation) -> None:
    world = Burst(PHOTOS)
    async with world.serving() as simulator:
        await installation.sync_from(simulator)
        (thread,) = world.threads()[-1:]
        world.arrive([thread], [20])

        assert (await installation.sync()).code == 0

        assert set(world.readable(thread)) <= set(stored(installation, thread))
        assert [count for _, _, count in missed(installation) if count > 1] == []  # the API's estimate may be one off


@on_sqlite_first
async def test_edited_messages_are_updated_and_unsent_ones_erased(installation: Installation) -> None:
    world = Burst()
    async with world.serving() as simulator:
        await installation.sync_from(simulator)
        (thread,) = world.threads()[:1]
        for _ in range(3):
            world.arrive([thread], [1])
        assert (await installation.sync()).code == 0
        query = "SELECT event_id FROM contact_interaction_events WHERE conversation_id = ? ORDER BY occurred_at DESC"
        newest, between, older = [event_id for (event_id,) in installation.rows(query, thread)[:3]]
        before = len(entries(installation))
        simulator.world.edit(thread, newest, "another text")
        simulator.world.unsend(thread, between)
        simulator.world.empty(thread, older)

        assert (await installation.sync()).code == 0

        def row(event_id: str) -> tuple[object, ...]:
            columns = "kind, text, edited_at IS NOT NULL, deleted_at IS NOT NULL"
            (found,) = installation.rows(
                f"SELECT {columns} FROM contact_interaction_events WHERE event_id = ?", event_id
            )
            return found

        assert tuple(row(newest))[1:] == ("another text", True, False)
        assert tuple(row(between))[1:] == (None, False, True)
        assert tuple(row(older))[2:] == (False, False), "a placeholder is no edit"
        assert len(entries(installation)) == before + 1
        (summary,) = installation.rows("SELECT data FROM journal ORDER BY seq DESC LIMIT 1")
        tally = msgspec.json.decode(summary[0])["tally"]
        assert {name: tally.get(name, 0) for name in ("updated", "edited", "unsent", "interaction_events")} == {
            "updated": 1,
            "edited": 1,
            "unsent": 1,
            "interaction_events": 0,
        }
        assert (await installation.sync()).code == 0
        assert len(entries(installation)) == before + 2
        (quiet,) = installation.rows("SELECT data FROM journal ORDER BY seq DESC LIMIT 1")
        assert "edited" not in quiet[0]
    await installation.verify()


@on_sqlite_first
async def test_a_message_without_content_is_said_to_be_missed(installation: Installation) -> None:
    world = Burst()
    async with world.serving() as simulator:
        installation.configure_for(simulator)
        thread = world.threads()[0]
        inbox = simulator.world.inbox_with(thread)
        found = simulator.world.find(thread, world.clock())
        assert inbox is not None
        assert found is not None
        simulator.world.empty(thread, found.newest[0].id)

        assert (await installation.sync()).code == 0

        (record,) = records_of_missed(installation)
        assert (record.conversation_id, record.reason, record.count, record.is_estimate) == (
            thread,
            "no_content",
            1,
            False,
        )
        assert entries(installation).count("messages_missed") == 1
        query = "SELECT kind, text FROM contact_interaction_events WHERE event_id = ?"
        assert [tuple(row) for row in installation.rows(query, found.newest[0].id)] == [("unavailable", None)]


@on_sqlite_first
async def test_a_person_who_was_erased_is_not_read_any_more(installation: Installation, edge: Edge) -> None:
    world = Burst()
    async with world.serving() as simulator:
        await installation.sync_from(simulator)
        ((contact_id, thread), *_) = installation.rows(
            "SELECT contact_id, conversation_id FROM conversations WHERE contact_id IS NOT NULL ORDER BY updated_time"
        )
        world.arrive([thread], [60])
        edge.fails()
        await installation.sync()
        edge.works()
        world.calls_for_messages()
        erased = await milepost(
            installation.folder, "contacts", "forget", "messenger", BICYCLES.id, contact_id, "--yes"
        )
        assert erased.code == 0, erased

        assert (await installation.sync()).code == 0

        assert world.calls_for_messages() == 0
        assert stored(installation, thread) == []
        assert installation.rows("SELECT * FROM message_backlog") == []


# --- histories --------------------------------------------------------------------------------------------------------


@on_both_databases
async def test_histories_are_read_after_a_first_copy_and_go_on_after_a_kill(
    installation: Installation, edge: Edge
) -> None:
    world = Burst()
    async with world.serving() as simulator:
        installation.configure_for(simulator)
        world.clock.now = datetime.now(UTC)
        chosen = world.threads()[-4:]
        world.arrive(chosen, (130, 130, 130, 130))
        for call in (1, 3, 2):
            async with started(installation.folder, "sync") as running:
                edge.kills(running, call)
                await until(lambda: running.has_ended)
            assert installation.rows("SELECT 1 FROM message_backlog"), "it was killed too late to prove anything"
        edge.works()
        shown = await milepost(installation.folder, "status")
        assert " of 4 conversations still to read" in shown.stdout, shown
        world.calls_for_messages()

        assert (await installation.sync()).code == 0

        for thread in chosen:
            assert stored(installation, thread) == world.readable(thread)
        assert world.calls_for_messages() <= 4 * 3
        assert entries(installation).count("messages_read") <= 4 * 3
        assert installation.rows("SELECT * FROM message_backlog") == []
        before = len(entries(installation))
        assert (await installation.sync()).code == 0
        assert world.calls_for_messages() == 0
        assert len(entries(installation)) == before + 1
    for command in ("verify", "rebuild", "verify"):
        audited = await milepost(installation.folder, "journal", command)
        assert audited.code == 0, audited


@on_sqlite_first
async def test_a_longer_history_is_read_on_by_a_full_sync_and_shown_until_then(installation: Installation) -> None:
    world = Burst()
    async with world.serving() as simulator:
        chosen = world.threads()[-2:]
        world.clock.now = datetime.now(UTC) - timedelta(days=100)
        world.arrive(chosen, (70, 45))
        world.clock.now += timedelta(days=95)
        world.arrive(chosen, (60, 30))
        await installation.sync_from(simulator, sync={"message_history": "none"})
        assert world.calls_for_messages() == 0
        assert [len(stored(installation, thread)) for thread in chosen] == [20, 20]
        assert installation.rows("SELECT 1 FROM message_backlog") == [], "what owes nothing is on record"

        await installation.sync_from(simulator, sync={"message_history": "30d"})
        assert world.calls_for_messages() == 0
        assert (await installation.sync("--full")).code == 0
        lengths = [len(stored(installation, thread)) for thread in chosen]
        assert 60 <= lengths[0] < 60 + 50 + 1
        entries_before = len(entries(installation))
        assert (await installation.sync("--full")).code == 0
        assert len(entries(installation)) == entries_before + 1, "it is searched for histories again"
        installation.configure_for(simulator, sync={"message_history": "all"})
        assert (await installation.sync("--full")).code == 0

        for thread in chosen:
            assert stored(installation, thread) == world.readable(thread)
        assert installation.rows("SELECT * FROM message_backlog") == []
    for command in ("verify", "rebuild", "verify"):
        audited = await milepost(installation.folder, "journal", command)
        assert audited.code == 0, audited
