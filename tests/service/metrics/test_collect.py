"""Metrics: what they count and show, and that docs/metrics.md documents them as they are."""

import math
import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.builders import (
    BAD_VERSION,
    DEAD_TOKEN,
    MISSED,
    NETWORK,
    NOON,
    RATE_LIMIT,
    STREAM,
    at,
    budget,
    checkpoint_of,
    contact,
    conversation,
    fetched,
    given,
    message,
    problem,
    refused,
    run_started,
    sweep_started,
    unreadable,
    walking,
)
from kit.exposition import Exposition, everything, families
from kit.memory_store import MemoryStore
from kit.notices import passed, recorded, store_retried, told_by_a_run, usage_told
from milepost import __version__
from milepost.core import events
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Detail, Platform, Stream, TokenHealth
from milepost.core.ports import Outcome, Usage
from milepost.core.position import MessagesMissed, Mode
from milepost.core.problems import Problem, Remedy, Scope
from milepost.engine.feed import Notice, Recorded, SlotWaited
from milepost.service.metrics.collect import MAX_CODES, USAGE_SECONDS

DOCUMENTATION = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
KEY = STREAM.key
OTHER = Stream(Platform.MESSENGER, "2")
ONE_BATCH = events.Tally(batches=1)
MUCH_BYTES = 1_000_000_000  # that other processes may free meanwhile


def values(exposition: Exposition, name: str, by: str = "") -> dict[str, float]:
    """Return a metric's samples that are not 0, by the value of one label (and of one stream if it has any)."""
    samples = [
        sample
        for family in families(exposition.expose())
        for sample in family.samples
        if sample.name == f"milepost_{name}" and sample.labels.get("stream", KEY) == KEY
    ]
    return {sample.labels.get(by, ""): sample.value for sample in samples if sample.value}


def after(*notices: Notice) -> Exposition:
    exposition = Exposition()
    exposition.read(*notices)
    return exposition


def states(exposition: Exposition) -> dict[str, str]:
    """Return the state of every stream."""
    return {
        sample.labels["stream"]: sample.labels["state"]
        for family in families(exposition.expose())
        for sample in family.samples
        if sample.name == "milepost_stream_state" and sample.value
    }


def stopped_for(of: Problem, status: events.RunStatus, reason: events.Reason) -> Recorded:
    return recorded(run_started(), events.RunEnded(status, reason, problem=of))


def completed(tally: events.Tally = ONE_BATCH) -> events.SweepCompleted:
    return events.SweepCompleted(Mode.FULL, NOON, at(-90), tally)


def dead_letter(dead_letter_id: str, stage: events.Stage = events.Stage.FETCH) -> events.DeadLetterOpened:
    return events.DeadLetterOpened(dead_letter_id, stage, f"t_{dead_letter_id}", "refused")


RETRIED = events.FetchFailed(1, NETWORK, at(2))
GIVEN_UP = (
    events.BatchFailed(events.Stage.FETCH, 3, NETWORK),
    events.RunEnded(events.RunStatus.FAILED, events.Reason.RETRIES_EXHAUSTED, problem=NETWORK),
)
LIMITED = events.RateLimited(Scope.PAGE, 1, NOON, at(90), RATE_LIMIT)
OUT_OF_REACH = events.RunEnded(events.RunStatus.PAUSED, events.Reason.RATE_LIMIT, problem=RATE_LIMIT)
INTERRUPTED = events.RunEnded(events.RunStatus.INTERRUPTED, events.Reason.PROCESS_DIED)


# --- counts -----------------------------------------------------------------------------------------------------------


async def test_the_counts_of_runs_equal_those_of_the_journal() -> None:
    store, exposition = MemoryStore(), Exposition()
    ada = conversation("t_1", at(-10), of=contact(), messages=[message("m_1"), message("m_2")])
    bob = replace(conversation("t_2", at(-20)), replaced_characters=4)
    first_run: list[Outcome] = [
        fetched(ada, next_cursor="a"),
        fetched(bob, next_cursor="b"),
        fetched(ada, next_cursor="c"),
        refused(NETWORK),
        fetched(unreadable(), bob, ada, next_cursor="d"),
        fetched(bob),
        fetched(ada),
    ]
    second_run: list[Outcome] = [fetched(ada, bob)]
    for number, outcomes in enumerate([first_run, second_run]):
        for notice in await told_by_a_run(store, outcomes, budget(f"run-{number}")):
            exposition.read(notice)

    total = (await store.load(STREAM)).total
    assert total.order_violations > 0
    assert values(exposition, "batches_total", "outcome") == {"stored": 3, "unchanged": total.batches - 3}
    assert values(exposition, "conversations_total", "result") == {
        "inserted": total.inserted,
        "unchanged": total.unchanged,
        "dead_lettered": total.dead_lettered,
    }
    assert values(exposition, "interaction_events_total") == {"": total.interaction_events}
    assert values(exposition, "order_violations_total") == {"": total.order_violations}
    assert values(exposition, "replaced_characters_total") == {"": total.replaced_characters} == {"": 4}
    assert values(exposition, "runs_total", "status") == {"complete_with_errors": 1, "complete": 1}
    assert values(exposition, "dead_letters") == {"": 1}
    assert sum(values(exposition, "journal_entries_total", "type").values()) == len(store.journal)


@pytest.mark.parametrize(
    ("tally", "stored"),
    [
        (events.Tally(batches=3, inserted=1), 1),
        (events.Tally(batches=3, updated=1), 1),
        (events.Tally(batches=3, dead_lettered=1), 1),
        (events.Tally(batches=3, contacts=1), 1),
        (events.Tally(batches=3, interaction_events=1), 1),
        (events.Tally(batches=3, deleted=1), 1),
        (events.Tally(batches=3, unchanged=150, without_contact=2, order_violations=1), 0),
    ],
)
def test_only_the_last_batch_that_an_entry_covers_can_have_changes(tally: events.Tally, stored: int) -> None:
    exposition = after(recorded(completed(tally)))
    outcomes = values(exposition, "batches_total", "outcome")
    assert outcomes == {"stored": stored, "unchanged": 3 - stored} if stored else {"unchanged": 3}
    assert values(exposition, "batch_duration_seconds_count", "stage").get("store", 0) == stored


def test_an_unchanged_batch_is_counted_when_an_entry_covers_it() -> None:
    exposition = after(passed(), passed())
    assert values(exposition, "batches_total", "outcome") == {}
    exposition.read(recorded(completed(events.Tally(batches=3))))
    assert values(exposition, "batches_total", "outcome") == {"unchanged": 3}


def test_retries_are_counted_by_stage_and_reason() -> None:
    exposition = after(recorded(run_started(), RETRIED), store_retried(), store_retried())
    assert values(exposition, "retries_total", "stage") == {"fetch": 1, "store": 2}
    assert values(exposition, "retries_total", "reason") == {"network": 1, "away": 2}


def test_a_batch_whose_retries_are_used_up_has_failed() -> None:
    exposition = after(recorded(run_started(), *GIVEN_UP))
    assert values(exposition, "batches_total", "outcome") == {"failed": 1}
    assert values(exposition, "failed_batches_total", "stage") == {"fetch": 1}
    assert values(exposition, "runs_total", "status") == {"failed": 1}


def test_a_batch_that_the_store_refused_in_part_is_stored_and_failed_at_that_stage() -> None:
    dead_letters = (
        dead_letter("a", events.Stage.STORE),
        dead_letter("b", events.Stage.STORE),
        dead_letter("c", events.Stage.EVENTS),
        dead_letter("d", events.Stage.FETCH),
    )
    stored = events.BatchStored(walking("a"), events.Tally(batches=1, inserted=2, dead_lettered=4))
    exposition = after(recorded(run_started(), sweep_started(), *dead_letters, stored))
    assert values(exposition, "failed_batches_total", "stage") == {"store": 1, "events": 1}
    assert values(exposition, "batches_total", "outcome") == {"stored": 1}
    assert values(exposition, "conversations_total", "result") == {"inserted": 2, "dead_lettered": 4}


def test_a_dead_letter_that_a_redrive_opens_is_no_failed_batch() -> None:
    unchanged_before = events.BatchStored(walking("a"), events.Tally(batches=2, unchanged=9))
    exposition = after(
        recorded(unchanged_before, dead_letter("b", events.Stage.STORE), events.RedriveFailed("a", 1, "still refused"))
    )
    assert values(exposition, "failed_batches_total", "stage") == {}
    assert values(exposition, "batches_total", "outcome") == {"unchanged": 2}
    assert values(exposition, "conversations_total", "result") == {"unchanged": 9, "dead_lettered": 1}


def test_redrives_are_counted_by_result_and_their_rows_as_written() -> None:
    wrote = events.Tally(inserted=1, interaction_events=3)
    exposition = after(
        recorded(*(dead_letter(each) for each in "abcde")),
        recorded(events.RedriveFailed("a", 1, "still refused")),
        recorded(events.DeadLetterClosed("a", events.Resolution.REDRIVEN, wrote)),
        recorded(
            *(
                events.DeadLetterClosed(each.value, each)
                for each in events.Resolution
                if each is not events.Resolution.REDRIVEN
            )
        ),
    )
    assert values(exposition, "redrives_total", "result") == {"failed": 1, "redriven": 1}
    assert values(exposition, "conversations_total", "result") == {"inserted": 1, "dead_lettered": 5}
    assert values(exposition, "interaction_events_total") == {"": 3}
    assert values(exposition, "batches_total", "outcome") == {}


def test_conversations_that_a_full_sweep_misses_are_counted_as_deleted() -> None:
    exposition = after(recorded(completed(events.Tally(batches=1, unchanged=7, deleted=2))))
    assert values(exposition, "conversations_total", "result") == {"unchanged": 7, "deleted": 2}


def test_the_planned_waits_for_rate_limits_are_added_up_by_scope() -> None:
    app = events.RateLimited(Scope.APP, 2, at(-60), at(30), RATE_LIMIT)
    exposition = after(recorded(run_started(), LIMITED), recorded(run_started(), LIMITED), recorded(app))
    assert values(exposition, "rate_limit_wait_seconds_total", "scope") == {"page": 180, "app": 30}


def test_waiting_for_a_limit_is_neither_a_retry_nor_a_failure() -> None:
    exposition = after(recorded(run_started(), LIMITED, OUT_OF_REACH))
    assert values(exposition, "retries_total", "reason") == {}
    assert values(exposition, "failed_batches_total", "stage") == {}
    assert values(exposition, "runs_total", "status") == {"paused": 1}


def test_entries_are_counted_by_type() -> None:
    exposition = after(recorded(run_started(), sweep_started(), RETRIED), recorded(completed()))
    assert values(exposition, "journal_entries_total", "type") == {
        "run_started": 1,
        "sweep_started": 1,
        "fetch_failed": 1,
        "sweep_completed": 1,
    }


@pytest.mark.parametrize(
    ("notice", "code", "remedy"),
    [
        (recorded(run_started(), events.FetchFailed(1, problem(1), at(2))), "1", "retry"),
        (recorded(run_started(), RETRIED), "network", "retry"),
        (recorded(run_started(), *GIVEN_UP), "network", "retry"),
        (recorded(run_started(), LIMITED), "613", "wait"),
        (recorded(run_started(), LIMITED, OUT_OF_REACH), "613", "wait"),
        (recorded(run_started(), events.BatchShrunk(25, Detail.NESTED, problem(1))), "1", "shrink"),
        (recorded(run_started(), events.CursorLost(problem(2642))), "2642", "reset"),
        (stopped_for(DEAD_TOKEN, events.RunStatus.STOPPED, events.Reason.AUTHORIZATION), "190", "stop_authorization"),
        (stopped_for(BAD_VERSION, events.RunStatus.STOPPED, events.Reason.CONFIGURATION), "2635", "stop_configuration"),
    ],
)
def test_each_error_of_the_api_is_counted_once_with_its_remedy(notice: Notice, code: str, remedy: str) -> None:
    exposition = after(notice)
    assert values(exposition, "api_errors_total", "code") == {code: 1}
    assert values(exposition, "api_errors_total", "remedy") == {remedy: 1}


def test_a_server_that_makes_up_codes_creates_a_bounded_number_of_series() -> None:
    exposition = after(
        *(recorded(events.FetchFailed(1, problem(10_000 + code), at(2))) for code in range(3 * MAX_CODES))
    )
    codes = values(exposition, "api_errors_total", "code")
    assert len(codes) == MAX_CODES + 1
    assert codes["other"] == 2 * MAX_CODES


def test_streams_are_counted_separately() -> None:
    other = Checkpoint(Stream.parse("instagram:2"))
    exposition = after(recorded(completed(events.Tally(batches=5)), after=other), recorded(completed()))
    assert values(exposition, "batches_total", "outcome") == {"unchanged": 1}


def test_every_series_of_a_stream_exists_before_its_first_count() -> None:
    exposition = Exposition()
    exposition.load(checkpoint_of())
    before = [
        line.rpartition(" ")[0] for line in exposition.expose().decode().splitlines() if f'stream="{KEY}"' in line
    ]
    for notice in (recorded(run_started(), RETRIED), recorded(run_started(), *GIVEN_UP), recorded(completed())):
        exposition.read(notice)
    exposition.read(store_retried())
    since = [line.rpartition(" ")[0] for line in exposition.expose().decode().splitlines() if f'stream="{KEY}"' in line]
    assert since == before


# --- durations --------------------------------------------------------------------------------------------------------


def test_the_durations_of_a_stored_batch_are_those_of_its_notice() -> None:
    exposition = after(
        recorded(run_started(), sweep_started(), events.BatchStored(walking("a"), events.Tally(batches=1, inserted=1)))
    )
    assert values(exposition, "batch_duration_seconds_sum", "stage") == {"fetch": 0.4, "store": 0.02, "events": 0.04}
    assert values(exposition, "journal_append_duration_seconds_sum") == {"": 0.08}


def test_an_entry_without_a_fetch_has_no_fetch_duration() -> None:
    exposition = after(recorded(run_started(), INTERRUPTED, fetch_seconds=None), passed())
    assert values(exposition, "batch_duration_seconds_count", "stage") == {"fetch": 1}


def test_runs_are_timed_from_their_start_to_their_end() -> None:
    exposition = after(recorded(completed()))
    assert values(exposition, "run_duration_seconds_sum", "status") == {"complete": 90.0}


def test_an_interrupted_run_is_counted_but_not_timed() -> None:
    exposition = after(recorded(run_started(at(-3600)), INTERRUPTED))
    assert values(exposition, "runs_total", "status") == {"interrupted": 1}
    assert values(exposition, "run_duration_seconds_count", "status") == {}


# --- the gauges of streams --------------------------------------------------------------------------------------------


def test_gauges_show_the_checkpoints_from_the_start() -> None:
    exposition = Exposition()
    exposition.load(given(completed(events.Tally(batches=1)), recorded_at=at(5)))
    assert values(exposition, "last_success_timestamp_seconds") == {"": at(5).timestamp()}
    assert values(exposition, "checkpoint_timestamp_seconds") == {"": at(5).timestamp()}
    assert values(exposition, "stream_state", "state") == {"complete": 1}
    assert values(exposition, "runs_total") == {}


def test_a_stream_without_a_past_has_never_succeeded() -> None:
    exposition = Exposition()
    exposition.load(checkpoint_of())
    assert f'milepost_last_success_timestamp_seconds{{stream="{KEY}"}} 0.0' in exposition.expose().decode()
    assert values(exposition, "stream_state", "state") == {"never_synced": 1}


def test_a_stop_is_shown_with_its_reason_until_the_stream_is_read_again() -> None:
    stopped = stopped_for(DEAD_TOKEN, events.RunStatus.STOPPED, events.Reason.AUTHORIZATION)
    exposition = after(recorded(completed()), stopped)
    assert values(exposition, "stream_stopped", "reason") == {"authorization": 1}
    probe = recorded(run_started(), after=stopped.checkpoint)
    exposition.read(probe)
    assert values(exposition, "stream_stopped", "reason") == {"authorization": 1}, "a probe alone fixes nothing"
    exposition.read(recorded(completed(), after=probe.checkpoint))
    assert values(exposition, "stream_stopped", "reason") == {}


def test_a_stop_is_shown_from_the_start() -> None:
    exposition = Exposition()
    exposition.load(stopped_for(BAD_VERSION, events.RunStatus.STOPPED, events.Reason.CONFIGURATION).checkpoint)
    assert values(exposition, "stream_stopped", "reason") == {"configuration": 1}


def test_a_failed_run_does_not_stop_the_stream() -> None:
    assert values(after(recorded(run_started(), *GIVEN_UP)), "stream_stopped", "reason") == {}


def test_a_stream_is_in_exactly_one_state() -> None:
    unauthorized = stopped_for(DEAD_TOKEN, events.RunStatus.STOPPED, events.Reason.AUTHORIZATION)
    assert values(after(recorded(completed()), unauthorized), "stream_state", "state") == {"stopped": 1}
    assert values(after(unauthorized, recorded(run_started())), "stream_state", "state") == {"syncing": 1}


# --- names ------------------------------------------------------------------------------------------------------------


def infos(exposition: Exposition) -> list[dict[str, str]]:
    return [
        sample.labels
        for family in families(exposition.expose())
        for sample in family.samples
        if sample.name == "milepost_stream_info"
    ]


def test_a_stream_has_the_name_of_its_page_and_what_it_is_called_later() -> None:
    names = {STREAM.page_id: 'The "Bakery"'}
    exposition = after(recorded(completed()), recorded(completed(), after=Checkpoint(OTHER)))
    exposition.metrics.page_names = lambda: names
    bakery = {"stream": KEY, "platform": STREAM.platform.value, "page_id": STREAM.page_id}
    other = {"stream": OTHER.key, "platform": "messenger", "page_id": "2", "page_name": "2"}
    assert infos(exposition) == [bakery | {"page_name": 'The "Bakery"'}, other]
    names[STREAM.page_id] = "Cakes"
    assert infos(exposition) == [other, bakery | {"page_name": "Cakes"}]
    exposition.follow(recorded(completed(), events.StreamRemoved("Ada")))
    assert infos(exposition) == [other]


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_each_budget_shows_the_latest_ratio_of_the_fullest_page() -> None:
    calls, time = (Usage(Scope.PAGE, kind, ratio) for kind, ratio in (("call_count", 0.9), ("total_time", 0.2)))
    exposition = after(usage_told(calls, time), usage_told(Usage(Scope.PAGE, "call_count", 0.4), stream=OTHER))
    assert values(exposition, "rate_limit_usage_ratio", "kind") == {"call_count": 0.9, "total_time": 0.2}
    exposition.read(usage_told(Usage(Scope.PAGE, "call_count", 0.3)))
    assert values(exposition, "rate_limit_usage_ratio", "kind") == {"call_count": 0.4, "total_time": 0.2}


def test_two_streams_of_a_page_share_its_budget_and_all_streams_the_apps() -> None:
    sibling = Stream(Platform.INSTAGRAM, STREAM.page_id)
    exposition = after(
        usage_told(Usage(Scope.PAGE, "call_count", 0.9)),
        usage_told(Usage(Scope.PAGE, "call_count", 0.1), stream=sibling),
        usage_told(Usage(Scope.APP, "call_count", 0.8)),
        usage_told(Usage(Scope.APP, "call_count", 1.2), stream=OTHER),
    )
    assert values(exposition, "rate_limit_usage_ratio", "scope") == {"page": 0.1, "app": 1.2}


def test_each_stream_shows_the_fullest_budget_of_its_page() -> None:
    exposition = after(
        recorded(completed()),
        recorded(completed(), after=Checkpoint(OTHER)),
        usage_told(Usage(Scope.PAGE, "call_count", 0.4), Usage(Scope.PAGE, "total_time", 0.7)),
        usage_told(Usage(Scope.APP, "call_count", 0.9)),
    )
    assert values(exposition, "stream_rate_limit_usage_ratio") == {"": 0.7}
    assert f'milepost_stream_rate_limit_usage_ratio{{stream="{OTHER.key}"}}' not in exposition.expose().decode()
    exposition.steady = USAGE_SECONDS
    assert values(exposition, "stream_rate_limit_usage_ratio") == {}


def test_a_removed_stream_disappears_until_it_has_entries_again() -> None:
    exposition = after(recorded(completed()))
    others = after(recorded(completed(), after=Checkpoint(OTHER)))
    exposition.read(recorded(completed(), after=Checkpoint(OTHER)))

    exposition.follow(recorded(completed(), events.StreamRemoved("Ada")))
    assert f'stream="{KEY}"' not in exposition.expose().decode()
    assert states(exposition) == states(others)

    limited = events.RateLimited(Scope.APP, 1, NOON, at(3600), problem(4))
    exposition.read(recorded(run_started(), sweep_started(), limited, after=Checkpoint(OTHER)))
    assert set(states(exposition)) == {OTHER.key}, "it is not held by the app's rate limit"

    exposition.read(recorded(completed(), events.StreamRemoved("Ada"), run_started()))
    assert states(exposition)[KEY] == "rate_limited"
    assert values(exposition, "last_success_timestamp_seconds") == {}


# --- the exposition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("health", "expiry"),
    [
        (TokenHealth(True, at(200), at(100)), {"": at(100).timestamp()}),
        (TokenHealth(True), {"": math.inf}),
        (TokenHealth(False, at(200)), {}),
    ],
    ids=["what ends first", "never", "invalid"],
)
def test_a_token_has_an_expiry_only_while_it_is_valid(health: TokenHealth, expiry: dict[str, float]) -> None:
    exposition = after(recorded(events.TokenChecked(health)))
    assert values(exposition, "token_expiry_timestamp_seconds") == expiry
    assert f'milepost_token_valid{{stream="{KEY}"}} {float(health.is_valid)}' in exposition.expose().decode()


def test_nothing_is_exposed_of_a_token_that_nobody_has_checked() -> None:
    exposed = after(recorded(completed())).expose().decode()
    assert "token_expiry_timestamp_seconds{" not in exposed
    assert "token_valid{" not in exposed


def test_a_token_that_becomes_invalid_loses_its_expiry() -> None:
    exposition = after(
        recorded(events.TokenChecked(TokenHealth(True, at(100)))),
        recorded(events.TokenChecked(TokenHealth(False, at(100)))),
    )
    assert "token_expiry_timestamp_seconds{" not in exposition.expose().decode()


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the type and the labels of each metric in the tables of the documentation."""
    rows = re.findall(r"^\| `(milepost_\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", DOCUMENTATION, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_a_usage_that_nobody_has_reported_for_an_hour_is_shown_no_longer() -> None:
    exposition = after(usage_told(Usage(Scope.APP, "call_count", 1.0)))
    exposition.steady = USAGE_SECONDS / 2
    exposition.read(usage_told(Usage(Scope.PAGE, "call_count", 0.4)))
    assert values(exposition, "rate_limit_usage_ratio", "scope") == {"app": 1.0, "page": 0.4}
    exposition.steady = USAGE_SECONDS
    assert values(exposition, "rate_limit_usage_ratio", "scope") == {"page": 0.4}


def test_waits_for_slots_are_observed_whoever_waited() -> None:
    exposition = after(SlotWaited(0.0), SlotWaited(4.0))
    assert values(exposition, "slot_wait_seconds_count") == {"": 2}
    assert values(exposition, "slot_wait_seconds_sum") == {"": 4}


def test_the_delay_of_what_has_arrived_is_from_when_it_was_sent_until_it_was_recorded() -> None:
    notice = recorded(events.SweepCompleted(Mode.FULL, NOON, NOON, ONE_BATCH))
    assert isinstance(notice, Recorded)
    stored_at = notice.entries[-1].recorded_at
    sent_at = (stored_at - timedelta(seconds=40), stored_at + timedelta(seconds=2))  # by another clock

    exposition = after(replace(notice, arrived=sent_at), notice)

    assert values(exposition, "message_delay_seconds_count") == {"": 2}
    assert values(exposition, "message_delay_seconds_sum") == {"": 40}


def test_missed_messages_are_counted_and_one_for_a_conversation_where_their_number_is_unknown() -> None:
    unknown = replace(MISSED, count=None, is_estimate=False)

    exposition = after(recorded(MessagesMissed((MISSED, unknown))))

    assert values(exposition, "messages_missed_total") == {"": 41}


def test_missed_messages_of_histories_are_counted_among_them_and_apart() -> None:
    history = replace(MISSED, from_at=None, count=900)

    exposition = after(recorded(MessagesMissed((replace(MISSED, from_at=NOON), history))))

    assert values(exposition, "messages_missed_total") == {"": 940}
    assert values(exposition, "message_history_missed_total") == {"": 900}


def test_the_documentation_names_every_metric_with_its_type_and_labels() -> None:
    exposed = {}
    for family in families(everything().expose()):
        if not family.name.startswith("process_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            exposed[name] = (family.type, labels)
    assert documented() == exposed


def test_the_documentation_names_the_values_of_labels() -> None:
    exposed = everything().expose().decode()
    for label in ("kind", "outcome", "reason", "result", "scope", "stage", "state", "status"):
        for value in set(re.findall(rf'{label}="(\w+)"', exposed)):
            assert f"`{value}`" in DOCUMENTATION, f"{label} {value}"
    for remedy in Remedy:
        assert f"`{remedy}`" in DOCUMENTATION, remedy


INFOS = {"milepost_build_info", "milepost_stream_info"}


def test_the_metrics_follow_the_conventions_of_prometheus() -> None:
    """They are those that `promtool check metrics` looks for."""
    for family in families(everything().expose()):
        assert family.documentation, family.name
        assert not re.search(r"_(total|count|sum|bucket|info)$", family.name) or family.name in INFOS
        assert not re.search(r"milliseconds|minutes|hours|[A-Z]|counter|gauge|histogram", family.name)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
            assert not any("stream" in sample.labels for sample in family.samples)
    assert "_created" not in everything().expose().decode()


def test_the_process_and_the_version_are_exposed() -> None:
    exposed = Exposition().expose().decode()
    assert f'milepost_build_info{{version="{__version__}"}} 1.0' in exposed
    assert "process_resident_memory_bytes" in exposed


def test_the_interval_and_the_space_on_the_disk_are_exposed(tmp_path: Path) -> None:
    exposition = Exposition()
    exposition.metrics.add_installation(lambda: 90.0, tmp_path / "milepost.db")
    assert values(exposition, "sync_interval_seconds") == {"": 90}
    room = os.statvfs(tmp_path)
    assert values(exposition, "store_disk_size_bytes") == {"": room.f_blocks * room.f_frsize}
    free = values(exposition, "store_disk_free_bytes")[""]
    assert 0 < free <= room.f_bfree * room.f_frsize + MUCH_BYTES, "what is reserved for root counts as taken"


def test_the_size_of_the_wal_is_exposed(tmp_path: Path) -> None:
    exposition = Exposition()
    exposition.metrics.add_installation(lambda: 90.0, tmp_path / "milepost.db")
    assert "milepost_store_wal_size_bytes 0.0\n" in exposition.expose().decode()
    (tmp_path / "milepost.db-wal").write_bytes(bytes(4_152))
    assert values(exposition, "store_wal_size_bytes") == {"": 4_152}


def test_the_size_of_the_database_is_exposed_while_it_is_known() -> None:
    exposition, sizes = Exposition(), [8_192, None]
    exposition.metrics.add_store_size(lambda: sizes[0])
    assert values(exposition, "store_size_bytes") == {"": 8_192}
    del sizes[0]
    assert values(exposition, "store_size_bytes") == {}


def test_a_disk_that_cannot_be_queried_hides_only_its_own_metrics(tmp_path: Path) -> None:
    exposition = Exposition()
    exposition.metrics.add_installation(lambda: 90.0, tmp_path / "away" / "milepost.db")
    assert values(exposition, "store_disk_free_bytes") == {}
    assert values(exposition, "store_wal_size_bytes") == {}
    assert values(exposition, "sync_interval_seconds") == {"": 90}


def test_two_instances_share_nothing() -> None:
    one, other = Exposition(), Exposition()
    one.read(recorded(completed()))
    assert values(one, "runs_total")
    assert not values(other, "runs_total")
