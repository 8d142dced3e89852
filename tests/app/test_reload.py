"""Configuration reloads: which pages are added and dropped, and which values take effect."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
from structlog.testing import capture_logs

from app.trial import OF_BICYCLES, page_of, trial_of
from kit.engine_doubles import run_of
from kit.simulated import BAKERY, BICYCLES
from milepost.app.reload import TAKES_RESTART, Configuration, Reload, changes_between, fingerprint, is_live
from milepost.core.errors import BadConfiguration
from milepost.core.events import RunStatus
from milepost.core.model import Platform, Stream
from milepost.engine.interrupt import Interrupt
from milepost.reporting.health import Issue, IssueKind
from milepost.settings.model import Settings

PAGE = {"id": "1", "access_token": "token-of-page-1"}
RUNNING: dict[str, Any] = {
    "source": {"kind": "facebook"},
    "pages": (PAGE,),
    "webhooks": {"verify_token": "a-word"},
}
# For every key outside of a page, a value that differs from RUNNING's.
OTHERWISE: dict[str, object] = {
    "store.url": "sqlite:///other.db",
    "store.password": "other-password",
    "store.password_file": "other-password",
    "store.synchronous": "normal",
    "store.schema": "crm",
    "store.pooler": "transaction",
    "store.views": "public",
    "source.kind": "simulator",
    "source.base_url": "https://graph.instagram.com",
    "source.version": "v27.0",
    "source.access_token": "token-of-a-user",
    "source.access_token_file": "user-token",
    "source.app_secret": "secret-of-the-app",
    "source.app_secret_file": "app-secret",
    "source.calls_per_second": 1.0,
    "source.request_timeout": "20s",
    "source.rate_limit_floor": "30s",
    "source.discover_pages": True,
    "pages": (PAGE, {"id": "2", "access_token": "token-of-page-2"}),
    "sync.interval": "1m",
    "sync.batch_size": 20,
    "sync.messages_per_conversation": 5,
    "sync.message_history": "all",
    "sync.max_run_duration": "1m",
    "sync.max_batches_per_run": 10,
    "sync.concurrency": 4,
    "sync.events_chunk_size": 100,
    "sync.watermark_overlap": "1m",
    "sync.full_sweep_interval": "1d",
    "retry.attempts": 5,
    "retry.base_delay": "1s",
    "retry.max_delay": "1m",
    "webhooks.listen": "127.0.0.1:9001",
    "webhooks.path": "/meta",
    "webhooks.verify_token": "another-word",
    "webhooks.verify_token_file": "verify-token",
    "webhooks.secrets": ("secret-of-instagram-login",),
    "webhooks.secrets_file": "webhook-secrets",
    "webhooks.subscribe": True,
    "deliveries": (
        {"name": "crm", "url": "https://crm.example/hooks", "secret": "whsec_YS1zZWNyZXQtZm9yLXRoZS1jcm0tcmVjZWl2ZXI="},
    ),
    "notify.urls": ("json://127.0.0.1/path",),
    "notify.urls_file": "notice-urls",
    "notify.on": ("stopped",),
    "http.listen": "127.0.0.1:9000",
    "http.token": "token-of-the-listener",
    "http.allowed_hosts": ("status.example.com",),
    "http.allowed_origins": ("https://crm.example.com",),
    "http.token_file": "http-token",
    "log.format": "json",
    "log.level": "debug",
}


def with_other(*places: str, running: dict[str, Any] = RUNNING) -> Settings:
    """Return the running settings with a different value at each of these keys."""
    tree = dict(running)
    for place in places:
        section, _, key = place.rpartition(".")
        tree |= {section: {**tree.get(section, {}), key: OTHERWISE[place]}} if section else {place: OTHERWISE[place]}
    return Settings.model_validate(tree)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Restore the log level, which a reload sets."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


async def test_a_page_that_is_no_longer_listed_is_dropped_and_the_others_stay() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as trial:
        reloaded = await trial.reload(page_of(BICYCLES))
        assert reloaded == Reload(live=("source.discover_pages", "pages"))
        assert trial.supervisor.streams == (OF_BICYCLES,)


async def test_a_platform_that_is_no_longer_listed_is_dropped_until_it_is_listed_again() -> None:
    async with trial_of(page_of(BAKERY)) as trial:
        messenger, instagram = page_of(BAKERY).streams
        await trial.reload(page_of(BAKERY, Platform.INSTAGRAM))
        assert trial.supervisor.streams == (instagram,)
        await trial.reload(page_of(BAKERY))
        assert set(trial.supervisor.streams) == {messenger, instagram}
        results = await trial.supervisor.sync([messenger, instagram])
        assert [result.run.status for result in results if result.run] == [RunStatus.COMPLETE] * 2


async def test_no_token_of_any_page_is_stored_with_what_people_write() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        first, second, third = (f"EAAtoken-number-{number}" for number in range(3))
        await trial.reload(page_of(BICYCLES), replace(page_of(BAKERY), access_token=first))
        await trial.reload(
            replace(page_of(BICYCLES), access_token=second), replace(page_of(BAKERY), access_token=third)
        )
        tokens = (first, second, third, trial.simulator.world.user_token)
        text = trial.client.known_tokens.without("|".join(tokens).encode())
        assert text == b"[redacted]|[redacted]|[redacted]|[redacted]"


async def test_a_page_that_comes_back_is_synced_with_its_new_token() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        await trial.reload(page_of(BAKERY))
        renewed = trial.simulator.world.access.renew(BICYCLES.id)
        await trial.reload(page_of(BAKERY), replace(page_of(BICYCLES), access_token=renewed))
        (result,) = await trial.supervisor.sync([OF_BICYCLES])
        assert run_of(result).status is RunStatus.COMPLETE
        assert renewed in trial.secrets


async def test_another_instagram_account_applies_from_the_next_run_on() -> None:
    instagram = Stream(Platform.INSTAGRAM, BAKERY.id)
    async with trial_of(replace(page_of(BAKERY), instagram_account_id="17841499999999999")) as trial:
        await trial.reload(page_of(BAKERY))  # which asks the API for the account
        asked_before = trial.simulator.requests.total
        await trial.supervisor.sync([instagram])
        first, *_ = list(trial.simulator.requests.last)[asked_before:]
        assert first.edge == ""
        assert trial.supervisor.streams.count(instagram) == 1


async def test_another_name_is_stored_with_the_next_run() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        await trial.reload(replace(page_of(BICYCLES), name="Two Wheels"))
        await trial.supervisor.sync([OF_BICYCLES])
        assert [row.name for row in trial.store.pages.values()] == ["Two Wheels"]


async def test_discovered_pages_are_dropped_when_discovery_is_turned_off() -> None:
    async with trial_of(page_of(BAKERY)) as trial:
        await trial.discovery.discover()
        assert OF_BICYCLES in trial.supervisor.streams
        await trial.reload(page_of(BAKERY), discover_pages=True)
        assert OF_BICYCLES in trial.supervisor.streams, "still discovered"
        await trial.reload(page_of(BAKERY))
        assert set(trial.supervisor.streams) == set(page_of(BAKERY).streams)


async def test_a_discovered_page_that_is_listed_later_is_not_mistaken_for_a_lost_one() -> None:
    async with trial_of() as trial:
        await trial.discovery.discover()
        await trial.reload(page_of(BICYCLES), discover_pages=True)
        await trial.discovery.discover()
        (result,) = await trial.supervisor.sync([OF_BICYCLES])
        assert run_of(result).status is RunStatus.COMPLETE


async def test_an_invalid_configuration_is_refused_with_the_reason_and_changes_nothing() -> None:
    def load() -> Settings:
        raise BadConfiguration("config.yaml:1: sync.interval: found 5")

    async with trial_of(page_of(BICYCLES)) as trial:
        before, settings_before = trial.in_effect, trial.reloader.settings
        reloaded = await trial.reloader.reload(Configuration(load, None))
        assert reloaded == Reload(refusal="config.yaml:1: sync.interval: found 5")
        assert (trial.in_effect, trial.reloader.settings) == (before, settings_before)


@pytest.mark.parametrize("key", OTHERWISE)
async def test_a_live_key_takes_effect_and_any_other_is_reported_as_needing_a_restart(key: str) -> None:
    async with trial_of() as trial:
        await trial.reloader.reload(Configuration(with_other, None))
        before = trial.in_effect
        reloaded = await trial.reloader.reload(Configuration(lambda: with_other(key), None))
        assert reloaded == (Reload(live=(key,)) if is_live(key) else Reload(takes_restart=(key,)))
        if not key.endswith("_file"):  # those say where a secret comes from
            assert (trial.in_effect != before) == is_live(key)


async def test_a_refused_reload_is_an_issue_until_one_is_accepted() -> None:
    answers: list[Settings | BadConfiguration] = [BadConfiguration("config.yaml:1: sync.interval: found 5")]

    def load() -> Settings:
        if isinstance(answers[-1], BadConfiguration):
            raise answers[-1]
        return answers[-1]

    async with trial_of(page_of(BICYCLES)) as trial:

        async def request_reload() -> list[Issue]:
            trial.engine.stop.clear()
            (requested := Interrupt()).set()
            await trial.run_reloader(15, Configuration(load, None), requested)
            return list(trial.reloader.issues())

        (issue,) = await request_reload()
        assert (issue.kind, issue.reason) == (IssueKind.RELOAD_REFUSED, "config.yaml:1: sync.interval: found 5")
        assert trial.reloader.is_refused
        answers.append(with_other("store.url"))
        kinds = [issue.kind for issue in await request_reload()]
        assert (kinds, trial.reloader.is_refused) == ([IssueKind.RESTART_NEEDED], False)
        answers.append(trial.reloader.settings)
        assert await request_reload() == []


async def test_what_was_refused_is_accepted_once_it_is_right_whichever_file_was_not() -> None:
    """The secret's file may be one that only the refused configuration names, or have had the wrong permissions."""
    tried = 0

    def load() -> Settings:
        nonlocal tried
        tried += 1
        if tried <= 3:
            raise BadConfiguration("config.yaml:9: pages[0].access_token_file: there is no such file")
        return with_other("sync.batch_size")

    async with trial_of(page_of(BICYCLES)) as trial:
        (requested := Interrupt()).set()
        with capture_logs() as logged:
            await trial.run_reloader(65, Configuration(load, None), requested)
        assert [line["event"] for line in logged if line["event"].startswith("configuration")] == [
            "configuration not reloaded",
            "configuration reloaded",
        ]
        assert not trial.reloader.is_refused
        assert tried == 4


async def test_what_changed_while_the_daemon_started_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("{}")
    async with trial_of(page_of(BAKERY)) as trial:
        running = trial.reloader.settings
        loaded = fingerprint(running, file)
        file.write_text("sync: {interval: 1h}")
        wanted = running.model_copy(update={"sync": running.sync.model_copy(update={"interval_seconds": 3600.0})})
        await trial.run_reloader(15, Configuration(lambda: wanted, file, loaded=loaded), Interrupt())
        assert trial.reloader.settings.sync.interval_seconds == 3600.0


async def test_a_reload_is_announced_even_if_it_fails() -> None:
    log: list[str] = []

    @contextmanager
    def reloading() -> Iterator[None]:
        log.append("reloading")
        yield
        log.append("ready")

    def load() -> Settings:
        log.append("loading")
        raise BadConfiguration("wrong")

    async with trial_of(page_of(BICYCLES)) as trial:
        configuration = Configuration(load, None, reloading)
        await trial.run_reloader(35, configuration, Interrupt())
        assert log == [], "no reload was requested, and no file has changed"
        trial.engine.stop.clear()
        (interrupt := Interrupt()).set()
        await trial.run_reloader(35, configuration, interrupt)
        assert log[:3] == ["reloading", "loading", "ready"]
        assert set(log[3:]) == {"loading"}, "it is tried again, and not announced for that"
        trial.engine.stop.clear()
        await trial.run_discovery(5)
        assert trial.discoveries == 1, "a failed reload makes a discovery due, too"


# --- what a new configuration changes ---------------------------------------------------------------------------------


DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROW = re.compile(r"^\| `([a-z_.\[\]]+)` \|.*\| (live|restart|) ?\| [^|]+ \|$", re.MULTILINE)


def test_every_key_is_compared() -> None:
    documented = {key: change for key, change in ROW.findall(DOCUMENTATION) if change and "[]." not in key}
    assert documented.keys() == OTHERWISE.keys()
    assert {key for key, change in documented.items() if change == "restart"} == TAKES_RESTART


@pytest.mark.parametrize("key", OTHERWISE)
def test_a_live_key_changes_and_any_other_is_named_and_stays(key: str) -> None:
    running, wanted = with_other(), with_other(key)
    kept, found = changes_between(running, wanted)
    assert (found.live, found.takes_restart) == (((key,), ()) if is_live(key) else ((), (key,)))
    assert kept == (wanted if is_live(key) else running)


def test_equal_settings_are_no_change() -> None:
    kept, found = changes_between(with_other(), with_other())
    assert (found.live, found.takes_restart, kept) == ((), (), with_other())


def test_of_many_keys_the_live_ones_change_and_the_others_stay() -> None:
    kept, found = changes_between(with_other(), with_other("sync.batch_size", "http.listen", "log.level", "store.url"))
    assert found.live == ("sync.batch_size", "log.level")
    assert found.takes_restart == ("store.url", "http.listen")
    assert kept == with_other("sync.batch_size", "log.level")


@pytest.mark.parametrize("key", ["source.kind", "source.base_url"])
def test_pages_and_tokens_of_another_api_wait_for_the_restart(key: str) -> None:
    tied = ("source.access_token", "source.app_secret", "source.calls_per_second", "pages", "source.discover_pages")
    kept, found = changes_between(with_other(), with_other(key, *tied, "sync.interval"))
    assert set(found.takes_restart) == {key, *tied}
    assert found.live == ("sync.interval",)
    assert kept == with_other("sync.interval")


def test_the_app_secret_of_a_simulated_world_waits_for_the_restart() -> None:
    made = ("source.app_secret",)
    simulated: dict[str, Any] = {}
    kept, found = changes_between(
        with_other(running=simulated), with_other(*made, "source.calls_per_second", running=simulated)
    )
    assert set(found.takes_restart) == set(made)
    assert found.live == ("source.calls_per_second",)
    assert kept == with_other("source.calls_per_second", running=simulated)
