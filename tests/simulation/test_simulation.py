"""The engine through thousands of steps of everything that goes wrong: nothing is lost.

`kit.simulation` drives the loop that the daemon runs; `kit.invariants` has what is checked after every commit. A step
is a call of the API, or a wait. A scenario that fails is printed with its seed, shrunk, and runs again by
`Simulation(Scenario(...)).run()`. Each run draws the same scenarios; `--hypothesis-seed=N` draws others.
"""

from collections import Counter
from dataclasses import replace
from math import inf

import pytest
from hypothesis import HealthCheck, core, example, given, settings
from hypothesis.strategies import SearchStrategy
from msgspec import structs

from kit.fake_inbox import Habits
from kit.scenarios import scenarios
from kit.simulation import Simulation
from kit.simulation_setting import Scenario
from milepost.engine import backlog
from simulation.pinned import DISPLACED, DISPLACED_IN_BURSTS, LEFT_BEHIND, MET_BY_BOTH, OLDER_GIVEN_UP

# What a simulation that proves anything must have met.
ORDEALS = {
    "a batch was skipped",
    "batches were committed together",
    "a catch-up scan read a batch",
    "a command between two batches",
    "a command was refused",
    "a command: stream_paused",
    "a command: stream_resumed",
    "a command: sync_requested",
    "a command: token_checked",
    "a commit of unknown outcome was not stored",
    "a commit of unknown outcome was stored",
    "a crash",
    "a cursor loop",
    "a full sweep forced over an open incremental one",
    "a full sweep noted what it missed",
    "a gap ended: closed",
    "a gap ended: dead_letter",
    "a gap ended: forgotten",
    "a gap ended: gone",
    "a gap ended: history_limit",
    "the backlog was read: moved",
    "a gap ended: thread_end",
    "a history was owed",
    "a history was owed further back",
    "a gap ended: withheld",
    "a message was edited",
    "a message was unsent",
    "messages were missed: deleted",
    "messages were missed: window",
    "messages were owed",
    "older messages are read from the newest on",
    "older messages could not be read",
    "older messages were read",
    "older messages were read during a sweep",
    "a dead letter of events",
    "a dead letter of fetch",
    "a dead letter of store",
    "a dead letter was discarded",
    "a dead letter was forgotten",
    "a dead letter was recovered",
    "a dead letter was redriven",
    "a person was forgotten",
    "a quiet sweep",
    "a quiet sweep of several batches",
    "a rate limit of another stream holds this one",
    "a refusal: reset",
    "a refusal: retry",
    "a refusal: shrink",
    "a refusal: stop_authorization",
    "a refusal: stop_configuration",
    "a refusal: wait",
    "a refusal was about everything",
    "a refusal was about what the list holds",
    "a run ended: batch_limit",
    "a run ended: broke_off",
    "a run ended: process_died",
    "a run ended: rate_limit",
    "a run ended: removed",
    "a run ended: request",
    "a run ended: shutdown",
    "a run ended: time_limit",
    "a second writer was refused",
    "a request sent ahead was refused",
    "a resumed run read the head first",
    "a sweep completed",
    "a sweep completed in doubt: cursor_loop",
    "a sweep completed in doubt: empty_inbox",
    "a sweep completed in doubt: false_end",
    "a sweep completed in doubt: most_missing",
    "a sweep completed in doubt: out_of_order",
    "a walk started over: cursor_loop",
    "a walk started over: false_end",
    "a thread that fails in lists was read alone",
    "a thread was given up",
    "a thread was marked as deleted",
    "another process took the stream over",
    "another thread came in the place of one that fails",
    "another process wrote of the stream",
    "an account was linked to another page",
    "an operator discarded a dead letter",
    "an operator redrove a dead letter",
    "the configuration was changed",
    "the store refused rows",
    "the store was away",
}


def play(max_examples: int, of: SearchStrategy[Scenario] = scenarios) -> tuple[int, Counter[str]]:
    """Run that many scenarios. Returns how many steps they took, and what they met."""
    steps = 0
    seen: Counter[str] = Counter()

    @settings(
        max_examples=max_examples,
        derandomize=core.global_force_seed is None,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(of)
    @example(OLDER_GIVEN_UP)
    def play_one(scenario: Scenario) -> None:
        nonlocal steps, seen
        simulation = Simulation(scenario)
        simulation.run()
        steps += simulation.setting.steps
        seen += simulation.setting.invariants.seen

    play_one()
    return steps, seen


@pytest.mark.parametrize("scenario", [DISPLACED, DISPLACED_IN_BURSTS], ids=["one by one", "in bursts"])
def test_threads_out_of_order_are_not_missed_in_batches_of_two_while_both_clocks_are_ahead(scenario: Scenario) -> None:
    Simulation(scenario).run()


@pytest.mark.parametrize("scenario", [LEFT_BEHIND, MET_BY_BOTH], ids=["a contact alone", "met by both"])
def test_all_else_follows_an_account_that_moves_where_something_stays_behind(scenario: Scenario) -> None:
    simulation = Simulation(scenario)
    simulation.run()

    assert simulation.setting.invariants.stayed_behind


@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_aged_whatever_happens() -> None:
    steps, _ = play(max_examples=20)

    assert steps >= 4_000


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("examples", "news"), [(8, 150), pytest.param(40, 500, marks=pytest.mark.long)])
def test_webhooks_at_any_moment_lose_double_and_age_nothing(examples: int, news: int) -> None:
    """They announce news of a stream whether there is any or not, in any order with sweeps, crashes and limits."""
    _, seen = play(examples, scenarios.map(lambda scenario: replace(scenario, news_chance=0.3, link_chance=0.0)))

    assert seen["a webhook announced news"] >= news


def with_facts(scenario: Scenario) -> Scenario:
    """Let webhooks say of some messages how they were edited or unsent: late, again and in any order.

    The times in them are the platform's, so that no clock may be wrong by more than a fact may be late. Ghosts are left
    out: they show messages as they were before a fact.
    """
    habits = replace(scenario.habits, edit_chance=0.3, unsend_chance=0.1, ghost_chance=0.0)
    right = replace(scenario, skew_seconds=0.0, date_skew_seconds=0.0)
    return replace(right, habits=habits, facts_chance=0.3, news_chance=0.1, link_chance=0.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("examples", "facts"), [(8, 20), pytest.param(40, 200, marks=pytest.mark.long)])
def test_facts_at_any_moment_make_nothing_older_and_bring_nothing_back(examples: int, facts: int) -> None:
    _, seen = play(examples, scenarios.map(with_facts))

    assert seen["a fact was applied"] >= facts
    assert seen["a fact was no news"] >= facts // 10


def with_threads_that_move(scenario: Scenario) -> Scenario:
    """Let threads move to the head between any two requests of full sweeps, which take many small batches."""
    habits = Habits(arrival_chance=0.5, new_thread_chance=0.0, deletion_chance=0.05)
    policy = structs.replace(scenario.policy, batch_size=2)
    return replace(scenario, habits=habits, policy=policy, threads=12, steps=250, full_chance=0.5, link_chance=0.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("examples", "repeated"), [(4, 5), pytest.param(40, 30, marks=pytest.mark.long)])
def test_threads_that_move_between_any_two_requests_are_not_marked_as_deleted(examples: int, repeated: int) -> None:
    _, seen = play(examples, scenarios.map(with_threads_that_move))

    assert seen["a catch-up scan was repeated"] >= repeated
    assert seen["a thread was marked as deleted"] >= repeated


def with_limits_that_change(scenario: Scenario) -> Scenario:
    """Let threads have long pasts, and the limit of their histories be another one now and then."""
    limit = inf if scenario.seed % 2 else 0.0
    policy = structs.replace(scenario.policy, messages_per_conversation=3, message_history_seconds=limit)
    habits = replace(scenario.habits, longest_past=60, new_thread_chance=0.2)
    return replace(scenario, habits=habits, policy=policy, full_chance=0.3, reload_chance=0.1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("examples", "left_out"), [(8, 15), pytest.param(40, 100, marks=pytest.mark.long)])
def test_histories_that_owe_nothing_when_they_are_met_are_not_lost(
    monkeypatch: pytest.MonkeyPatch, examples: int, left_out: int
) -> None:
    monkeypatch.setattr(backlog, "GAPS_REOPENED", 2)  # so that a search takes some steps, and is cut short
    steps, seen = play(examples, scenarios.map(with_limits_that_change))

    assert steps >= 300 * examples
    assert seen["histories were left out of the record"] >= left_out
    assert seen["histories that were left out were owed"] >= left_out // 3


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_or_aged_in_any_ordeal() -> None:
    steps, seen = play(max_examples=650)  # 3,100 take more than ten minutes of a core

    assert steps >= 150_000
    assert seen.keys() >= ORDEALS
