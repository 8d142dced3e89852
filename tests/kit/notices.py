"""Notices of the feed: made from events, or published by a run over scripted outcomes."""

from collections.abc import Sequence

from msgspec.structs import replace

from kit.builders import CODEC, STREAM, budget, checkpoint_of, context, entries
from kit.memory_store import MemoryStore
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.decide import decide
from milepost.core.events import Event, Tally
from milepost.core.evolve import fold, skip_unchanged
from milepost.core.model import Known, Stream
from milepost.core.plan import RunBudget
from milepost.core.ports import Committed, Outcome, Usage
from milepost.core.problems import Scope
from milepost.core.records import Record, prepare
from milepost.engine.feed import Notice, Recorded, StoreRetried, UnchangedRead, UsageReported

ROWS_SECONDS, EVENTS_SECONDS, COMMIT_SECONDS, FETCH_SECONDS = 0.02, 0.04, 0.08, 0.4


def recorded(*events: Event, after: Checkpoint | None = None, fetch_seconds: float | None = FETCH_SECONDS) -> Recorded:
    """Record events of one run in one commit."""
    before = after or checkpoint_of()
    sealed = entries(*events, after=before)
    committed = Committed(1, ROWS_SECONDS, EVENTS_SECONDS)
    return Recorded(sealed, committed, fold(sealed, before), COMMIT_SECONDS, fetch_seconds)


def passed(checkpoint: Checkpoint | None = None) -> UnchangedRead:
    """Return the notice of an unchanged batch."""
    tally = Tally(batches=1, unchanged=2)
    return UnchangedRead(replace(checkpoint or checkpoint_of(), unrecorded=tally), tally, FETCH_SECONDS)


def store_retried(stream: Stream = STREAM, reason: str = "the disk is full") -> StoreRetried:
    """Return the notice of an unavailable store."""
    return StoreRetried(stream, attempts=3, away_seconds=12.34, wait_seconds=4.0, reason=reason)


def usage_told(*usages: Usage, stream: Stream = STREAM) -> UsageReported:
    """Return the notice of reported usage: by default, half of the page's calls."""
    return UsageReported(stream, usages or (Usage(Scope.PAGE, "call_count", 0.5),))


async def told_by_a_run(
    store: MemoryStore, outcomes: Sequence[Outcome], during: RunBudget | None = None
) -> list[Notice]:
    """Settle outcomes one by one, as a run does, and return the notices."""
    during, notices = during or budget(), list[Notice]()
    checkpoint = await store.load(STREAM)
    for outcome in outcomes:
        around = context(during=during)
        pending = decide(checkpoint, outcome, around)
        known = Known() if pending.keys is None else await store.known(pending.keys)
        match pending.record(known):
            case BatchUnchanged() as unchanged:
                checkpoint = skip_unchanged(checkpoint, unchanged)
                notices.append(UnchangedRead(checkpoint, unchanged.tally, FETCH_SECONDS))
            case Record() as record:
                commit = prepare(checkpoint, record, during.run_id, around.now, CODEC)
                committed = await store.commit(commit)
                assert isinstance(committed, Committed)
                checkpoint = commit.checkpoint
                notices.append(Recorded(commit.entries, committed, checkpoint, COMMIT_SECONDS, FETCH_SECONDS))
    return notices
