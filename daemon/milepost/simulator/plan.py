"""The plan of a simulated world: its seed, its pages, its size, how fast it grows, and when each message arrives."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import gcd
from typing import Literal

import msgspec

from milepost.core.errors import BadConfiguration
from milepost.simulator import seeded

Platform = Literal["messenger", "instagram"]
PLATFORMS: tuple[Platform, ...] = ("messenger", "instagram")

DEFAULT_SEED = 1
"""Also the seed of the embedded world, by which its conversations are recognized."""

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_FROZEN_GAP_US = 60_000_000
_MAX_CONVERSATIONS = 10_000_000


class SimulatedPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the world. The repr leaves out its `token`, which a client must send."""

    id: str
    name: str
    token: str
    platforms: tuple[Platform, ...] = PLATFORMS
    instagram_account_id: str | None = None

    def __repr__(self) -> str:
        return f"SimulatedPage(id={self.id!r}, name={self.name!r}, platforms={self.platforms!r})"

    def account_id(self, platform: Platform) -> str:
        """Return the id of the page itself in its conversations."""
        return (self.instagram_account_id or self.id) if platform == "instagram" else self.id


class WorldPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a world; equal plans make equal worlds.

    `conversations` and `arrivals_per_minute` are those of each stream (a page on a platform);
    `messages_per_conversation` is an average; besides, one thread in a hundred grows up to `longest_thread` messages
    (0: none does). Nothing arrives after `frozen_at`; with `arrivals_per_minute=0`
    it defaults to the beginning of 2026, and the past has one message a minute.

    Raises:
        BadConfiguration: a number is out of range, or `frozen_at` has no time zone.
    """

    seed: int = DEFAULT_SEED
    pages: int | tuple[SimulatedPage, ...] = 2
    conversations: int = 1000
    messages_per_conversation: float = 5.0
    longest_thread: int = 0
    arrivals_per_minute: float = 6.0
    frozen_at: datetime | None = None

    def __post_init__(self) -> None:
        _within("pages", self.pages if isinstance(self.pages, int) else len(self.pages), 0, 10_000)
        _within("conversations", self.conversations, 0, _MAX_CONVERSATIONS)
        _within("messages_per_conversation", self.messages_per_conversation, 1, 10_000)
        _within("longest_thread", self.longest_thread, 0, 100_000)
        _within("arrivals_per_minute", self.arrivals_per_minute, 0, 600_000)
        if self.frozen_at is not None and self.frozen_at.tzinfo is None:
            raise BadConfiguration("frozen_at has no time zone", hint="write it with one, like 2026-01-01T00:00:00Z")

    @property
    def is_frozen(self) -> bool:
        """Whether arrivals end, at `anchor_at`."""
        return self.frozen_at is not None or self.arrivals_per_minute == 0

    @property
    def anchor_at(self) -> datetime:
        """The instant from which the stream's arrivals are counted, backwards and forwards."""
        return self.frozen_at or _BEGINNING

    @property
    def gap_us(self) -> int:
        """Microseconds from one arrival in a stream to the next, on average."""
        return round(60_000_000 / self.arrivals_per_minute) if self.arrivals_per_minute else _FROZEN_GAP_US


def pages_of(plan: WorldPlan) -> tuple[SimulatedPage, ...]:
    """Return the pages of the plan, invented if it gives only a number, each Instagram account with an id."""
    if isinstance(plan.pages, int):
        return tuple(made_up_page(plan.seed, ordinal) for ordinal in range(plan.pages))
    return tuple(
        msgspec.structs.replace(page, instagram_account_id=_instagram_account_id(plan.seed, page.id))
        if "instagram" in page.platforms and page.instagram_account_id is None
        else page
        for page in plan.pages
    )


def made_up_page(seed: int, ordinal: int) -> SimulatedPage:
    """Return the invented page of this number, from 0, in the world of this seed."""
    page_id = str(61_550_000_000_000_000 + seeded.number(seed, "page", ordinal) % 10**10 * 10_000 + ordinal)
    again = ordinal // len(seeded.PAGE_NAMES)
    return SimulatedPage(
        id=page_id,
        name=seeded.pick(seeded.PAGE_NAMES, ordinal) + (f" {again + 1}" if again else ""),
        token=token_of(seed, page_id),
        instagram_account_id=_instagram_account_id(seed, page_id),
    )


def _instagram_account_id(seed: int, page_id: str) -> str:
    return str(17_841_400_000_000_000 + seeded.number(seed, page_id, "account") % 10**14)


def token_of(seed: int, whose: str) -> str:
    """Return the access token of a page by its id, or of the "user" who manages all of them."""
    return "EAASimulated" + seeded.draw(seed, whose, "token").hex()


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BadConfiguration(f"{name}: found {value}; allowed: a number from {least:,} to {most:,}")


# --- the arrival of messages ------------------------------------------------------------------------------------------

# The arrival of messages is a formula: it says which conversation gets one at which instant, past and future. Time is
# divided into slots of `gap_us` microseconds, and a message arrives in each. Slots are grouped into rounds, as many
# slots as there are conversations, and each round deals every conversation one message, in an order of its own (like a
# shuffled pack of cards that is dealt to its end, then shuffled again). So
#
# - the past needs no memory: the slot of a conversation's newest message, or its tenth newest, is arithmetic;
# - the inbox at an instant, newest first, is the current round read backwards, then the conversations of the previous
#   round that the current one has not reached;
# - time passes by asking for a later instant.

_JITTER_SPREAD = 0x9E3779B97F4A7C15
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_us(at: datetime) -> int:
    """Return the microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def instant(at_us: int) -> datetime:
    """Return the whole second that a microsecond is in: the API is no more precise."""
    return datetime.fromtimestamp(at_us // 1_000_000, UTC)


class Shuffle(msgspec.Struct, frozen=True):
    """The order of a round, as an affine permutation of the conversations."""

    size: int
    step: int
    back: int
    offset: int

    def conversation_at(self, position: int) -> int:
        """Return the conversation at this position of the round."""
        return (position * self.step + self.offset) % self.size

    def position_of(self, conversation: int) -> int:
        """Return the position of this conversation in the round."""
        return (conversation - self.offset) * self.back % self.size


@lru_cache(maxsize=4096)
def shuffle_of(seed: int, round_: int, size: int) -> Shuffle:
    """Return the order of one round."""
    step = 1 + seeded.number(seed, round_, "step") % size
    while gcd(step, size) != 1:
        step += 1
    return Shuffle(size, step, pow(step, -1, size), seeded.number(seed, round_, "offset") % size)


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """The formula of one stream's messages; instants are microseconds since 1970."""

    seed: int
    conversations: int
    gap_us: int
    anchor_us: int
    """The beginning of slot 0; earlier slots have negative numbers."""
    end_at_anchor: bool
    """Nothing arrives from slot 0 on."""

    def instant_of(self, slot: int) -> int:
        """Return when the message of this slot arrives: somewhere within it, always at the same instant."""
        jitter = ((slot * _JITTER_SPREAD ^ self.seed) >> 16) % self.gap_us
        return self.anchor_us + slot * self.gap_us + jitter

    def slot_at(self, at_us: int) -> int:
        """Return the newest slot whose message has arrived at this instant."""
        slot = (at_us - self.anchor_us) // self.gap_us
        if self.instant_of(slot) > at_us:
            slot -= 1
        return min(slot, -1) if self.end_at_anchor else slot

    def newest_slots(self, latest: int, start: int) -> Iterator[tuple[int, int]]:
        """Yield each conversation's newest slot and the conversation, as of slot `latest`, from `start` backwards."""
        size = self.conversations
        if size == 0:
            return
        current = latest // size
        dealt = latest - current * size
        position_now = shuffle_of(self.seed, current, size).position_of
        for round_ in (current, current - 1):
            first = round_ * size
            conversation_at = shuffle_of(self.seed, round_, size).conversation_at
            for slot in range(min(start, latest, first + size - 1), first - 1, -1):
                conversation = conversation_at(slot - first)
                if round_ == current or position_now(conversation) > dealt:
                    yield slot, conversation

    def newest_slot_of(self, conversation: int, latest: int) -> int:
        """Return the newest slot of a conversation, as of slot `latest`."""
        slot = self.slot_in_round(conversation, latest // self.conversations)
        return slot if slot <= latest else self.slot_in_round(conversation, latest // self.conversations - 1)

    def slot_in_round(self, conversation: int, round_: int) -> int:
        """Return the slot of a conversation's message in a round."""
        size = self.conversations
        return round_ * size + shuffle_of(self.seed, round_, size).position_of(conversation)

    def conversation_of(self, slot: int) -> int:
        """Return the conversation that gets the message of this slot."""
        round_, position = divmod(slot, self.conversations)
        return shuffle_of(self.seed, round_, self.conversations).conversation_at(position)
