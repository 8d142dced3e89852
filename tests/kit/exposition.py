"""What the daemon exports: the metrics with a value each, and how they are read back."""

from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from kit.builders import NETWORK, NOON, RATE_LIMIT, at, run_started
from kit.notices import recorded, store_retried, usage_told
from milepost.core.events import (
    BatchFailed,
    DeadLetterClosed,
    FetchFailed,
    Mode,
    RateLimited,
    Reason,
    Resolution,
    RunEnded,
    RunStatus,
    Stage,
    SweepCompleted,
    Tally,
    TokenChecked,
)
from milepost.core.model import Scope, TokenHealth
from milepost.core.ports import Usage
from milepost.service.metrics.collect import Metrics
from milepost.service.wrong_tokens import WrongTokens

KINDS = ("call_count", "total_time", "total_cputime")


def everything() -> Metrics:
    """Let every metric there is have a value."""
    tally = Tally(
        batches=2, inserted=1, updated=1, unchanged=1, dead_lettered=1, interaction_events=1, order_violations=1
    )
    metrics = Metrics()
    metrics.describe(lambda: 300.0, Path("milepost.db"))
    metrics.register(WrongTokens())
    for signal in (
        recorded(run_started(), FetchFailed(1, NETWORK, at(2))),
        recorded(
            run_started(),
            BatchFailed(Stage.FETCH, 3, NETWORK),
            RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK),
        ),
        recorded(SweepCompleted(Mode.FULL, NOON, at(-90), tally)),
        recorded(run_started(), RateLimited(Scope.PAGE, 1, NOON, at(90), RATE_LIMIT)),
        recorded(DeadLetterClosed("a", Resolution.REDRIVEN)),
        recorded(TokenChecked(TokenHealth(is_valid=True, expires_at=NOON))),
        store_retried(),
        usage_told(*(Usage(scope, kind, 0.5) for scope in Scope for kind in KINDS)),
    ):
        metrics.read(signal)
    return metrics


def families(exposed: bytes) -> list[Metric]:
    """Read what was exposed, as Prometheus's own client does."""
    return list(text_string_to_metric_families(exposed.decode()))
