"""The product's promise: whatever fails at once, everything readable is copied, and the rest reported."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from kit.binary import milepost, started, until
from kit.installation import Installation
from kit.leaks import leaks, left_behind
from kit.simulated import BAKERY, BICYCLES
from milepost.core.journal import instant_text
from milepost.simulator.conditions import WaitHint
from milepost.simulator.control import SeenRequest
from milepost.simulator.faults import parse_faults
from milepost.simulator.plan import SimulatedPage, WorldPlan
from milepost.simulator.server import SimulatorServer
from milepost.simulator.world import Ailment, TrueConversation

ZOE = SimulatedPage(
    id="61550000000000003", name="Café Zoë", token="EAACafe0Zoe0token", instagram_account_id="17841400000000003"
)
PAGES = (BAKERY, BICYCLES, ZOE)
OF_BICYCLES = f"messenger:{BICYCLES.id}"
# All faults at once, with short durations. A limit reported in minutes cannot be short.
FAULTS = (
    "hostile,hang=0.004@1500ms,rate_limit=0,limit=0.02@1s,looping_cursor=0.01,dead_cursor=0.01,"
    "poison=0.02,spoilt=0.02,poison_messages=0.02,heavy_threads=0.02,heavy=200"
)
SYNC = {"interval": "1s", "batch_size": 20, "max_run_duration": "40s", "watermark_overlap": "5s"}
UNREADABLE = (Ailment.POISON, Ailment.SPOILT)
LIMITS = (4, 17, 32, 341, 368, 613, *range(80000, 80010), 80014)
GRACE = timedelta(milliseconds=300)  # a call in flight when a limit is reported arrives a moment later


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Trial:
    """A daemon that is killed repeatedly while the world goes on, and all requests that the world received."""

    installation: Installation
    simulator: SimulatorServer
    random: Random
    asked: list[SeenRequest] = field(default_factory=list)
    received: int = 0

    async def live(self, *, requests: int, limit_seconds: float) -> None:
        """Run the daemon until it has sent that many requests, with a rate limit from its first call on."""
        first = self.simulator.requests.total + 1
        due = first + requests
        async with started(self.installation.folder, "run") as daemon:
            if limit_seconds:
                await until(lambda: self.simulator.requests.total >= first or daemon.has_ended)
                self.simulator.limit(4, seconds=limit_seconds, told=WaitHint.NOTHING)
            await until(lambda: self.simulator.requests.total >= due or daemon.has_ended)
            assert not daemon.has_ended
        self.note()

    def note(self) -> None:
        """Collect the recorded requests, before the record reaches its limit."""
        self.asked += self.simulator.requests.last
        self.simulator.requests.last.clear()

    @asynccontextmanager
    async def messages_arriving(self) -> AsyncIterator[None]:
        """Let people write during the block, known ones and new ones."""

        async def write() -> None:
            while True:
                await asyncio.sleep(0.1)
                inbox = self.random.choice(self.simulator.world.inboxes)
                place = inbox.page.id, inbox.platform
                known = [each.id for each in self.simulator.world.truth(*place, now())]
                whom = None if self.random.random() < 0.1 else self.random.choice(known)
                written = self.simulator.world.receive(*place, now(), whom)
                if inbox.page is BICYCLES:
                    self.simulator.world.cure(written)
                self.received += 1

        writing = asyncio.create_task(write())
        try:
            yield
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing

    def truth(self) -> Iterator[TrueConversation]:
        """Return the current conversations of all inboxes."""
        for inbox in self.simulator.world.inboxes:
            yield from self.simulator.world.truth(inbox.page.id, inbox.platform, now())

    def make_well(self, page: SimulatedPage) -> None:
        """Make every thread of a page readable, so that a full sweep of it can be flawless."""
        for platform in page.platforms:
            for each in self.simulator.world.truth(page.id, platform, now()):
                self.simulator.world.cure(each.id)


@asynccontextmanager
async def hostile_trial(
    installation: Installation, *, conversations: int, seed: int, calls_per_second: float
) -> AsyncIterator[Trial]:
    plan = WorldPlan(seed=seed, pages=PAGES, conversations=conversations, arrivals_per_minute=0)
    faults = parse_faults(f"{FAULTS},pace={calls_per_second}", seed=seed)
    async with SimulatorServer(plan, clock=now, faults=faults) as simulator:
        source = {"calls_per_second": calls_per_second, "request_timeout": "1s", "rate_limit_floor": "300ms"}
        installation.configure_for(simulator, source=source, sync=SYNC)
        yield Trial(installation, simulator, Random(seed))  # noqa: S311  (a seed, so that it happens again)


@pytest.mark.parametrize(
    ("conversations", "kills", "calls_per_second"),
    [
        pytest.param(60, 4, 20.0, marks=[pytest.mark.long, pytest.mark.timeout(300)]),  # it waits for pace and limits
        pytest.param(40, 10, 2.0, marks=[pytest.mark.long, pytest.mark.timeout(1500)]),
    ],
    ids=["4 kills", "10 kills, at the platform's pace"],
)
async def test_whatever_fails_at_once_nothing_is_lost_and_nothing_is_dropped_silently(
    installation: Installation, conversations: int, kills: int, calls_per_second: float
) -> None:
    async with hostile_trial(
        installation, conversations=conversations, seed=kills, calls_per_second=calls_per_second
    ) as trial:
        simulator = trial.simulator
        trial.make_well(BICYCLES)
        async with trial.messages_arriving():
            for life in range(kills):
                requests = trial.random.randrange(20, 21 + 6 * conversations // kills)
                await trial.live(requests=requests, limit_seconds=3.0 if life == 1 else 0.0)
        assert trial.received > 10
        simulator.calm()  # no more random faults; unreadable threads, heavy lists and the pace remain
        streams = [f"{inbox.platform}:{inbox.page.id}" for inbox in simulator.world.inboxes]
        await swept(installation, *streams)  # open sweeps may have started before the last messages arrived
        await swept(installation, *streams)
        await milepost(installation.folder, "dead-letters", "redrive")  # what failed at random succeeds now
        gone = simulator.world.truth(BICYCLES.id, "messenger", now())[-1].id  # whose second no other thread shares
        simulator.world.delete(gone)
        await swept(installation, OF_BICYCLES, full=True)
        trial.note()
        assert_all_that_can_be_read_is_stored(trial)
        assert_all_that_cannot_is_a_dead_letter(trial)
        assert installation.rows("SELECT conversation_id FROM conversations WHERE deleted_at IS NOT NULL") == [(gone,)]
        assert_limits_were_heeded_and_no_failures(trial)
    await installation.verify()
    left = left_behind(installation.folder, besides=[installation.config])
    assert leaks(left, [page.token for page in PAGES]) == []


async def swept(installation: Installation, *streams: str, full: bool = False) -> None:
    """Sync the streams until each has completed a sweep, with or without dead letters."""
    left = list(streams)
    for _ in range(30):
        done = await installation.sync(*left, *(["--full"] if full else []))
        assert done.code in (0, 1, 75), done
        left = [each for each in left if not installation.endings(each)[-1][0].startswith("complete")]
        if not left:
            return
    pytest.fail(f"the sweeps of {left} come to no end")


def assert_all_that_can_be_read_is_stored(trial: Trial) -> None:
    """Assert that the tables hold the newest state and all readable messages of each readable thread, and no others."""
    rows = trial.installation.rows
    events = set(rows("SELECT conversation_id, event_id FROM contact_interaction_events"))
    stored = rows("SELECT conversation_id, updated_time, contact_id FROM conversations WHERE deleted_at IS NULL")
    readable = [each for each in trial.truth() if each.ailment not in UNREADABLE]
    assert {row[0]: row[1:] for row in stored} == {
        each.id: (instant_text(each.updated_time.replace(microsecond=0)), each.contact_id) for each in readable
    }
    with_messages = (each for each in readable if each.ailment is not Ailment.POISON_MESSAGES)
    assert {(each.id, message) for each in with_messages for message in each.message_ids} <= events
    contacts = {contact for (contact,) in rows("SELECT contact_id FROM contacts")}
    assert {each.contact_id for each in readable} - {None} <= contacts


def assert_all_that_cannot_is_a_dead_letter(trial: Trial) -> None:
    """Assert that the open dead letters are those of the unreadable threads, one for each, with their payloads."""
    ill = [each for each in trial.truth() if each.ailment in (*UNREADABLE, Ailment.POISON_MESSAGES)]
    expected = sorted(each.id if each.ailment in UNREADABLE else f"{each.id}/messages" for each in ill)
    rows = trial.installation.rows
    assert [subject for (subject,) in rows("SELECT subject FROM dead_letters WHERE closed_at IS NULL ORDER BY 1")] == (
        expected
    )
    opened, payloads = (
        rows(f"SELECT dead_letter_id FROM {table} ORDER BY 1")
        for table in ("dead_letters WHERE closed_at IS NULL", "dead_letter_payloads")
    )
    assert opened == payloads
    assert expected, "no thread is unreadable: the seed proves little"


def assert_limits_were_heeded_and_no_failures(trial: Trial) -> None:
    """Assert that no call was made during a limit or faster than the pace, and that no limit used up a retry."""
    journaled = "SELECT stream, recorded_at, data FROM journal WHERE type = 'rate_limited'"
    rate_limits = [
        (stream, datetime.fromisoformat(at), json.loads(data))
        for stream, at, data in trial.installation.rows(journaled)
    ]
    assert {data["scope"] for _, _, data in rate_limits} == {"app", "page"}, "too few limits to prove anything"
    for stream, recorded_at, data in rate_limits:
        until_ = datetime.fromisoformat(data["until"])
        page_id = stream.partition(":")[2]
        concerned = [each for each in trial.asked if data["scope"] == "app" or each.owner == page_id]
        assert [each for each in concerned if recorded_at + GRACE < each.at < until_ - GRACE] == []
    assert trial.simulator.requests.too_fast == {}
    failures = trial.installation.rows(
        "SELECT data ->> '$.problem.code' FROM journal WHERE type IN ('fetch_failed', 'batch_failed', 'batch_shrunk')"
    )
    assert failures
    assert not {int(code) for (code,) in failures if code is not None}.intersection(LIMITS)
