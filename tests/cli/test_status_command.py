"""`milepost status` on real databases, and beside a daemon."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from kit.builders import NOON, RATE_LIMIT, STREAM, run_started, sweep_started, walking
from kit.databases import record
from kit.loopback import Ending, following, nowhere, sending
from milepost.cli.options import configured_streams
from milepost.cli.status import command, fetch_status
from milepost.core import events
from milepost.core.errors import BadConfiguration, StoreRefused
from milepost.core.events import Reason, RunEnded, RunStatus, Tally
from milepost.core.model import Platform, Stream
from milepost.core.position import Mode
from milepost.core.problems import Scope
from milepost.reporting.health import DaemonStatus
from milepost.reporting.status import State
from milepost.reporting.views import OpenSweep, Status, StreamStatus, Written
from milepost.settings.model import HttpSettings, PageSettings, Settings
from milepost.stores.sqlite.connection import lock_database

COMPLETE = events.SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, inserted=3))


DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the database will be: the built-in settings apply in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "simulated.db"


def status(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def configure(stream: Stream) -> None:
    """Write a configuration with one stream over the same database."""
    Path("config.yaml").write_text(
        f'pages: [{{id: "{stream.page_id}", access_token: x, platforms: [{stream.platform}]}}]\n'
        "source: {kind: facebook}\nstore: {url: sqlite:///simulated.db}\n"
    )


def read_status(*arguments: str) -> Status:
    return msgspec.json.decode(status("--json", *arguments).stdout, type=Status)


@pytest.mark.usefixtures("database")
def test_without_a_database_it_says_how_to_start_and_creates_none() -> None:
    result = status()
    assert (result.exit_code, result.output) == (
        0,
        "No stream has been synced yet: start with `milepost sync` or `milepost run`.\n",
    )
    assert not list(Path.cwd().iterdir())


@pytest.mark.usefixtures("database")
def test_configured_streams_are_shown_before_they_are_first_synced() -> None:
    configure(Stream(Platform.INSTAGRAM, "77"))
    (stream,) = read_status().streams
    assert (stream.stream, stream.state, stream.is_configured) == ("instagram:77", State.NEVER_SYNCED, True)


def test_streams_in_the_journal_are_shown(database: Path) -> None:
    record(database, COMPLETE)
    result = status()
    assert result.exit_code == 0
    assert STREAM.key in result.output
    assert "complete" in result.output


def test_a_removed_stream_is_no_longer_shown(database: Path) -> None:
    record(database, COMPLETE, events.StreamRemoved("somebody"))
    assert STREAM.key not in status().output
    configure(STREAM)
    (stream,) = read_status().streams
    assert (stream.state, stream.is_configured, stream.written) == (State.NEVER_SYNCED, True, Written(0, 0, 0, 0))


def test_json_holds_the_same_as_the_journal(database: Path) -> None:
    record(database, COMPLETE)
    found = read_status()
    assert (found.database, found.is_at_work) == ("simulated.db", False)
    (stream,) = found.streams
    assert (stream.stream, stream.state, stream.last_success_at) == (STREAM.key, State.COMPLETE, NOON)
    assert stream.written == Written(3, 0, 0, 0)


def test_a_rate_limit_of_the_app_is_shown_for_all_of_its_streams(database: Path) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    limited = events.RateLimited(Scope.APP, 1, NOON, until, RATE_LIMIT)
    record(database, run_started(), sweep_started(), limited, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT))
    paused = RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT)
    record(database, run_started(), sweep_started(), paused, stream=Stream(Platform.MESSENGER, "2"))
    one, other = sorted(read_status().streams, key=lambda stream: stream.waits_for or "")
    assert (one.state, other.state) == (State.RATE_LIMITED, State.RATE_LIMITED)
    assert (one.waits_for, other.waits_for) == (
        "the app's rate limit",
        f"the app's rate limit (met by {STREAM.key})",
    )
    assert "nothing to do" in status().output


def test_json_has_every_key_in_every_state(database: Path) -> None:
    record(database, COMPLETE)
    (stream,) = msgspec.json.decode(status("--json").stdout)["streams"]
    assert list(stream) == list(StreamStatus.__struct_fields__)


def test_the_help_is_short_and_names_the_page_that_explains_every_key_of_the_json() -> None:
    assert len(command.get_help(click.Context(command)).splitlines()) <= 20
    assert "docs/commands.md" in command.get_help(click.Context(command))
    text = "".join((DOCS / page).read_text() for page in ("commands.md", "http-api.md", "metrics.md"))
    keys = {key for kind in (Status, StreamStatus, OpenSweep, Written) for key in kind.__struct_fields__}
    assert not [word for word in keys | {state.value for state in State} if word not in text]


def test_the_holder_of_the_lock_is_at_work(database: Path) -> None:
    record(database, run_started(), sweep_started(), events.BatchStored(walking("c1"), Tally(batches=1)))
    assert read_status().streams[0].state is State.INTERRUPTED
    with lock_database(database):
        assert read_status().is_at_work
        assert read_status().streams[0].state is State.SYNCING
    assert not read_status().is_at_work


def test_checking_for_a_running_milepost_leaves_the_lock_free(database: Path) -> None:
    record(database, COMPLETE)
    read_status()
    with lock_database(database):
        pass


def test_the_database_of_another_program_is_refused(database: Path) -> None:
    database.write_text("no database at all, but a text that is long enough to be looked at" * 20)
    assert isinstance(status().exception, StoreRefused)


@pytest.mark.usefixtures("database")
def test_a_missing_configuration_is_refused() -> None:
    assert isinstance(status("-c", "missing.yaml").exception, BadConfiguration)


def test_streams_are_pages_by_platforms() -> None:
    pages = (PageSettings(id="1"), PageSettings(id="2", platforms=("instagram",)))
    assert configured_streams(Settings(pages=pages)) == [
        Stream.parse(key) for key in ("messenger:1", "instagram:1", "instagram:2")
    ]
    assert configured_streams(Settings()) is None


# --- what the daemon answers ------------------------------------------------------------------------------------------


BODY = b'{"at": "2026-03-01T12:00:00Z", "version": "1", "issues": [], "queued": {}, "slowed_down": {}}'


def at(url: str, token: str = "") -> HttpSettings:
    return HttpSettings(listen=url.removeprefix("http://"), token=SecretStr(token))


@pytest.mark.parametrize("token", ["", "a-token-of-some-length"])
async def test_the_daemon_is_asked_with_the_token_and_says_how_it_is(token: str) -> None:
    asked = list[bytes]()

    def script(head: bytes) -> tuple[list[bytes], Ending]:
        asked.append(head)
        return [b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", BODY], Ending.CLOSE

    async with following(script) as url:
        found = await fetch_status(at(url, token))
    assert found == DaemonStatus(NOON, "1", (), {}, {})
    (head,) = asked
    assert head.startswith(b"GET /api/daemon HTTP/1.0\r\nHost: 127.0.0.1:")
    assert (f"Authorization: Bearer {token}\r\n".encode() in head) == bool(token)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY[:40],
        b"HTTP/1.0 200 OK\r\n\r\n\xff",
        b"HTTP/1.0 401 Unauthorized\r\n\r\n" + BODY,
        b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n" + BODY,
    ],
)
async def test_what_is_no_answer_to_us_says_nothing(answer: bytes) -> None:
    async with sending(answer) as url:
        assert await fetch_status(at(url)) is None
    async with sending(answer, aborts=True) as url:
        assert await fetch_status(at(url)) is None


async def test_a_daemon_that_is_away_or_silent_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await fetch_status(at(nowhere())) is None
    monkeypatch.setattr("milepost.cli.status.MAX_ANSWER_SECONDS", 0.05)
    async with sending(hangs=True) as url:
        assert await fetch_status(at(url)) is None
