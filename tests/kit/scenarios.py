"""Scenarios drawn at random: each turns on a few of the world's faults, so that rare ones meet in pairs."""

from hypothesis import strategies as st

from kit.simulation import Scenario
from kit.world import Habits
from milepost.core.plan import Policy


def chance(*often: float) -> st.SearchStrategy[float]:
    """Draw how often something happens: never, in half of the scenarios."""
    return st.one_of(st.just(0.0), st.sampled_from(often))


habits = st.builds(
    Habits,
    arrival_chance=st.sampled_from((0.1, 0.3, 0.5)),
    new_thread_chance=st.sampled_from((0.0, 0.2)),
    unreadable_chance=chance(0.1, 0.3),
    displaced_chance=chance(0.2, 0.5),
    ghost_chance=chance(0.1, 0.4),
    empty_chance=chance(0.1, 0.3),
    refusal_chance=chance(0.02, 0.1, 0.3),
    loop_chance=chance(0.02, 0.1),
    counts_offsets=st.booleans(),
)

policies = st.builds(
    Policy,
    batch_size=st.integers(2, 6),
    messages_per_conversation=st.sampled_from((0, 1, 3, 20)),
    watermark_overlap_seconds=st.sampled_from((2.0, 5.0, 60.0)),
    full_sweep_interval_seconds=st.sampled_from((0.0, 60.0, 600.0)),
    attempts=st.integers(1, 3),
    base_delay_seconds=st.sampled_from((0.5, 2.0, 30.0)),
)

scenarios = st.builds(
    Scenario,
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(10, 150),
    threads=st.integers(0, 12),
    habits=habits,
    policy=policies,
    max_batches=st.sampled_from((1, 2, 5, 50)),
    run_seconds=st.sampled_from((3.0, 20.0, 270.0)),
    skew_seconds=st.sampled_from((0.0, -7200.0, 7200.0)),
    crash_chance=chance(0.02, 0.1),
    stop_chance=chance(0.02),
    rival_chance=chance(0.05),
    full_chance=chance(0.1, 0.5),
)
