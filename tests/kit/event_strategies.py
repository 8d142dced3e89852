"""Hypothesis strategies for events: whatever the types allow, for every type of event."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    FetchFailed,
    FieldsLeftOut,
    OwnIdChecked,
    RateLimited,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    StoreReturned,
    StreamPaused,
    StreamRemoved,
    StreamResumed,
    SweepCompleted,
    SweepStarted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.model import Detail, OwnId, OwnIdState, TokenHealth
from milepost.core.position import (
    Gap,
    GapEnding,
    MessagesFailed,
    MessagesMissed,
    MessagesOwed,
    MessagesRead,
    Missed,
    MissedReason,
    Mode,
    Phase,
    Position,
    Progress,
)
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.core.webhooks import FactsApplied

instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  (bounds)
counts = st.integers(0, 2**53)
durations = st.floats(0, 1e9)
texts = st.text()
tallies = st.builds(Tally, *[st.just(0) | counts] * len(Tally.__struct_fields__))
problems = st.builds(
    Problem,
    st.sampled_from(ProblemKind),
    texts,
    http_status=st.none() | st.integers(100, 599),
    code=st.none() | st.integers(),
    subcode=st.none() | st.integers(),
    is_transient=st.none() | st.booleans(),
    wait_seconds=st.none() | durations,
)

gaps = st.builds(
    Gap,
    texts,
    texts,
    instants,
    instants,
    instants,
    instants,
    st.none() | texts,
    counts,
    st.none() | instants,
    *[st.just(0) | counts] * 4,
    st.none() | instants,
    st.none() | instants,
    st.booleans(),
    st.just(0) | counts,
    st.none() | counts,
)
missed = st.builds(
    Missed,
    texts,
    st.sampled_from(MissedReason),
    st.none() | instants,
    instants,
    st.none() | counts,
    is_estimate=st.booleans(),
)
gap_endings = st.none() | st.sampled_from(GapEnding)
positions = st.builds(
    Position,
    st.sampled_from(Phase),
    st.none() | texts,
    st.none() | instants,
    edge=st.lists(texts, max_size=3).map(tuple),
    is_after_head=st.booleans(),
    has_gap=st.booleans(),
    is_old=st.booleans(),
    progress=st.builds(Progress, counts, texts, st.none() | instants, *[counts] * 4),
)

BY_TYPE: dict[type[Event], st.SearchStrategy[Event]] = {
    RunStarted: st.builds(RunStarted, instants, st.none() | st.sampled_from(Phase)),
    SweepStarted: st.builds(SweepStarted, st.sampled_from(Mode), instants, instants, st.none() | instants),
    BatchStored: st.builds(BatchStored, positions, tallies, counts, st.none() | problems),
    FetchFailed: st.builds(FetchFailed, counts, problems, instants, texts, counts),
    BatchFailed: st.builds(BatchFailed, st.sampled_from(Stage), counts, problems),
    RateLimited: st.builds(RateLimited, st.sampled_from(Scope), counts, instants, instants, problems),
    BatchShrunk: st.builds(BatchShrunk, counts, st.sampled_from(Detail), problems, texts),
    CursorLost: st.builds(CursorLost, problems, st.booleans()),
    FieldsLeftOut: st.builds(FieldsLeftOut, st.lists(texts, max_size=3).map(tuple)),
    DeadLetterOpened: st.builds(
        DeadLetterOpened, texts, st.sampled_from(Stage), texts, texts, st.none() | instants, texts
    ),
    RedriveFailed: st.builds(RedriveFailed, texts, counts, texts, st.none() | instants, tallies, texts),
    DeadLetterClosed: st.builds(DeadLetterClosed, texts, st.sampled_from(Resolution), tallies, texts, texts),
    SweepCompleted: st.builds(
        SweepCompleted, st.sampled_from(Mode), instants, instants, tallies, st.booleans(), st.none() | problems
    ),
    RunEnded: st.builds(
        RunEnded,
        st.sampled_from(RunStatus),
        st.sampled_from(Reason),
        st.none() | positions,
        tallies,
        st.none() | problems,
    ),
    StoreReturned: st.builds(StoreReturned, durations, counts),
    MessagesOwed: st.builds(MessagesOwed, st.lists(gaps, min_size=1, max_size=3).map(tuple)),
    MessagesRead: st.builds(MessagesRead, gaps, counts, counts, gap_endings, counts, counts),
    MessagesFailed: st.builds(MessagesFailed, gaps, problems, gap_endings),
    MessagesMissed: st.builds(MessagesMissed, st.lists(missed, min_size=1, max_size=3).map(tuple)),
    FactsApplied: st.builds(FactsApplied, counts, counts, counts, counts, counts, counts),
    StreamPaused: st.builds(StreamPaused, texts),
    StreamResumed: st.builds(StreamResumed, texts),
    StreamRemoved: st.builds(StreamRemoved, texts),
    SyncRequested: st.builds(SyncRequested, texts, st.booleans()),
    OwnIdChecked: st.builds(OwnIdChecked, st.builds(OwnId, st.sampled_from(OwnIdState), st.none() | texts)),
    TokenChecked: st.builds(
        TokenChecked, st.builds(TokenHealth, st.booleans(), st.none() | instants, st.none() | instants)
    ),
}

events: st.SearchStrategy[Event] = st.one_of(*BY_TYPE.values())
