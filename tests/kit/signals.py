"""Signals of the feed: made up from events, or told by a run over scripted outcomes."""

from collections.abc import Sequence

from kit.builders import CODEC, RUN_ID, STREAM, checkpoint_of, circumstances, entries, work
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import BatchPassed, Checkpoint, fold, pass_over
from milepost.core.decide import decide, keys_for
from milepost.core.decision import Record, prepare
from milepost.core.events import Event, Tally
from milepost.core.model import Known, Scope, Stream
from milepost.core.plan import Slice
from milepost.core.ports import Committed, Fetched, Outcome, Usage
from milepost.engine.feed import Passed, Recorded, Signal, StoreRetried, UsageTold

ROWS_SECONDS, EVENTS_SECONDS, COMMIT_SECONDS, FETCH_SECONDS = 0.02, 0.04, 0.08, 0.4


def recorded(
    *events: Event, after: Checkpoint | None = None, run_id: str = RUN_ID, fetch_seconds: float | None = FETCH_SECONDS
) -> Recorded:
    """Record events of one run in one commit."""
    before = after or checkpoint_of()
    sealed = entries(*events, after=before, run_id=run_id)
    committed = Committed(1, ROWS_SECONDS, EVENTS_SECONDS)
    return Recorded(sealed, committed, fold(sealed, before), COMMIT_SECONDS, fetch_seconds)


def passed(checkpoint: Checkpoint | None = None) -> Passed:
    """Pass over a batch."""
    return Passed(checkpoint or checkpoint_of(), Tally(batches=1, unchanged=2), FETCH_SECONDS)


def store_retried(stream: Stream = STREAM, reason: str = "the disk is full") -> StoreRetried:
    """Find the store away."""
    return StoreRetried(stream.key, attempts=3, away_seconds=12.34, wait_seconds=4.0, reason=reason)


def usage_told(*usages: Usage, stream: Stream = STREAM) -> UsageTold:
    """Hear of budgets: half of the page's calls, where nothing else is said."""
    return UsageTold(stream.key, usages or (Usage(Scope.PAGE, "call_count", 0.5),))


async def told_by_a_run(
    store: MemoryStore, outcomes: Sequence[Outcome], during: Slice | None = None, stream: Stream = STREAM
) -> list[Signal]:
    """Let the core settle outcomes one by one, as a run does, and give what readers hear of it."""
    during, signals = during or work(), list[Signal]()
    checkpoint = await store.recall(stream.key)
    for outcome in outcomes:
        around = circumstances(during=during)
        known = Known()
        if isinstance(outcome, Fetched):
            known = await store.known(keys_for(checkpoint, outcome, around))
        match decide(checkpoint, outcome, around, known):
            case BatchPassed() as passed_over:
                checkpoint = pass_over(checkpoint, passed_over)
                signals.append(Passed(checkpoint, passed_over.tally, FETCH_SECONDS))
            case Record() as record:
                commit = prepare(checkpoint, record, during.run_id, around.now, CODEC)
                committed = await store.commit(commit)
                assert isinstance(committed, Committed)
                checkpoint = commit.checkpoint
                signals.append(Recorded(commit.entries, committed, checkpoint, COMMIT_SECONDS, FETCH_SECONDS))
    return signals
