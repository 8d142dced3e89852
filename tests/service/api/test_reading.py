"""The API on streams, runs, the journal and dead letters, over a real listener and a real database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from kit.builders import STREAM
from milepost.cli.dead_letters import as_json
from milepost.core.commands import PauseStream
from milepost.reporting.views import OpenSweep, StreamStatus
from milepost.stores.open import remove
from milepost.stores.reader import DeadLetterState
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.url import StoreUrl
from service.api.served import (
    PAYLOAD,
    RUNS,
    STREAMS,
    dead_letter_id,
    get_json,
    refused,
    run_id,
    served,
)
from stores.sqlite_files import execute


@pytest.fixture
async def session(database: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with served(database) as (session, _):
        yield session


async def paged(
    session: aiohttp.ClientSession, path: str, name: str, *, limit: int, **query: str | int
) -> list[dict[str, Any]]:
    """Walk through a list page by page."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str | int] = {}
    while True:
        page = await get_json(session, path, limit=limit, **query, **cursor)
        assert len(page[name]) <= limit
        items += page[name]
        if page["next"] is None or not page[name]:
            return items
        assert len(page[name]) == limit or path == "/api/journal"
        cursor = {"after": page["next"]}


# --- paging -----------------------------------------------------------------------------------------------------------

LISTS: list[tuple[str, str, dict[str, str]]] = [
    ("/api/streams", "streams", {}),
    ("/api/streams", "streams", {"state": "paused"}),
    ("/api/runs", "runs", {}),
    ("/api/runs", "runs", {"stream": STREAM.key}),
    ("/api/journal", "entries", {}),
    ("/api/journal", "entries", {"stream": STREAM.key}),
    ("/api/dead-letters", "dead_letters", {}),
    *(("/api/dead-letters", "dead_letters", {"state": state.value}) for state in DeadLetterState),
    *(("/api/dead-letters", "dead_letters", {"state": state.value, "stream": STREAM.key}) for state in DeadLetterState),
]


async def test_pages_contain_every_item_once_and_in_order(session: aiohttp.ClientSession) -> None:
    for path, name, query in LISTS:
        at_once = (await get_json(session, path, limit=1000, **query))[name]
        assert at_once
        for limit in (1, 3, 4):
            found = await paged(session, path, name, limit=limit, **query)
            assert timeless(found) == timeless(at_once), (path, query, limit)


async def test_the_last_page_says_that_it_is_the_last_even_if_it_is_full(session: aiohttp.ClientSession) -> None:
    page = await get_json(session, "/api/runs", limit=RUNS, stream=STREAM.key)
    assert (len(page["runs"]), page["next"]) == (RUNS, None)


async def test_items_added_meanwhile_shift_no_page(database: Path) -> None:
    """Runs are added at the head of their list: the pages behind it stay as they were."""
    async with served(database) as (session, parts):
        first = await get_json(session, "/api/runs", limit=2)
        await parts.supervisor.sync([parts.supervisor.streams[0]])
        second = await get_json(session, "/api/runs", limit=2, after=first["next"])
        everything = (await get_json(session, "/api/runs", limit=1000))["runs"]
    ids = [run["run_id"] for run in everything if run["run_id"].startswith("20260301")]
    assert [run["run_id"] for run in (*first["runs"], *second["runs"])] == ids[:4]
    assert len(everything) > len(ids)


def timeless(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the fields of overdue streams that depend on the time of the response."""
    return [{name: value for name, value in item.items() if name not in {"next_run_at", "until"}} for item in items]


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_streams_are_listed_with_every_field_of_their_status(session: aiohttp.ClientSession) -> None:
    page = await get_json(session, "/api/streams", limit=1000)
    assert set(page) == {"at", "is_at_work", "streams", "next"}
    assert page["is_at_work"] is True
    keys = [stream["stream"] for stream in page["streams"]]
    assert keys == sorted(keys)
    assert {stream.key for stream in STREAMS} < set(keys), "those of the simulated world are there, too"
    (ours,) = (each for each in page["streams"] if each["stream"] == STREAM.key)
    assert set(ours) == set(StreamStatus.__struct_fields__)
    assert set(ours["sweep"]) == set(OpenSweep.__struct_fields__)
    assert (ours["state"], ours["reason"], ours["open_dead_letters"]) == ("paused", "batch_limit", 4)
    assert ours["is_configured"] is False
    assert ours["run"]["run_id"] == run_id(STREAM, RUNS - 1)


async def test_a_stream_that_is_worked_has_the_name_of_its_page(database: Path) -> None:
    async with served(database) as (session, parts):
        stream = parts.supervisor.streams[0]
        status = await get_json(session, f"/api/streams/{stream.key}")
        assert (status["stream"], status["state"], status["is_configured"]) == (stream.key, "never_synced", True)
        assert (status["platform"], status["page_id"]) == (stream.platform, stream.page_id)
        assert status["page_name"] == parts.registry.page_names()[stream.page_id] != ""


async def test_a_single_stream_is_shown_as_in_the_list(session: aiohttp.ClientSession) -> None:
    page = await get_json(session, "/api/streams", limit=1000)
    for listed in page["streams"]:
        if listed["state"] == "paused":
            one = await get_json(session, f"/api/streams/{listed['stream']}")
            assert timeless([one]) == timeless([listed])


async def test_an_unknown_stream_is_not_found(session: aiohttp.ClientSession) -> None:
    for key in ("messenger:404", "nonsense", "%00", "a%2Fb", "x" * 300):
        assert (await refused(session, f"/api/streams/{key}"))[0] == 404


async def test_a_client_that_has_the_streams_gets_a_304_until_something_changes(database: Path) -> None:
    async with served(database) as (session, parts):
        for path in ("/api/streams?state=paused", f"/api/streams/{STREAM.key}", "/api/openapi.json"):
            async with session.get(path) as response:
                tag = response.headers["ETag"]
                assert tag.startswith('W/"')
                assert response.headers["Cache-Control"] == "private, no-cache"
            for known, status in ((tag, 304), (f'"other", {tag}', 304), ("*", 304), ('W/"other"', 200)):
                async with session.get(path, headers={"If-None-Match": known}) as response:
                    assert (response.status, response.headers["ETag"]) == (status, tag)
                    assert bool(await response.read()) is (status == 200)
        async with session.get(f"/api/streams/{STREAM.key}") as response:
            tag = response.headers["ETag"]
        await parts.supervisor.ask(STREAM, PauseStream("a test"))
        async with session.get(f"/api/streams/{STREAM.key}", headers={"If-None-Match": tag}) as response:
            assert response.status == 200
            assert (await response.json())["state"] == "on_hold"
            assert response.headers["ETag"] != tag


# --- runs and journal -------------------------------------------------------------------------------------------------


async def test_runs_are_listed_newest_first_with_their_counts(session: aiohttp.ClientSession) -> None:
    page = await get_json(session, "/api/runs", stream=STREAM.key)
    assert [run["run_id"] for run in page["runs"]] == [run_id(STREAM, number) for number in reversed(range(RUNS))]
    assert page["runs"][0] == {
        "run_id": run_id(STREAM, RUNS - 1),
        "stream": STREAM.key,
        "mode": "full",
        "status": "paused",
        "reason": "batch_limit",
        "started_at": "2026-03-01T12:05:00Z",
        "ended_at": "2026-03-01T12:05:00Z",
        "batches": 1,
        "inserted": 40,
        "updated": 0,
        "unchanged": 0,
        "dead_lettered": 1,
        "contacts": 0,
        "interaction_events": 0,
        "retries": 0,
        "failed_batches": 1,
        "problem": {"kind": "api", "message": "it went wrong", "code": 1},
    }


async def test_the_journal_is_listed_as_it_is_stored(session: aiohttp.ClientSession, database: Path) -> None:
    page = await get_json(session, "/api/journal", after=3, limit=5)
    assert [entry["seq"] for entry in page["entries"]] == [4, 5, 6, 7, 8]
    assert page["next"] == 8
    async with open_sqlite_reader(database) as journal_reader:
        for entry, placed in zip(page["entries"], await journal_reader.entries(after=3, limit=5), strict=True):
            stored = placed.entry
            assert entry["data"] == msgspec.json.decode(stored.data)
            assert (entry["stream"], entry["version"], entry["type"]) == (
                stored.stream.key,
                stored.version,
                stored.type,
            )
            assert (entry["run_id"], entry["hash"]) == (stored.run_id, stored.hash)


async def test_the_journal_can_be_polled(database: Path) -> None:
    async with served(database) as (session, parts):
        cursor = (await get_json(session, "/api/journal", limit=1000))["next"]
        assert await get_json(session, "/api/journal", after=cursor) == {"entries": [], "next": None}
        await parts.supervisor.ask(STREAM, PauseStream("a test"))
        page = await get_json(session, "/api/journal", after=cursor)
        assert [(entry["type"], entry["data"]) for entry in page["entries"]] == [("stream_paused", {"by": "a test"})]
        assert page["next"] == cursor + 1


# --- dead letters -----------------------------------------------------------------------------------------------------


LISTED_ONLY = {"group", "contact_name", "link"}


async def test_dead_letters_are_listed_as_on_the_command_line(session: aiohttp.ClientSession, database: Path) -> None:
    async with open_sqlite_reader(database) as journal_reader:
        for state in DeadLetterState:
            page = await get_json(session, "/api/dead-letters", state=state.value)
            stored = await journal_reader.dead_letters(state, limit=100)
            shown = [{key: each[key] for key in each.keys() - LISTED_ONLY} for each in page["dead_letters"]]
            assert shown == [msgspec.json.decode(as_json(dead_letter)) for dead_letter in stored]
    assert await get_json(session, "/api/dead-letters") == await get_json(session, "/api/dead-letters", state="open")


async def test_a_payload_is_shown_only_with_a_single_dead_letter(session: aiohttp.ClientSession) -> None:
    page = await get_json(session, "/api/dead-letters", state="all")
    assert "payload" not in str(page)
    async with session.get(f"/api/dead-letters/{dead_letter_id(STREAM, 1)}") as response:
        assert f'"payload":{PAYLOAD}' in await response.text(), "as it is stored, to the last digit"
    closed = await get_json(session, f"/api/dead-letters/{dead_letter_id(STREAM, 0)}")
    assert (closed["resolution"], closed["note"], closed["payload"]) == ("discarded", "spam", None)


async def test_an_unknown_dead_letter_is_not_found(session: aiohttp.ClientSession) -> None:
    assert await refused(session, "/api/dead-letters/abcd") == (404, "there is no dead letter abcd")
    for wrong_id in ("T_1", "f" * 65, "%00", "é", "..%2f.."):
        assert (await refused(session, f"/api/dead-letters/{wrong_id}"))[0] == 404


# --- invalid requests -------------------------------------------------------------------------------------------------


async def test_an_invalid_parameter_is_named(session: aiohttp.ClientSession) -> None:
    for path, name, value in (
        ("/api/streams", "limit", "0"),
        ("/api/streams", "limit", "1001"),
        ("/api/streams", "limit", "ten"),
        ("/api/streams", "limit", ""),
        ("/api/streams", "limit", "9" * 30),
        ("/api/streams", "state", "unheard of"),
        ("/api/streams", "colour", "red"),
        ("/api/streams/messenger:1", "limit", "5"),
        ("/api/streams/messenger:1", "key", "messenger:2"),
        ("/api/runs", "stream", "nonsense"),
        ("/api/runs", "stream", "messenger:1/2"),
        ("/api/runs", "after", "x" * 101),
        ("/api/runs", "after", "20260301T120000Z\0"),
        ("/api/journal", "stream", "messenger:1\0"),
        ("/api/journal", "after", "-1"),
        ("/api/journal", "after", "1.5"),
        ("/api/journal", "after", str(2**63)),
        ("/api/dead-letters", "state", "OPEN"),
        ("/api/dead-letters", "after", "not hexadecimal"),
        ("/api/openapi.json", "version", "2"),
    ):
        status, detail = await refused(session, path, **{name: value})
        assert (status, detail.startswith(f"invalid query: {name}: ")) == (400, True), (path, name, value)


async def test_a_parameter_that_is_given_twice_is_named(session: aiohttp.ClientSession) -> None:
    status, detail = await refused(session, "/api/runs?limit=1&limit=2")
    assert (status, detail) == (400, "invalid query: limit: given more than once")


async def test_an_unknown_parameter_is_named_with_the_known_ones(session: aiohttp.ClientSession) -> None:
    _, detail = await refused(session, "/api/dead-letters", open_only="1")
    assert detail.endswith("open_only: unknown parameter; allowed: after, group, limit, state, stream")


async def test_a_stream_without_anything_has_empty_lists(session: aiohttp.ClientSession) -> None:
    for path, name in (("/api/runs", "runs"), ("/api/journal", "entries"), ("/api/dead-letters", "dead_letters")):
        assert await get_json(session, path, stream="messenger:404") == {name: [], "next": None}


async def test_a_database_that_cannot_be_read_is_answered_with_a_problem(database: Path) -> None:
    async with served(database) as (session, _):
        execute(database, "DROP TABLE runs")
        status, detail = await refused(session, "/api/runs")
        assert status == 503
        assert "no such table" in detail


async def test_a_removed_stream_is_listed_no_more(database: Path) -> None:
    store_url = StoreUrl(f"sqlite:///{database}")
    assert await remove(store_url, STREAM, "a test", datetime.now(UTC)) is not None

    async with served(database) as (session, _):
        keys = [each["stream"] for each in await paged(session, "/api/streams", "streams", limit=100)]
        assert STREAM.key not in keys
        assert {each.key for each in STREAMS} - {STREAM.key} <= set(keys)
        assert (await refused(session, f"/api/streams/{STREAM.key}"))[0] == 404
        assert await paged(session, "/api/runs", "runs", limit=100, stream=STREAM.key) == []
        assert (
            await paged(session, "/api/dead-letters", "dead_letters", limit=100, stream=STREAM.key, state="all") == []
        )
        history = await paged(session, "/api/journal", "entries", limit=100, stream=STREAM.key)
        assert history[-1]["type"] == "stream_removed"
        assert len(history) > 1
