"""A small simulated world of three streams, and what was asked of it."""

from collections import defaultdict
from datetime import UTC, datetime

from milepost.sources.simulator.faults import parse_faults
from milepost.sources.simulator.plan import SimulatedPage, WorldPlan
from milepost.sources.simulator.server import SimulatorServer

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
BAKERY = SimulatedPage(
    id="61550000000000001", name="Corner Bakery", token="EAABakery0token", instagram_account_id="17841400000000001"
)
BICYCLES = SimulatedPage(id="61550000000000002", name="Fahrrad Müller", token="EAABicycles", platforms=("messenger",))
STREAMS = (f"messenger:{BAKERY.id}", f"instagram:{BAKERY.id}", f"messenger:{BICYCLES.id}")


def frozen_world(
    conversations: int,
    faults: str = "calm",
    *,
    pages: tuple[SimulatedPage, ...] = (BAKERY, BICYCLES),
    seed: int = 1,
    app_secret: str = "",
) -> SimulatorServer:
    """Make a simulator of a world in which it is always noon and nothing arrives by itself."""
    plan = WorldPlan(seed=seed, pages=pages, conversations=conversations, arrivals_per_minute=0)
    return SimulatorServer(plan, clock=lambda: NOW, faults=parse_faults(faults, seed), app_secret=app_secret)


def taken_cursors(simulator: SimulatorServer) -> dict[str, list[str | None]]:
    """Take the record of what was asked since it was last taken: the cursors, by stream; None is the head."""
    cursors = defaultdict[str, list[str | None]](list)
    for request in simulator.requests.last:
        cursors[f"{request.platform}:{request.owner}"].append(request.after)
    simulator.requests.last.clear()
    return cursors
