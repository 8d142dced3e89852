"""`/api/overview`: all streams at first, and then what has changed, which adds up to the same."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from kit.builders import STREAM, at, entries
from milepost.core import events
from milepost.core.events import RunStatus
from milepost.core.evolve import fold
from milepost.core.model import Changes as StoredChanges
from milepost.core.ports import Commit
from milepost.service.api import overview
from milepost.service.api.overview import LEFT_OUT, MAX_REMEMBERED, OF_RUN, ChangesSince, difference
from service.api.served import fill, get_json, served

VALUES = st.recursive(
    st.none() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


def merged(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge changes as the status page does."""
    after = dict(before)
    for key, value in changes.items():
        known = after.get(key)
        after[key] = merged(known, value) if isinstance(value, dict) and isinstance(known, dict) else value
    return after


def without_nulls(value: Any) -> Any:  # noqa: ANN401  JSON of any shape
    if not isinstance(value, dict):
        return value
    return {key: without_nulls(each) for key, each in value.items() if each is not None}


@drawn(before=OBJECTS, after=OBJECTS)
def test_what_was_there_and_what_has_changed_make_what_is_there(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert without_nulls(merged(before, difference(before, after))) == without_nulls(after)


def test_an_answer_without_a_change_keeps_its_tag() -> None:
    changes = ChangesSince()
    tag = changes.remember({"a": {"state": "syncing"}})
    assert changes.remember({"a": {"state": "syncing"}}) == tag
    assert changes.since(tag, tag) == (tag, {}, ())


def test_streams_that_came_changed_and_went_are_in_the_answer() -> None:
    changes = ChangesSince()
    first = changes.remember({"a": {"n": 1, "m": 1}, "b": {"n": 1}, "d": {"n": 1}})
    second = changes.remember({"a": {"n": 2, "m": 1}, "c": {"n": 1}, "d": {"n": 1}})
    assert changes.since(first, second) == (first, {"a": {"n": 2}, "c": {"n": 1}}, ("b",))


def test_a_tag_that_is_too_old_or_of_another_process_gets_everything() -> None:
    changes = ChangesSince()
    first = latest = changes.remember({"a": {"n": 0}})
    for number in range(1, MAX_REMEMBERED + 1):
        latest = changes.remember({"a": {"n": number}})
    everything = {"a": {"n": MAX_REMEMBERED}}
    for tag in (first, ChangesSince().remember({"a": {"n": 0}}), None):
        assert changes.since(tag, latest) == (None, everything, ())


async def test_the_first_answer_has_every_stream_as_it_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "milepost.db"
    await fill(path)
    async with served(path) as (session, _):
        shown = await get_json(session, "/api/overview")
        listed = (await get_json(session, "/api/streams"))["streams"]
        assert set(shown["streams"]) == {each["stream"] for each in listed}
        for each in listed:
            expected = {key: value for key, value in each.items() if key not in LEFT_OUT}
            run = each["run"]
            expected["run"] = None if run is None else {key: run[key] for key in OF_RUN}
            assert shown["streams"][each["stream"]].keys() == expected.keys()
            assert shown["streams"][each["stream"]]["run"] == expected["run"]
        assert (shown["since"], shown["removed"], shown["is_simulated"]) == (None, [], True)
        assert shown["daemon"]["issues"] == []


async def test_a_later_answer_has_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MAX_AGE_SECONDS", -1.0)
    path = tmp_path / "milepost.db"
    await fill(path)
    async with served(path) as (session, parts):
        tag = (await get_json(session, "/api/overview"))["tag"]
        before = await parts.store.load(STREAM)
        appended = entries(events.StreamPaused("somebody"), after=before, recorded_at=at(9999))
        after = fold(appended, before)
        await parts.store.commit(Commit(appended, StoredChanges(), after, after.run))
        later = await get_json(session, "/api/overview", since=tag)
    assert later["since"] == tag != later["tag"]
    changed = later["streams"][STREAM.key]
    assert changed["state"] == "on_hold"
    assert "written" not in changed, "which is as it was"
    assert RunStatus.PAUSED.value not in str(changed.get("run", ""))
    assert all("state" not in each for key, each in later["streams"].items() if key != STREAM.key)


async def test_large_answers_are_compressed_for_clients_that_take_it(tmp_path: Path) -> None:
    path = tmp_path / "milepost.db"
    await fill(path)
    async with served(path) as (session, _):
        for accepted, encoding in (("gzip", "gzip"), ("identity", None)):
            async with session.get("/api/overview", headers={"Accept-Encoding": accepted}) as response:
                assert response.headers.get("Content-Encoding") == encoding
                assert (await response.json())["since"] is None
