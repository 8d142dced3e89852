"""The parts that work by settings which may change while they do."""

from msgspec import Struct

from milepost.app.pages import PageRegistry
from milepost.core.plan import Policy
from milepost.engine.rate_limits import RateLimits
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.facebook.client import GraphClient
from milepost.service.logs.output import set_level
from milepost.settings import Settings


class Workings(Struct, frozen=True, eq=False):
    """Every part that is told of new settings."""

    supervisor: Supervisor
    registry: PageRegistry
    client: GraphClient
    rate_limits: RateLimits

    def adopt(self, settings: Settings) -> None:
        """Work by these settings from now on; which pages are worked, and with what access, is not touched."""
        source = settings.source
        self.supervisor.adopt(policy_of(settings), schedule_of(settings), settings.sync.concurrency)
        self.registry.calls_per_second = source.calls_per_second
        self.client.renew(source.app_secret.get_secret_value())
        self.client.request_timeout_seconds = source.request_timeout_seconds
        self.rate_limits.floor_seconds = source.rate_limit_floor_seconds
        set_level(settings.log.level)


def policy_of(settings: Settings) -> Policy:
    """Pick the settings that decisions depend on."""
    return Policy(
        batch_size=settings.sync.batch_size,
        messages_per_conversation=settings.sync.messages_per_conversation,
        watermark_overlap_seconds=settings.sync.watermark_overlap_seconds,
        full_sweep_interval_seconds=settings.sync.full_sweep_interval_seconds,
        attempts=settings.retry.attempts,
        base_delay_seconds=settings.retry.base_delay_seconds,
        max_delay_seconds=settings.retry.max_delay_seconds,
        rate_limit_floor_seconds=settings.source.rate_limit_floor_seconds,
    )


def schedule_of(settings: Settings) -> Schedule:
    """Pick the settings that say how often and how long streams are worked."""
    return Schedule(
        interval_seconds=settings.sync.interval_seconds,
        max_run_seconds=settings.sync.max_run_duration_seconds,
        max_batches_per_run=settings.sync.max_batches_per_run,
    )
