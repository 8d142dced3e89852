"""What commands say of a database or a stream that does not exist."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from kit.builders import STREAM, run_started
from kit.databases import record
from milepost.cli import cli
from milepost.core.errors import StoreRefused
from milepost.core.model import Platform, Stream

OTHER = Stream(Platform.INSTAGRAM, "1234567890")
OF_A_DATABASE = (
    "journal tail",
    "journal verify",
    "journal rebuild",
    "journal export",
    "changes",
    "backup copy.db",
    "dead-letters list",
    "dead-letters show a",
    "dead-letters redrive",
    "dead-letters discard a --reason x",
    f"streams remove {STREAM.key} --yes",
    f"contacts forget messenger {STREAM.page_id} ada --yes",
    "deliveries list",
    "deliveries replay crm",
    "store adopt --yes",
)
OF_A_STREAM = (
    "journal tail --stream messenger:1",
    "changes --stream messenger:1",
    "dead-letters list --stream messenger:1",
    "dead-letters redrive --stream messenger:1",
    f"streams remove {STREAM.key} messenger:1 --yes",
    "contacts forget messenger 1 ada --yes",
)


@pytest.mark.parametrize("arguments", OF_A_DATABASE)
def test_without_a_database_it_says_so_and_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, StoreRefused)
    assert error.message.startswith("there is no database at ")
    assert error.message.endswith("simulated.db")
    assert "creates" in error.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", OF_A_STREAM)
def test_an_unknown_stream_is_wrong_usage_that_lists_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "simulated.db", run_started())
    record(tmp_path / "simulated.db", run_started(), stream=OTHER)
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"there is no stream messenger:1; known are {OTHER.key}, {STREAM.key}" in result.stderr
