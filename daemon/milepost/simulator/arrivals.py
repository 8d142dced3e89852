"""The arrival of messages as a formula: it says which conversation gets one at which instant, past and future.

Time is divided into slots of `gap_us` microseconds, and a message arrives in each. Slots are grouped into rounds, as
many slots as there are conversations, and each round deals every conversation one message, in an order of its own (like
a shuffled pack of cards that is dealt to its end, then shuffled again). So

- the past needs no memory: the slot of a conversation's newest message, or its tenth newest, is arithmetic;
- the inbox at an instant, newest first, is the current round read backwards, then the conversations of the previous
  round that the current one has not reached;
- time passes by asking for a later instant.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import gcd

import msgspec

from milepost.simulator import seeded

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
