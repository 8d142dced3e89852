"""Destinations: what is shown of Apprise's URLs, and which of them are refused."""

import logging
import smtplib
from collections.abc import Iterator
from email import message_from_string
from unittest.mock import MagicMock

import pytest

from milepost.core.errors import BadConfiguration
from milepost.core.notices import NoticeKind
from milepost.reporting.notices import NoticeText, trial_notice
from milepost.service.notices import destinations

# Apprise imports a module that Python 3.13 no longer has, where there is one.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

TELEGRAM = "tgram://123456789:abcdefg_hijklmnop/12315544"
DISCORD = "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js"
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general"


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Restore the loggers that are kept out of the log."""
    before = {name: (each.handlers[:], each.propagate, each.level) for name, each in _loggers().items()}
    yield
    for name, each in _loggers().items():
        if name in before:
            each.handlers[:], each.propagate, level = before[name]
            each.setLevel(level)


def _loggers() -> dict[str, logging.Logger]:
    return {name: logging.getLogger(name) for name in ("apprise", "urllib3", "requests", "markdown")}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("jsons://user:password@crm.example:8443/hooks/secret?method=PUT", "jsons://crm.example"),
        ("mailtos://user:password@example.com", "mailtos://example.com"),
        ("gotify://gotify.example/A-token1234567", "gotify://gotify.example"),
        (TELEGRAM, "tgram://"),
        (DISCORD, "discord://"),
        (SLACK, "slack://"),
        ("ntfy://a-topic-that-nobody-knows", "ntfy://"),
        ("JSON://[::1]:8080/path", "json://[::1]"),
    ],
)
def test_no_more_is_shown_of_a_url_than_service_and_host(url: str, name: str) -> None:
    (found,) = destinations([url])
    assert found.name in (name, name.replace("[::1]", ""))


def test_two_destinations_of_one_host_are_told_apart() -> None:
    found = destinations(["json://crm.example/a", TELEGRAM, "json://crm.example/b"])
    assert [each.name for each in found] == ["json://crm.example (1)", "tgram://", "json://crm.example (2)"]


def test_every_url_that_apprise_does_not_take_is_named_by_its_place_only() -> None:
    with pytest.raises(BadConfiguration) as refused:
        destinations(["json://crm.example", "json://", "a-secret://of-somebody", "tgram://no-token-of-theirs"])
    assert [line.partition(":")[0] for line in refused.value.message.splitlines()] == [
        "notify.urls[1]",
        "notify.urls[2]",
        "notify.urls[3]",
    ]
    for part in ("crm.example", "of-somebody", "no-token"):
        assert part not in str(refused.value)


def test_what_apprise_logs_reaches_no_log_and_its_reason_holds_no_url(caplog: pytest.LogCaptureFixture) -> None:
    (found,) = destinations(["json://user:password@127.0.0.1:1/secret-path"])
    with caplog.at_level(logging.DEBUG):
        assert found.send(trial_notice()) == "the service cannot be reached"
    assert caplog.records == []


def test_destinations_go_on_giving_their_reasons_after_urls_that_are_refused() -> None:
    (found,) = destinations(["json://127.0.0.1:1"])
    with pytest.raises(BadConfiguration):
        destinations(["a-secret://of-somebody"])
    assert found.send(trial_notice()) == "the service cannot be reached"


def test_an_email_has_the_lines_of_its_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    server = MagicMock(**{"sendmail.return_value": {}})  # nobody was refused
    monkeypatch.setattr(smtplib, "SMTP", lambda *_, **__: server)
    (found,) = destinations(["mailto://user:password@crm.example?to=somebody@crm.example"])
    assert (
        found.send(NoticeText(NoticeKind.STOPPED, "Milepost: a title", "Why: 1 < 2 & so on.\nWhat to do: this."))
        is None
    )
    message = message_from_string(server.sendmail.call_args.args[2])
    (plain,) = [part for part in message.walk() if part.get_content_type() == "text/plain"]
    assert str(plain.get_payload()).splitlines() == ["Why: 1 < 2 & so on.", "What to do: this."]


def test_without_urls_apprise_is_not_loaded() -> None:
    assert destinations([]) == ()
