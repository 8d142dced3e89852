"""What is wrong with the daemon as a whole, not with one stream: in words, the most serious first.

The systemd status line, `/readyz`, the API, the status page and `milepost status` all use these words.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from milepost.core.changes import Delivery, DeliveryState, lag_seconds, state_of
from milepost.reporting.humanize import ago, clock, counted, on_one_line
from milepost.reporting.status import StoreOutage


class IssueKind(StrEnum):
    """What an issue is about; the most serious first."""

    STORE_AWAY = "store_away"  # nothing can be read or written
    STALLED = "stalled"  # runs do not end
    RUNS_FAIL = "runs_fail"  # runs end with an error that they cannot record: the database refuses them, or a bug
    GETTING_NOWHERE = "getting_nowhere"  # the API's list of a stream's conversations makes no progress
    NOTHING_TO_DO = "nothing_to_do"  # there is no stream
    DISCOVERY_FAILED = "discovery_failed"  # the pages that source.access_token manages are not known
    RELOAD_REFUSED = "reload_refused"  # the configuration on disk is not the one in effect
    RESTART_NEEDED = "restart_needed"  # a part of the configuration on disk needs a restart to take effect
    DELIVERIES = "deliveries"  # receivers do not accept the changes
    WEBHOOKS = "webhooks"  # they do not come as they should: new messages wait for the next regular sweep
    UNSUBSCRIBED = "unsubscribed"  # pages are not subscribed to the webhooks for what is copied
    NOTICES = "notices"  # people do not get the notices that they should act on
    CLOCKS_DIFFER = "clocks_differ"  # those of this machine and of the API
    SLOWED_DOWN = "slowed_down"  # calls are spaced because a rate limit's budget runs out


SERIOUSNESS = tuple(IssueKind)
# Not what concerns some streams only: an orchestrator would cut off webhooks and the status page of all the others.
UNREADY = frozenset({IssueKind.STORE_AWAY, IssueKind.STALLED, IssueKind.NOTHING_TO_DO})


class Issue(Struct, frozen=True):
    """Something that is wrong: `what` in words, since when (null if that is unknown), why, and what a person can do."""

    kind: IssueKind
    what: str
    since: datetime | None = None
    reason: str | None = None
    advice: str | None = None


class DeliveryView(Struct, frozen=True):
    """Where a destination stands.

    `place` is the seq of the change feed up to which its receiver has confirmed everything, and `lag_seconds` how long
    the oldest change after it has been waiting. `problem` is why the latest attempt failed; null if it did not.
    """

    destination: str
    state: DeliveryState
    is_configured: bool
    place: int
    lag_seconds: float
    delivered_at: datetime | None
    paused_at: datetime | None
    failing_since: datetime | None
    failures: int
    problem: str | None
    retry_at: datetime | None


def delivery_view(delivery: Delivery, configured: Collection[str], now: datetime) -> DeliveryView:
    """Return where a destination stands now."""
    return DeliveryView(
        delivery.destination,
        state_of(delivery),
        delivery.destination in configured,
        delivery.place,
        lag_seconds(delivery, now),
        delivery.delivered_at,
        delivery.paused_at,
        delivery.failing_since,
        delivery.failures,
        delivery.problem,
        delivery.retry_at,
    )


class WebhookStatus(Struct, frozen=True):
    """What has come by webhooks since the start, and when last; `missed` are messages that no webhook announced."""

    taken: int
    last_at: datetime | None
    missed: int


class DaemonStatus(Struct, frozen=True):
    """The daemon as a whole at the instant `at`, from its memory: it is known while the database is unavailable.

    `issues` are what is wrong with it, the most serious first. `queued` says by stream since when it has been waiting
    for a slot, `slowed_down` by page how far apart its calls are, and why, and `held_back` by page why older messages
    wait. `webhooks` is null where none are taken; `deliveries` are the destinations of the configuration.
    """

    at: datetime
    version: str
    issues: tuple[Issue, ...]
    queued: Mapping[str, datetime]
    slowed_down: Mapping[str, str]
    held_back: Mapping[str, str] = {}
    webhooks: WebhookStatus | None = None
    deliveries: tuple[DeliveryView, ...] = ()


def outage_in(issues: Iterable[Issue], now: datetime) -> StoreOutage | None:
    """Return the database's outage if it is one of the issues."""
    away = next((issue for issue in issues if issue.kind is IssueKind.STORE_AWAY), None)
    return None if away is None else StoreOutage(away.since or now, away.reason or away.what)


def most_serious_first(issues: Iterable[Issue]) -> tuple[Issue, ...]:
    """Sort issues."""
    return tuple(sorted(issues, key=lambda issue: SERIOUSNESS.index(issue.kind)))


def in_a_sentence(issue: Issue, now: datetime) -> str:
    """Return an issue in one line, without the advice."""
    since = "" if issue.since is None else f" since {clock(issue.since, now)} ({ago(issue.since, now)})"
    return f"{issue.what}{since}" + ("" if issue.reason is None else f": {on_one_line(issue.reason)}")


def webhooks_in_words(webhooks: WebhookStatus, now: datetime) -> str:
    """Return the counts of webhooks in one line."""
    last = "" if webhooks.last_at is None else f", the last {ago(webhooks.last_at, now)}"
    missed = f"; {counted(webhooks.missed, 'message')} came without one" if webhooks.missed else ""
    return f"{counted(webhooks.taken, 'webhook')} since the start{last}{missed}"


def status_line(issues: Iterable[Issue], streams: str, now: datetime) -> str:
    """Return one line about the daemon: first what is wrong, and then the summary of the streams.

    Instants do not say how long ago they were, or the line would change all the time.
    """
    wrong = [
        issue.what
        + ("" if issue.since is None else f" since {clock(issue.since, now)}")
        + ("" if issue.reason is None else f" ({on_one_line(issue.reason)})")
        for issue in issues
    ]
    return "; ".join([*wrong, streams])


def why_unready(issues: Iterable[Issue], now: datetime) -> str | None:
    """Return why nothing is copied; None if something is."""
    return next((in_a_sentence(issue, now) for issue in issues if issue.kind in UNREADY), None)
