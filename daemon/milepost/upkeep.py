"""Keeps access up to date while the daemon runs: new tokens are picked up, and pages are discovered."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import structlog
from msgspec import Struct

from milepost.core.errors import BadConfiguration
from milepost.core.model import Platform
from milepost.core.ports import Held
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy, rule_for
from milepost.engine.clock import Clock
from milepost.engine.stop import Bell, Stop
from milepost.engine.supervisor import Supervisor
from milepost.roster import Page, Roster, configured_pages
from milepost.settings import Settings, secret_files, secrets
from milepost.sources.facebook.client import GraphClient
from milepost.sources.facebook.managed_pages import ManagedPage

LOOK_SECONDS = 10.0  # between two looks at the files: a new token is at work well within a minute
DISCOVERY_SECONDS = 900.0
DISCOVERY_RETRY_SECONDS = 60.0  # after what may pass, or where a pause forbade to ask

log = structlog.get_logger("milepost")


class Configuration(Struct, frozen=True):
    """How to read the settings again, and the file that they are in, if there is one."""

    load: Callable[[], Settings]
    path: Path | None


class Upkeep:
    """Renews the access of pages. `settings` are those from the start; `learn_secret` hears of every new secret."""

    def __init__(
        self,
        client: GraphClient,
        roster: Roster,
        supervisor: Supervisor,
        settings: Settings,
        learn_secret: Callable[[str], None],
    ) -> None:
        self._client = client
        self._roster = roster
        self._supervisor = supervisor
        self._settings = settings
        self._learn_secret = learn_secret
        self._discovered: frozenset[str] = frozenset()
        self._seconds_to_discovery = DISCOVERY_SECONDS

    async def run(self, configuration: Configuration, reload: Bell, clock: Clock, stop: Stop) -> None:
        """Look after the access until a stop is asked for. `reload` rings when the settings are to be read again."""
        seen = await asyncio.to_thread(_state_of, self._settings, configuration.path)
        discovery_due_at = clock.now() + timedelta(seconds=self._seconds_to_discovery)
        while not stop.is_requested:
            if clock.now() >= discovery_due_at:
                await self.discover()
                discovery_due_at = clock.now() + timedelta(seconds=self._seconds_to_discovery)
            async with stop.cut_short(), reload.cut_short():
                await clock.sleep_until(clock.now() + timedelta(seconds=LOOK_SECONDS))
            found = await asyncio.to_thread(_state_of, self._settings, configuration.path)
            is_asked_for = reload.rings
            if is_asked_for or found != seen:
                reload.silence()
                await self._reload(configuration)
                seen, discovery_due_at = found, clock.now()
            if is_asked_for:  # by somebody who may have mended what no file shows, such as a permission
                for stream in self._supervisor.streams:
                    self._supervisor.wake(stream)

    async def discover(self) -> Problem | Held | None:
        """Ask which pages there are, take up new ones and park lost ones. Gives what prevents it."""
        if not self._settings.discover_pages:
            return None
        found = await self._roster.managed()
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
        for stream in self._roster.park(self._discovered - managed):
            log.warning("page lost", stream=stream.key, hint="source.access_token does not manage it any more")
            self._supervisor.wake(stream)
        self._discovered |= managed
        return None

    def _take(self, pages: Sequence[Page]) -> None:
        for page in pages:
            self._learn_secret(page.access_token)
        for stream, source in self._roster.enrol(pages).items():
            log.info("stream added", stream=stream.key)
            self._supervisor.admit(stream, source)
        for stream in self._roster.renew(pages):
            log.info("access renewed", stream=stream.key)
            self._supervisor.wake(stream)

    async def _reload(self, configuration: Configuration) -> None:
        """Read the settings again; those from before go on where there is something wrong with them."""
        try:
            settings = await asyncio.to_thread(configuration.load)
        except BadConfiguration as error:
            log.error("configuration not reloaded", error=error.message, hint="the one from before goes on")  # noqa: TRY400
            return
        if settings.source.kind != self._settings.source.kind:
            log.error("configuration not reloaded", hint="source.kind has changed, which takes a restart")
            return
        self._settings = settings
        for secret in secrets(settings):
            self._learn_secret(secret)
        log.info("configuration reloaded", takes_effect="tokens, the app secret and new pages")
        if settings.source.kind == "facebook":  # a simulated world has tokens of its own
            self._client.renew(settings.source.app_secret.get_secret_value())
            self._roster.renew_manager(settings.source.access_token.get_secret_value())
            self._take(configured_pages(settings))


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
