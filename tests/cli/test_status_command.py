"""`milepost status` on real databases."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from kit.builders import NOON, RATE_LIMIT, STREAM, run_started, sweep_started, walking
from kit.databases import record
from milepost.cli.known_streams import configured_streams
from milepost.cli.status import command
from milepost.core.errors import BadConfiguration, StoreRefused
from milepost.core.events import (
    BatchStored,
    Mode,
    RateLimited,
    Reason,
    RunEnded,
    RunStatus,
    StreamRemoved,
    SweepCompleted,
    Tally,
)
from milepost.core.model import Platform, Scope, Stream
from milepost.reporting.status import State
from milepost.reporting.views import OpenSweep, Status, StreamStatus, Written
from milepost.settings import PageSettings, Settings
from milepost.stores.sqlite.connection import lock_database

COMPLETE = SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1, inserted=3))


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the database will be: the built-in settings apply in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "simulated.db"


def status(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def told(*arguments: str) -> Status:
    return msgspec.json.decode(status("--json", *arguments).stdout, type=Status)


@pytest.mark.usefixtures("database")
def test_without_a_database_it_says_how_to_begin_and_makes_none() -> None:
    result = status()
    assert (result.exit_code, result.output) == (
        0,
        "No stream has been worked yet: `milepost sync` or `milepost run` begins.\n",
    )
    assert not list(Path.cwd().iterdir())


@pytest.mark.usefixtures("database")
def test_configured_streams_are_shown_before_they_were_ever_synced() -> None:
    Path("config.yaml").write_text(
        'pages: [{id: "77", access_token: x, platforms: [instagram]}]\nsource: {kind: facebook}\nstore: {url: sqlite:///simulated.db}\n'
    )
    (stream,) = told().streams
    assert (stream.stream, stream.state, stream.is_configured) == ("instagram:77", State.NEVER_SYNCED, True)


def test_the_journaled_streams_are_shown(database: Path) -> None:
    record(database, COMPLETE)
    result = status()
    assert result.exit_code == 0
    assert STREAM.key in result.output
    assert "complete" in result.output


def test_a_removed_stream_is_shown_no_more(database: Path) -> None:
    record(database, COMPLETE, StreamRemoved("somebody"))
    assert STREAM.key not in status().output
    Path("config.yaml").write_text(f'pages: [{{id: "{STREAM.page_id}", platforms: [messenger]}}]\n')
    (stream,) = told().streams
    assert (stream.state, stream.is_configured, stream.written) == (State.NEVER_SYNCED, True, Written(0, 0, 0, 0))


def test_json_holds_the_same_as_the_journal(database: Path) -> None:
    record(database, COMPLETE)
    found = told()
    assert (found.database, found.is_at_work) == ("simulated.db", False)
    (stream,) = found.streams
    assert (stream.stream, stream.state, stream.last_success_at) == (STREAM.key, State.COMPLETE, NOON)
    assert stream.written == Written(3, 0, 0, 0)


def test_a_limit_of_the_app_that_one_stream_met_is_told_of_the_others(database: Path) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    limited = RateLimited(Scope.APP, 1, NOON, until, RATE_LIMIT)
    record(database, run_started(), sweep_started(), limited, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT))
    paused = RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT)
    record(database, run_started(), sweep_started(), paused, stream=Stream(Platform.MESSENGER, "2"))
    one, other = sorted(told().streams, key=lambda stream: stream.waits_for or "")
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


def test_the_help_names_every_key_of_the_json() -> None:
    text = command.get_help(click.Context(command))
    keys = {key for kind in (Status, StreamStatus, OpenSweep, Written) for key in kind.__struct_fields__}
    assert not [word for word in keys | {state.value for state in State} if word not in text]


def test_who_holds_the_lock_is_at_work(database: Path) -> None:
    record(database, run_started(), sweep_started(), BatchStored(walking("c1"), Tally(batches=1)))
    assert told().streams[0].state is State.INTERRUPTED
    with lock_database(database):
        assert told().is_at_work
        assert told().streams[0].state is State.SYNCING
    assert not told().is_at_work


def test_looking_whether_somebody_is_at_work_leaves_the_lock_free(database: Path) -> None:
    record(database, COMPLETE)
    told()
    with lock_database(database):
        pass


def test_a_database_of_something_else_is_refused(database: Path) -> None:
    database.write_text("no database at all, but a text that is long enough to be looked at" * 20)
    assert isinstance(status().exception, StoreRefused)


@pytest.mark.usefixtures("database")
def test_a_configuration_that_is_not_there_is_refused() -> None:
    assert isinstance(status("-c", "missing.yaml").exception, BadConfiguration)


def test_streams_are_pages_by_platforms() -> None:
    pages = (PageSettings(id="1"), PageSettings(id="2", platforms=("instagram",)))
    assert configured_streams(Settings(pages=pages)) == ["messenger:1", "instagram:1", "instagram:2"]
    assert configured_streams(Settings()) is None
