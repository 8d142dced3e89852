"""What a new configuration changes: which keys apply without a restart, and which are tied to the API."""

import re
from pathlib import Path
from typing import Any

import pytest

from kit.reconfigured import OTHERWISE, settings
from milepost.settings import changes_between
from milepost.settings.diff import TAKES_RESTART, is_live

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| `([a-z_.\[\]]+)` \|.*\| (live|restart|) ?\| [^|]+ \|$", re.MULTILINE)


def test_every_key_is_compared() -> None:
    documented = {key: change for key, change in ROW.findall(DOCUMENTATION) if change and "[]." not in key}
    assert documented.keys() == OTHERWISE.keys()
    assert {key for key, change in documented.items() if change == "restart"} == TAKES_RESTART


@pytest.mark.parametrize("key", OTHERWISE)
def test_a_live_key_changes_and_any_other_is_named_and_stays(key: str) -> None:
    running, wanted = settings(), settings(key)
    found = changes_between(running, wanted)
    assert (found.live, found.takes_restart) == (((key,), ()) if is_live(key) else ((), (key,)))
    assert found.settings == (wanted if is_live(key) else running)


def test_equal_settings_are_no_change() -> None:
    found = changes_between(settings(), settings())
    assert (found.live, found.takes_restart, found.settings) == ((), (), settings())


def test_of_many_keys_the_live_ones_change_and_the_others_stay() -> None:
    found = changes_between(settings(), settings("sync.batch_size", "http.listen", "log.level", "store.url"))
    assert found.live == ("sync.batch_size", "log.level")
    assert found.takes_restart == ("store.url", "http.listen")
    assert found.settings == settings("sync.batch_size", "log.level")


@pytest.mark.parametrize("key", ["source.kind", "source.base_url"])
def test_pages_and_tokens_of_another_api_wait_for_the_restart(key: str) -> None:
    tied = ("source.access_token", "source.app_secret", "source.calls_per_second", "pages", "source.discover_pages")
    found = changes_between(settings(), settings(key, *tied, "sync.interval"))
    assert set(found.takes_restart) == {key, *tied}
    assert found.live == ("sync.interval",)
    assert found.settings == settings("sync.interval")


def test_the_app_secret_of_a_simulated_world_waits_for_the_restart() -> None:
    made = ("source.app_secret",)
    simulated: dict[str, Any] = {}
    found = changes_between(settings(running=simulated), settings(*made, "source.calls_per_second", running=simulated))
    assert set(found.takes_restart) == set(made)
    assert found.live == ("source.calls_per_second",)
    assert found.settings == settings("source.calls_per_second", running=simulated)
