"""Applies configuration changes to the running daemon: what changes, and what of it needs no restart."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import reduce
from pathlib import Path

import structlog
from msgspec import Struct

from milepost.app.discovery import PageDiscovery
from milepost.core.errors import BadConfiguration
from milepost.core.plan import Policy
from milepost.core.ports import Clock
from milepost.engine.interrupt import Interrupt, Stop
from milepost.engine.rate_limits import RateLimits
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.facebook.client import GraphClient
from milepost.reporting.health import Issue, IssueKind
from milepost.service.logs.output import set_level
from milepost.settings.model import Section, Settings, key_of
from milepost.settings.secrets import secret_files, secrets

LOOK_SECONDS = 10.0  # between checks of the files: a new token is in use well within a minute

REFUSED_ADVICE = "the previous one stays in effect; fix the file, which is then read again: see `milepost config check`"

log = structlog.get_logger("milepost")


def policy_of(settings: Settings) -> Policy:
    """Return the settings that the pure core decides by."""
    return Policy(
        batch_size=settings.sync.batch_size,
        messages_per_conversation=settings.sync.messages_per_conversation,
        message_history_seconds=settings.sync.message_history_seconds,
        watermark_overlap_seconds=settings.sync.watermark_overlap_seconds,
        full_sweep_interval_seconds=settings.sync.full_sweep_interval_seconds,
        attempts=settings.retry.attempts,
        base_delay_seconds=settings.retry.base_delay_seconds,
        max_delay_seconds=settings.retry.max_delay_seconds,
        rate_limit_floor_seconds=settings.source.rate_limit_floor_seconds,
    )


def schedule_of(settings: Settings) -> Schedule:
    """Return the settings for how often and how long streams run."""
    return Schedule(
        interval_seconds=settings.sync.interval_seconds,
        max_run_seconds=settings.sync.max_run_duration_seconds,
        max_batches_per_run=settings.sync.max_batches_per_run,
    )


class Configuration(Struct, frozen=True):
    """How to load the settings again, and the file that they come from, if any.

    Every reload runs inside a `reloading` block, whether it succeeds or not, except for repeated attempts. `loaded` is
    the fingerprint of the files from when the settings were loaded: a start may take minutes, in which they may change.
    """

    load: Callable[[], Settings]
    path: Path | None
    reloading: Callable[[], AbstractContextManager[object]] = nullcontext
    loaded: tuple[object, ...] | None = None


class Reload(Struct, frozen=True):
    """The outcome of a reload: the keys whose new values are live, and those whose new values need a restart.

    If `refusal` is set, the configuration was invalid and nothing has changed.
    """

    live: tuple[str, ...] = ()
    takes_restart: tuple[str, ...] = ()
    refusal: str = ""


class ReloadTargets(Struct, frozen=True, eq=False):
    """The parts whose settings may change while they run."""

    supervisor: Supervisor
    client: GraphClient
    rate_limits: RateLimits
    discovery: PageDiscovery

    def adopt(self, settings: Settings) -> None:
        """Apply the settings from now on."""
        source = settings.source
        self.supervisor.adopt(policy_of(settings), schedule_of(settings), settings.sync.concurrency)
        self.client.rotate_app_secret(source.app_secret.get_secret_value())
        self.client.request_timeout_seconds = source.request_timeout_seconds
        self.rate_limits.floor_seconds = source.rate_limit_floor_seconds
        self.discovery.adopt(settings)
        set_level(settings.log.level)


class ConfigReloader:
    """Holds the settings in effect, and replaces them when files change or a reload is requested.

    `learn_secret` is called with every new secret.
    """

    def __init__(self, settings: Settings, targets: ReloadTargets, learn_secret: Callable[[str], None]) -> None:
        self._settings = settings
        self._targets = targets
        self._learn_secret = learn_secret
        self._latest = Reload()
        self._reloaded_at: datetime | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the latest reload was refused: the configuration in effect is not the one on disk."""
        return bool(self._latest.refusal)

    def issues(self) -> Iterator[Issue]:
        """Yield how the configuration in effect differs from the one on disk."""
        if self._latest.refusal:
            what = "the configuration could not be reloaded"
            yield Issue(IssueKind.RELOAD_REFUSED, what, self._reloaded_at, self._latest.refusal, REFUSED_ADVICE)
        elif self._latest.takes_restart:
            keys = ", ".join(self._latest.takes_restart)
            what = "keys of the configuration have new values that take effect with a restart"
            yield Issue(IssueKind.RESTART_NEEDED, what, self._reloaded_at, keys, "restart Milepost")

    @property
    def settings(self) -> Settings:
        """The settings in effect."""
        return self._settings

    async def run(self, configuration: Configuration, requested: Interrupt, clock: Clock, stop: Stop) -> None:
        """Reload when a file has changed, or `requested` is set, until a stop is requested.

        What was refused is tried again at each look: what has to be fixed need not show in the files that are looked
        at, such as a permission, a disk that fails for a while, or a secret's file that only the new configuration
        names.
        """
        seen = configuration.loaded or await asyncio.to_thread(fingerprint, self._settings, configuration.path)
        while not stop.is_requested:
            await stop.sleep(clock, LOOK_SECONDS, requested)
            found = await asyncio.to_thread(fingerprint, self._settings, configuration.path)
            is_requested = requested.is_set
            if is_requested or found != seen:
                requested.clear()
                with configuration.reloading():
                    reloaded = await self.reload(configuration)
                    self._latest, self._reloaded_at = reloaded, clock.now()
                    if is_requested or reloaded != Reload():
                        _log(reloaded)
                seen = found
                self._targets.discovery.request()
            elif self.is_refused and (reloaded := await self.reload(configuration)).refusal != self._latest.refusal:
                self._latest, self._reloaded_at = reloaded, clock.now()
                _log(reloaded)
                self._targets.discovery.request()
            if is_requested:  # the operator may have fixed something that no file shows, such as a permission
                for stream in self._targets.supervisor.streams:
                    self._targets.supervisor.wake(stream)

    async def reload(self, configuration: Configuration) -> Reload:
        """Load the settings again and apply them; invalid ones leave the previous settings in effect."""
        try:
            wanted = await asyncio.to_thread(configuration.load)
        except BadConfiguration as error:
            return Reload(refusal=error.message)
        self._settings, reloaded = changes_between(self._settings, wanted)
        for secret in (*secrets(wanted), *secrets(self._settings)):
            self._learn_secret(secret)
        self._targets.adopt(self._settings)
        return reloaded


def _log(reload: Reload) -> None:
    if reload.refusal:
        hint = "the previous configuration stays in effect"
        log.error("configuration not reloaded", error=reload.refusal, hint=hint)
        return
    log.info("configuration reloaded", changed=reload.live)
    if reload.takes_restart:
        hint = "these keep their current values until Milepost is restarted"
        log.warning("restart needed", keys=reload.takes_restart, hint=hint)


def fingerprint(settings: Settings, path: Path | None) -> tuple[object, ...]:
    """Return a value that changes whenever a file does. A secret may be a symbolic link that gets a new target."""
    return tuple(map(_file_state, (*secret_files(settings), *([path] if path else ()))))


def _file_state(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_ino, status.st_size, status.st_mtime_ns


# --- what a new configuration changes ---------------------------------------------------------------------------------

# Keys of resources that are opened or bound only once, at startup.
TAKES_RESTART = frozenset(
    {
        "store.url",
        "store.password",
        "store.password_file",
        "store.synchronous",
        "store.schema",
        "store.pooler",
        "store.views",
        "source.kind",
        "source.base_url",
        "source.version",
        "sync.events_chunk_size",
        "webhooks.listen",
        "webhooks.path",
        "http.listen",
        "http.allowed_hosts",
        "http.allowed_origins",
        "http.token",
        "http.token_file",
        "log.format",
    }
)
_WORLD = ("source.kind", "source.base_url")
_OF_THE_WORLD = ("source.", "pages")
_MADE_BY_THE_SIMULATOR = ("source.app_secret",)

_AttributePath = tuple[str, ...]
"""The attributes that lead to a value."""


def is_live(key: str) -> bool:
    """Return whether a changed key applies without a restart, as long as the API stays the same."""
    return key not in TAKES_RESTART


def changes_between(running: Settings, wanted: Settings) -> tuple[Settings, Reload]:
    """Compare the running settings with those of a reloaded file.

    Returns the settings to continue with, which are the new values except those that need a restart, and the outcome.
    """
    changed = {
        ".".join(map(key_of, place)): place
        for place in _places(running)
        if _value(running, place) != _value(wanted, place)
    }
    live = tuple(key for key in changed if is_live(key) and not _is_tied(key, running, changed))
    takes_restart = tuple(key for key in changed if key not in live)
    settings = wanted
    for key in takes_restart:
        settings = _with(settings, changed[key], _value(running, changed[key]))
    return settings, Reload(live, takes_restart)


def _is_tied(key: str, running: Settings, changed: dict[str, _AttributePath]) -> bool:
    """Return whether a key belongs to the API that the daemon started with: no token may be sent to another API.

    The simulator makes its pages and tokens when it starts.
    """
    tied = _OF_THE_WORLD if any(each in changed for each in _WORLD) else ()
    made = _MADE_BY_THE_SIMULATOR if running.source.kind == "simulator" else ()
    return key.startswith((*tied, *made))


def _places(settings: Settings) -> Iterator[_AttributePath]:
    """Yield every key outside of lists; a list is one key."""
    for name, value in settings:
        if isinstance(value, Section):
            yield from ((name, attribute) for attribute in type(value).model_fields)
        else:
            yield (name,)


def _value(settings: Settings, place: _AttributePath) -> object:
    return reduce(getattr, place, settings)


def _with(settings: Settings, place: _AttributePath, value: object) -> Settings:
    name, *inner = place
    if inner:
        value = getattr(settings, name).model_copy(update={inner[0]: value})
    return settings.model_copy(update={name: value})
