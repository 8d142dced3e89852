"""Where notices go: Apprise's URLs, of which nothing is shown that may be a secret."""

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from milepost.core.errors import BadConfiguration
from milepost.core.notices import NoticeKind
from milepost.reporting.notices import NoticeText
from milepost.settings import Settings

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

INSTALL = "pip install 'milepost[notify]', or pip install apprise beside an installation from elsewhere"
# Apprise and what it sends by log URLs, which hold secrets: at debug everything, at warning what was refused.
_LOGGERS = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib", "charset_normalizer", "markdown")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,100}|\[[0-9A-Fa-f:.]{2,45}\]")
_STATUS = re.compile(r"error=([1-5][0-9]{2})\b")
_NO_REASON = "the service did not take it, or cannot be reached"


class Destination(Protocol):
    """Somewhere notices go. `name` is shown, and holds no secret."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def send(self, text: NoticeText) -> str | None:
        """Send a notice and return why it was not taken, or None. It blocks for as long as the service does."""
        ...


class AppriseDestination(Struct, frozen=True, eq=False):
    """A destination by one of Apprise's URLs."""

    name: str
    plugin: "NotifyBase"
    reasons: "_Reasons"

    def send(self, text: NoticeText) -> str | None:
        """Send a notice and return why it was not taken, or None."""
        from apprise import NotifyType  # noqa: PLC0415  (the extra)

        types = {
            NoticeKind.RECOVERED: NotifyType.SUCCESS,
            NoticeKind.TOKEN_EXPIRING: NotifyType.WARNING,
            NoticeKind.DEAD_LETTERS: NotifyType.WARNING,
        }
        notify_type = types.get(text.kind, NotifyType.FAILURE)
        with self.reasons.heard() as heard:
            taken = self.plugin.notify(title=text.title, body=text.body, notify_type=notify_type)
        return None if taken else _reason(heard)


def urls_of(settings: Settings) -> tuple[str, ...]:
    """Return the configured URLs."""
    return tuple(url.get_secret_value() for url in settings.notify.urls)


def demand_sendable(settings: Settings) -> None:
    """Raise BadConfiguration if notices cannot be sent to what is configured."""
    destinations(urls_of(settings))


def destinations(urls: Sequence[str]) -> tuple[AppriseDestination, ...]:
    """Return the destinations of these URLs. It blocks: loading Apprise takes a second.

    Raises BadConfiguration if Apprise is missing, or with the place of each URL that it does not take.
    """
    if not urls:
        return ()
    asset, reasons = _loaded(), _quietened()
    plugins = [_plugin(url, asset) for url in urls]
    wrong = [
        f"notify.urls[{index}]: Apprise does not know such a URL, or parts of it are missing"
        for index, plugin in enumerate(plugins)
        if plugin is None
    ]
    if wrong:
        hint = "see https://github.com/caronc/apprise/wiki for the form of each service's URL"
        raise BadConfiguration("\n".join(wrong), hint=hint)
    known = [plugin for plugin in plugins if plugin is not None]
    names = _distinct([_name_of(url, plugin) for url, plugin in zip(urls, known, strict=True)])
    return tuple(AppriseDestination(name, plugin, reasons) for name, plugin in zip(names, known, strict=True))


def _loaded() -> "AppriseAsset":
    try:
        from apprise import AppriseAsset, PersistentStoreMode  # noqa: PLC0415  (the extra)
    except ModuleNotFoundError as error:
        raise BadConfiguration("notify.urls needs Apprise, which is not installed", hint=f"run {INSTALL}") from error
    return AppriseAsset(
        app_id="Milepost",
        app_desc="Milepost",
        app_url="",
        storage_mode=PersistentStoreMode.MEMORY,  # nothing is written to disk
        secure_logging=True,
    )


def _plugin(url: str, asset: "AppriseAsset") -> "NotifyBase | None":
    from apprise import Apprise  # noqa: PLC0415  (the extra)

    plugin: NotifyBase | None = Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    return plugin


def _name_of(url: str, plugin: "NotifyBase") -> str:
    """Return `json://127.0.0.1`, or only `tgram://` where a token stands in the place of a host."""
    scheme, templates = url.partition(":")[0].lower(), tuple[str, ...](plugin.templates)
    has_host = bool(templates) and all("{host}" in each for each in templates)
    host = str(plugin.host or "") if has_host else ""
    return f"{scheme}://{host if _HOST.fullmatch(host) else ''}"


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the names that are the same."""
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


# --- what Apprise logs ------------------------------------------------------------------------------------------------


class _Reasons(logging.Handler):
    """Hears what Apprise logs while it sends in a thread, and passes nothing on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line for the thread that it is of."""
        heard: list[str] | None = getattr(self._of_thread, "heard", None)
        if heard is not None and len(heard) < 10:
            heard.append(record.getMessage())

    @contextmanager
    def heard(self) -> Iterator[list[str]]:
        """Yield what is logged in this thread during the block."""
        heard: list[str] = []
        self._of_thread.heard = heard
        try:
            yield heard
        finally:
            self._of_thread.heard = None


def _quietened() -> _Reasons:
    """Keep what Apprise logs out of the log."""
    reasons = _Reasons()
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [reasons], False
        logger.setLevel(logging.WARNING)
    return reasons


def _reason(heard: Sequence[str]) -> str:
    """Return why a notice was not taken, in words of our own: Apprise's may hold parts of the URL."""
    for line in heard:
        if (status := _STATUS.search(line)) is not None:
            return f"the service answered HTTP {status[1]}"
        if "onnection error" in line:
            return "the service cannot be reached"
    return _NO_REASON
