"""Logs: one event a line, for a person, a machine or journald; never a secret; never in the way of the work."""

import asyncio
import gc
import io
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from milepost.service.logs.lines import BLOT, MAX_ITEMS, MAX_TEXT_LENGTH, Redactor
from milepost.service.logs.output import Format, logged, set_level
from service.logs.configured import TOKEN, configured, configured_deduplicator, fail, log, objects, text


class TestConsole:
    def test_a_line_reads_time_level_event_and_keys_with_the_stream_first(self) -> None:
        stream = configured()
        structlog.contextvars.bind_contextvars(run="01J", batch=7, stream="messenger:123")
        log.info("batch stored", inserted=50)
        stamp, rest = text(stream)[:19], text(stream)[19:]
        datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        assert rest == " info  batch stored   stream=messenger:123 run=01J batch=7 inserted=50\n"

    def test_the_time_is_utc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        stream = configured()
        try:
            log.info("now")
        finally:
            monkeypatch.undo()
            time.tzset()
        shown = datetime.strptime(text(stream)[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        assert abs((datetime.now(UTC) - shown).total_seconds()) < 60

    def test_an_event_without_keys_ends_with_its_name(self) -> None:
        stream = configured()
        log.warning("stopping")
        assert text(stream)[19:] == " warn  stopping\n"

    def test_values_that_could_be_misread_are_quoted(self) -> None:
        stream = configured()
        log.info("x", empty="", words="two words", pair="a=b", path="a\\b", ids=[1, 2], none=None, yes=True)
        expected = r"empty='' words='two words' pair='a=b' path='a\\b' ids=[1,2] none=null yes=true"
        assert text(stream).split(maxsplit=4)[4] == expected + "\n"

    def test_a_traceback_is_indented_below_its_line(self) -> None:
        stream = configured()
        try:
            fail("first\n2026-11-23 21:40:01 error forged\x1b[2J")
        except ValueError:
            log.exception("bug")
        head, *below = text(stream).splitlines()
        assert head.endswith("error bug")
        assert below[0] == "    Traceback (most recent call last):"
        assert below[-2:] == ["    ValueError: first", r"    2026-11-23 21:40:01 error forged\x1b[2J"]
        assert all(line.startswith("    ") for line in below)

    def test_an_error_as_a_value_has_no_traceback(self) -> None:
        stream = configured()
        log.error("batch failed", error=TimeoutError("30 s"))
        assert text(stream).endswith("error batch failed   error='TimeoutError: 30 s'\n")

    def test_below_the_level_nothing_is_written(self) -> None:
        stream = configured(level="warning")
        log.info("quiet")
        logging.getLogger("aiohttp").info("quiet")
        assert text(stream) == ""
        log.warning("loud")
        assert "loud" in text(stream)

    def test_the_rows_given_to_the_database_are_logged_at_no_level(self) -> None:
        stream = configured(level="debug")
        logging.getLogger("aiosqlite").debug("executing %s", "a row with a name and a text")
        assert text(stream) == ""


class TestRepeats:
    def test_a_line_with_a_number_of_streams_is_no_repeat(self) -> None:
        stream = configured()
        log.info("started", streams=4)
        assert text(stream)[19:] == " info  started        streams=4\n"

    def test_repeats_are_summed_up_in_one_line_with_their_number_and_since_when(self) -> None:
        stream = io.StringIO()
        repeats = configured_deduplicator(stream=stream)
        for number in range(3):
            log.warning("rate limited", stream=f"messenger:{number}", reason="the disk is full")
        repeats.flush()
        first, rest = text(stream).splitlines()
        assert first[19:] == " warn  rate limited   stream=messenger:0 reason='the disk is full'"
        assert rest[19:].partition(" since=")[0] == (
            " warn  rate limited   repeated=2 streams='messenger:1 messenger:2' reason='the disk is full'"
        )

    def test_repeats_of_a_command_are_logged_at_its_end_however_it_ends(self) -> None:
        stream = io.StringIO()
        with suppress(ValueError), logged("console", "info", Redactor([]), stream=stream, environment={}):
            for _ in range(3):
                log.error("part failed", part="mailbox", error="the disk is full")
            fail("it broke off")
        assert [line[20:].partition(" part=")[0] for line in text(stream).splitlines()] == [
            "error part failed   ",
            "error part failed    repeated=2",
        ]

    def test_repeats_in_json_have_every_stream_and_a_time_of_their_own(self) -> None:
        stream = io.StringIO()
        repeats = configured_deduplicator("json", stream=stream)
        for number in range(10):
            log.error("run stopped", stream="messenger:1", attempt=number, problem=f"{TOKEN} is dead")
        repeats.flush()
        first, rest = objects(stream)
        assert first["timestamp"] < rest["since"] < rest["timestamp"]
        assert (rest["level"], rest["stream"], rest["repeated"]) == ("error", "messenger:1", 9)
        assert rest["problem"] == f"{BLOT} is dead"

    def test_repeats_of_a_bug_have_the_traceback_that_they_share(self) -> None:
        stream = io.StringIO()
        repeats = configured_deduplicator("json", stream=stream)
        for number in range(3):
            try:
                fail("a bug")
            except ValueError:
                log.exception("part failed unexpectedly", part=f"http GET /{number}")
        repeats.flush()
        _, rest = objects(stream)
        assert rest["repeated"] == 2
        assert rest["exception"].endswith("ValueError: a bug")
        assert "part" not in rest

    def test_repeats_of_the_standard_library_are_counted_too(self) -> None:
        stream = io.StringIO()
        repeats = configured_deduplicator("json", stream=stream)
        for _ in range(1_000):
            logging.getLogger("aiohttp").error("Unhandled exception")
        repeats.flush()
        assert [line.get("repeated") for line in objects(stream)] == [None, 999]

    def test_repeats_leave_the_level_alone(self) -> None:
        stream = io.StringIO()
        repeats = configured_deduplicator("json", stream=stream)
        set_level("error")
        for _ in range(3):
            log.warning("rate limited")
        log.error("run stopped")
        repeats.flush()
        set_level("debug")
        log.debug("run started")
        logging.getLogger("aiohttp").debug("a request")
        assert [line["event"] for line in objects(stream)] == ["run stopped", "run started", "a request"]


class TestOneEventIsOneLine:
    NASTY = "a\nb\r\x1b[31m\x1b]0;title\x07\u202e\u2066\u2028\u2029\x85\x0b\x00\x9b\ud800"

    @pytest.mark.parametrize("format", ["console", "json"])
    def test_an_event_is_one_line_whatever_its_keys_and_values_hold(self, format: Format) -> None:  # noqa: A002
        stream = configured(format)
        log.info(
            self.NASTY,
            **{self.NASTY: self.NASTY},
            nested={self.NASTY: [self.NASTY]},
            raw=self.NASTY.encode("utf-8", "surrogatepass"),
        )
        logging.getLogger("aiohttp").warning("a server said %s", self.NASTY)
        lines = text(stream).split("\n")
        assert len(lines) == 3
        assert all(line.isprintable() for line in lines)

    @given(event=st.text(), value=st.recursive(st.text() | st.binary() | st.floats() | st.integers(), st.lists))
    @pytest.mark.parametrize("format", ["console", "json"])
    def test_an_event_is_one_line_with_any_text_and_value(self, format: Format, event: str, value: object) -> None:  # noqa: A002
        stream = configured(format)
        log.info(event, value=value)
        assert text(stream).endswith("\n")
        assert text(stream)[:-1].isprintable()

    def test_texts_are_escaped_where_no_file_can_be_opened(self) -> None:
        """As where all file descriptors are in use: what is loaded lazily cannot be loaded then."""
        program = (
            "import resource, sys, structlog\n"
            "from milepost.core.texts import visible\n"
            "from milepost.service.logs.output import logged\n"
            "from milepost.service.logs.lines import Redactor\n"
            "with logged('console', 'info', Redactor(()), stream=sys.stderr, environment={}):\n"
            "    structlog.get_logger().info('warm')\n"
            "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
            "    structlog.get_logger().info('a\\nb', text=visible('\\x1b'))\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert ended.stderr.splitlines()[-1].endswith(r"a\nb           text='\\x1b'"), ended.stderr


class TestWhereItGoes:
    def test_a_terminal_gets_colours(self) -> None:
        ours, theirs = pty.openpty()
        with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
            configured("auto", stream=terminal, TERM="xterm")
            log.error("away")
            seen = os.read(ours, 1000).decode()
            configured("auto", stream=terminal, TERM="xterm", NO_COLOR="1")
            log.error("away")
            seen_without = os.read(ours, 1000).decode()
            configured("auto", stream=terminal, TERM="dumb")
            log.error("away")
            seen_without += os.read(ours, 1000).decode()
        os.close(ours)
        assert "\x1b[31merror\x1b[0m" in seen
        assert "\x1b" not in seen_without

    def test_a_file_gets_plain_lines(self, tmp_path: Path) -> None:
        with (tmp_path / "log").open("w", encoding="utf-8") as file:
            configured("auto", stream=file, JOURNAL_STREAM="9:1234567")
            log.error("Müller 👋")
            assert (tmp_path / "log").read_text("utf-8")[19:] == " error Müller 👋\n"

    def test_an_encoding_that_lacks_a_sign_gets_its_escape(self, tmp_path: Path) -> None:
        with (tmp_path / "log").open("w", encoding="ascii") as file:
            configured(stream=file)
            log.error("Müller")
            assert (tmp_path / "log").read_text("ascii").endswith("M\\xfcller\n")

    def test_importing_changes_nothing(self) -> None:
        program = (
            "import logging, sys, warnings, structlog; was = sys.excepthook, warnings.showwarning\n"
            "import milepost.service.logs.output\n"
            "assert not logging.getLogger().handlers and not structlog.is_configured()\n"
            "assert was == (sys.excepthook, warnings.showwarning)"
        )
        subprocess.run([sys.executable, "-c", program], check=True)


class TestJson:
    def test_one_object_a_line_with_a_utc_time(self) -> None:
        stream = configured("json")
        structlog.contextvars.bind_contextvars(stream="messenger:123", run="01J", batch=7)
        log.info("batch stored", inserted=50)
        log.warning("next")
        first, second = objects(stream)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", first.pop("timestamp"))
        assert list(first) == ["level", "event", "stream", "run", "batch", "inserted"]
        assert first["inserted"] == 50
        assert second["level"] == "warning"

    def test_a_traceback_is_one_field(self) -> None:
        stream = configured("json")
        try:
            fail("two\nlines")
        except ValueError:
            log.exception("bug")
        (event,) = objects(stream)
        assert event["exception"].startswith("Traceback")
        assert event["exception"].endswith("ValueError: two\nlines")

    def test_odd_values_are_logged_as_well_as_can_be(self) -> None:
        class Unshowable:
            def __repr__(self) -> str:
                raise RuntimeError("no")

        class UnshowableError(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no")

        circle: list[object] = []
        circle.append(circle)
        stream = configured("json")
        log.info(
            "odd",
            bytes=b"a\xff",
            set={2, 1},
            surrogate="\ud800",
            nan=float("nan"),
            infinite=float("-inf"),
            huge=10**5000,
            moment=datetime(2026, 11, 23, tzinfo=UTC),
            path=Path("/a"),
            unshowable=Unshowable(),
            error=UnshowableError(),
            circle=circle,
            keys={(1, 2): None, None: 1},
        )
        (event,) = objects(stream)
        assert event["bytes"] == "a\\xff"
        assert event["set"] == [1, 2]
        assert event["surrogate"] == "\\ud800"
        assert (event["nan"], event["infinite"]) == ("nan", "-inf")
        assert event["huge"] == hex(10**5000)
        assert (event["moment"], event["path"]) == ("2026-11-23T00:00:00+00:00", "/a")
        assert "Unshowable" in event["unshowable"]
        assert "UnshowableError" in event["error"]
        assert "[[...]]" in json.dumps(event["circle"])
        assert event["keys"] == {"(1, 2)": None, "None": 1}

    def test_everything_has_a_bound(self) -> None:
        stream = configured("json")
        log.info("big", text="a" * 10**6 + "end", many=list(range(10**5)), keys=dict.fromkeys(range(10**5)))
        (event,) = objects(stream)
        assert MAX_TEXT_LENGTH < len(event["text"]) < MAX_TEXT_LENGTH + 50
        assert event["text"].endswith("end")
        assert event["many"][-1] == f"… {10**5 - MAX_ITEMS} more"
        assert len(event["keys"]) == MAX_ITEMS + 1


class TestStandardLibrary:
    def test_records_of_the_standard_library_take_the_same_way_with_the_name_of_their_logger(self) -> None:
        stream = configured("json")
        structlog.contextvars.bind_contextvars(stream="messenger:123")
        logging.getLogger("aiohttp.client").warning("slow %s", TOKEN)
        (event,) = objects(stream)
        event.pop("timestamp")
        assert event == {
            "level": "warning",
            "event": f"slow {BLOT}",
            "stream": "messenger:123",
            "logger": "aiohttp.client",
        }

    def test_custom_levels_and_wrong_arguments_do_no_harm(self) -> None:
        class Unshowable:
            def __repr__(self) -> str:
                raise AttributeError("half made")

        long = "0123456789" * 20
        stream = configured("json", redactor=Redactor([long]))
        logging.getLogger("x").log(25, "count %d", long)
        logging.getLogger("x").warning("see %s", Unshowable())
        logging.getLogger("x").warning(Unshowable())
        logging.getLogger("x").log(60, "very bad", exc_info=True)
        wrong, broken, bare, bad = objects(stream)
        assert (wrong["level"], wrong["event"], wrong["args"]) == ("info", "count %d", [BLOT])
        assert broken["event"] == "see %s"
        assert "Unshowable" in broken["args"][0]
        assert "Unshowable" in bare["event"]
        assert (bad["level"], bad["event"]) == ("critical", "very bad")

    def test_a_task_error_that_nobody_retrieved_is_logged(self) -> None:
        async def fails() -> None:
            raise ValueError(TOKEN)

        async def leaves_it() -> None:
            task = asyncio.create_task(fails())
            await asyncio.wait([task])
            del task
            gc.collect()

        stream = configured("json")
        asyncio.run(leaves_it(), debug=True)
        # On a busy machine the debug mode reports slow steps as well.
        (event,) = (each for each in objects(stream) if each["event"].startswith("Task exception was never retrieved"))
        assert event["logger"] == "asyncio"
        assert event["exception"].endswith(f"ValueError: {BLOT}")
        assert TOKEN not in text(stream)

    def test_warnings_are_events(self) -> None:
        stream = configured("json")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"old {TOKEN}", DeprecationWarning, stacklevel=1)
        (event,) = objects(stream)
        assert event["logger"] == "py.warnings"
        assert f"DeprecationWarning: old {BLOT}" in event["event"]
        assert not event["event"].endswith("\n")

    def test_an_error_in_a_thread_and_in_a_finalizer_is_an_event(self) -> None:
        def fails() -> None:
            raise ValueError(TOKEN)

        class Fragile:
            def __del__(self) -> None:
                raise ValueError(TOKEN)

        stream = configured("json")
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()
        Fragile()
        gc.collect()
        in_thread, in_finalizer = objects(stream)
        assert (in_thread["level"], in_thread["event"]) == ("critical", "thread crashed")
        assert in_finalizer["event"] == "error in a finalizer"
        assert in_finalizer["exception"].endswith(f"ValueError: {BLOT}")


class TestSecrets:
    def test_a_secret_learnt_later_is_blotted_out_and_so_is_the_old_one(self) -> None:
        redactor = Redactor([TOKEN])
        stream = configured(redactor=redactor)
        redactor.learn("brand-new-token")
        log.info("reloaded", old=TOKEN, new="brand-new-token")
        assert text(stream).endswith(f"old={BLOT} new={BLOT}\n")

    @pytest.mark.parametrize("format", ["console", "json"])
    def test_no_value_key_or_traceback_holds_a_secret(self, format: Format) -> None:  # noqa: A002
        stream = configured(format)
        structlog.contextvars.bind_contextvars(stream=TOKEN)
        log.info("event %s", TOKEN, **{TOKEN: 1}, nested={"a": [{TOKEN: (TOKEN, {TOKEN})}]}, raw=TOKEN.encode())
        log.info("headers", headers={"Authorization": "Bearer x", "token": "short", "access_token": b"short"})
        try:
            try:
                fail(TOKEN)
            except ValueError as cause:
                raise ExceptionGroup(TOKEN, [ValueError(f"https://h/?access_token={TOKEN}")]) from cause
        except ExceptionGroup as error:
            log.exception("bug", error=error)
        assert "tok|en" not in text(stream)
        assert "tok%7Cen" not in text(stream)
        assert "short" not in text(stream)
        assert "Bearer x" not in text(stream)
        assert text(stream).count(BLOT) >= 12

    @pytest.mark.parametrize("format", ["auto", "console", "json"])
    def test_nothing_that_a_process_leaves_behind_holds_a_secret(self, format: Format, tmp_path: Path) -> None:  # noqa: A002
        secret = "0123456789-very-secret-token"
        program = """
import asyncio, gc, logging, os, sys, threading, warnings
import structlog
from milepost.service.logs.output import configure
from milepost.service.logs.lines import Redactor

secret = os.environ.pop("SECRET")
configure(sys.argv[1], "debug", Redactor([secret]), stream=sys.stderr, environment=os.environ)

async def fails():
    raise ConnectionError(f"GET https://graph.facebook.com/me?access_token={secret}")

async def main():
    structlog.get_logger().info("started", token=secret, url=f"https://h/?access_token={secret}")
    logging.getLogger("aiohttp.access").info("GET /?access_token=%s", secret)
    warnings.warn(secret)
    task = asyncio.create_task(fails(), name=secret)
    await asyncio.wait([task])
    del task
    gc.collect()
    thread = threading.Thread(target=lambda: {}[secret], name=secret)
    thread.start()
    thread.join()
    await fails()

asyncio.run(main(), debug=True)
"""
        (tmp_path / "program.py").write_text(program, "utf-8")
        ended = subprocess.run(
            [sys.executable, "program.py", format],
            cwd=tmp_path,
            env={**os.environ, "SECRET": secret},
            capture_output=True,
            check=False,
        )
        left = (
            ended.stdout + ended.stderr + b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        )
        assert ended.returncode == 1
        assert ended.stdout == b""
        assert ended.stderr.count(BLOT.encode()) >= 7
        assert b"crashed" in ended.stderr
        assert secret.encode() not in left


class TestAStreamThatFails:
    def test_a_closed_stream_does_not_break_the_work(self, tmp_path: Path) -> None:
        for stream in (io.StringIO(), (tmp_path / "log").open("w", encoding="utf-8")):
            configured(stream=stream)
            stream.close()
            log.error("lost")
            logging.getLogger("x").error("lost")
            configured("auto", stream=stream)
            log.error("lost")

    def test_the_descriptor_of_a_closed_stream_is_not_written_to(self, tmp_path: Path) -> None:
        stream = (tmp_path / "log").open("w", encoding="utf-8")
        number = stream.fileno()
        configured(stream=stream)
        log.error("written")
        stream.close()
        with (tmp_path / "database").open("wb") as database:
            assert database.fileno() == number
            log.error("lost")
        assert (tmp_path / "database").read_bytes() == b""

    def test_a_stream_whose_reader_is_gone_does_not_break_the_work(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w", encoding="utf-8") as stream:
            configured(stream=stream)
            log.error("lost")
            logging.getLogger("x").error("lost")

    def test_a_stream_whose_disk_is_full_does_not_break_the_work(self) -> None:
        with Path("/dev/full").open("w", encoding="utf-8") as stream:
            configured(stream=stream)
            log.error("lost")

    def test_a_stream_whose_reader_sleeps_loses_lines_and_counts_them(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w", encoding="utf-8") as stream:
            configured("json", stream=stream)
            log.info("first")
            while select.select([], [writing], [], 0)[1]:
                os.write(writing, b"\n" * select.PIPE_BUF)
            began = time.monotonic()
            for _ in range(200):
                log.info("lost")
            assert time.monotonic() - began < 15  # 200 full waits would be 20 s; one that blocks has no end
            emptied = os.read(reading, 1 << 20)
            log.info("told")
            log.info("healed")
            rest = [json.loads(line) for line in os.read(reading, 1 << 20).splitlines() if line]
        os.close(reading)
        assert b"first" in emptied
        assert b"lost" not in emptied
        assert [(event["event"], event.get("log_lines_lost")) for event in rest] == [("told", 200), ("healed", None)]

    def test_a_torn_line_does_not_spoil_the_next(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w", encoding="utf-8") as stream:
            configured("json", stream=stream)
            log.info("torn", long=["x" * 10_000] * 50)
            torn = os.read(reading, 1 << 20)
            log.info("whole")
            after = os.read(reading, 1 << 20)
        os.close(reading)
        assert torn.startswith(b'{"timestamp"')
        assert after.startswith(b"\n{")
        assert json.loads(after)["event"] == "whole"

    def test_a_finalizer_that_logs_during_a_write_does_not_deadlock(self) -> None:
        class Reentrant(io.StringIO):
            def write(self, line: str) -> int:
                if "outer" in line:
                    log.info("inner")
                return super().write(line)

        stream = configured(stream=Reentrant())
        writer = threading.Thread(target=log.info, args=("outer",), daemon=True)
        writer.start()
        writer.join(timeout=10)
        assert not writer.is_alive()
        assert [line.split()[-1] for line in text(stream).splitlines()] == ["inner", "outer"]
