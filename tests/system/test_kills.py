"""A process that is killed at any moment loses no row, duplicates none, and repeats no committed work."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest

from kit.binary import started, until
from kit.installation import COPIED, Installation, Rows
from kit.simulated import STREAMS, frozen_world, taken_cursors
from milepost.engine.prefetch import MAX_AHEAD
from milepost.simulator.server import SimulatorServer

FAULTS = "http_500=0.03,truncated=0.02,empty_batch=0.02,latency=10ms"
RETRY = {"attempts": 20, "base_delay": "1ms", "max_delay": "10ms"}
WASTED_BY_A_KILL = 2  # in each stream, mostly: the batch that is being committed, and the one that is on its way
MAX_WASTED_BY_A_KILL = 1 + MAX_AHEAD  # where commits take longer than calls

MAX_REQUESTS_OF_HEAD = 10  # a batch of a quiet head, and one more if rows of it are new; the rest are retries


@dataclass
class Killings:
    """The requests and journal positions seen over many lives of one installation."""

    installation: Installation
    simulator: SimulatorServer
    interrupted: set[str] = field(default_factory=set)
    requests: int = 0
    lives: int = 0

    async def live(self, *, die_after_requests: int | None, grace_seconds: float = 0.0, hits: int = 0) -> None:
        """Sync until the world was asked so often, and kill it a moment later; or until it is complete.

        The kill waits for as many runs to interrupt as it has to hit: a slow machine may not have committed any.
        """
        walked = {stream: self._walked(stream) for stream in STREAMS}
        due = self.simulator.requests.total + (die_after_requests or 0)
        async with started(self.installation.folder, "sync") as running:
            if die_after_requests is None:
                assert (await running.ended()).code == 0
            else:
                await until(lambda: self.simulator.requests.total >= due or running.has_ended)
                await asyncio.sleep(grace_seconds)
                await until(lambda: len(self.interrupted.union(self._open_runs())) >= hits or running.has_ended)
                await running.kill()
        await self._settle()
        for stream, cursors in taken_cursors(self.simulator).items():
            self.requests += len(cursors)
            *committed, resumed = walked[stream] or [None]
            start = cursors.index(resumed) if resumed in cursors else len(cursors)
            head, walk = cursors[:start], cursors[start:]
            assert not {*committed}.intersection(walk) - {resumed}, f"{stream} was asked again for what was committed"
            assert head[:1] in ([], [None]), "only what is new comes first, where the run before met trouble"
            assert len(head) <= MAX_REQUESTS_OF_HEAD
        self.lives += 1
        self.interrupted.update(self._open_runs())

    def _walked(self, stream: str) -> list[str | None]:
        """Return the cursors whose batches are committed, and last the one where the walk goes on."""
        return self.installation.positions(stream) if stream in self.installation.checkpoints() else []

    def _open_runs(self) -> Iterator[str]:
        for checkpoint in self.installation.checkpoints().values():
            if checkpoint.run is not None and checkpoint.run.ended_at is None:
                yield checkpoint.run.run_id

    async def _settle(self) -> None:
        """Wait for the answers and the commit that the dead process did not wait for: they count as its own."""
        seen = self.simulator.requests
        await until(lambda: sum(seen.by_status.values()) == seen.total)
        await self.installation.released()


async def undisturbed(installation: Installation, conversations: int) -> dict[str, Rows]:
    """Copy the same world in one go, without faults."""
    async with frozen_world(conversations) as simulator:
        await installation.sync_from(simulator)
    return installation.copied()


async def kill_again_and_again(
    installation: Installation, simulator: SimulatorServer, kills: int, batches: int
) -> Killings:
    random = Random(kills)  # noqa: S311  (a seed, so that it happens again)
    killings = Killings(installation, simulator)
    most = len(STREAMS) * WASTED_BY_A_KILL + 2 * batches // kills  # so that the kills are spread over the whole sync
    await killings.live(
        die_after_requests=0, grace_seconds=0.2 + random.random() * 0.4
    )  # while the database is being created
    for kill in range(1, kills):
        hits = kill * kills // (kills - 1)  # the first may hit nothing
        await killings.live(die_after_requests=random.randrange(most), grace_seconds=random.random() * 0.03, hits=hits)
    await killings.live(die_after_requests=None)
    return killings


def assert_nothing_was_lost(killings: Killings, whole: dict[str, Rows]) -> None:
    installation = killings.installation
    copied = installation.copied()
    for table in COPIED:
        assert copied[table] == whole[table], f"{table} differs from that of an undisturbed run"
    marked = {run_id for (run_id,) in installation.rows("SELECT run_id FROM runs WHERE status = 'interrupted'")}
    assert marked == killings.interrupted
    ((batches, retries),) = installation.rows("SELECT sum(batches), sum(retries) FROM runs")
    kills = killings.lives - 1
    assert killings.requests <= batches + retries + kills * MAX_WASTED_BY_A_KILL * len(STREAMS)


@pytest.mark.parametrize("installation", ["sqlite", "empty postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("kills", "batch_size", "conversations"),
    [
        pytest.param(4, 50, 1000, marks=pytest.mark.timeout(300)),  # the program is started six times
        pytest.param(50, 20, 2000, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
    ids=["4 kills", "50 kills"],
)
async def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(
    installation: Installation, another: Installation, kills: int, batch_size: int, conversations: int
) -> None:
    whole = await undisturbed(another, conversations)
    async with frozen_world(conversations, FAULTS) as simulator:
        batches = len(STREAMS) * conversations // batch_size
        installation.configure_for(simulator, sync={"batch_size": batch_size}, retry=RETRY)
        killings = await kill_again_and_again(installation, simulator, kills, batches)
    assert len(killings.interrupted) >= kills, "too many kills hit nothing: they prove little"
    assert_nothing_was_lost(killings, whole)
