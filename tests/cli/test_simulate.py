"""`milepost simulate`: a server that explains its use, until a signal ends it."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kit.binary import milepost
from milepost.cli.simulate import command
from milepost.core.errors import BadConfiguration, MilepostError
from milepost.settings.load import load


@contextmanager
def simulating(directory: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the simulator with one page; return the process and the configuration that it wrote."""
    with subprocess.Popen(
        [sys.executable, "-m", "milepost", "simulate", "--port", "0", "--pages", "1", *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, "".join(_until_the_last_line(process))
        finally:
            process.kill()


def _until_the_last_line(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if line.startswith("    instagram_account_id:"):
            return


async def test_the_configuration_that_it_writes_works(tmp_path: Path) -> None:
    (tmp_path / "app-secret").write_text("s3cret\n")
    config = tmp_path / "simulated.yaml"
    with simulating(tmp_path, "--conversations", "3", "--app-secret-file", "app-secret") as (_, text):
        assert "made up" in text
        config.write_text(text.replace("source:\n", "source:\n  calls_per_second: 0\n"))
        checked = await milepost(tmp_path, "config", "check", "--online", "-c", "simulated.yaml")
        assert (checked.code, checked.stderr) == (0, "")
        assert checked.stdout.endswith("  instagram: conversations can be read\n")
        synced = await milepost(tmp_path, "sync", "-c", "simulated.yaml")
        assert synced.code == 0
        shown = await milepost(tmp_path, "status", "-c", "simulated.yaml")
        assert shown.stdout.count("complete") == 2
    page = load(config, {}).pages[0]
    assert page.platforms == ("messenger", "instagram")
    assert page.access_token.get_secret_value().startswith("EAASimulated")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_simulator_ends_silently_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with simulating(tmp_path) as (process, _):
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


def test_the_simulator_takes_actions_and_lists_the_requests_it_got(tmp_path: Path) -> None:
    with simulating(tmp_path, "--faults", "hostile,hang=0@1s,reset=0") as (_, text):
        found = re.search(r"POST http://127\.0\.0\.1:(\d+)/simulator/", text)
        page = re.search(r'- id: "(\d+)"', text)
        assert found is not None
        assert page is not None
        with closing(HTTPConnection("127.0.0.1", int(found[1]), timeout=20)) as connection:

            def answered(method: str, path: str, body: str | None = None) -> Any:  # noqa: ANN401  JSON of any shape
                connection.request(method, path, body, {"Content-Type": "application/json"})
                return json.load(connection.getresponse())

            assert answered("POST", "/simulator/limit", '{"code": 4, "seconds": 60}') == {"result": None}
            assert answered("GET", f"/v26.0/{page[1]}/conversations")["error"]["code"] == 4
            requests = answered("GET", "/simulator/requests")
    assert requests["by_page"] == {page[1]: 1}
    assert [(each["page_id"], each["fault"]) for each in requests["last"]] == [(page[1], "limit")]


def test_the_same_seed_gives_the_same_world(tmp_path: Path) -> None:
    def pages(seed: str) -> str:
        with simulating(tmp_path, "--seed", seed) as (_, text):
            return text[text.index("pages:") :]

    assert pages("7") == pages("7") != pages("8")


def test_a_simulator_on_all_addresses_is_called_on_loopback(tmp_path: Path) -> None:
    with simulating(tmp_path, "--host", "0.0.0.0") as (_, text):  # noqa: S104  # as in a container
        assert "base_url: http://127.0.0.1:" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--faults", "earthquake=1"),
        ("--faults", "http_500=2"),
        ("--conversations", "-1"),
        ("--arrivals", "1e9"),
        ("--pages", "0"),
        ("--port", "65536"),
        ("--port", "x"),
        ("--host", ""),
    ],
)
def test_impossible_options_are_wrong_usage(arguments: tuple[str, str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert arguments[0].removeprefix("--").split("_")[0][:5] in result.stderr


def test_a_port_that_is_taken_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error = CliRunner().invoke(command, ["--port", port]).exception
    assert isinstance(error, MilepostError)
    assert error.message == f"the simulator cannot listen on 127.0.0.1:{port}: address already in use"
    assert "port" in error.hint


@pytest.mark.parametrize("host", ["a..b", "203.0.113.1"])
def test_a_host_that_is_not_this_machine_is_reported(host: str) -> None:
    error = CliRunner().invoke(command, ["--host", host]).exception
    assert isinstance(error, MilepostError)
    assert error.message.startswith(f"the simulator cannot listen on {host}:9470: ")
    assert error.hint == "choose an address of this machine, such as 127.0.0.1"


def test_a_missing_secret_file_is_reported(tmp_path: Path) -> None:
    error = CliRunner().invoke(command, ["--app-secret-file", str(tmp_path / "missing")]).exception
    assert isinstance(error, BadConfiguration)
    (tmp_path / "empty").touch()
    assert CliRunner().invoke(command, ["--app-secret-file", str(tmp_path / "empty")]).exit_code == 2


def test_the_configuration_takes_the_webhooks_that_are_sent(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("app-secret")
    url = "http://127.0.0.1:9/webhooks/meta"
    arguments = "--app-secret-file", "secret", "--conversations", "1", "--webhooks", url
    with simulating(tmp_path, *arguments) as (_, configuration):
        (tmp_path / "config.yaml").write_text(configuration)
    webhooks = load(tmp_path / "config.yaml", {}).webhooks
    assert (webhooks.listen, webhooks.path) == ("127.0.0.1:9", "/webhooks/meta")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--webhooks", "http://127.0.0.1:9/hook"), "--webhooks needs --app-secret-file"),
        (("--webhooks", "ftp://127.0.0.1/hook", "--app-secret-file", "secret"), "is not an http:// or https:// URL"),
        (("--webhooks", "127.0.0.1:9/hook", "--app-secret-file", "secret"), "is not an http:// or https:// URL"),
        (("--webhooks", "http://[::1/hook", "--app-secret-file", "secret"), "is not an http:// or https:// URL"),
        (("--webhooks", "http://a:99999/hook", "--app-secret-file", "secret"), "is not an http:// or https:// URL"),
        (("--webhooks", "http://a..b/hook", "--app-secret-file", "secret"), "is not an http:// or https:// URL"),
    ],
)
def test_webhooks_that_nobody_would_take_are_refused(arguments: tuple[str, ...], expected: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
