"""Random scenarios: each enables a few of the possible faults, so that rare ones meet in pairs."""

from dataclasses import replace
from math import inf

from hypothesis import strategies as st

from kit.fake_inbox import Habits
from kit.fake_outages import Climate
from kit.simulation_setting import Scenario
from milepost.core.plan import Policy


def chance(*often: float) -> st.SearchStrategy[float]:
    """Draw a chance that is 0 in half of the scenarios."""
    return st.one_of(st.just(0.0), st.sampled_from(often))


climates = st.builds(
    Climate,
    limit_chance=chance(0.01, 0.03),
    outage_chance=chance(0.01, 0.05),
    stop_chance=chance(0.005, 0.02),
    longest_seconds=st.sampled_from((10.0, 300.0, 3600.0)),
    with_unknown_errors=st.sampled_from((False, False, True)),
)

habits = st.builds(
    Habits,
    arrival_chance=st.sampled_from((0.1, 0.3, 0.5)),
    new_thread_chance=st.sampled_from((0.0, 0.2)),
    burst_chance=chance(0.1, 0.4),
    longest_burst=st.sampled_from((4, 30, 150)),
    edit_chance=chance(0.1, 0.4),
    unsend_chance=chance(0.1, 0.4),
    window=st.sampled_from((0, 0, 0, 0, 5, 20)),
    longest_past=st.sampled_from((0, 0, 0, 10, 60)),
    unreadable_chance=chance(0.1, 0.3),
    sick_chance=chance(0.05, 0.2),
    deletion_chance=chance(0.05, 0.2),
    displaced_chance=chance(0.2, 0.5),
    ghost_chance=chance(0.1, 0.4),
    empty_chance=chance(0.1, 0.3),
    dead_cursor_chance=chance(0.05, 0.2),
    loop_chance=chance(0.02, 0.1),
    round_chance=st.sampled_from((0.0, 0.0, 0.0, 0.1)),
    false_end_chance=st.sampled_from((0.0, 0.0, 0.0, 0.3)),
    false_empty_chance=st.sampled_from((0.0, 0.0, 0.0, 0.1)),
    is_ordered=st.sampled_from((True, True, True, True, True, False)),
    max_messages=st.sampled_from((10_000, 10_000, 4)),
    counts_offsets=st.booleans(),
    climate=climates,
)

policies = st.builds(
    Policy,
    batch_size=st.integers(2, 8),
    messages_per_conversation=st.sampled_from((0, 1, 3, 20)),
    message_history_seconds=st.sampled_from((0.0, 60.0, 3600.0, inf)),
    watermark_overlap_seconds=st.sampled_from((2.0, 5.0, 60.0)),
    full_sweep_interval_seconds=st.sampled_from((0.0, 60.0, 600.0)),
    attempts=st.integers(1, 3),
    base_delay_seconds=st.sampled_from((0.5, 2.0, 30.0)),
    rate_limit_floor_seconds=st.sampled_from((5.0, 60.0)),
)


def without_contradictions(scenario: Scenario) -> Scenario:
    """Leave out ghosts, which show threads in older states, from scenarios in which they contradict the checks.

    If threads may be sick or rows refused, reading a ghost would close the dead letter about the newest state.
    """
    habits = scenario.habits
    if habits.may_shrink or habits.unreadable_chance or scenario.refused_row_chance:
        return replace(scenario, habits=replace(habits, ghost_chance=0.0))
    return scenario


def with_a_slow_store(scenario: Scenario) -> Scenario:
    """Make the store slower than the API in half of the scenarios, so that batches wait and are committed together."""
    return replace(scenario, slowest_commit_seconds=20.0 if scenario.seed % 2 else 1.0)


scenarios = (
    st.builds(
        Scenario,
        seed=st.integers(0, 2**32 - 1),
        steps=st.integers(20, 250),
        streams=st.integers(1, 3),
        threads=st.integers(0, 12),
        concurrency=st.sampled_from((1, 2, 3)),
        habits=habits,
        policy=policies,
        max_batches=st.sampled_from((1, 2, 5, 50)),
        run_seconds=st.sampled_from((3.0, 20.0, 270.0)),
        interval_seconds=st.sampled_from((1.0, 60.0)),
        skew_seconds=st.sampled_from((0.0, -7200.0, 7200.0, 30 * 86400.0)),
        date_skew_seconds=st.sampled_from((0.0, 0.0, -7200.0, 7200.0, 30 * 86400.0, 7900 * 365 * 86400.0)),
        crash_chance=chance(0.01, 0.05),
        stop_chance=chance(0.02),
        rival_chance=chance(0.05),
        full_chance=chance(0.1, 0.5),
        refused_row_chance=chance(0.05, 0.2),
        away_chance=chance(0.02, 0.1),
        unknown_chance=chance(0.02, 0.1),
        command_chance=chance(0.05, 0.2),
        pause_chance=chance(0.02, 0.1),
        reload_chance=chance(0.02, 0.05),
        forget_chance=chance(0.01, 0.05),
        link_chance=chance(0.01, 0.03),
    )
    .map(without_contradictions)
    .map(with_a_slow_store)
)
