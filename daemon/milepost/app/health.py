"""Collects from the daemon's parts what is wrong with the daemon as a whole."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from msgspec.structs import replace

from milepost import __version__
from milepost.app.build import Parts
from milepost.app.webhooks import Webhooks
from milepost.core.background import Demand
from milepost.core.changes import Delivery, DeliveryState, state_of
from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.errors import MilepostError
from milepost.core.events import RunStatus
from milepost.core.model import Stream
from milepost.core.problems import Scope
from milepost.deliveries.worker import Dispatcher
from milepost.engine.supervisor import FailedRuns
from milepost.facebook.calls import Slowdown
from milepost.reporting.health import (
    DaemonStatus,
    Issue,
    IssueKind,
    delivery_view,
    most_serious_first,
    status_line,
    why_unready,
)
from milepost.reporting.humanize import counted, lasting
from milepost.reporting.live import LiveStreams
from milepost.reporting.status import limit_in_words
from milepost.service.availability import StoreWatch

FAILING_ADVICE = "they are tried again within a quarter of an hour; the log says more, for a report of this bug"
STUCK_ADVICE = "`milepost status` says for each what to do; what is new is copied meanwhile"
CLOCK_ADVICE = "nothing is missed, but more is read again; check the machine's time synchronization (timedatectl)"
NAMED_STREAMS = 3
SOME_FAILURES = 3  # of deliveries; a single one is retried a second later
BROKEN_ADVICE = "restarted once a minute; the log says more"
DELIVERIES_ADVICE = "nothing is lost: they are retried for as long as it takes; `milepost deliveries list` shows each"
SLOW_ADVICE = "nothing to do: the spacing wears off within minutes, and keeps calls from being refused"


class Health:
    """What is wrong with the daemon. Its methods are called in the event loop and never wait for the database."""

    def __init__(
        self,
        parts: Parts,
        store_watch: StoreWatch,
        live: LiveStreams,
        webhooks: Webhooks,
        deliveries: Dispatcher,
        redact: Callable[[str], str],
    ) -> None:
        self._redact = redact
        self._registry = parts.registry
        self._slots = parts.engine.slots
        self._supervisor = parts.supervisor
        self._rate_limits = parts.engine.rate_limits
        self._now = parts.clock.now
        self._live = live
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._sources: list[Callable[[], Iterable[Issue]]] = [
            store_watch.issues,
            parts.discovery.issues,
            parts.reloader.issues,
            webhooks.issues,
            lambda: delivery_issues(deliveries.states.values(), deliveries.broken()),
        ]

    def add(self, issues: Callable[[], Iterable[Issue]]) -> None:
        """Add another source of issues."""
        self._sources.append(issues)

    def status(self) -> DaemonStatus:
        """Return the status of the daemon as a whole."""
        now, deliveries = self._now(), self._deliveries.states
        queued = {stream.key: _before(now, seconds) for stream, seconds in self._slots.waiting_seconds().items()}
        slowed_down = {page_id: _in_words(slowdown) for page_id, slowdown in self._registry.slowdowns().items()}
        return DaemonStatus(
            now,
            __version__,
            self.issues(),
            queued,
            slowed_down,
            held_back=self._held_back(),
            webhooks=self._webhooks.status(),
            deliveries=tuple(delivery_view(each, deliveries.keys(), now) for each in deliveries.values()),
        )

    def issues(self) -> tuple[Issue, ...]:
        """Return what is wrong, the most serious first."""
        return most_serious_first(map(self._without_secrets, self._found()))

    def _held_back(self) -> Mapping[str, str]:
        """Return by id each page whose older messages wait for a rate limit's budget, and which budget that is."""
        usages = {stream.page_id: self._rate_limits.usage(stream) for stream in self._supervisor.streams}
        return {
            page_id: f"older messages wait, because {_used(usage.ratio, usage.scope)}"
            for page_id, fullest in usages.items()
            if (usage := Demand(fullest).held_back_by) is not None
        }

    def status_line(self, streams: str) -> str:
        """Return one line that says what is wrong, and then the given summary of the streams."""
        return status_line(self.issues(), streams, self._now())

    def why_unready(self) -> str | None:
        """Return why nothing is copied; None if something is."""
        return why_unready(self.issues(), self._now())

    def _without_secrets(self, issue: Issue) -> Issue:
        """Redact the reason of an issue: it may quote a token that was put in the wrong place of config.yaml."""
        return issue if issue.reason is None else replace(issue, reason=self._redact(issue.reason))

    def _found(self) -> Iterator[Issue]:
        if (stalled := self._supervisor.stalled()) is not None:
            yield Issue(IssueKind.STALLED, "streams are stalled", reason=stalled)
        yield from failing_runs(self._supervisor.failing(), self._live.latest(self._supervisor.streams))
        if stuck := self._live.getting_nowhere(self._supervisor.streams):
            reason = "; ".join(f"{stream.key}: {problem}" for stream, problem in stuck.items())
            what = f"{counted(len(stuck), 'stream')} getting nowhere"
            yield Issue(IssueKind.GETTING_NOWHERE, what, reason=reason, advice=STUCK_ADVICE)
        for issues in self._sources:
            yield from issues()
        if slowdowns := self._registry.slowdowns():
            worst = max(slowdowns.values(), key=lambda slowdown: slowdown.seconds)
            seconds = asyncio.get_running_loop().time() - min(slowdown.since for slowdown in slowdowns.values())
            since = _before(self._now(), seconds)
            what = f"calls are slowed down for {counted(len(slowdowns), 'page')}"
            yield Issue(IssueKind.SLOWED_DOWN, what, since, _used(worst.ratio, worst.scope), SLOW_ADVICE)
        clocks = self._registry.clock_difference
        if clocks.since is not None:
            direction = "behind" if clocks.ahead_seconds > 0 else "ahead of"
            what = f"the API's clock is {lasting(abs(clocks.ahead_seconds))} {direction} this machine's"
            yield Issue(IssueKind.CLOCKS_DIFFER, what, clocks.since, advice=CLOCK_ADVICE)


def failing_runs(failing: Mapping[Stream, FailedRuns], checkpoints: Iterable[Checkpoint]) -> Iterator[Issue]:
    """Yield that runs fail, if some do. Streams that another worker has run since do not count."""
    latest = {checkpoint.stream: checkpoint.run for checkpoint in checkpoints}
    failed = {stream.key: runs for stream, runs in failing.items() if not _is_over(runs, latest.get(stream))}
    if failed:
        since = min(runs.since for runs in failed.values())
        errors = [runs.error for runs in failed.values()]
        whose = ", ".join(failed) if len(failed) <= NAMED_STREAMS else counted(len(failed), "stream")
        reason = "; ".join(dict.fromkeys(map(_error_in_words, errors)))  # many streams fail for one reason
        hints = (error.hint for error in errors if isinstance(error, MilepostError) and error.hint)
        yield Issue(IssueKind.RUNS_FAIL, f"the runs of {whose} fail", since, reason, next(hints, FAILING_ADVICE))


def _is_over(failed: FailedRuns, latest: Run | None) -> bool:
    """Return whether another worker's run has ended since, and not only been found open.

    What our own runs write before they fail does not count, nor does a command: the issue would come and go.
    """
    if latest is None or latest.ended_at is None or latest.run_id == failed.run_id:
        return False
    return latest.ended_at > failed.last_at and latest.status is not RunStatus.INTERRUPTED


def _error_in_words(error: Exception) -> str:
    """Return an error in words; one that was not expected may quote anything, and is in the log."""
    return error.message if isinstance(error, MilepostError) else f"an unexpected {type(error).__name__}"


def delivery_issues(deliveries: Iterable[Delivery], broken: Mapping[str, str]) -> Iterator[Issue]:
    """Yield an issue if some of these deliveries fail, and one if any worker in `broken` has ended with an error."""
    for name, error in broken.items():
        yield Issue(IssueKind.DELIVERIES, f"deliveries to {name} are not made", None, error, BROKEN_ADVICE)
    failing = [
        each for each in deliveries if state_of(each) is DeliveryState.FAILING and each.failures >= SOME_FAILURES
    ]
    if failing:
        what = f"deliveries to {', '.join(each.destination for each in failing)} fail"
        since = min(each.failing_since for each in failing if each.failing_since is not None)
        reason = "; ".join(f"{each.destination}: {each.problem}" for each in failing)
        yield Issue(IssueKind.DELIVERIES, what, since, reason, DELIVERIES_ADVICE)


def _before(now: datetime, seconds: float) -> datetime:
    return (now - timedelta(seconds=seconds)).replace(microsecond=0)


def _in_words(slowdown: Slowdown) -> str:
    return (
        f"calls are {counted(round(slowdown.seconds), 'second')} apart, because {_used(slowdown.ratio, slowdown.scope)}"
    )


def _used(ratio: float, scope: Scope) -> str:
    return f"{ratio:.0%} of {limit_in_words(scope)} was reported as used"
