"""Logs in the journal of systemd: the fields of an entry, and lines while journald is unavailable."""

import array
import json
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from logging_journald import JournaldTransport  # type: ignore[import-untyped]  # annotated, but ships no py.typed

from milepost.service.logs.lines import BLOT
from milepost.service.logs.output import MAX_KINDS, Deduplicator, Format
from service.logs.configured import TOKEN, configured, configured_deduplicator, fail, journal_stream, log


class Journal:
    """The socket of a journald, and a stderr that leads to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.bind(str(self.path))
        self.receiver.settimeout(5)
        self.stderr = (folder / "stderr").open("w+", encoding="utf-8")

    def configure(self, format: Format = "auto", level: str = "info") -> Deduplicator:  # noqa: A002  # as the setting
        return configured_deduplicator(
            format, level=level, stream=self.stderr, JOURNAL_STREAM=journal_stream(self.stderr)
        )

    def lines(self) -> list[str]:
        """Return what was written to stderr."""
        return Path(self.stderr.name).read_text("utf-8").splitlines()

    def entry(self, receiver: socket.socket | None = None) -> dict[str, str]:
        """Read one entry as journald would (systemd.io, "Native Journal Protocol")."""
        size = array.array("i").itemsize
        data, ancillary, _, _ = (receiver or self.receiver).recvmsg(1 << 20, socket.CMSG_SPACE(size))
        for _, _, raw in ancillary:
            with os.fdopen(struct.unpack("i", raw[:size])[0], "rb") as sealed:
                sealed.seek(0)
                data = sealed.read()
        fields: dict[str, str] = {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack("<Q", data[:8])
                value, data = data[8 : 8 + length], data[8 + length + 1 :]
            before = fields.get(name.decode())
            fields[name.decode()] = value.decode() if before is None else f"{before} | {value.decode()}"
        return fields


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    monkeypatch.setattr(JournaldTransport, "SOCKET_PATH", journal.path)
    journal.configure()
    with journal.receiver, journal.stderr:
        yield journal


def test_an_entry_has_its_fields(journal: Journal) -> None:
    structlog.contextvars.bind_contextvars(stream="messenger:123", run="01J", batch=7)
    log.warning("batch failed", inserted=0, error=TimeoutError("30 s"), ids=["a", 1], nothing=None)
    entry = journal.entry()
    assert int(entry.pop("CODE_LINE")) > 0
    assert entry == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "milepost",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_an_entry_has_its_fields",
        "MESSAGE": "batch failed stream=messenger:123 run=01J batch=7 inserted=0 error='TimeoutError: 30 s'"
        """ ids='["a",1]' nothing=null""",
        "MILEPOST_EVENT": "batch failed",
        "MILEPOST_STREAM": "messenger:123",
        "MILEPOST_RUN": "01J",
        "MILEPOST_BATCH": "7",
        "MILEPOST_INSERTED": "0",
        "MILEPOST_ERROR": "TimeoutError: 30 s",
        "MILEPOST_IDS": '["a",1]',
    }
    assert journal.lines() == []


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")]
)
def test_levels_become_priorities(journal: Journal, level: str, priority: str) -> None:
    journal.configure(level="debug")
    getattr(log, level)("x")
    assert journal.entry()["PRIORITY"] == priority


def test_a_number_of_streams_is_a_field_of_its_own_and_names_none(journal: Journal) -> None:
    log.info("started", streams=4)
    entry = journal.entry()
    assert (entry["MESSAGE"], entry["MILEPOST_STREAMS"]) == ("started streams=4", "4")
    assert "MILEPOST_STREAM" not in entry


def test_a_line_for_many_repeats_is_found_by_each_of_its_streams(journal: Journal) -> None:
    repeats = journal.configure()
    for number in range(8):
        log.warning("rate limited", stream=f"messenger:{number}", run=f"run-{number}", reason="the disk is full")
    journal.entry()
    repeats.flush()
    entry = journal.entry()
    assert int(entry.pop("CODE_LINE")) > 0
    since = entry.pop("MILEPOST_SINCE")
    assert entry == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "milepost",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_a_line_for_many_repeats_is_found_by_each_of_its_streams",
        "MESSAGE": "rate limited repeated=7"
        " streams='messenger:1 messenger:2 messenger:3 messenger:4 messenger:5 and 2 more'"
        f" reason='the disk is full' since={since}",
        "MILEPOST_EVENT": "rate limited",
        "MILEPOST_STREAM": " | ".join(f"messenger:{number}" for number in range(1, 8)),
        "MILEPOST_REASON": "the disk is full",
        "MILEPOST_REPEATED": "7",
    }


def test_a_line_for_the_repeats_of_one_run_has_its_stream_and_run(journal: Journal) -> None:
    repeats = journal.configure()
    structlog.contextvars.bind_contextvars(stream="messenger:123", run="01J")
    for attempts in range(3):
        log.warning("rate limited", reason="the disk is full", attempts=attempts)
    structlog.contextvars.bind_contextvars(stream="messenger:456", run="another's")
    journal.entry()
    repeats.flush()
    entry = journal.entry()
    assert (entry["MILEPOST_STREAM"], entry["MILEPOST_RUN"]) == ("messenger:123", "01J")
    assert "MILEPOST_ATTEMPTS" not in entry, "which differs"


def test_a_line_for_many_kinds_has_no_call_site(journal: Journal) -> None:
    repeats = journal.configure()
    for number in range(MAX_KINDS + 1):
        log.warning("from here", number=number, reason=number)
        journal.entry()
    log.warning("from there", reason="another")
    log.warning("from elsewhere", reason="another")
    repeats.flush()
    entry = journal.entry()
    assert "CODE_LINE" not in entry
    assert entry["MILEPOST_EVENT"] == "more of many kinds"


def test_a_record_of_the_standard_library_keeps_its_call_site(journal: Journal) -> None:
    logging.getLogger("aiohttp").warning("slow")
    entry = journal.entry()
    assert entry["CODE_FILE"] == __file__
    assert entry["CODE_FUNC"] == "test_a_record_of_the_standard_library_keeps_its_call_site"
    assert entry["MILEPOST_LOGGER"] == "aiohttp"


def test_no_value_can_forge_a_field_and_no_field_has_a_secret(journal: Journal) -> None:
    log.error("a\nPRIORITY=0\n%s", TOKEN, **{"odd key=é\n": f"x\nMILEPOST_RUN=forged\n{TOKEN}"})
    entry = journal.entry()
    assert entry["PRIORITY"] == "3"
    assert "MILEPOST_RUN" not in entry
    assert entry["MILEPOST_ODD_KEY___"] == f"x\nMILEPOST_RUN=forged\n{BLOT}"
    assert "\n" not in entry["MESSAGE"]
    assert TOKEN not in str(entry)


def test_a_traceback_is_part_of_the_message_and_a_field(journal: Journal) -> None:
    try:
        fail("x")
    except ValueError:
        log.exception("bug")
    entry = journal.entry()
    assert entry["MESSAGE"].splitlines()[:2] == ["bug", "    Traceback (most recent call last):"]
    assert entry["MILEPOST_EXCEPTION"].endswith("ValueError: x")


def test_an_entry_too_large_for_a_datagram_arrives(journal: Journal) -> None:
    log.info("large", items=["x" * 10_000] * 90)
    assert len(journal.entry()["MILEPOST_ITEMS"]) > 900_000


def test_without_journald_lines_have_the_priority_before_them(journal: Journal) -> None:
    journal.receiver.close()
    try:
        fail("x")
    except ValueError:
        log.exception("bug", batch=7)
    log.info("next")
    lines = journal.lines()
    assert lines[:2] == ["<3>bug batch=7", "<3>    Traceback (most recent call last):"]
    assert lines[-2:] == ["<3>    ValueError: x", "<6>next"]


def test_with_journald_asleep_the_work_goes_on(journal: Journal) -> None:
    for number in range(5000):
        log.info("burst", number=number)
    written = journal.lines()
    assert written[-1] == "<6>burst number=4999"
    assert journal.entry()["MILEPOST_NUMBER"] == "0"


def test_a_journald_that_comes_back_is_used_again(journal: Journal) -> None:
    journal.receiver.close()
    journal.path.unlink()
    log.info("away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(journal.path))
        log.info("back")
        assert journal.entry(receiver)["MESSAGE"] == "back"


def test_lines_lost_on_both_ways_are_counted_once(journal: Journal, tmp_path: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as stderr:
        configured("auto", stream=stderr, JOURNAL_STREAM=journal_stream(stderr))
        journal.path.rename(tmp_path / "away")
        log.info("lost")
        (tmp_path / "away").rename(journal.path)
        log.info("told")
        log.info("healed")
    assert journal.entry()["MILEPOST_LOG_LINES_LOST"] == "1"
    assert "MILEPOST_LOG_LINES_LOST" not in journal.entry()


def test_no_field_has_a_name_too_long_for_journald(journal: Journal) -> None:
    log.info("x", **{"k" * 100: 1})
    assert max(map(len, journal.entry())) == 64


def test_json_and_console_are_used_where_they_are_set(journal: Journal) -> None:
    journal.configure("json")
    log.info("x")
    assert [json.loads(line)["event"] for line in journal.lines()] == ["x"]
