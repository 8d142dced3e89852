"""Keeps the daemon up to date while it runs: the configuration is read again, and pages are discovered."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path

import structlog
from msgspec import Struct

from milepost.app.pages import Page, configured_pages
from milepost.app.workings import Workings
from milepost.core.errors import BadConfiguration
from milepost.core.model import Platform
from milepost.core.ports import Clock, Held
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy, rule_for
from milepost.engine.interrupt import Interrupt, Stop
from milepost.facebook.managed_pages import ManagedPage
from milepost.settings import Settings, changes_between, secret_files, secrets

LOOK_SECONDS = 10.0  # between two looks at the files: a new token is at work well within a minute
DISCOVERY_SECONDS = 900.0
DISCOVERY_RETRY_SECONDS = 60.0  # after what may pass, or where a pause forbade to ask

log = structlog.get_logger("milepost")


class Configuration(Struct, frozen=True):
    """How to read the settings again, and the file that they are in, if there is one.

    Every reload happens in a block of `reloading`, whatever becomes of it.
    """

    load: Callable[[], Settings]
    path: Path | None
    reloading: Callable[[], AbstractContextManager[object]] = nullcontext


class Reload(Struct, frozen=True):
    """What became of a reload: the keys whose new values hold now, and those whose new values take a restart.

    With a `refusal` the configuration was wrong, and nothing has changed.
    """

    live: tuple[str, ...] = ()
    takes_restart: tuple[str, ...] = ()
    refusal: str = ""


class Upkeep:
    """Has the workings work by the settings that apply. `learn_secret` hears of every new secret."""

    def __init__(self, workings: Workings, settings: Settings, learn_secret: Callable[[str], None]) -> None:
        self._workings = workings
        self._registry = workings.registry
        self._supervisor = workings.supervisor
        self._settings = settings
        self._learn_secret = learn_secret
        self._discovered: frozenset[str] = frozenset()
        self._seconds_to_discovery = DISCOVERY_SECONDS

    @property
    def settings(self) -> Settings:
        """The settings that Milepost works by now."""
        return self._settings

    async def run(self, configuration: Configuration, reload: Interrupt, clock: Clock, stop: Stop) -> None:
        """Look after it all until a stop is asked for. `reload` rings when the settings are to be read again."""
        seen = await asyncio.to_thread(_state_of, self._settings, configuration.path)
        discovery_due_at = clock.steady() + self._seconds_to_discovery
        while not stop.is_requested:
            if clock.steady() >= discovery_due_at:
                await self.discover()
                discovery_due_at = clock.steady() + self._seconds_to_discovery
            async with stop.interruptible(), reload.interruptible():
                await clock.sleep_until(clock.now() + timedelta(seconds=LOOK_SECONDS))
            found = await asyncio.to_thread(_state_of, self._settings, configuration.path)
            is_asked_for = reload.is_set
            if is_asked_for or found != seen:
                reload.clear()
                with configuration.reloading():
                    reloaded = await self.reload(configuration)
                    if is_asked_for or reloaded != Reload():
                        _tell(reloaded)
                seen, discovery_due_at = found, clock.steady()
            if is_asked_for:  # by somebody who may have mended what no file shows, such as a permission
                for stream in self._supervisor.streams:
                    self._supervisor.wake(stream)

    async def reload(self, configuration: Configuration) -> Reload:
        """Read the settings again, and work by them; those from before go on where there is something wrong."""
        try:
            wanted = await asyncio.to_thread(configuration.load)
        except BadConfiguration as error:
            return Reload(refusal=error.message)
        changes = changes_between(self._settings, wanted)
        self._settings = settings = changes.settings
        for secret in (*secrets(wanted), *secrets(settings)):
            self._learn_secret(secret)
        self._workings.adopt(settings)
        if settings.source.kind == "facebook":  # a simulated world has pages and tokens of its own
            self._registry.rotate_manager_token(settings.source.access_token.get_secret_value())
            pages = configured_pages(settings)
            self._drop_all_but(pages)
            self._take(pages)
        return Reload(changes.live, changes.takes_restart)

    async def discover(self) -> Problem | Held | None:
        """Ask which pages there are, take up new ones and park lost ones. Gives what prevents it."""
        if not self._settings.source.discover_pages:
            return None
        found = await self._registry.managed()
        self._seconds_to_discovery = DISCOVERY_RETRY_SECONDS if _may_pass(found) else DISCOVERY_SECONDS
        if isinstance(found, Held):
            return found
        if isinstance(found, Problem):
            log.error("pages could not be discovered", problem=str(found), hint=_hint_about(found))
            return found
        configured = {page.id for page in self._settings.pages}
        pages = [_page_of(each) for each in found if each.id not in configured]
        self._take(pages)
        managed = frozenset(page.id for page in pages)
        for stream in self._registry.suspend(self._discovered - managed):
            log.warning("page lost", stream=stream.key, hint="source.access_token does not manage it any more")
            self._supervisor.wake(stream)
        self._discovered |= managed
        return None

    def _take(self, pages: Sequence[Page]) -> None:
        for page in pages:
            self._learn_secret(page.access_token)
        for stream, source in self._registry.add(pages).items():
            if stream not in self._supervisor.streams:
                log.info("stream added", stream=stream.key)
            self._supervisor.admit(stream, source)
        for stream in self._registry.renew(pages):
            log.info("access renewed", stream=stream.key)
            self._supervisor.wake(stream)

    def _drop_all_but(self, pages: Sequence[Page]) -> None:
        """Work no page any more but these and, while pages are discovered, those that were."""
        listed = {page.id for page in pages}
        self._discovered = self._discovered - listed if self._settings.source.discover_pages else frozenset()
        for stream in self._registry.keep(pages, besides=self._discovered):
            log.info("stream removed", stream=stream.key, hint="it ends after the batch in hand; what it copied stays")
            self._supervisor.dismiss(stream)


def _tell(reload: Reload) -> None:
    if reload.refusal:
        log.error("configuration not reloaded", error=reload.refusal, hint="the one from before goes on")
        return
    log.info("configuration reloaded", changed=reload.live)
    if reload.takes_restart:
        hint = "these keep the values from the start until Milepost is restarted"
        log.warning("restart needed", keys=reload.takes_restart, hint=hint)


def _may_pass(found: tuple[ManagedPage, ...] | Problem | Held) -> bool:
    """Whether a discovery brought nothing, and may do better soon."""
    match found:
        case Problem():
            return rule_for(found, has_cursor=False).remedy is Remedy.RETRY
        case Held():
            return True
        case _:
            return False


def _hint_about(problem: Problem) -> str:
    match rule_for(problem, has_cursor=False).remedy:
        case Remedy.STOP_AUTHORIZATION:
            return "give source.access_token a new token; it is picked up without a restart"
        case Remedy.STOP_CONFIGURATION:
            return "look at source.access_token, source.app_secret and source.version"
        case _:
            return "it is tried again by itself; the pages that are known are worked on"


def _page_of(managed: ManagedPage) -> Page:
    """Take a page as the API tells it: it is on Instagram where an account is linked to it."""
    platforms = (Platform.MESSENGER, Platform.INSTAGRAM) if managed.instagram_account_id else (Platform.MESSENGER,)
    return Page(managed.id, managed.name, platforms, managed.access_token, managed.instagram_account_id)


def _state_of(settings: Settings, path: Path | None) -> tuple[object, ...]:
    """Say what can be seen of the files from outside; a secret may come by a link that is turned to another file."""
    return tuple(map(_seen, (*secret_files(settings), *([path] if path else ()))))


def _seen(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_ino, status.st_size, status.st_mtime_ns
