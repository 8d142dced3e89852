"""`/api/overview`: everything the status page shows about streams and daemon, at first in full, then only the changes.

400 streams are half a megabyte, and only a few kilobytes of that change in a minute. So each answer has a tag; a
request that sends the tag back gets only the fields that differ now.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from milepost.core.changes import DeliveryPlaces
from milepost.reporting.health import DaemonStatus, DeliveryView, delivery_view
from milepost.service.api.streams import Overview, Snapshot
from milepost.service.endpoint import AnyOperation, Call, Nothing, Operation, Reply

PATH = "/api/overview"
MAX_AGE_SECONDS = 0.5  # many viewers share an answer
LEFT_OUT = ("updated_at", "watermark", "retry_at")  # these change often, and the page does not show them
OF_RUN = ("mode", "status", "inserted", "updated", "dead_lettered")
MAX_REMEMBERED = 64  # answers; equal streams are stored once

States = Mapping[str, dict[str, Any]]


class OverviewQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What is known already."""

    since: Annotated[str, Meta(max_length=40, description="the `tag` of an earlier answer")] | None = None


class Changes(Struct, frozen=True):
    """The streams at the instant `at`, by key: all, or those that have changed `since` the answer with that tag.

    A stream is as in `/api/streams`, without fields that nobody watches, and with changed fields only if `since` is
    given; `removed` are the keys of those that are gone. `since` is null if all are here, because no tag was given or
    it is too old.
    """

    at: datetime
    tag: str
    since: str | None
    streams: dict[str, dict[str, Any]]
    removed: tuple[str, ...]
    daemon: DaemonStatus
    started_at: datetime
    is_simulated: bool


class ChangesSince:
    """Remembers the latest answers, by their tags."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(4)  # so that tags of an earlier process match nothing
        self._number = 0
        self._remembered: OrderedDict[str, States] = OrderedDict()

    def remember(self, found: States) -> str:
        """Return the tag of an answer with these streams: the previous tag if nothing has changed."""
        latest = next(reversed(self._remembered.items()), None)
        if latest is not None and latest[1] == found:
            return latest[0]
        before: States = {} if latest is None else latest[1]
        self._number += 1
        tag = f"{self._process}-{self._number}"
        self._remembered[tag] = {key: before[key] if before.get(key) == each else each for key, each in found.items()}
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return tag

    def since(self, earlier: str | None, tag: str) -> tuple[str | None, States, tuple[str, ...]]:
        """Return the tag that the changes start from, the changes up to `tag`, and the keys that were removed."""
        before, after = self._remembered.get(earlier or ""), self._remembered[tag]
        if before is None:
            return None, after, ()
        changed = {
            key: each if key not in before else difference(before[key], each)
            for key, each in after.items()
            if before.get(key) is not each
        }
        return earlier, changed, tuple(key for key in before if key not in after)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `after` that differ, in nested objects too. A field that was removed is null."""
    gone: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        known = before.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            if value != known:
                gone[key] = difference(known, value)
        elif key not in before or value != known:
            gone[key] = value
    return gone


class _Latest:
    """The latest answer. It is made anew when it is too old, by one request at a time."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._making = asyncio.Lock()
        self._made_at = -MAX_AGE_SECONDS
        self._snapshot: Snapshot | None = None
        self._tag = ""
        self.changes = ChangesSince()

    async def take(self) -> tuple[Snapshot, str]:
        """Return a snapshot and its tag."""
        async with self._making:
            if self._snapshot is None or time.monotonic() - self._made_at > MAX_AGE_SECONDS:
                self._snapshot = await self._overview.snapshot()
                found = await asyncio.to_thread(_states_in, self._snapshot)
                self._tag, self._made_at = self.changes.remember(found), time.monotonic()
            return self._snapshot, self._tag


def _states_in(snapshot: Snapshot) -> States:
    keys = snapshot.keys()
    return {key: _watched(msgspec.to_builtins(snapshot.status_of(key))) for key in keys}


def _watched(status: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a status without those that would be half of a busy stream's changes."""
    run = status["run"]
    shown = {key: value for key, value in status.items() if key not in LEFT_OUT}
    return shown if run is None else shown | {"run": {key: run[key] for key in OF_RUN}}


def overview_changes(overview: Overview, started_at: datetime, *, is_simulated: bool) -> list[AnyOperation]:
    """Declare the operation that shows what has changed."""
    latest = _Latest(overview)

    async def show_changes(call: Call[OverviewQuery, None]) -> Reply[Changes]:
        snapshot, tag = await latest.take()
        since, changed, removed = latest.changes.since(call.parameters.since, tag)
        answer = Changes(
            at=snapshot.context.now,
            tag=tag,
            since=since,
            streams=dict(changed),
            removed=removed,
            daemon=overview.daemon(),
            started_at=started_at,
            is_simulated=is_simulated,
        )
        return Reply(answer)

    return [
        Operation(
            "GET",
            PATH,
            "Show all streams and the daemon, or what has changed of them",
            parameters=OverviewQuery,
            response=Changes,
            handle=show_changes,
        )
    ]


def daemon_status(status: Callable[[], DaemonStatus]) -> Sequence[AnyOperation]:
    """Declare `/api/daemon`. It answers from memory, and so works while the database is unavailable."""

    async def show_daemon(_: Call[Nothing, None]) -> Reply[DaemonStatus]:
        return Reply(status())

    return [
        Operation(
            "GET",
            "/api/daemon",
            "Show what is wrong with the daemon as a whole",
            parameters=Nothing,
            response=DaemonStatus,
            handle=show_daemon,
        )
    ]


class Deliveries(Struct, frozen=True):
    """The destinations at the instant `at`, by their names: those that have left the configuration as well."""

    at: datetime
    deliveries: tuple[DeliveryView, ...]


def deliveries(
    places: DeliveryPlaces, configured: Callable[[], Collection[str]], now: Callable[[], datetime]
) -> Sequence[AnyOperation]:
    """Declare the operation that lists destinations. `configured` returns the names of those that are delivered to."""

    async def list_deliveries(_: Call[Nothing, None]) -> Reply[Deliveries]:
        found, at = await places.all(), now()
        views = (delivery_view(found[name], configured(), at) for name in sorted(found))
        return Reply(Deliveries(at, tuple(views)))

    return [
        Operation("GET", "/api/deliveries", "List the destinations of deliveries", Nothing, Deliveries, list_deliveries)
    ]
