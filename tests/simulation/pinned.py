"""Scenarios that were found among many thousands, shrunk, and are played in every run."""

from dataclasses import replace
from math import inf

from kit.fake_inbox import Habits
from kit.fake_outages import Climate
from kit.simulation_setting import Scenario
from milepost.core.plan import Policy

# Found in a million steps. Both clocks are far ahead, so each walk is dated by the newest thread: no overlap is left
# that allows for disorder. In batches of two, two older threads were enough to end a walk.
DISPLACED = Scenario(
    seed=117,
    steps=20,
    threads=5,
    habits=Habits(arrival_chance=0.5, new_thread_chance=0.0, deletion_chance=0.05, displaced_chance=0.2),
    policy=Policy(
        batch_size=2,
        messages_per_conversation=0,
        watermark_overlap_seconds=60.0,
        full_sweep_interval_seconds=0.0,
        attempts=1,
        base_delay_seconds=0.5,
        rate_limit_floor_seconds=5.0,
    ),
    concurrency=1,
    max_batches=2,
    run_seconds=3.0,
    skew_seconds=7200.0,
    date_skew_seconds=7200.0,
)
DISPLACED_IN_BURSTS = replace(
    DISPLACED,
    habits=replace(DISPLACED.habits, burst_chance=0.4, longest_burst=150, deletion_chance=0.2, empty_chance=0.1),
    max_batches=50,
    run_seconds=20.0,
    refused_row_chance=0.2,
    pause_chance=0.02,
    reload_chance=0.05,
)

# Older messages become a dead letter in one of a hundred worlds.
OLDER_GIVEN_UP = Scenario(
    seed=3058,
    steps=49,
    streams=3,
    threads=7,
    habits=Habits(
        arrival_chance=0.5,
        burst_chance=0.3,
        edit_chance=0.3,
        window=5,
        sick_chance=0.1,
        deletion_chance=0.1,
        dead_cursor_chance=0.1,
    ),
    policy=Policy(
        batch_size=6,
        messages_per_conversation=20,
        message_history_seconds=0.0,
        watermark_overlap_seconds=60.0,
        full_sweep_interval_seconds=0.0,
        attempts=1,
    ),
    refused_row_chance=0.1,
    link_chance=0.03,
)

# The store refuses the row of a thread without messages, whose account is then linked to another page.
LEFT_BEHIND = Scenario(
    seed=11,
    steps=128,
    streams=2,
    threads=3,
    habits=Habits(
        arrival_chance=0.5,
        unsend_chance=0.4,
        deletion_chance=0.05,
        displaced_chance=0.5,
        empty_chance=0.3,
        dead_cursor_chance=0.05,
        loop_chance=0.1,
        false_end_chance=0.3,
        false_empty_chance=0.1,
        climate=Climate(stop_chance=0.005, longest_seconds=3600.0, with_unknown_errors=True),
    ),
    policy=Policy(
        batch_size=6,
        messages_per_conversation=0,
        message_history_seconds=3600.0,
        watermark_overlap_seconds=2.0,
        full_sweep_interval_seconds=60.0,
        attempts=3,
        base_delay_seconds=30.0,
        rate_limit_floor_seconds=60.0,
    ),
    concurrency=1,
    max_batches=1,
    run_seconds=20.0,
    skew_seconds=7200.0,
    crash_chance=0.01,
    full_chance=0.1,
    refused_row_chance=0.2,
    pause_chance=0.1,
    reload_chance=0.05,
    link_chance=0.03,
)

# Two pages read the same threads for the first time, the one right before the account is linked to the other.
MET_BY_BOTH = Scenario(
    seed=575,
    steps=60,
    streams=2,
    threads=2,
    habits=Habits(
        new_thread_chance=0.0,
        burst_chance=0.4,
        longest_burst=4,
        edit_chance=0.1,
        unsend_chance=0.1,
        unreadable_chance=0.1,
        displaced_chance=0.2,
        empty_chance=0.1,
        false_end_chance=0.3,
        climate=Climate(limit_chance=0.03, outage_chance=0.05, longest_seconds=10.0),
    ),
    policy=Policy(
        batch_size=4,
        messages_per_conversation=0,
        message_history_seconds=inf,
        watermark_overlap_seconds=5.0,
        full_sweep_interval_seconds=600.0,
        attempts=1,
        base_delay_seconds=2.0,
        rate_limit_floor_seconds=60.0,
    ),
    concurrency=2,
    max_batches=5,
    run_seconds=3.0,
    skew_seconds=30 * 86400.0,
    date_skew_seconds=-7200.0,
    rival_chance=0.05,
    away_chance=0.1,
    unknown_chance=0.02,
    command_chance=0.05,
    pause_chance=0.02,
    link_chance=0.06,
)
