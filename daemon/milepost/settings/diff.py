"""What a new configuration changes in a running daemon, and which changes apply without a restart."""

from collections.abc import Iterator
from functools import reduce

import msgspec

from milepost.settings.model import Section, Settings, key_of

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


class Changes(msgspec.Struct, frozen=True):
    """What a new configuration changes.

    Attributes:
        settings: the settings to continue with: the new values, except those that need a restart.
        live: the keys whose new values apply.
        takes_restart: the keys that keep their old values.
    """

    settings: Settings
    live: tuple[str, ...] = ()
    takes_restart: tuple[str, ...] = ()


def is_live(key: str) -> bool:
    """Return whether a changed key applies without a restart, as long as the API stays the same."""
    return key not in TAKES_RESTART


def changes_between(running: Settings, wanted: Settings) -> Changes:
    """Compare the running settings with those of a reloaded file."""
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
    return Changes(settings, live, takes_restart)


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
