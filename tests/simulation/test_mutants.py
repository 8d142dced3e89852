"""Negative controls: an engine that is wrong the way others are wrong does not survive the simulation."""

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from msgspec.structs import replace

from kit.builders import NOON
from kit.fake_inbox import Habits
from kit.fake_outages import Climate
from kit.memory_store import MemoryStore
from kit.scenarios import scenarios
from kit.simulation import Simulation
from kit.simulation_setting import Decide, Scenario
from milepost.core.checkpoint import BatchUnchanged, Checkpoint, RateLimit, Sweep
from milepost.core.dead_letters import Failure, opened, recovered, unread, withhold
from milepost.core.decide import decide
from milepost.core.events import (
    NO_TALLY,
    BatchStored,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    Resolution,
    RunEnded,
    SweepCompleted,
    Tally,
)
from milepost.core.facts import _edited
from milepost.core.failures import checked
from milepost.core.merge import Difference, newer
from milepost.core.message_reading import _gap_after
from milepost.core.model import (
    Batch,
    Changes,
    DeadLetterPayload,
    Detail,
    InteractionEventRow,
    Keys,
    Known,
    MessagePage,
    RefusedRow,
    Stream,
)
from milepost.core.plan import Fetch, Policy, RunBudget, SettleRefusal, Size, Step, next_step, smaller
from milepost.core.ports import Answered, Commit, Committed, Fetched, ListCheck, Outcome, Refused
from milepost.core.position import Gap, GapEnding, Position, Scan, Stretch
from milepost.core.position import Phase as SweepPhase
from milepost.core.problems import Problem, Remedy, Rule, rule_for
from milepost.core.records import Context, Decided, Decision, Pending, Record, _saved_position, beginnings
from milepost.core.redrive import PendingRedrive
from milepost.core.walk import next_position, stretch_of
from milepost.core.webhooks import DueFact
from simulation.test_simulation import with_facts, with_threads_that_move

MAX_EXAMPLES = 540  # as many as the sound core has to survive


# --- decisions gone wrong ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Altered:
    """A pending decision that records something else."""

    pending: Pending
    alter: Callable[[Pending, Known], Decision]

    @property
    def keys(self) -> Keys | None:
        return self.pending.keys

    def record(self, known: Known) -> Decision:
        return self.alter(self.pending, known)


class LargestAsWatermark:
    """Takes the largest `updated_time` seen for the watermark, as connectors do."""

    def __init__(self) -> None:
        self.largest = NOON

    def __call__(self, checkpoint: Checkpoint, outcome: Outcome, around: Context) -> Pending:
        if isinstance(outcome, Fetched):
            self.largest = max([self.largest, *(each.updated_time for each in outcome.batch.conversations)])
        largest = self.largest
        return Altered(
            decide(checkpoint, outcome, around), lambda pending, known: with_watermark(pending.record(known), largest)
        )


def end_as_watermark(checkpoint: Checkpoint, outcome: Outcome, around: Context) -> Pending:
    """Takes the instant at which the sweep ended for the watermark."""
    pending = decide(checkpoint, outcome, around)
    if not isinstance(outcome, Fetched):
        return pending
    asked_at = outcome.asked_at
    return Altered(pending, lambda pending, known: with_watermark(pending.record(known), asked_at))


def with_watermark(decision: Decision, watermark: datetime) -> Decision:
    if isinstance(decision, BatchUnchanged):
        return decision
    return replace(decision, events=tuple(_with_watermark(event, watermark) for event in decision.events))


def _with_watermark(event: Event, watermark: datetime) -> Event:
    return replace(event, walk_started_at=watermark) if isinstance(event, SweepCompleted) else event


def empty_is_the_end(checkpoint: Checkpoint, outcome: Outcome, around: Context) -> Pending:
    """Takes an empty batch for the end of the inbox."""
    if isinstance(outcome, Fetched) and not outcome.batch.conversations and not outcome.batch.unreadable:
        outcome = replace(outcome, batch=replace(outcome.batch, next_cursor=None))
    return decide(checkpoint, outcome, around)


def refusal_is_the_end(checkpoint: Checkpoint, outcome: Outcome, around: Context) -> Pending:
    """Ends a sweep as a success when its source fails."""
    if isinstance(outcome, Refused) and checkpoint.sweep is not None:
        sweep = checkpoint.sweep
        completed = SweepCompleted(sweep.mode, sweep.walk_started_at, around.budget.started_at, checkpoint.unrecorded)
        return Decided(Record((completed,)))
    return decide(checkpoint, outcome, around)


def older_wins(checkpoint: Checkpoint, outcome: Outcome, around: Context) -> Pending:
    """Overwrites a row with whatever was read last."""

    def overwrite(pending: Pending, known: Known) -> Decision:
        rows = dict(known.conversations)
        for each in outcome.batch.conversations if isinstance(outcome, Fetched) else ():
            if each.conversation_id in rows:
                row = rows[each.conversation_id]
                rows[row.conversation_id] = replace(row, updated_time=min(row.updated_time, each.updated_time))
        return pending.record(replace(known, conversations=rows))

    return Altered(decide(checkpoint, outcome, around), overwrite)


def unreadable_is_skipped(checkpoint: Checkpoint, outcome: Outcome, around: Context) -> Pending:
    """Leaves out what it cannot read, without a dead letter."""
    if isinstance(outcome, Fetched):
        outcome = replace(outcome, batch=replace(outcome.batch, unreadable=()))
    return decide(checkpoint, outcome, around)


def quiet_is_told(checkpoint: Checkpoint, outcome: Outcome, around: Context) -> Pending:
    """Journals batches that changed nothing."""

    def journal(pending: Pending, known: Known) -> Decision:
        decision = pending.record(known)
        if isinstance(decision, Record):
            return decision
        opening = beginnings(checkpoint, decision.sweep, around.budget)
        return Record((*opening, BatchStored(decision.sweep.position, decision.tally)))

    return Altered(decide(checkpoint, outcome, around), journal)


def no_catch_up(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> Position | None:
    position = next_position(checkpoint, sweep, batch)
    return None if position == Position(SweepPhase.CATCH_UP) else position


def first_old_row_is_the_end(updated_times: list[datetime], until: datetime | None) -> bool:
    return until is not None and any(updated_time < until for updated_time in updated_times)


def nobody_waits(problem: Problem, *, has_cursor: bool) -> Rule:
    """Takes a limit for a failure that may pass."""
    rule = rule_for(problem, has_cursor=has_cursor)
    return replace(rule, remedy=Remedy.RETRY) if rule.remedy is Remedy.WAIT else rule


def own_limit_only(stream: Stream, rate_limits: Mapping[Stream, RateLimit]) -> datetime | None:
    """Does not care what limit another stream of the page or the app has met."""
    return rate_limits[stream].until if stream in rate_limits else None


def ended_with_all(checkpoint: Checkpoint, ended: RunEnded, budget: RunBudget, *before: Event) -> Record:
    """Lets the end of a run carry what was passed over, after what ended it."""
    ended = replace(ended, position=_saved_position(checkpoint), tally=checkpoint.unrecorded)
    return Record((*beginnings(checkpoint, checkpoint.sweep, budget), *before, ended))


def position_is_read(batch: Batch, detail: Detail, problem: Problem | None, known: Known) -> tuple[Failure, ...]:
    """Takes a thread that was stepped over, or read without its messages, for one that was read."""
    return unread(batch, Detail.NESTED, problem, known)


def refused_is_dropped(found: Difference, refused: tuple[RefusedRow, ...]) -> tuple[Difference, tuple[Failure, ...]]:
    """Leaves out the rows that the store refuses, without a dead letter."""
    return withhold(found, refused)[0], ()


def always_another(
    stream: Stream, failures: Iterable[Failure], known: Known, now: datetime
) -> tuple[tuple[DeadLetterOpened, ...], tuple[DeadLetterPayload, ...]]:
    """Opens a dead letter for each failure, whatever others there are."""
    return opened(stream, failures, replace(known, dead_letters={}), now)


def first_state_only(
    stream: Stream, failures: Iterable[Failure], known: Known, now: datetime
) -> tuple[tuple[DeadLetterOpened, ...], tuple[DeadLetterPayload, ...]]:
    """Leaves a dead letter that is open as it was."""
    dead_letters, payloads = opened(stream, failures, known, now)
    fresh = {dead_letter.dead_letter_id for dead_letter in dead_letters}
    return dead_letters, tuple(payload for payload in payloads if payload.dead_letter_id in fresh)


def everything_recovers(
    batch: Batch, detail: Detail, failures: Iterable[Failure], known: Known
) -> tuple[DeadLetterClosed, ...]:
    """Closes the dead letters about a thread as soon as it is seen."""
    return recovered(batch, Detail.NESTED, (), known)


def kept_rows_win(rows: Changes, known: Known, now: datetime) -> Difference:
    """Writes the rows of a dead letter over whatever is stored."""
    return newer(rows, replace(known, conversations={}, contacts={}), now)


def whole_stretch(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> Stretch | None:
    """Takes each batch for all that there is above its end."""
    stretch = stretch_of(checkpoint, sweep, batch)
    return None if stretch is None else replace(stretch, older_than=None)


def stretch_of_the_scan(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> Stretch | None:
    """Forgets that a cursor may be taken up without the place that the walk had reached."""
    place = replace(sweep.position, reached_at=sweep.position.reached_at or sweep.walk_started_at)
    stretch = stretch_of(checkpoint, replace(sweep, position=place), batch)
    return stretch if stretch is None else replace(stretch, older_than=sweep.position.reached_at)


def always_a_snapshot(sweep: Sweep, _: Batch) -> Scan:
    """Takes a scan for a snapshot, whatever moved meanwhile."""
    return replace(sweep.position.scan, is_snapshot=True)


def blind(refused: Refused, positions: Answered) -> Answered:
    """Takes every refusal for one about what the list holds."""
    together = checked(refused, positions)
    if isinstance(together, Refused) and together.check is not None and together.check.problem is not None:
        return replace(together, check=ListCheck(listed=("whoever it is",)))
    return together


def never_smaller(size: Size, policy: Policy) -> Size | None:
    """Knows nothing below a single conversation, which is then asked for again and again."""
    return smaller(size, policy) if size.limit > 1 else Size(1, Detail.NESTED)


def quietly_closed(pending: PendingRedrive, reason: str, tally: Tally = NO_TALLY) -> DeadLetterClosed:
    """Closes a dead letter whose redrive failed."""
    return DeadLetterClosed(pending.due.dead_letter.dead_letter_id, Resolution.REDRIVEN, tally)


# --- loops gone wrong -------------------------------------------------------------------------------------------------


def nobody_stops(checkpoint: Checkpoint, now: datetime, budget: RunBudget, *others: Any) -> Step:  # noqa: ANN401
    """Goes on after a stop, and with a stream that was removed."""
    return next_step(checkpoint, now, replace(budget, stops_for=None), *others)


def overlooking(**nothing: object) -> Callable[..., Step]:
    """Overlooks something that has come up since the last step."""

    def step(*inputs: Any) -> Step:  # noqa: ANN401
        *others, interruptions = inputs
        return next_step(*(*others, replace(interruptions, **nothing)))

    return step


def commands_first(*inputs: Any) -> Step:  # noqa: ANN401
    """Executes commands, and follows the plan, before it settles a refusal that came ahead."""
    step, refused = overlooking(refused=None)(*inputs), inputs[-1].refused
    return SettleRefusal(refused) if refused is not None and isinstance(step, Fetch) else step


# --- stores gone wrong ------------------------------------------------------------------------------------------------


async def simply() -> None:
    pass


class SplitStore(MemoryStore):
    """Commits in two steps, between which the process may die."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupt: Callable[[], Awaitable[None]] = simply


class CheckpointFirstStore(SplitStore):
    async def commit(self, commit: Commit) -> Committed:
        self.refuse_stale(commit)
        self.write_entries(commit)
        await self.interrupt()
        self.write_rows(commit)
        return Committed(len(self.journal), 0.0, 0.0)


class RowsFirstStore(SplitStore):
    async def commit(self, commit: Commit) -> Committed:
        self.refuse_stale(commit)
        self.write_rows(commit)
        await self.interrupt()
        self.write_entries(commit)
        return Committed(len(self.journal), 0.0, 0.0)


class UncheckedStore(MemoryStore):
    """Lets every writer append."""

    def refuse_stale(self, commit: Commit) -> None:
        pass


def any_stored_message_ends_it(
    gap: Gap, page: MessagePage, known: Known, *, stored: int
) -> tuple[Gap, GapEnding | None]:
    following, ending = _gap_after(gap, page, known, stored=stored)
    is_stored = any(each.event_id in known.interaction_events for each in page.interactions)
    return following, GapEnding.CLOSED if is_stored else ending


def edited_although_gone(row: InteractionEventRow, fact: DueFact) -> InteractionEventRow:
    return _edited(replace(row, deleted_at=None, content_at=None), fact)


# --- and none of them survives ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    caught_by: str
    decides: Callable[[], Decide] = lambda: decide
    store: Callable[[], MemoryStore] = MemoryStore
    patches: Mapping[str, object] = field(default_factory=dict)
    narrowed: Callable[[Scenario], Scenario] = lambda scenario: scenario  # to where it shows


def to_lost_cursors(scenario: Scenario) -> Scenario:
    """Let cursors die in full sweeps of one stream that are without a flaw and take several runs."""
    habits = Habits(dead_cursor_chance=0.2, deletion_chance=0.05)
    longer = dataclasses.replace(scenario, streams=1, threads=12, run_seconds=3.0)
    return dataclasses.replace(longer, habits=habits, full_chance=0.5, stop_chance=0.05)


def to_rate_limits(scenario: Scenario) -> Scenario:
    """Let long rate limits end runs that have read unchanged batches."""
    habits = Habits(arrival_chance=0.1, climate=Climate(limit_chance=0.03, longest_seconds=3600.0))
    return dataclasses.replace(scenario, habits=habits, run_seconds=20.0, skew_seconds=0.0, date_skew_seconds=0.0)


def to_rate_limits_ahead(scenario: Scenario) -> Scenario:
    """Let rate limits meet requests that were sent ahead, while runs are ended by time, by commands and by stops."""
    limited, small = to_rate_limits(scenario), replace(scenario.policy, batch_size=2)
    return dataclasses.replace(limited, policy=small, threads=12, run_seconds=3.0, pause_chance=0.1, stop_chance=0.02)


def to_slow_stores(scenario: Scenario) -> Scenario:
    """Let many small batches wait for the store, which repeat threads that cannot be read."""
    habits = Habits(arrival_chance=0.5, new_thread_chance=0.2, unreadable_chance=0.3, counts_offsets=True)
    small = replace(scenario.policy, batch_size=2)
    longer = dataclasses.replace(scenario, policy=small, habits=habits, threads=12, run_seconds=270.0, max_batches=50)
    return dataclasses.replace(longer, slowest_commit_seconds=60.0)


def to_double_faults(scenario: Scenario) -> Scenario:
    """Let threads that cannot be read be the ones that the store refuses."""
    habits = Habits(sick_chance=0.3, arrival_chance=0.5, new_thread_chance=0.0)
    return dataclasses.replace(scenario, habits=habits, refused_row_chance=0.3, threads=4, command_chance=0.2)


def to_disorder(scenario: Scenario) -> Scenario:
    """Let messages arrive below older lines."""
    habits = Habits(displaced_chance=0.5, arrival_chance=0.2)
    policy = replace(scenario.policy, watermark_overlap_seconds=2.0, full_sweep_interval_seconds=0.0)
    return dataclasses.replace(scenario, habits=habits, policy=policy, threads=12, max_batches=50, run_seconds=270.0)


def to_disorder_in_small_batches(scenario: Scenario) -> Scenario:
    """The same in inboxes that are too heavy to be read but in small batches."""
    disorder = to_disorder(scenario)
    return dataclasses.replace(disorder, habits=dataclasses.replace(disorder.habits, max_messages=2))


def to_ghosts(scenario: Scenario) -> Scenario:
    """Let threads be listed again as they were before."""
    return dataclasses.replace(scenario, habits=Habits(ghost_chance=0.3, arrival_chance=0.3), refused_row_chance=0.0)


def to_short_outages(scenario: Scenario) -> Scenario:
    """Let outages begin and end all the time."""
    climate = Climate(outage_chance=0.4, longest_seconds=2.0, with_unknown_errors=True)
    policy = replace(scenario.policy, attempts=1, base_delay_seconds=0.5)
    habits = Habits(arrival_chance=0.1, climate=climate)
    return dataclasses.replace(scenario, habits=habits, policy=policy, reload_chance=0.0)


def to_a_moving_head(scenario: Scenario) -> Scenario:
    """Let threads that cannot be read be overtaken by new ones, often only once a search has found them.

    Any other fault would end most of the searches before.
    """
    habits = Habits(sick_chance=0.15, arrival_chance=0.15, new_thread_chance=1.0)
    policy = replace(scenario.policy, batch_size=2)
    return Scenario(scenario.seed, steps=250, threads=4, habits=habits, policy=policy, interval_seconds=1.0)


def to_rivals(scenario: Scenario) -> Scenario:
    """Let other processes write of streams whose long walks find nothing new."""
    quiet = Habits(arrival_chance=0.05)
    return dataclasses.replace(
        scenario, habits=quiet, rival_chance=0.3, threads=12, max_batches=50, run_seconds=270.0, full_chance=0.5
    )


def to_histories(scenario: Scenario) -> Scenario:
    """Let threads have long pasts, in an inbox without other faults than crashes."""
    habits = Habits(arrival_chance=0.3, new_thread_chance=0.2, longest_past=60)
    policy = replace(scenario.policy, messages_per_conversation=3, message_history_seconds=inf)
    return dataclasses.replace(scenario, habits=habits, policy=policy, threads=4, link_chance=0.0)


def to_limits_that_change(scenario: Scenario) -> Scenario:
    """Let threads with long pasts be met while histories are short, for a while."""
    short = to_histories(scenario)
    return dataclasses.replace(short, full_chance=0.3, reload_chance=0.1, skew_seconds=0.0, date_skew_seconds=0.0)


def to_late_facts(scenario: Scenario) -> Scenario:
    """Let facts about the same few messages come late and often, in an inbox without other faults."""
    few = dataclasses.replace(scenario, threads=3, streams=1, crash_chance=0.0, full_chance=0.5, interval_seconds=1.0)
    facts = with_facts(few)
    habits = Habits(arrival_chance=0.1, new_thread_chance=0.0, edit_chance=0.4, unsend_chance=0.4)
    policy = replace(facts.policy, batch_size=2, messages_per_conversation=20)
    return dataclasses.replace(facts, habits=habits, policy=policy, facts_chance=0.5)


def to_bursts(scenario: Scenario) -> Scenario:
    """Let more messages arrive at once than a list shows, while reading them fails now and then."""
    habits = Habits(burst_chance=0.4, new_thread_chance=0.0, dead_cursor_chance=0.1)
    policy = replace(scenario.policy, messages_per_conversation=3)
    return dataclasses.replace(scenario, habits=habits, policy=policy, threads=4, run_seconds=20.0)


LOSS = "the watermark passed t_[0-9]+, which is not stored"
UNSEEN = "was offered and is not stored|offered and not stored"
MISSED = "t_[0-9]+ moved during the walk and was missed"
EITHER = f"{LOSS}|{MISSED}"
MISCOUNT = "the journal does not count what the tables hold"
TORN = f"{MISCOUNT}|that no commit brought|has a payload|has no payload"

MUTANTS = {
    "the watermark is the largest updated_time seen": Mutant(LOSS, decides=LargestAsWatermark),
    "the watermark is the end of the sweep": Mutant(LOSS, decides=lambda: end_as_watermark),
    "there is no catch-up scan": Mutant(MISSED, patches={"milepost.core.decide.next_position": no_catch_up}),
    "the first empty batch is the end": Mutant(
        f"{EITHER}|is there and was marked as deleted", decides=lambda: empty_is_the_end
    ),
    "the first old row is the end": Mutant(
        EITHER,
        patches={"milepost.core.walk.reaches_back": first_old_row_is_the_end, "milepost.core.walk.LEAST_OLDER": 1},
        narrowed=to_disorder,
    ),
    "the first old row is the end where batches are of one": Mutant(
        EITHER, patches={"milepost.core.walk.LEAST_OLDER": 1}, narrowed=to_disorder_in_small_batches
    ),
    "a refusal is the end": Mutant(f"{EITHER}|is not the fold|taken for a failure", decides=lambda: refusal_is_the_end),
    "an older row wins": Mutant("t_[0-9]+ becomes older", decides=lambda: older_wins, narrowed=to_ghosts),
    "an unreadable item is skipped": Mutant(f"{EITHER}|{UNSEEN}", decides=lambda: unreadable_is_skipped),
    "a quiet batch is journaled": Mutant("a quiet sweep wrote more than one entry", decides=lambda: quiet_is_told),
    "passed batches are forgotten": Mutant(
        "is not the fold|ahead of", patches={"milepost.core.records._unchanged": lambda *_: ()}
    ),
    "a limit is tried again": Mutant(
        "taken for a failure|during the rate limit|is not on record",
        patches={"milepost.core.failures.rule_for": nobody_waits},
    ),
    "a limit of others is ignored": Mutant(
        "during the rate limit", patches={"milepost.engine.rate_limits.held_until": own_limit_only}
    ),
    "a rate limit is over with its run": Mutant(
        "during the rate limit",
        patches={"milepost.core.failures.ending": ended_with_all},
        narrowed=to_rate_limits,
    ),
    "a thread is stepped over in silence": Mutant(
        f"{EITHER}|{UNSEEN}", patches={"milepost.core.decide.unread": position_is_read}
    ),
    "a refused row is dropped": Mutant(
        f"{EITHER}|{UNSEEN}", patches={"milepost.core.decide.withhold": refused_is_dropped}
    ),
    "a dead letter is opened again": Mutant(
        "a second open dead letter about|opened again", patches={"milepost.core.decide.opened": always_another}
    ),
    "the dead letter of a row is that of its thread": Mutant(
        f"{EITHER}|{UNSEEN}|is neither stored nor a dead letter|which does not have their thread",
        patches={"milepost.core.dead_letters.row_of": lambda conversation_id: conversation_id},
        narrowed=to_double_faults,
    ),
    "a dead letter keeps the row that it began with": Mutant(
        f"{EITHER}|{UNSEEN}", patches={"milepost.core.decide.opened": first_state_only}
    ),
    "a dead letter is closed at sight": Mutant(
        f"{EITHER}|{UNSEEN}", patches={"milepost.core.decide.recovered": everything_recovers}
    ),
    "the rows of a dead letter win": Mutant(
        f"becomes older|{MISCOUNT}", patches={"milepost.core.redrive.newer": kept_rows_win}
    ),
    "a redrive that fails closes its dead letter": Mutant(
        EITHER, patches={"milepost.core.redrive._failure": quietly_closed}
    ),
    "a flawed sweep marks deletions": Mutant(
        "is there and was marked as deleted", patches={"milepost.core.decide._is_flawless": lambda _: True}
    ),
    "a batch is all that there is": Mutant(
        "is there and was marked as deleted", patches={"milepost.core.decide.stretch_of": whole_stretch}
    ),
    "a scan of several batches is a snapshot": Mutant(
        "is there and was marked as deleted",
        patches={
            "milepost.core.walk.scan_after": always_a_snapshot,
            "milepost.core.decide.scan_after": always_a_snapshot,
        },
        narrowed=with_threads_that_move,
    ),
    "a cursor is taken up without its place": Mutant(
        "is there and was marked as deleted|is gone and not marked as deleted",
        patches={"milepost.core.decide.stretch_of": stretch_of_the_scan},
        narrowed=to_lost_cursors,
    ),
    "rows stay with the page that was first": Mutant(
        "stand under instagram:1", patches={"milepost.core.merge._moves": lambda *_: False}
    ),
    "who was forgotten is remembered": Mutant(
        MISCOUNT, patches={"milepost.core.merge.remembered": lambda conversations, _: tuple(conversations)}
    ),
    "a thread is asked for until it answers": Mutant(
        "calls without end|does not end", patches={"milepost.core.failures.smaller": never_smaller}
    ),
    "an outage is taken for what a list holds": Mutant(
        "can be read and was given up",
        patches={
            "milepost.engine.run.checked": blind,
            "milepost.engine.run.to_read_alone": lambda *_: None,
            "milepost.core.decide.mistaken": lambda *_: None,
        },
        narrowed=to_short_outages,
    ),
    "one look at the list is enough": Mutant(
        "can be read and was given up",
        patches={"milepost.core.failures.CONFIRMATIONS": 1},
        narrowed=to_short_outages,
    ),
    "whoever is in its place is given up": Mutant(
        "can be read and was given up",
        patches={"milepost.core.decide.mistaken": lambda *_: None},
        narrowed=to_a_moving_head,
    ),
    "a stop is overlooked": Mutant(
        "a call after the stop|a call for a removed stream", patches={"milepost.engine.run.next_step": nobody_stops}
    ),
    "what another process wrote is overlooked": Mutant(
        "calls go on after another process paused",
        patches={"milepost.engine.run.next_step": overlooking(is_outdated=False)},
        narrowed=to_rivals,
    ),
    "commands wait until the run has ended": Mutant(
        "calls go on while a command waits", patches={"milepost.engine.run.next_step": overlooking(has_commands=False)}
    ),
    "a refusal that came ahead waits until it is wanted": Mutant(
        "a rate limit that it met is not on record",
        patches={"milepost.engine.run.next_step": commands_first},
        narrowed=to_rate_limits_ahead,
    ),
    "a batch is committed together with one that changes what it has to know": Mutant(
        f"opened again|a second open dead letter about|{MISCOUNT}",
        patches={"milepost.core.records.DraftedIds.leave_alone": lambda *_: True},
        narrowed=to_slow_stores,
    ),
    "the history of a thread that is met is not owed": Mutant(
        f"{EITHER}|were never stored",
        patches={"milepost.core.backlog._shows_older": lambda *_: False},
        narrowed=to_histories,
    ),
    "a history ends at any message that is stored": Mutant(
        f"{EITHER}|were never stored|neither stored nor a dead letter",
        patches={"milepost.core.message_reading._gap_after": any_stored_message_ends_it},
        narrowed=to_histories,
    ),
    "histories that were left out of the record are not searched for": Mutant(
        "a history is not opened",
        patches={"milepost.engine.backlog.next_search": lambda *_: None},
        narrowed=to_limits_that_change,
    ),
    "histories that were left out of the record are searched for and not opened": Mutant(
        f"{EITHER}|were never stored",
        patches={"milepost.core.backlog._is_owed": lambda *_: False},
        narrowed=to_limits_that_change,
    ),
    "messages that the list does not show are not owed": Mutant(
        EITHER, patches={"milepost.core.decide.owed": lambda *_: ()}, narrowed=to_bursts
    ),
    "a gap ends at any message that is stored": Mutant(
        f"{EITHER}|were never stored|neither stored nor a dead letter",
        patches={"milepost.core.message_reading._gap_after": any_stored_message_ends_it},
        narrowed=to_bursts,
    ),
    "a run goes on that another process took over": Mutant(
        "two runs of a stream|goes on that has ended",
        patches={"milepost.engine.run._Run._demand_ours": lambda *_: None},
        narrowed=to_rivals,
    ),
    "a rate limit holds nobody before it is on record": Mutant(
        "inside the limit that .* just met",
        patches={"milepost.engine.rate_limits.RateLimits.observe_refusal": lambda *_: None},
    ),
    "the checkpoint is stored before the rows": Mutant(TORN, store=CheckpointFirstStore),
    "the rows are stored before the checkpoint": Mutant(f"{TORN}|is opened again", store=RowsFirstStore),
    "an answer undoes an edit that was made since it was asked for": Mutant(
        "became older", patches={"milepost.core.revisions._is_newer": lambda *_: False}, narrowed=to_late_facts
    ),
    "a late edit is applied to a message that was read since": Mutant(
        "became older", patches={"milepost.core.facts._was_read_after": lambda *_: False}, narrowed=to_late_facts
    ),
    "an unsent message is edited": Mutant(
        "is there again",
        patches={"milepost.core.facts._edited": edited_although_gone},
        narrowed=to_late_facts,
    ),
    "a second writer is not refused": Mutant("the versions of the stream|is not the fold", store=UncheckedStore),
}


def survive(mutant: Mutant) -> None:
    @settings(
        max_examples=MAX_EXAMPLES,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(scenarios.map(mutant.narrowed))
    def play(scenario: Scenario) -> None:
        simulation = Simulation(scenario, mutant.decides(), store := mutant.store())
        if isinstance(store, SplitStore):
            store.interrupt = simulation.reach
        simulation.run()

    with ExitStack() as patched:
        for target, replacement in mutant.patches.items():
            patched.enter_context(patch(target, replacement))
        play()


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    with pytest.raises(AssertionError, match=mutant.caught_by):
        survive(mutant)
