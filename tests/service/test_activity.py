"""The activity of the last hour: counted live, and read again from the journal by a start, to the same numbers."""

import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kit.builders import (
    GAP,
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
from kit.notices import passed, recorded, store_retried, usage_told
from milepost.core import events
from milepost.core.journal import Codec, seal
from milepost.core.position import MessagesFailed, Mode
from milepost.service import activity as module
from milepost.service.activity import BUCKETS, Activity, Counts, Past, Window, counts, recent_activity
from milepost.service.endpoint import routes_of
from milepost.stores.sqlite.migrate import migrate
from milepost.stores.sqlite.reader import open_sqlite_reader
from reporting.test_describe import CASES
from service.events.journals import KEYS, STREAMS, write
from service.listening import listening
from stores.histories import commit_after, life

READ = events.Tally(batches=2, inserted=50, updated=3, unchanged=47, dead_lettered=9)
COUNTED: dict[type[events.Event], tuple[events.Event, Counts]] = {
    type(event): (event, added)
    for event, added in (
        (events.BatchStored(walking("a"), READ), Counts(conversations=100)),
        (events.SweepCompleted(Mode.FULL, NOON, NOON, READ), Counts(conversations=100)),
        (events.RunEnded(events.RunStatus.PAUSED, events.Reason.TIME_LIMIT, None, READ), Counts(conversations=100)),
        (events.DeadLetterClosed("d_1", events.Resolution.REDRIVEN, events.Tally(inserted=1)), Counts(conversations=1)),
        (events.RedriveFailed("d_1", 2, "in vain", None, events.Tally(updated=1)), Counts(conversations=1)),
        (events.BatchFailed(events.Stage.FETCH, 3, NETWORK), Counts(failed_batches=1)),
        (events.FetchFailed(1, NETWORK, NOON), Counts(retries=1)),
        (events.StoreReturned(12.0, 3), Counts(retries=3)),
        (MessagesFailed(GAP, NETWORK), Counts(retries=1)),
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
def test_an_entry_adds_its_counts(event: events.Event, added: Counts) -> None:
    assert counts(entries(event)[0]) == added


@pytest.mark.parametrize("event", [event for event in CASES if type(event) not in COUNTED], ids=type)
def test_every_other_event_adds_nothing(event: events.Event) -> None:
    assert counts(entries(event)[0]) is None


def test_an_hour_has_buckets_of_15_seconds_the_empty_ones_included() -> None:
    now = Time(at(7))
    activity = Activity(now)
    activity.read(recorded(run_started(), sweep_started(), events.BatchStored(walking("a"), READ)))
    now.now = at(40)
    past = activity.past()

    assert past.at == at(40)
    assert past.step_seconds == 15
    assert [bucket.at for bucket in past.buckets] == [at(30 - 15 * ago) for ago in reversed(range(240))]
    assert [(bucket.at, bucket.conversations) for bucket in past.buckets if bucket.conversations] == [(NOON, 100)]


def test_activity_is_counted_for_each_stream_and_for_all_together() -> None:
    activity = Activity(Time())
    for stream in STREAMS[:2]:
        commit = commit_after(checkpoint_of(stream), events.FetchFailed(1, NETWORK, NOON))
        for entry in commit.entries:
            activity._count(entry)
    assert sums(activity.past(KEYS[0])) == Counts(retries=1)
    assert sums(activity.past(KEYS[2])) == Counts()
    assert sums(activity.past()) == Counts(retries=2)


def test_activity_older_than_an_hour_is_forgotten() -> None:
    now = Time()
    activity = Activity(now)
    activity.read(recorded(events.FetchFailed(1, NETWORK, NOON)))
    now.now = at(15 * (BUCKETS - 1) + 14)
    assert sums(activity.past()) == Counts(retries=1)
    now.now = at(15 * BUCKETS)
    assert sums(activity.past()) == Counts()
    later = seal(checkpoint_of(), [events.FetchFailed(1, NETWORK, NOON)], "run-2", now.now, Codec())
    activity._count(later[0])
    assert sums(activity.past()) == Counts(retries=1), "and its slot is reused"


def test_unchanged_batches_are_counted_when_an_entry_covers_them() -> None:
    activity = Activity(Time())
    for notice in (passed(), store_retried(), usage_told()):
        activity.read(notice)
    assert sums(activity.past()) == Counts()


def test_a_thousand_streams_take_eight_megabytes_however_much_happens() -> None:
    activity = Activity(Time(at(3599)))
    tracemalloc.start()
    for number in range(1000):
        stream = checkpoint_of(type(STREAM)(STREAM.platform, str(number)))
        for second in range(0, 3600, 450):
            for entry in seal(stream, [events.FetchFailed(1, NETWORK, NOON)], None, at(second), Codec()):
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


async def test_a_start_loads_the_last_hour_from_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKETS", 24)  # an hour of six minutes, of which the journal needs no thousands
    monkeypatch.setattr(module, "PAGE", 100)
    path = tmp_path / "milepost.db"
    migrate(path)
    live, last = Activity(Time()), NOON
    lived = [commit for step in zip(*(life(each, 150) for each in STREAMS), strict=True) for commit in step]
    write(path, *lived)
    for entry in (entry for commit in lived for entry in commit.entries):
        live._count(entry)
        last = max(last, entry.recorded_at)
    again = await loaded(path, last)
    live._now = again._now
    assert (last - NOON) > timedelta(minutes=6)
    for key in (None, *KEYS):
        assert again.past(key) == live.past(key)
    assert sums(again.past()).conversations > 0


def test_a_day_is_kept_in_buckets_of_five_minutes() -> None:
    now = Time()
    activity = Activity(now)
    activity.read(recorded(events.FetchFailed(1, NETWORK, NOON)))
    now.now = at(23 * 3600)
    day = activity.past(None, Window.DAY)
    assert (day.step_seconds, len(day.buckets)) == (300, 288)
    assert [bucket.at for bucket in day.buckets if bucket.retries] == [NOON]
    assert sums(activity.past()) == Counts(), "it is no longer within the hour"


def test_the_delay_is_the_longest_that_a_message_can_have_waited() -> None:
    """A message that came just after a sweep had looked is copied by the next one."""
    activity = Activity(Time(at(400)))
    for started_at, completed_at in ((0, 20), (300, 340), (345, 350)):
        sweep = events.SweepCompleted(Mode.INCREMENTAL, at(-9999), at(started_at), events.Tally(batches=1))
        activity._count(entries(sweep, recorded_at=at(completed_at))[0])
    delays = [bucket.delay_seconds for bucket in activity.past().buckets if bucket.delay_seconds is not None]
    assert delays == [340, 50]
    day = activity.past(None, Window.DAY)
    assert max(bucket.delay_seconds or 0 for bucket in day.buckets) == 340


async def test_a_day_of_one_stream_is_refused() -> None:
    async with (
        listening(routes_of(recent_activity(Activity(Time()).past))) as session,
        session.get(f"/api/activity?stream={STREAM.key}&window=day") as response,
    ):
        assert response.status == 400
        assert "window" in (await response.json())["detail"]


async def test_a_start_reads_a_bounded_number_of_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOADED", 7)
    path = tmp_path / "milepost.db"
    migrate(path)
    history = [events.FetchFailed(1, NETWORK, NOON)] * 20
    write(path, commit_after(checkpoint_of(), *history))
    assert sums((await loaded(path, NOON)).past()) == Counts(retries=7)


async def test_a_start_without_a_journal_has_nothing_to_count(tmp_path: Path) -> None:
    migrate(tmp_path / "milepost.db")
    assert sums((await loaded(tmp_path / "milepost.db", NOON)).past()) == Counts()


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def test_the_api_serves_the_activity_of_all_streams_and_of_one() -> None:
    activity = Activity(Time(at(40)))
    activity.read(recorded(events.FetchFailed(1, NETWORK, NOON)))
    async with listening(routes_of(recent_activity(activity.past))) as session:
        for query, retries in (("", 1), (f"?stream={STREAM.key}", 1), ("?stream=messenger:2", 0)):
            async with session.get(f"/api/activity{query}") as response:
                shown = await response.json()
            assert (shown["at"], shown["step_seconds"], len(shown["buckets"])) == ("2026-03-01T12:00:40Z", 15, 240)
            assert shown["buckets"][-1] == {
                "at": "2026-03-01T12:00:30Z",
                "conversations": 0,
                "delay_seconds": None,
                "failed_batches": 0,
                "retries": 0,
            }
            assert sum(bucket["retries"] for bucket in shown["buckets"]) == retries
        for query in ("?stream=nonsense", "?since=1"):
            async with session.get(f"/api/activity{query}") as response:
                assert response.status == 400
