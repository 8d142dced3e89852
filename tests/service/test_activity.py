"""What happened in the last hour: counted live, and read again from the journal by a start, to the same numbers."""

import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given as drawn

from kit.builders import (
    NETWORK,
    NOON,
    STREAM,
    at,
    checkpoint_of,
    entries,
    run_started,
    sweep_started,
    walking,
)
from kit.event_strategies import BY_TYPE
from kit.notices import passed, recorded, store_retried, usage_told
from milepost.core.events import (
    TAGS,
    BatchFailed,
    BatchStored,
    DeadLetterClosed,
    Event,
    FetchFailed,
    Mode,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStatus,
    Stage,
    StoreReturned,
    SweepCompleted,
    Tally,
)
from milepost.core.journal import Codec, seal
from milepost.service import activity as module
from milepost.service.activity import BUCKETS, Activity, Counts, Past, counts, recent_activity
from milepost.service.api.endpoint import routes_of
from milepost.service.http import serve
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.sqlite.reader import open_sqlite_reader
from service.events.journals import KEYS, STREAMS, write
from stores.histories import commit_after, life

READ = Tally(batches=2, inserted=50, updated=3, unchanged=47, dead_lettered=9)
COUNTED: dict[type[Event], tuple[Event, Counts]] = {
    type(event): (event, added)
    for event, added in (
        (BatchStored(walking("a"), READ), Counts(conversations=100)),
        (SweepCompleted(Mode.FULL, NOON, NOON, READ), Counts(conversations=100)),
        (RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, None, READ), Counts(conversations=100)),
        (DeadLetterClosed("d_1", Resolution.REDRIVEN, Tally(inserted=1)), Counts(conversations=1)),
        (RedriveFailed("d_1", 2, "in vain", None, Tally(updated=1)), Counts(conversations=1)),
        (BatchFailed(Stage.FETCH, 3, NETWORK), Counts(failed_batches=1)),
        (FetchFailed(1, NETWORK, NOON), Counts(retries=1)),
        (StoreReturned(12.0, 3), Counts(retries=3)),
    )
}


class Time:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def sums(past: Past) -> Counts:
    return Counts(
        sum(bucket.conversations for bucket in past.buckets),
        sum(bucket.failed_batches for bucket in past.buckets),
        sum(bucket.retries for bucket in past.buckets),
    )


@pytest.mark.parametrize(("event", "added"), COUNTED.values())
def test_what_an_entry_adds(event: Event, added: Counts) -> None:
    assert counts(entries(event)[0]) == added


@pytest.mark.parametrize("kind", [kind for kind in TAGS if kind not in COUNTED])
def test_the_others_add_nothing(kind: type[Event]) -> None:
    @drawn(BY_TYPE[kind])
    def adds_nothing(event: Event) -> None:
        assert counts(entries(event)[0]) is None

    adds_nothing()


def test_it_tells_an_hour_in_steps_of_15_seconds_the_empty_ones_included() -> None:
    now = Time(at(7))
    activity = Activity(now)
    activity.read(recorded(run_started(), sweep_started(), BatchStored(walking("a"), READ)))
    now.now = at(40)
    past = activity.past()

    assert past.at == at(40)
    assert past.step_seconds == 15
    assert [bucket.at for bucket in past.buckets] == [at(30 - 15 * ago) for ago in reversed(range(240))]
    assert [(bucket.at, bucket.conversations) for bucket in past.buckets if bucket.conversations] == [(NOON, 100)]


def test_streams_are_told_by_themselves_and_together() -> None:
    activity = Activity(Time())
    for stream in STREAMS[:2]:
        commit = commit_after(checkpoint_of(stream), FetchFailed(1, NETWORK, NOON))
        for entry in commit.entries:
            activity._count(entry)
    assert sums(activity.past(KEYS[0])) == Counts(retries=1)
    assert sums(activity.past(KEYS[2])) == Counts()
    assert sums(activity.past()) == Counts(retries=2)


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    now = Time()
    activity = Activity(now)
    activity.read(recorded(FetchFailed(1, NETWORK, NOON)))
    now.now = at(15 * (BUCKETS - 1) + 14)
    assert sums(activity.past()) == Counts(retries=1)
    now.now = at(15 * BUCKETS)
    assert sums(activity.past()) == Counts()
    later = seal(checkpoint_of(), [FetchFailed(1, NETWORK, NOON)], "run-2", now.now, Codec())
    activity._count(later[0])
    assert sums(activity.past()) == Counts(retries=1), "and its place is taken"


def test_what_has_no_entry_is_counted_when_it_has_one() -> None:
    activity = Activity(Time())
    for signal in (passed(), store_retried(), usage_told()):
        activity.read(signal)
    assert sums(activity.past()) == Counts()


def test_a_thousand_streams_take_eight_megabytes_however_much_happens() -> None:
    activity = Activity(Time(at(3599)))
    tracemalloc.start()
    for number in range(1000):
        stream = checkpoint_of(type(STREAM)(STREAM.platform, str(number)))
        for second in range(0, 3600, 450):
            for entry in seal(stream, [FetchFailed(1, NETWORK, NOON)], None, at(second), Codec()):
                activity._count(entry)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


# --- a start ----------------------------------------------------------------------------------------------------------


async def loaded(path: Path, now: datetime) -> Activity:
    activity = Activity(Time(now))
    async with open_sqlite_reader(path) as journal_reader:
        await activity.load(journal_reader)
    return activity


async def test_a_start_counts_the_last_hour_again(tmp_path: Path) -> None:
    path = tmp_path / "milepost.db"
    migrate(path)
    live, last = Activity(Time()), NOON
    lived = [commit for turn in zip(*(life(each, 1500) for each in STREAMS), strict=True) for commit in turn]
    write(path, *lived)
    for entry in (entry for commit in lived for entry in commit.entries):
        live._count(entry)
        last = max(last, entry.recorded_at)
    again = await loaded(path, last)
    live._now = again._now
    assert (last - NOON) > timedelta(minutes=60)
    for key in (None, *KEYS):
        assert again.past(key) == live.past(key)
    assert sums(again.past()).conversations > 0


async def test_a_start_reads_no_more_than_so_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECALLED", 7)
    path = tmp_path / "milepost.db"
    migrate(path)
    events = [FetchFailed(1, NETWORK, NOON)] * 20
    write(path, commit_after(checkpoint_of(), *events))
    assert sums((await loaded(path, NOON)).past()) == Counts(retries=7)


async def test_a_start_without_a_journal_has_nothing_to_count(tmp_path: Path) -> None:
    migrate(tmp_path / "milepost.db")
    assert sums((await loaded(tmp_path / "milepost.db", NOON)).past()) == Counts()


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def test_it_is_served_for_all_streams_and_for_one() -> None:
    activity = Activity(Time(at(40)))
    activity.read(recorded(FetchFailed(1, NETWORK, NOON)))
    async with (
        serve("127.0.0.1", 0, routes_of(recent_activity(activity.past))) as url,
        aiohttp.ClientSession(f"{url}") as session,
    ):
        for query, retries in (("", 1), (f"?stream={STREAM.key}", 1), ("?stream=messenger:2", 0)):
            async with session.get(f"/api/activity{query}") as response:
                told = await response.json()
            assert (told["at"], told["step_seconds"], len(told["buckets"])) == ("2026-03-01T12:00:40Z", 15, 240)
            assert told["buckets"][-1] == {
                "at": "2026-03-01T12:00:30Z",
                "conversations": 0,
                "failed_batches": 0,
                "retries": 0,
            }
            assert sum(bucket["retries"] for bucket in told["buckets"]) == retries
        for query in ("?stream=nonsense", "?since=1"):
            async with session.get(f"/api/activity{query}") as response:
                assert response.status == 400
