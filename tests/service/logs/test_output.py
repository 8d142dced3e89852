"""Logs: one event a line, for a person, a machine or journald; never a secret; never in the way of the work."""

import array
import asyncio
import gc
import io
import json
import logging
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

import msgspec
import pytest
import structlog
from hypothesis import assume, given
from hypothesis import strategies as st
from logging_journald import JournaldTransport  # type: ignore[import-untyped]  # annotated, but ships no py.typed

from milepost.service.logs.dedup import MAX_KINDS, Deduplicator
from milepost.service.logs.output import Format, configure, logged, set_level
from milepost.service.logs.redaction import BLOT, MAX_ITEMS, MAX_TEXT_LENGTH, Redactor

TOKEN = "tok|en/with+signs"
log = structlog.get_logger()


def configured(
    format: Format = "console",  # noqa: A002  # the name of the setting
    *,
    level: str = "info",
    redactor: Redactor | None = None,
    stream: TextIO | None = None,
    **environment: str,
) -> TextIO:
    stream = stream or io.StringIO()
    configure(format, level, redactor or Redactor([TOKEN]), stream=stream, environment=environment)
    return stream


def configured_deduplicator(
    format: Format = "console",  # noqa: A002  # the name of the setting
    *,
    redactor: Redactor | None = None,
    stream: TextIO,
    **environment: str,
) -> Deduplicator:
    """Configure as `configured` does, and return the deduplicator."""
    return configure(format, "info", redactor or Redactor([TOKEN]), stream=stream, environment=environment)


def journal_stream(stream: TextIO) -> str:
    found = os.fstat(stream.fileno())
    return f"{found.st_dev}:{found.st_ino}"


def text(stream: TextIO) -> str:
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def objects(stream: TextIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text(stream).splitlines()]


def fail(message: str) -> NoReturn:
    raise ValueError(message)


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
            log.warning("store away", stream=f"messenger:{number}", reason="the disk is full")
        repeats.flush()
        first, rest = text(stream).splitlines()
        assert first[19:] == " warn  store away     stream=messenger:0 reason='the disk is full'"
        assert rest[19:].partition(" since=")[0] == (
            " warn  store away     repeated=2 streams='messenger:1 messenger:2' reason='the disk is full'"
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
            log.warning("store away")
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
        # On a busy machine the debug mode tells of slow steps as well.
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
    @pytest.mark.parametrize(
        ("said", "left"),
        [
            (f"token {TOKEN}!", f"token {BLOT}!"),
            ("after=tok%7Cen%2Fwith%2Bsigns&x=1", f"after={BLOT}&x=1"),
            ("after=tok%7Cen/with%2Bsigns", f"after={BLOT}"),
            ("https://h/x?access_token=unknown&a=1", f"https://h/x?access_token={BLOT}&a=1"),
            ("next%3Faccess_token%3Dunknown", f"next%3Faccess_token%3D{BLOT}"),
            ("?appsecret_proof=00ff", f"?appsecret_proof={BLOT}"),
            ('{"access_token":"unknown","id":"1"}', f'{{"access_token":"{BLOT}","id":"1"}}'),
            ('{\\"access_token\\":\\"unknown\\"}', f'{{\\"access_token\\":\\"{BLOT}\\"}}'),
            ("Authorization: Bearer abc", f"Authorization: Bearer {BLOT}"),
            ("<CIMultiDict('Authorization': 'Bearer abc')>", f"<CIMultiDict('Authorization': 'Bearer {BLOT}')>"),
            ("(b'Authorization', b'Bearer abc')", f"(b'Authorization', b'Bearer {BLOT}')"),
            ("sent Bearer 0123456789abcdef", f"sent Bearer {BLOT}"),
            ("postgresql://milepost:pw@db/x", f"postgresql://milepost:{BLOT}@db/x"),
            ("a EAABsbCS1iHgBAKZC0123456789abcdef b", f"a {BLOT} b"),
            (
                "https://scontent.fbcdn.net/v/1.jpg?x=1&oh=00_AfA&oe=65",
                f"https://scontent.fbcdn.net/v/1.jpg?x=1&oh={BLOT}&oe=65",
            ),
        ],
    )
    def test_secrets_are_blotted_out_of_texts(self, said: str, left: str) -> None:
        assert Redactor([TOKEN]).redact(said) == left

    @pytest.mark.parametrize(
        "said",
        [
            "pages[0].access_token: is empty; it must hold the secret",
            "stopped for authorization: the token has expired",
            "a Bearer token is missing",
            "postgresql://db:5432/x",
            "2026-11-23 21:40:01 info",
        ],
    )
    def test_prose_about_secrets_is_left_alone(self, said: str) -> None:
        assert Redactor([TOKEN]).redact(said) == said

    @pytest.mark.parametrize(
        ("secret", "spelt"),
        [
            ("from-a-file\n", "from-a-file"),
            ("pass word", "pass+word"),
            ("pass word", "pass%20word"),
            ("a/b c/d", "a%2Fb%20c%2Fd"),
            ('pä"ssword', r"p\u00e4\"ssword"),
            ('pä"ssword', r"pä\"ssword"),
            (r"pä'\ssword", r"pä'\\ssword"),
        ],
    )
    def test_secrets_are_recognised_as_urls_json_and_reprs_spell_them(self, secret: str, spelt: str) -> None:
        assert Redactor([secret]).redact(f"({spelt})") == f"({BLOT})"

    def test_short_secrets_are_ignored(self) -> None:
        assert Redactor(["", "   ", "abcde"]).redact("abcde  fghij") == "abcde  fghij"

    def test_a_secret_that_contains_another_leaves_no_rest(self) -> None:
        assert Redactor(["secret", "secret-and-more"]).redact("secret-and-more secret") == f"{BLOT} {BLOT}"

    def test_a_secret_learnt_later_is_blotted_out_and_so_is_the_old_one(self) -> None:
        redactor = Redactor([TOKEN])
        stream = configured(redactor=redactor)
        redactor.learn("brand-new-token")
        log.info("reloaded", old=TOKEN, new="brand-new-token")
        assert text(stream).endswith(f"old={BLOT} new={BLOT}\n")

    def test_the_repr_of_the_redactor_shows_no_secret(self) -> None:
        assert TOKEN not in repr(Redactor([TOKEN]))

    @given(secret=st.text(min_size=6).map(str.strip).filter(lambda secret: len(secret) >= 6))
    def test_any_secret_is_blotted_out_anywhere(self, secret: str) -> None:
        class Holder(msgspec.Struct):
            token: str

        assume(secret not in f"x {BLOT} y")
        cleaned = Redactor([secret]).clean([f"x {secret} y", {secret: 1}, secret.encode(), Holder(secret)])
        assert isinstance(cleaned, list)
        for left in cleaned:
            assert BLOT in str(left)
            assert secret not in str(left)

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
from milepost.service.logs.redaction import Redactor

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


class TestJournal:
    @pytest.fixture
    def journald(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
        path = tmp_path / "socket"
        monkeypatch.setattr(JournaldTransport, "SOCKET_PATH", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(path))
            receiver.settimeout(5)
            yield receiver

    @pytest.fixture
    def stderr(self, tmp_path: Path) -> Iterator[TextIO]:
        with (tmp_path / "stderr").open("w+", encoding="utf-8") as stream:
            found = os.fstat(stream.fileno())
            configured("auto", stream=stream, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
            yield stream

    @staticmethod
    def entry(receiver: socket.socket) -> dict[str, str]:
        """Read one entry as journald would (systemd.io, "Native Journal Protocol")."""
        size = array.array("i").itemsize
        data, ancillary, _, _ = receiver.recvmsg(1 << 20, socket.CMSG_SPACE(size))
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

    def test_an_entry_has_its_fields(self, journald: socket.socket, stderr: TextIO) -> None:
        structlog.contextvars.bind_contextvars(stream="messenger:123", run="01J", batch=7)
        log.warning("batch failed", inserted=0, error=TimeoutError("30 s"), ids=["a", 1], nothing=None)
        entry = self.entry(journald)
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
        assert stderr.read() == ""

    @pytest.mark.parametrize(
        ("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")]
    )
    def test_levels_become_priorities(self, journald: socket.socket, stderr: TextIO, level: str, priority: str) -> None:
        found = os.fstat(stderr.fileno())
        configured("auto", level="debug", stream=stderr, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
        getattr(log, level)("x")
        assert self.entry(journald)["PRIORITY"] == priority

    def test_a_number_of_streams_is_a_field_of_its_own_and_names_none(
        self, journald: socket.socket, stderr: TextIO
    ) -> None:
        configured("auto", stream=stderr, JOURNAL_STREAM=journal_stream(stderr))
        log.info("started", streams=4)
        entry = self.entry(journald)
        assert (entry["MESSAGE"], entry["MILEPOST_STREAMS"]) == ("started streams=4", "4")
        assert "MILEPOST_STREAM" not in entry

    def test_a_line_for_many_repeats_is_found_by_each_of_its_streams(
        self, journald: socket.socket, stderr: TextIO
    ) -> None:
        repeats = configured_deduplicator("auto", stream=stderr, JOURNAL_STREAM=journal_stream(stderr))
        for number in range(8):
            log.warning("store away", stream=f"messenger:{number}", run=f"run-{number}", reason="the disk is full")
        self.entry(journald)
        repeats.flush()
        entry = self.entry(journald)
        assert int(entry.pop("CODE_LINE")) > 0
        since = entry.pop("MILEPOST_SINCE")
        assert entry == {
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "milepost",
            "CODE_FILE": __file__,
            "CODE_FUNC": "test_a_line_for_many_repeats_is_found_by_each_of_its_streams",
            "MESSAGE": "store away repeated=7"
            " streams='messenger:1 messenger:2 messenger:3 messenger:4 messenger:5 and 2 more'"
            f" reason='the disk is full' since={since}",
            "MILEPOST_EVENT": "store away",
            "MILEPOST_STREAM": " | ".join(f"messenger:{number}" for number in range(1, 8)),
            "MILEPOST_REASON": "the disk is full",
            "MILEPOST_REPEATED": "7",
        }

    def test_a_line_for_the_repeats_of_one_run_has_its_stream_and_run(
        self, journald: socket.socket, stderr: TextIO
    ) -> None:
        repeats = configured_deduplicator("auto", stream=stderr, JOURNAL_STREAM=journal_stream(stderr))
        structlog.contextvars.bind_contextvars(stream="messenger:123", run="01J")
        for attempts in range(3):
            log.warning("store away", reason="the disk is full", attempts=attempts)
        structlog.contextvars.bind_contextvars(stream="messenger:456", run="another's")
        self.entry(journald)
        repeats.flush()
        entry = self.entry(journald)
        assert (entry["MILEPOST_STREAM"], entry["MILEPOST_RUN"]) == ("messenger:123", "01J")
        assert "MILEPOST_ATTEMPTS" not in entry, "which differs"

    def test_a_line_for_many_kinds_has_no_call_site(self, journald: socket.socket, stderr: TextIO) -> None:
        repeats = configured_deduplicator("auto", stream=stderr, JOURNAL_STREAM=journal_stream(stderr))
        for number in range(MAX_KINDS + 1):
            log.warning("from here", number=number, reason=number)
            self.entry(journald)
        log.warning("from there", reason="another")
        log.warning("from elsewhere", reason="another")
        repeats.flush()
        entry = self.entry(journald)
        assert "CODE_LINE" not in entry
        assert entry["MILEPOST_EVENT"] == "more of many kinds"

    def test_a_record_of_the_standard_library_keeps_its_call_site(
        self, journald: socket.socket, stderr: TextIO
    ) -> None:
        logging.getLogger("aiohttp").warning("slow")
        entry = self.entry(journald)
        assert entry["CODE_FILE"] == __file__
        assert entry["CODE_FUNC"] == "test_a_record_of_the_standard_library_keeps_its_call_site"
        assert entry["MILEPOST_LOGGER"] == "aiohttp"

    def test_no_value_can_forge_a_field_and_no_field_has_a_secret(
        self, journald: socket.socket, stderr: TextIO
    ) -> None:
        log.error("a\nPRIORITY=0\n%s", TOKEN, **{"odd key=é\n": f"x\nMILEPOST_RUN=forged\n{TOKEN}"})
        entry = self.entry(journald)
        assert entry["PRIORITY"] == "3"
        assert "MILEPOST_RUN" not in entry
        assert entry["MILEPOST_ODD_KEY___"] == f"x\nMILEPOST_RUN=forged\n{BLOT}"
        assert "\n" not in entry["MESSAGE"]
        assert TOKEN not in str(entry)

    def test_a_traceback_is_part_of_the_message_and_a_field(self, journald: socket.socket, stderr: TextIO) -> None:
        try:
            fail("x")
        except ValueError:
            log.exception("bug")
        entry = self.entry(journald)
        assert entry["MESSAGE"].splitlines()[:2] == ["bug", "    Traceback (most recent call last):"]
        assert entry["MILEPOST_EXCEPTION"].endswith("ValueError: x")

    def test_an_entry_too_large_for_a_datagram_arrives(self, journald: socket.socket, stderr: TextIO) -> None:
        log.info("large", items=["x" * 10_000] * 90)
        assert len(self.entry(journald)["MILEPOST_ITEMS"]) > 900_000

    def test_without_journald_lines_have_the_priority_before_them(
        self, journald: socket.socket, stderr: TextIO, tmp_path: Path
    ) -> None:
        journald.close()
        try:
            fail("x")
        except ValueError:
            log.exception("bug", batch=7)
        log.info("next")
        lines = (tmp_path / "stderr").read_text("utf-8").splitlines()
        assert lines[:2] == ["<3>bug batch=7", "<3>    Traceback (most recent call last):"]
        assert lines[-2:] == ["<3>    ValueError: x", "<6>next"]

    def test_with_journald_asleep_the_work_goes_on(
        self, journald: socket.socket, stderr: TextIO, tmp_path: Path
    ) -> None:
        for number in range(5000):
            log.info("burst", number=number)
        written = (tmp_path / "stderr").read_text("utf-8").splitlines()
        assert written[-1] == "<6>burst number=4999"
        assert self.entry(journald)["MILEPOST_NUMBER"] == "0"

    def test_a_journald_that_comes_back_is_used_again(
        self, journald: socket.socket, stderr: TextIO, tmp_path: Path
    ) -> None:
        journald.close()
        (tmp_path / "socket").unlink()
        log.info("away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(tmp_path / "socket"))
            log.info("back")
            assert self.entry(receiver)["MESSAGE"] == "back"

    def test_lines_lost_on_both_ways_are_counted_once(self, journald: socket.socket, tmp_path: Path) -> None:
        with Path("/dev/full").open("w", encoding="utf-8") as stderr:
            found = os.fstat(stderr.fileno())
            configured("auto", stream=stderr, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
            (tmp_path / "socket").rename(tmp_path / "away")
            log.info("lost")
            (tmp_path / "away").rename(tmp_path / "socket")
            log.info("told")
            log.info("healed")
        assert self.entry(journald)["MILEPOST_LOG_LINES_LOST"] == "1"
        assert "MILEPOST_LOG_LINES_LOST" not in self.entry(journald)

    def test_no_field_has_a_name_too_long_for_journald(self, journald: socket.socket, stderr: TextIO) -> None:
        log.info("x", **{"k" * 100: 1})
        assert max(map(len, self.entry(journald))) == 64

    def test_json_and_console_are_used_where_they_are_set(
        self, journald: socket.socket, stderr: TextIO, tmp_path: Path
    ) -> None:
        found = os.fstat(stderr.fileno())
        configured("json", stream=stderr, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
        log.info("x")
        assert json.loads((tmp_path / "stderr").read_text("utf-8"))["event"] == "x"
