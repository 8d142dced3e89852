"""The pure core through tens of thousands of steps of arrivals, faults, crashes, stops and rivals: nothing is lost.

What is checked after every commit is told in kit.witness. A scenario that fails is printed by Hypothesis, shrunk, and
runs again by `Simulation(Scenario(...)).run()`.
"""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from kit.scenarios import scenarios
from kit.simulation import Scenario, Simulation

# What a simulation that proves anything must have met.
ORDEALS = {
    "a batch was passed over",
    "a catch-up scan read a batch",
    "a crash",
    "a cursor loop",
    "a full sweep forced over an open incremental one",
    "a quiet sweep",
    "a quiet sweep of several batches",
    "a refusal: retry",
    "a refusal: stop_authorization",
    "a refusal: stop_configuration",
    "a refusal: wait",
    "a run ended: batch_limit",
    "a run ended: shutdown",
    "a run ended: time_limit",
    "a second writer was refused",
    "a sweep completed",
}


def live_through(max_examples: int) -> tuple[int, Counter[str]]:
    """Run that many scenarios; give how many steps they took and what they met."""
    steps = 0
    seen: Counter[str] = Counter()

    @settings(max_examples=max_examples, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(scenarios)
    def live(scenario: Scenario) -> None:
        nonlocal steps, seen
        simulation = Simulation(scenario)
        simulation.run()
        steps += simulation.steps
        seen += simulation.witness.seen

    live()
    return steps, seen


def test_nothing_is_lost_doubled_or_aged_whatever_happens() -> None:
    steps, seen = live_through(max_examples=300)

    assert steps >= 20_000
    assert seen.keys() >= ORDEALS


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_or_aged_in_half_a_million_steps() -> None:
    steps, seen = live_through(max_examples=5_500)

    assert steps >= 500_000
    assert seen.keys() >= ORDEALS
