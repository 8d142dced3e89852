"""Puts together what is wrong with the daemon as a whole, as its parts know it."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from msgspec.structs import replace

from milepost import __version__
from milepost.app.build import Parts
from milepost.app.deliveries import Deliveries
from milepost.app.store_watch import StoreWatch
from milepost.app.webhooks import Webhooks
from milepost.core.background import Demand
from milepost.core.model import Scope, Stream
from milepost.facebook.calls import Slowdown
from milepost.reporting.health import (
    DaemonStatus,
    Issue,
    IssueKind,
    most_serious_first,
    status_line,
    why_unready,
)
from milepost.reporting.humanize import counted, lasting
from milepost.reporting.live import LiveStreams
from milepost.reporting.status import limit_in_words

STUCK_ADVICE = "`milepost status` says for each what to do; what is new is copied meanwhile"
CLOCK_ADVICE = "nothing is missed, but more is read again; check the machine's time synchronization (timedatectl)"
SLOW_ADVICE = "nothing to do: the spacing wears off within minutes, and keeps calls from being refused"


class Health:
    """What is wrong with the daemon. It is asked in the event loop, and never waits for the database."""

    def __init__(
        self,
        parts: Parts,
        store_watch: StoreWatch,
        live: LiveStreams,
        webhooks: Webhooks,
        deliveries: Deliveries,
        redact: Callable[[str], str],
    ) -> None:
        self._store_watch = store_watch
        self._redact = redact
        self._registry = parts.registry
        self._slots = parts.engine.slots
        self._supervisor = parts.supervisor
        self._rate_limits = parts.engine.rate_limits
        self._stalled = parts.supervisor.stalled
        self._now = parts.clock.now
        self._live = live
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._sources: list[Callable[[], Iterable[Issue]]] = [
            parts.discovery.issues,
            parts.reloader.issues,
            webhooks.issues,
            deliveries.issues,
        ]

    def add(self, issues: Callable[[], Iterable[Issue]]) -> None:
        """Ask for these issues, too."""
        self._sources.append(issues)

    def status(self) -> DaemonStatus:
        """Return the status of the daemon as a whole."""
        queued = {stream.key: since for stream, since in self.queued().items()}
        return DaemonStatus(
            self._now(),
            __version__,
            self.issues(),
            queued,
            self.slowed_down(),
            held_back=self.held_back(),
            webhooks=self._webhooks.status(),
            deliveries=self._deliveries.views(),
        )

    def issues(self) -> tuple[Issue, ...]:
        """Return what is wrong, the most serious first."""
        return most_serious_first(map(self._without_secrets, self._found()))

    def queued(self) -> Mapping[Stream, datetime]:
        """Return since when streams have been waiting for a slot."""
        now = self._now()
        return {
            stream: (now - timedelta(seconds=seconds)).replace(microsecond=0)
            for stream, seconds in self._slots.waiting_seconds().items()
        }

    def slowed_down(self) -> Mapping[str, str]:
        """Return the pages whose calls are far apart, by id, with how far and why."""
        return {page_id: _in_words(slowdown) for page_id, slowdown in self._registry.slowdowns().items()}

    def held_back(self) -> Mapping[str, str]:
        """Return the pages whose older messages wait for a budget, by id, with which."""
        usages = {stream.page_id: self._rate_limits.usage(stream) for stream in self._supervisor.streams}
        return {
            page_id: f"older messages wait, because {_used(usage.ratio, usage.scope)}"
            for page_id, fullest in usages.items()
            if (usage := Demand(fullest).held_back_by) is not None
        }

    def status_line(self, streams: str) -> str:
        """Return in one line what is wrong, and how the streams stand."""
        return status_line(self.issues(), streams, self._now())

    def why_unready(self) -> str | None:
        """Return why nothing is copied; None if something is."""
        return why_unready(self.issues(), self._now())

    def _without_secrets(self, issue: Issue) -> Issue:
        """Redact why something is wrong: a token in the wrong place of config.yaml is quoted from there."""
        return issue if issue.reason is None else replace(issue, reason=self._redact(issue.reason))

    def _found(self) -> Iterator[Issue]:
        away = self._store_watch.issue()
        if away is not None:
            yield away
        stalled = self._stalled()
        if stalled is not None:
            yield Issue(IssueKind.STALLED, "streams are stalled", reason=stalled)
        if stuck := self._live.getting_nowhere(self._supervisor.streams):
            reason = "; ".join(f"{stream.key}: {problem}" for stream, problem in stuck.items())
            what = f"{counted(len(stuck), 'stream')} getting nowhere"
            yield Issue(IssueKind.GETTING_NOWHERE, what, reason=reason, advice=STUCK_ADVICE)
        for issues in self._sources:
            yield from issues()
        slowdowns = self._registry.slowdowns()
        if slowdowns:
            worst = max(slowdowns.values(), key=lambda slowdown: slowdown.seconds)
            seconds = asyncio.get_running_loop().time() - min(slowdown.since for slowdown in slowdowns.values())
            since = (self._now() - timedelta(seconds=seconds)).replace(microsecond=0)
            what = f"calls are slowed down for {counted(len(slowdowns), 'page')}"
            yield Issue(IssueKind.SLOWED_DOWN, what, since, _why(worst), SLOW_ADVICE)
        clocks = self._registry.clock_difference
        if clocks.since is not None:
            direction = "behind" if clocks.ahead_seconds > 0 else "ahead of"
            what = f"the API's clock is {lasting(abs(clocks.ahead_seconds))} {direction} this machine's"
            yield Issue(IssueKind.CLOCKS_DIFFER, what, clocks.since, advice=CLOCK_ADVICE)


def _in_words(slowdown: Slowdown) -> str:
    return f"calls are {counted(round(slowdown.seconds), 'second')} apart, because {_why(slowdown)}"


def _why(slowdown: Slowdown) -> str:
    return _used(slowdown.ratio, slowdown.scope)


def _used(ratio: float, scope: Scope) -> str:
    return f"{ratio:.0%} of {limit_in_words(scope)} was reported as used"
