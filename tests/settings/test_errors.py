"""The messages about a file that is wrong."""

import errno
import os
from pathlib import Path
from threading import Thread
from typing import IO, Any

import pytest

from milepost.core.errors import BadConfiguration, ConfigurationAway
from milepost.settings import yaml
from milepost.settings.load import load
from milepost.settings.yaml import MAX_BYTES


def refused(file: Path, content: str | bytes, **environment: str) -> str:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadConfiguration) as error:
        load(file, environment)
    return str(error.value).replace(str(file), "config.yaml")


EVERYTHING_WRONG = """\
store:
  url: mysql://root:hidden-1@db/x
  synchronous: off
source:
  kind: facebook
  base_url: http://graph.facebook.com/?access_token=hidden-2
  version: 26.0
  app_secret: [hidden-3]
  calls_per_second: fast
  discover_pages: maybe
sync:
  interval: 300
  batch_size: 500
  batchsize: 5
  interval: 5m
retry:
  base_delay: 1m
pages:
  - id: 1234567890
    platforms: [messenger, whatsapp]
    access_token: "hidden 4"
  - name: No Id
    access_token: ${BAKERY_TOKEN}
  - id: "7"
    acces_token: hidden-5
  - id: "7"
    access_token: hidden-6
    access_token_file: /nonexistent
http:
  listen: 0.0.0.0:9464
  token: hidden-7
discover_pages: true
logs: {}
"""

EVERY_LINE = """\
config.yaml:2: store.url: found "mysql://***@db/x"; allowed: sqlite:///relative/path, \
sqlite:////absolute/path, or postgresql://user@host/database (no password)
config.yaml:3: store.synchronous: found off; allowed: full or normal
config.yaml:6: source.base_url: found "http://graph.facebook.com/?***"; allowed: an https:// URL (http:// to this \
machine only) without user, password, query and fragment
config.yaml:7: source.version: found 26.0; allowed: a version of the Graph API, such as v26.0
config.yaml:8: source.app_secret: found a list; allowed: printable ASCII characters without spaces; in quotes if all \
are digits
config.yaml:9: source.calls_per_second: found "fast"; allowed: a number from 0 to 1000
config.yaml:10: source.discover_pages: found "maybe"; allowed: true or false
config.yaml:13: sync.batch_size: found 500; allowed: a whole number from 1 to 200
config.yaml:14: sync.batchsize: unknown key; did you mean batch_size? allowed: interval, batch_size, \
messages_per_conversation, message_history, max_run_duration, max_batches_per_run, concurrency, events_chunk_size, \
watermark_overlap, full_sweep_interval
config.yaml:15: sync.interval: given twice, first on line 12; write it once
config.yaml:16: retry.max_delay: found 32s; allowed: at least retry.base_delay, which is 1m
config.yaml:19: pages[0].id: found 1234567890; allowed: the digits of the id; write it in quotes: "1234567890"
config.yaml:20: pages[0].platforms[1]: found "whatsapp"; allowed: [messenger], [instagram] or [messenger, instagram]
config.yaml:21: pages[0].access_token: found a value that is not shown here; allowed: printable ASCII characters \
without spaces; in quotes if all are digits
config.yaml:22: pages[1].id: missing; allowed: the digits of the id; write it in quotes: "1234567890"
config.yaml:23: pages[1].access_token: environment variable BAKERY_TOKEN is not set
config.yaml:24: pages[2].access_token: missing; allowed: access_token or access_token_file, which source.kind: \
facebook needs for each page
config.yaml:25: pages[2].acces_token: unknown key; did you mean access_token? allowed: id, name, platforms, \
access_token, access_token_file, instagram_account_id
config.yaml:26: pages[3].id: pages[2] has this id, too; allowed: each page once
config.yaml:28: pages[3].access_token_file: given beside access_token; allowed: one of the two
config.yaml:31: http.token: found a shorter one; allowed: a token of 16 characters or more, as http.listen is open to \
other machines
config.yaml:32: discover_pages: moved into source, where it is given as well; remove it here
config.yaml:33: logs: unknown key; did you mean log? allowed: store, source, pages, sync, retry, webhooks, \
deliveries, notify, http, log
"""


def test_every_problem_is_reported_at_once_in_the_order_of_the_file(file: Path) -> None:
    assert refused(file, EVERYTHING_WRONG).splitlines() == EVERY_LINE.splitlines()


@pytest.mark.parametrize("indentation", [0, 1, 7, 100])
def test_lines_are_counted_as_an_editor_does(file: Path, indentation: int) -> None:
    text = "# é\r\n" + "\n" * indentation + "sync:\n\n  # here\n  batch_size: 500"
    assert refused(file, text).startswith(f"config.yaml:{5 + indentation}: sync.batch_size: found 500;")


@pytest.mark.parametrize(
    ("key", "secret", "shown"),
    [
        ("deliveries: [{name: '%s'}]", "whsec_ab+cd/efGHij+klMN/opqrST+uvwx/yzAB+CDEF/GHI=", "whsec_…"),
        ("http: {listen: '%s'}", "whsec_ab+cd/efGHij+klMN/opqrST+uvwx/yzAB+CDEF/GHI=", "whsec_…"),
        ("notify: {on: ['%s']}", "tgram://123456:AAE-bcd-efg/99", "tgram://***"),
        ("store: {url: '%s'}", "slack://T1JJ/B3HR/Ap-Mab", "slack://***"),
    ],
)
def test_a_secret_in_the_place_of_another_value_is_not_shown(file: Path, key: str, secret: str, shown: str) -> None:
    text = refused(file, key % secret)
    assert f'found "{shown}"' in text
    assert secret[8:] not in text


class TestKeys:
    def test_an_error_about_a_section_lists_its_keys(self, file: Path) -> None:
        assert refused(file, "log:\n") == "config.yaml:1: log: found nothing; allowed: the keys format, level"
        assert 'config.yaml:1: log: found "info"; allowed: the keys' in refused(file, "log: info")
        assert "pages: found a mapping; allowed: a list, each item" in refused(file, "pages: {id: '1'}")
        assert 'pages[0]: found "x"; allowed: a list, each item' in refused(file, "pages: [x]")

    @pytest.mark.parametrize("key", ["interval_seconds", "Interval", "intervall"])
    def test_an_error_about_an_unknown_key_suggests_the_nearest(self, file: Path, key: str) -> None:
        assert f"config.yaml:2: sync.{key}: unknown key; did you mean interval?" in refused(file, f"sync:\n  {key}: 5m")

    @pytest.mark.parametrize("key", ["1", "true", "null", "2026-01-01", "<<"])
    def test_a_key_that_yaml_takes_for_something_else_is_just_unknown(self, file: Path, key: str) -> None:
        assert "unknown key" in refused(file, f"{key}: {{}}")

    def test_a_key_that_is_no_word_does_not_break_the_line(self, file: Path) -> None:
        assert refused(file, '"a\\nb": 1').startswith('config.yaml:1: "a\\nb": unknown key')
        assert refused(file, "? [a]\n: 1").startswith('config.yaml:1: "?": a key must be a single word')


@pytest.mark.parametrize(
    ("http", "webhooks", "is_refused"),
    [
        ("", "127.0.0.1:9464", True),
        ("127.0.0.1:9465", "127.0.0.1:9465", True),
        ("127.0.0.1:9465", "127.0.0.1:9464", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),  # each takes a free port
        ("127.0.0.1:9465", "", False),
    ],
)
def test_webhooks_have_an_address_of_their_own(file: Path, http: str, webhooks: str, *, is_refused: bool) -> None:
    content = f"webhooks: {{listen: '{webhooks}', verify_token: word}}\n"
    content += f"http: {{listen: '{http}'}}\n" if http else ""
    if is_refused:
        told = refused(file, content)
        assert (
            told == "config.yaml:1: webhooks.listen: http.listen is this address; allowed: another one, or another port"
        )
    else:
        file.write_text(content)
        assert load(file, {}).webhooks.listen == webhooks


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("", "config.yaml: is empty (leave -c out to run with the built-in settings)"),
            ("# only a comment\n", "config.yaml: is empty (leave -c out to run with the built-in settings)"),
            ("milepost", "config.yaml:1: must be a mapping of sections, such as source: and sync:"),
            ("- a\n", "config.yaml:1: must be a mapping of sections, such as source: and sync:"),
            (b"log:\n  level: \xff\n", "config.yaml:2: is not UTF-8 text"),
            ("log:\n  level: a\0b\n", "config.yaml:2: not valid YAML: control character U+0000"),
            (b"\xef\xbb\xbflog:\n", "config.yaml:1: log: found nothing; allowed: the keys format, level"),
        ],
    )
    def test_a_file_that_is_no_configuration_is_refused(self, file: Path, content: str | bytes, expected: str) -> None:
        assert refused(file, content) == expected

    @pytest.mark.parametrize(
        ("content", "line", "expected"),
        [
            ("log:\n\tlevel: info", 2, "found character '\\t' that cannot start any token"),
            ("log: {level: info\nsync: {}", 2, "while parsing a flow mapping"),
            ("log:\n  level: 'info\n", 3, "while scanning a quoted scalar"),
            ("log: {}\n---\nlog: {}", 2, "expected a single document"),
            ("log:\n  - a\n  level: b", 3, "while parsing a block collection"),
        ],
    )
    def test_a_syntax_error_is_reported_with_its_line(self, file: Path, content: str, line: int, expected: str) -> None:
        text = refused(file, content)
        assert text.startswith(f"config.yaml:{line}: not valid YAML: ")
        assert expected in text

    def test_a_missing_file_is_refused(self, file: Path) -> None:
        with pytest.raises(BadConfiguration, match=r"config\.yaml: there is no such file"):
            load(file, {})

    def test_a_directory_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadConfiguration, match="is a directory, not a file"):
            load(tmp_path, {})

    def test_a_pipe_is_read_once_and_no_second_time_for_ever(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pipe = tmp_path / "config.yaml"
        os.mkfifo(pipe)
        writer = Thread(target=pipe.write_text, args=["log: {level: error}"], daemon=True)
        writer.start()
        assert load(pipe, {}).log.level == "error"
        writer.join()
        monkeypatch.setattr(yaml, "PIPE_SECONDS", 0.01)
        with pytest.raises(BadConfiguration, match="is a pipe, which can be read only once"):
            load(pipe, {})  # as at a reload

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
    @pytest.mark.parametrize("secret", [True, False])
    def test_a_file_that_cannot_be_read_now_is_no_bad_configuration(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, number: int, secret: bool
    ) -> None:
        token = file.with_name("token")
        token.write_text("a-token-of-some-length")
        file.write_text("http: {token_file: token}")
        really = Path.open

        def failing(path: Path, mode: str = "r") -> IO[Any]:
            if path == (token if secret else file):
                raise OSError(number, os.strerror(number))
            return really(path, mode)

        monkeypatch.setattr(Path, "open", failing)
        with pytest.raises(ConfigurationAway, match=os.strerror(number)):
            load(file, {})

    def test_an_unreadable_file_is_refused(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*_: object) -> None:  # not by file mode, which does not bind root
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
        with pytest.raises(BadConfiguration, match="permission to read it is denied"):
            load(file, {})

    def test_other_reasons_are_reported_in_the_words_of_the_system(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(BadConfiguration, match="cannot be read: Not a directory"):
            load(tmp_path / "file" / "config.yaml", {})


class TestBombs:
    def test_a_file_above_a_mebibyte_is_refused_unread(self, file: Path) -> None:
        assert refused(file, "#" * (MAX_BYTES + 1)) == "config.yaml: is larger than 1048576 bytes"

    def test_aliases_are_refused_before_they_unfold(self, file: Path) -> None:
        laughs = "a: &a [x, x]\n" + "".join(
            f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        )
        expected = "anchors (&) and aliases (*) are not supported: write the value out, or text in quotes"
        assert refused(file, laughs) == f"config.yaml:1: not valid YAML: {expected}"
        assert expected in refused(file, "a: *b")

    @pytest.mark.parametrize("nesting", ["[" * 50_000, "{a: " * 50_000, "- " * 50_000, "? " * 50_000])
    def test_deep_nesting_is_refused_without_exhausting_the_stack(self, file: Path, nesting: str) -> None:
        assert refused(file, nesting) == "config.yaml:1: not valid YAML: nested too deeply"

    @pytest.mark.parametrize(
        "value",
        [
            "!!python/object/apply:os.system [ls]",
            "!!python/name:os.system",
            "!!binary aGk=",
            "!secret x",
            "!!set {a}",
            "!!int x",
        ],
    )
    def test_tags_are_refused(self, file: Path, value: str) -> None:
        text = refused(file, f"log:\n  level: {value}")
        assert text.startswith("config.yaml:2: log.level: ")
        assert "system" not in text

    def test_numbers_without_end_are_refused(self, file: Path) -> None:
        text = refused(file, f"sync:\n  batch_size: {'9' * 5000}\n  interval: {'9' * 5000}s")
        assert "sync.batch_size: " in text
        assert "sync.interval: " in text
        assert len(text) < 1000
