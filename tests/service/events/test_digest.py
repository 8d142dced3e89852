"""Digests of the event stream: small whatever happens, and nothing is left out in silence."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from kit.event_source import listening
from milepost.service.events import broadcast
from milepost.service.events.messages import MAX_EVENTS, EncodedEvent, Status, digest_of
from milepost.stores.sqlite.migrate import migrate
from service.events.journals import STREAMS, write_lives
from service.events.test_event_stream import daemon_on


def event(seq: int, stream: str = "messenger:1", status: Status = Status.PROGRESS) -> EncodedEvent:
    wire = f'id: {seq}\ndata: {{"status":"{status}","stream":"{stream}"}}\n\n'
    return EncodedEvent(seq, stream, status, wire.encode())


def told(digest: bytes) -> list[tuple[int, dict[str, object]]]:
    blocks = [block.partition("\ndata: ") for block in digest.decode().split("\n\n") if block]
    return [(int(head.removeprefix("id: ")), json.loads(data)) for head, _, data in blocks]


def test_the_last_of_similar_events_stands_for_all() -> None:
    found = told(digest_of([event(1), event(2, "messenger:2"), event(3), event(4, status=Status.RETRYING)]))
    assert [(seq, each["stream"], each.get("times")) for seq, each in found] == [
        (2, "messenger:2", None),
        (3, "messenger:1", 2),
        (4, "messenger:1", None),
    ]


def test_of_many_streams_each_status_becomes_one_event() -> None:
    events = [event(1 + number, f"messenger:{number % 400}") for number in range(800)]
    events += [event(801, "messenger:7", Status.STOPPED)]
    found = told(digest_of(events))
    assert len(found) == 2 <= MAX_EVENTS
    assert found[0][1] | {"times": 800, "streams": 400} == found[0][1]
    assert found[1][0] == 801


def test_what_differs_in_kind_is_told_apart() -> None:
    found = told(digest_of([event(1), replace(event(2), type="sync_requested"), event(3)]))
    assert [(seq, each.get("times")) for seq, each in found] == [(2, None), (3, 2)]


def test_nothing_has_no_digest() -> None:
    assert digest_of([]) == b""


def written(path: Path, commits: int) -> Path:
    migrate(path)
    write_lives(path, commits)
    return path


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return written(tmp_path / "milepost.db", commits=5)


async def test_a_reader_of_a_digest_gets_one_event_for_similar_ones(
    few: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "DIGEST_SECONDS", 0.0)
    async with daemon_on(few) as daemon:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        async with listening(daemon.url, ("digest", "true"), ("last", "500")) as source:
            assert source.response.headers["Content-Encoding"] == "gzip"
            heard = (await source.some_events())[0]
            times = int(heard.told.get("times", 1))
            while int(heard.id) < newest:
                heard = (await source.some_events())[0]
                times += int(heard.told.get("times", 1))
            assert times == newest, "every entry is in one of them"
            added = await daemon.commit(*STREAMS)
            times = 0
            while times < added:
                times += int((await source.some_events())[0].told.get("times", 1))


async def test_a_reader_that_was_long_away_gets_a_digest_of_what_is_kept_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "MAX_KEPT", 10)
    path = written(tmp_path / "milepost.db", commits=30)
    async with daemon_on(path) as daemon, listening(daemon.url, ("digest", "true"), last_event_id="1") as source:
        newest = (await daemon.journal_reader.latest(limit=1))[-1].seq
        heard = (await source.some_events())[0]
        assert newest > 20
        assert int(heard.id) > newest - 10
