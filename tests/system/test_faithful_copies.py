"""The tables match the simulated world in the end, however unreliable the connection."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from kit.binary import milepost
from kit.installation import Installation, Section, assert_copied, on_both_databases, on_sqlite_first
from kit.simulated import BAKERY, BICYCLES, NOW, frozen_world
from milepost.simulator.faults import parse_faults
from milepost.simulator.plan import WorldPlan
from milepost.simulator.server import SimulatorServer

# Without rate limits, which last a minute, and with hangs longer than the timeout below.
FAULTS = "rough,rate_limit=0,hang=0.01@2s"
# Hardly any overlap: what moves must be found by the catch-up scan and the watermark, not by chance.
PATIENT: Mapping[str, Section] = {
    "source": {"request_timeout": "1s"},
    "sync": {"batch_size": 10, "watermark_overlap": "2s"},
}


class Time:
    """The world's clock: the machine's until it is stopped."""

    def __init__(self) -> None:
        self._stopped_at: datetime | None = None

    def now(self) -> datetime:
        return self._stopped_at or datetime.now(UTC)

    def stop(self) -> None:
        self._stopped_at = self.now()


def moving_world(clock: Callable[[], datetime]) -> SimulatorServer:
    plan = WorldPlan(pages=(BAKERY, BICYCLES), conversations=150, arrivals_per_minute=600)
    return SimulatorServer(plan, clock=clock, faults=parse_faults(FAULTS))


@on_both_databases
async def test_a_frozen_world_is_copied_exactly_despite_faults_and_the_journal_accounts_for_it(
    installation: Installation,
) -> None:
    async with frozen_world(250, f"{FAULTS},http_500=0.1,reset=0.1") as simulator:
        # Only two attempts, so that some batches are given up and another sync is needed.
        installation.configure_for(
            simulator, **PATIENT, retry={"attempts": 2, "base_delay": "1ms", "max_delay": "10ms"}
        )
        syncs = await installation.sync_until_complete()
        assert len(simulator.requests.by_fault) >= 7, simulator.requests.by_fault
        assert syncs[0].code == 1, "no batch was given up: the faults are too few to prove anything"
        assert_copied(installation, simulator.world, NOW, was_frozen=True)
    before = installation.projections()
    verified = await milepost(installation.folder, "journal", "verify")
    rebuilt = await milepost(installation.folder, "journal", "rebuild")
    assert (verified.code, rebuilt.code) == (0, 0), (verified, rebuilt)
    assert installation.projections() == before
    assert before != b'{"checkpoints":[],"runs":[],"dead_letters":[]}'


@on_both_databases
async def test_verify_finds_a_projection_that_was_tampered_with(installation: Installation) -> None:
    async with frozen_world(10) as simulator:
        await installation.sync_from(simulator)
    installation.rows("UPDATE runs SET inserted = inserted + 1 WHERE run_id = (SELECT max(run_id) FROM runs)")
    verified = await milepost(installation.folder, "journal", "verify")
    assert verified.code == 1
    assert "milepost journal rebuild" in verified.stderr


@on_sqlite_first
async def test_messages_that_arrive_during_a_sync_are_all_copied_in_the_end(installation: Installation) -> None:
    time = Time()
    async with moving_world(time.now) as simulator:
        installation.configure_for(simulator, **PATIENT)
        await installation.sync_until_complete()
        newcomer = simulator.world.receive(BICYCLES.id, "messenger", time.now())
        await installation.sync_until_complete()
        time.stop()
        await installation.sync_until_complete()
        truth = simulator.world.truth(BICYCLES.id, "messenger", time.now())
        assert newcomer in {each.id for each in truth}
        assert_copied(installation, simulator.world, time.now(), was_frozen=False)
    modes = installation.rows("SELECT DISTINCT mode FROM runs")
    assert sorted(modes) == [("full",), ("incremental",)]
