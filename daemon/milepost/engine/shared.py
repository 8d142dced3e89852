"""What every run works with."""

from msgspec import Struct

from milepost.core.plan import Policy
from milepost.core.ports import Store
from milepost.engine.clock import Clock
from milepost.engine.feed import Feed
from milepost.engine.pauses import Pauses
from milepost.engine.stop import Stop
from milepost.engine.turns import Turns


class Shared(Struct, frozen=True, eq=False):
    """The parts of the shell that all streams share."""

    store: Store
    clock: Clock
    feed: Feed
    stop: Stop
    policy: Policy
    pauses: Pauses
    turns: Turns
