"""The parts and settings that all runs share."""

from msgspec import Struct, field
from msgspec.structs import replace

from milepost.core.events import Reason
from milepost.core.model import Stream
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import Clock, Store
from milepost.core.quiet import QuietHead
from milepost.engine.clock import Deadline
from milepost.engine.feed import Feed
from milepost.engine.interrupt import Stop
from milepost.engine.mailbox import Mailbox
from milepost.engine.prefetch import RowsAhead
from milepost.engine.rate_limits import CallShares, RateLimits
from milepost.engine.slots import Slots


class EngineContext(Struct, frozen=True, eq=False):
    """The parts of the engine that all streams share."""

    store: Store
    clock: Clock
    feed: Feed
    stop: Stop
    policy: Policy
    rate_limits: RateLimits
    slots: Slots
    call_shares: CallShares = field(default_factory=CallShares)
    rows_ahead: RowsAhead = field(default_factory=RowsAhead)
    quiet_heads: dict[Stream, QuietHead] = field(default_factory=dict)

    def is_interrupted(self, mailbox: Mailbox) -> bool:
        """Return whether something has come up that must be handled between two batches."""
        return self.stop.is_requested or mailbox.interrupt.is_set or mailbox.is_dismissed or mailbox.is_outdated

    def budget_now(self, budget: RunBudget, deadline: Deadline, mailbox: Mailbox) -> RunBudget:
        """Return a run's budget with its deadline by the clock's current setting, and with any reason to stop."""
        stops_for = Reason.SHUTDOWN if self.stop.is_requested else Reason.REMOVED if mailbox.is_dismissed else None
        return replace(budget, deadline_at=deadline.at, stops_for=stops_for)
