"""What all runs share."""

from msgspec import Struct, field

from milepost.core.model import Stream
from milepost.core.plan import Policy
from milepost.core.ports import Clock, Store
from milepost.core.quiet import QuietHead
from milepost.engine.call_shares import CallShares
from milepost.engine.feed import Feed
from milepost.engine.interrupt import Stop
from milepost.engine.prefetch import RowsAhead
from milepost.engine.rate_limits import RateLimits
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
