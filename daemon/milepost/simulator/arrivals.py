"""When messages arrive, as a formula: which conversation gets one at which instant, since ever and for ever.

Time is cut in slots of `gap_us` microseconds, and a message arrives in each. Slots are grouped in rounds, as many slots
as there are conversations, and each round deals every conversation one message, in an order of the round's own (like a
shuffled pack of cards dealt to its end, then shuffled again). So

- the past needs no memory: where a conversation's newest message lies, or its tenth newest, is arithmetic;
- the inbox at an instant, newest first, is the present round read backwards, then what it has not yet dealt of the
  round before;
- asking for a later instant is all it takes for time to pass.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import gcd

import msgspec

from milepost.simulator import seeded

_JITTER_SPREAD = 0x9E3779B97F4A7C15


class Shuffle(msgspec.Struct, frozen=True):
    """A round's order: the conversation at each place, and back (an affine permutation)."""

    size: int
    step: int
    back: int
    offset: int

    def conversation_at(self, place: int) -> int:
        """The conversation dealt at this place of the round."""
        return (place * self.step + self.offset) % self.size

    def store_url_of(self, conversation: int) -> int:
        """The place in the round at which this conversation is dealt."""
        return (conversation - self.offset) * self.back % self.size


@lru_cache(maxsize=4096)
def shuffle_of(seed: int, round_: int, size: int) -> Shuffle:
    """The order of one round."""
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
    """Where slot 0 begins; those before it have negative numbers."""
    end_at_anchor: bool
    """Nothing arrives from slot 0 on."""

    def instant_of(self, slot: int) -> int:
        """When the message of this slot arrives: somewhere within it, always at the same instant."""
        jitter = ((slot * _JITTER_SPREAD ^ self.seed) >> 16) % self.gap_us
        return self.anchor_us + slot * self.gap_us + jitter

    def slot_at(self, at_us: int) -> int:
        """The newest slot whose message has arrived at this instant."""
        slot = (at_us - self.anchor_us) // self.gap_us
        if self.instant_of(slot) > at_us:
            slot -= 1
        return min(slot, -1) if self.end_at_anchor else slot

    def newest_slots(self, latest: int, start: int) -> Iterator[tuple[int, int]]:
        """Each conversation's newest slot and the conversation, as it is at slot `latest`, from `start` backwards."""
        size = self.conversations
        if size == 0:
            return
        present = latest // size
        dealt = latest - present * size
        place_now = shuffle_of(self.seed, present, size).store_url_of
        for round_ in (present, present - 1):
            first = round_ * size
            conversation_at = shuffle_of(self.seed, round_, size).conversation_at
            for slot in range(min(start, latest, first + size - 1), first - 1, -1):
                conversation = conversation_at(slot - first)
                if round_ == present or place_now(conversation) > dealt:
                    yield slot, conversation

    def newest_slot_of(self, conversation: int, latest: int) -> int:
        """The newest slot of a conversation, as it is at slot `latest`."""
        slot = self.slot_in_round(conversation, latest // self.conversations)
        return slot if slot <= latest else self.slot_in_round(conversation, latest // self.conversations - 1)

    def slot_in_round(self, conversation: int, round_: int) -> int:
        """The slot in which a round deals this conversation its message."""
        size = self.conversations
        return round_ * size + shuffle_of(self.seed, round_, size).store_url_of(conversation)
