"""What a new configuration changes: of every key, whether it holds without a restart; and what is tied to the API."""

import re
from pathlib import Path
from typing import Any

import pytest

from kit.reconfigured import OTHERWISE, settings
from milepost.settings import changes_between
from milepost.settings.diff import TAKES_RESTART, is_live

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| `([a-z_.\[\]]+)` \|.*\| (live|restart|) ?\| [^|]+ \|$", re.MULTILINE)


def test_every_key_is_looked_at() -> None:
    documented = {key: change for key, change in ROW.findall(DOCUMENTATION) if change and not key.startswith("pages[")}
    assert documented.keys() == OTHERWISE.keys()
    assert {key for key, change in documented.items() if change == "restart"} == TAKES_RESTART


@pytest.mark.parametrize("key", OTHERWISE)
def test_a_key_that_is_live_changes_and_every_other_one_is_named_and_stays(key: str) -> None:
    running, wanted = settings(), settings(key)
    found = changes_between(running, wanted)
    assert (found.live, found.takes_restart) == (((key,), ()) if is_live(key) else ((), (key,)))
    assert found.settings == (wanted if is_live(key) else running)


def test_what_has_not_changed_is_no_change() -> None:
    found = changes_between(settings(), settings())
    assert (found.live, found.takes_restart, found.settings) == ((), (), settings())


def test_of_many_keys_those_that_are_live_change_and_the_others_stay() -> None:
    found = changes_between(settings(), settings("sync.batch_size", "http.listen", "log.level", "store.url"))
    assert found.live == ("sync.batch_size", "log.level")
    assert found.takes_restart == ("store.url", "http.listen")
    assert found.settings == settings("sync.batch_size", "log.level")


@pytest.mark.parametrize("key", ["source.kind", "source.base_url"])
def test_with_another_api_come_other_pages_and_tokens_which_the_one_that_runs_must_not_see(key: str) -> None:
    tied = ("source.access_token", "source.app_secret", "source.calls_per_second", "pages", "source.discover_pages")
    found = changes_between(settings(), settings(key, *tied, "sync.interval"))
    assert set(found.takes_restart) == {key, *tied}
    assert found.live == ("sync.interval",)
    assert found.settings == settings("sync.interval")


def test_the_app_secret_of_a_simulated_world_is_demanded_from_its_start() -> None:
    made = ("source.app_secret",)
    simulated: dict[str, Any] = {}
    found = changes_between(settings(running=simulated), settings(*made, "source.calls_per_second", running=simulated))
    assert set(found.takes_restart) == set(made)
    assert found.live == ("source.calls_per_second",)
    assert found.settings == settings("source.calls_per_second", running=simulated)
