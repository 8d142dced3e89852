"""Destinations of deliveries: which are accepted, and that their secrets stay secret."""

from base64 import b64encode
from pathlib import Path

import pytest

from milepost.core.errors import BadConfiguration
from milepost.settings.load import load, secret_report
from milepost.settings.secrets import secret_files, secrets
from milepost.settings.types import is_local_name

NEW, OLD = (f"whsec_{b64encode(name.encode() * 12).decode()}" for name in ("new", "old"))
URL = "https://crm.example/hooks/milepost?tenant=7"


def written(**keys: str) -> str:
    given = {"name": "crm", "url": URL, "secret": NEW} | keys
    return "deliveries:\n- " + "\n  ".join(f"{key}: {value}" for key, value in given.items() if value)


def refused(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(BadConfiguration) as error:
        load(file, {})
    return error.value.message


def test_a_destination_has_sensible_defaults(file: Path) -> None:
    file.write_text(written())
    (delivery,) = load(file, {}).deliveries
    assert (delivery.name, delivery.url, delivery.from_) == ("crm", URL, "now")
    assert delivery.kinds == ("contact", "conversation", "message")
    assert NEW not in repr(delivery)


@pytest.mark.parametrize("secret", [f"[{NEW}, {OLD}]", f'"{NEW} {OLD}"', "${BOTH}", "['${NEW}', '${OLD}']"])
def test_two_secrets_sign_while_a_receiver_changes_over(file: Path, secret: str) -> None:
    file.write_text(written(secret=secret))
    settings = load(file, {"NEW": NEW, "OLD": OLD, "BOTH": f"{NEW} {OLD}"})
    assert secrets(settings) == (NEW, OLD)


@pytest.mark.parametrize(("content", "expected"), [(f"{NEW}\n", (NEW,)), (f"{NEW}\n{OLD}\n", (NEW, OLD))])
def test_secrets_are_read_from_a_file(file: Path, content: str, expected: tuple[str, ...]) -> None:
    file.with_name("secret").write_text(content)
    file.write_text(written(secret="", secret_file="secret"))
    settings = load(file, {})
    assert secrets(settings) == expected
    assert secret_files(settings) == (file.parent / "secret",)
    report = {entry.key: entry.origin for entry in secret_report(file, {})}
    assert report["deliveries[0].secret"] == f"file {file.parent}/secret"


@pytest.mark.parametrize("key", ["name", "url", "secret"])
def test_what_is_missing_is_named(file: Path, key: str) -> None:
    assert f"deliveries[0].{key}: missing; allowed: " in refused(file, written(kinds="[contact]", **{key: ""}))


@pytest.mark.parametrize(
    "secret",
    ["secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!", NEW.removeprefix("whsec_"), f"[{NEW}, {OLD}, {NEW}]", "[]"],
)
def test_a_secret_of_another_form_is_refused_and_not_shown(file: Path, secret: str) -> None:
    text = refused(file, written(secret=secret))
    assert "deliveries[0].secret: found" in text
    assert "allowed: whsec_ and 24 to 64 random bytes in base64" in text
    assert "c2hvcnQ" not in text
    assert NEW[6:] not in text


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.7/hook", "http://10.0.0.7:8080/hook", "http://[::1]:3000/", "http://localhost:3000/hook",
        "http://crm:3000/hook", "https://crm.example", "http://127.0.0.1:9999/a?b=c",
    ],
)  # fmt: skip
def test_these_urls_are_accepted(file: Path, url: str) -> None:
    file.write_text(written(url=f'"{url}"'))
    assert load(file, {}).deliveries[0].url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example/hook", "http://203.0.114.7/hook", "ftp://crm.example/", "https://user:word@crm.example/",
        "https:///hook", "https://crm.example:0/", "https://crm.example/#part", "crm.example/hook",
    ],
)  # fmt: skip
def test_these_urls_are_refused_and_not_shown(file: Path, url: str) -> None:
    text = refused(file, written(url=f'"{url}"'))
    assert "deliveries[0].url: found " in text
    assert "crm.example" not in text
    assert "/hook" not in text, "a receiver's path may be its secret"


def test_a_name_is_given_once(file: Path) -> None:
    text = refused(file, written() + "\n" + written().removeprefix("deliveries:\n"))
    assert "config.yaml:5: deliveries[1].name: deliveries[0] has this name, too; allowed: each destination once" in text


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"url": "https://crm..example"},
            "deliveries[0].url: found a value that is not shown here; allowed: an https://",
        ),
        ({"kinds": "[messages]"}, "deliveries[0].kinds"),
        ({"kinds": "[]"}, "deliveries[0].kinds: found a list; allowed: a list of contact, conversation and message"),
        ({"kinds": "[contact, contact]"}, "deliveries[0].kinds"),
        ({"from": "yesterday"}, 'deliveries[0].from: found "yesterday"; allowed: now or start'),
        ({"name": "'my crm'"}, 'deliveries[0].name: found "my crm"; allowed: a name of up to 63 letters'),
        ({"retries": "3"}, "deliveries[0].retries: unknown key; did you mean "),
    ],
)
def test_other_mistakes_are_explained(file: Path, keys: dict[str, str], expected: str) -> None:
    assert expected in refused(file, written(**keys))


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("localhost", True), ("crm", True), ("192.168.1.4", True), ("::1", True), ("fd00::1", True),
     ("crm.example", False), ("1.1.1.1", False), ("2606:4700::1", False)],
)  # fmt: skip
def test_a_host_is_local_by_its_name_or_address(host: str, is_local: bool) -> None:
    assert is_local_name(host) is is_local
