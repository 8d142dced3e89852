"""The change feed: rows as consumers receive them, in the order of the journal, each at its latest state only.

The state of each destination that they are delivered to, its transitions, and the port to its storage follow.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.model import Stream


class ChangeKind(StrEnum):
    """What changed: a row of `contacts`, `conversations` or `contact_interaction_events`."""

    CONTACT = "contact"
    CONVERSATION = "conversation"
    MESSAGE = "message"


class ChangeOp(StrEnum):
    """Whether a row is there now, new or changed, or is gone."""

    UPSERT = "upsert"
    DELETE = "delete"


ALL_KINDS = frozenset(ChangeKind)


class Change(Struct, frozen=True):
    """A row as it is now; `row` is None if it was deleted.

    `seq` is the unique place of the change in the feed; a consumer can stop after any change, and continue from its
    seq. `key` and `row` are columns by name: instants are text, as in SQLite. `history` says that a message was not new
    when it was stored: it came with a first copy, or as an older message of its conversation.
    """

    seq: int
    kind: ChangeKind
    op: ChangeOp
    key: dict[str, str]
    row: dict[str, Any] | None
    history: bool = False


class ChangesPage(Struct, frozen=True):
    """Changes in the order of their seq, and the seq to continue from: equal to the requested one if nothing is new.

    It is smaller where the requested one lies beyond the last change, as after a backup was restored.

    `next` may be greater than the seq of the last change, because changes that were not requested are skipped. A page
    without changes is the last one only if `next` has not moved either.

    `mark` lets a later request check that the database still has every change up to `next`.
    """

    changes: tuple[Change, ...]
    next: int
    mark: str = ""


class ChangeReader(Protocol):
    """The rows of the store in the order in which they changed. Raises StoreAway and StoreRefused as a Store does."""

    async def read_changes(
        self,
        after: int,
        limit: int,
        kinds: AbstractSet[ChangeKind] = ALL_KINDS,
        stream: Stream | None = None,
        mark: str = "",
    ) -> ChangesPage:
        """Return up to `limit` changes with a seq greater than `after`: of these kinds, of one stream or of all.

        Raises HistoryRewritten if `mark`, which came with `after`, shows that changes up to `after` were lost since.
        """

    async def last_change(self) -> int:
        """Return the seq of the latest change; 0 if there is none."""


# --- deliveries -------------------------------------------------------------------------------------------------------

# A destination's place is a cursor of the change feed. It moves only after the receiver has confirmed. So after any
# failure changes are delivered again: each at least once, and in order.

MAX_CHANGES = 100  # in a request
MAX_WAIT_SECONDS = 900.0  # between two attempts: a receiver that is back gets its rows within a quarter of an hour
FIRST_WAIT_SECONDS = 1.0
HOLD_SECONDS = 25.0  # by one worker: longer than a request and what is read before it


class Delivery(Struct, frozen=True):
    """The state of a destination: everything before `place` was delivered.

    Attributes:
        destination: its name in the configuration.
        place: the cursor of the change feed after the last change that its receiver has confirmed.
        behind_since: since when the oldest undelivered change has been waiting; None if there is none.
        delivered_at: when the receiver last confirmed a request.
        paused_at: when an operator paused it.
        failing_since: when the current series of failed attempts began.
        failures: the number of attempts in it.
        problem: why the last of them failed, without anything that the receiver wrote.
        retry_at: when the next attempt is due.
        replays: how often its place was moved, so that receivers that drop repeats accept what is delivered again.
    """

    destination: str
    place: int
    behind_since: datetime | None = None
    delivered_at: datetime | None = None
    paused_at: datetime | None = None
    failing_since: datetime | None = None
    failures: int = 0
    problem: str | None = None
    retry_at: datetime | None = None
    replays: int = 0


class DeliveryResult(StrEnum):
    """The result of a request to a receiver."""

    DELIVERED = "delivered"  # confirmed with a status from 200 to 299
    REFUSED = "refused"  # any other status, redirects among them
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"  # no address, no connection, no trusted certificate, or a connection that was lost
    FORBIDDEN_ADDRESS = "forbidden_address"  # its name leads into a private network


class Answer(Struct, frozen=True):
    """A receiver's answer: the `problem` in words, and the wait that it asks for, if any."""

    result: DeliveryResult
    problem: str = ""
    retry_after_seconds: float | None = None


def is_due(delivery: Delivery, now: datetime) -> bool:
    """Return whether a request may be made. An instant beyond the longest wait comes from a clock that was ahead."""
    if delivery.paused_at is not None:
        return False
    left = seconds_left(delivery, now)
    return left <= 0 or left > MAX_WAIT_SECONDS


def seconds_left(delivery: Delivery, now: datetime) -> float:
    """Return the seconds until the next attempt; not above 0 if it may be made now."""
    return 0.0 if delivery.retry_at is None else (delivery.retry_at - now).total_seconds()


def wait_seconds(failures: int, asked_seconds: float | None, random: float) -> float:
    """Return how long to wait after this many failures in a row: it doubles each time, with random jitter.

    A receiver may ask for a longer wait, up to the maximum.
    """
    longest = min(FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 30), MAX_WAIT_SECONDS)
    return min(max(longest * (0.5 + random / 2), asked_seconds or 0.0), MAX_WAIT_SECONDS)


def next_limit(limit: int, result: DeliveryResult) -> int:
    """Return how many changes to send at once after a request with up to `limit`.

    A receiver that refuses a request, or takes too long, may cope with fewer; then the limit slowly grows again.
    """
    match result:
        case DeliveryResult.DELIVERED:
            return min(MAX_CHANGES, limit + max(1, limit // 4))
        case DeliveryResult.REFUSED | DeliveryResult.TIMED_OUT:
            return max(1, limit // 2)
        case DeliveryResult.UNREACHABLE | DeliveryResult.FORBIDDEN_ADDRESS:
            return limit


def delivered(delivery: Delivery, place: int, behind_since: datetime | None, now: datetime) -> Delivery:
    """Return the state of a destination after its receiver has confirmed everything before `place`."""
    return replace(advanced(delivery, place, behind_since), delivered_at=now)


def advanced(delivery: Delivery, place: int, behind_since: datetime | None) -> Delivery:
    """Return the state of a destination when there is nothing to deliver before `place`."""
    return replace(
        delivery,
        place=place,
        behind_since=behind_since,
        failing_since=None,
        failures=0,
        problem=None,
        retry_at=None,
    )


def failed(delivery: Delivery, answer: Answer, now: datetime, random: float) -> Delivery:
    """Return the state of a destination after a failed attempt."""
    failures = delivery.failures + 1
    wait = wait_seconds(failures, answer.retry_after_seconds, random)
    return replace(
        delivery,
        behind_since=delivery.behind_since or now,
        failing_since=delivery.failing_since or now,
        failures=failures,
        problem=answer.problem,
        retry_at=now + timedelta(seconds=wait),
    )


class DeliveryState(StrEnum):
    """What a destination is doing, in a word."""

    UP_TO_DATE = "up_to_date"
    DELIVERING = "delivering"
    FAILING = "failing"
    PAUSED = "paused"


def state_of(delivery: Delivery) -> DeliveryState:
    """Return what a destination is doing."""
    if delivery.paused_at is not None:
        return DeliveryState.PAUSED
    if delivery.problem is not None:
        return DeliveryState.FAILING
    return DeliveryState.UP_TO_DATE if delivery.behind_since is None else DeliveryState.DELIVERING


def lag_seconds(delivery: Delivery, now: datetime) -> float:
    """Return for how long the oldest undelivered change has been waiting; 0 if there is none."""
    return 0.0 if delivery.behind_since is None else max(0.0, (now - delivery.behind_since).total_seconds())


class DeliveryPlaces(Protocol):
    """Stores the places of destinations. Its methods raise StoreAway and StoreRefused as those of a Store do.

    In PostgreSQL, where several workers share them, one worker at a time holds a destination, until HOLD_SECONDS after
    it last asked for it or recorded something for it.
    """

    async def begin(self, destination: str, place: int) -> None:
        """Add a destination that begins at `place`, unless one with this name exists."""
        ...

    async def all(self) -> Mapping[str, Delivery]:
        """Return the state of each destination by name, including those that are no longer configured."""
        ...

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        """Hold a destination for a worker and return its state; None if it does not exist or another one holds it."""
        ...

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        """Record the state of a destination, and hold it.

        Records nothing and returns False if it was moved since `before`, or if another worker holds it. Never changes
        whether it is paused; if it was resumed since `before`, it stays due at once.
        """
        ...

    async def release(self, worker: str) -> None:
        """Release everything that this worker holds."""
        ...

    async def pause(self, destination: str, now: datetime) -> bool:
        """Pause a destination; return False if none has this name."""
        ...

    async def resume(self, destination: str) -> bool:
        """Resume a destination, and make it due at once; return False if none has this name."""
        ...

    async def move(self, destination: str, place: int) -> bool:
        """Move a destination to another place, from which it continues; return False if none has this name."""
        ...
