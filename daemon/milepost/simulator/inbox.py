"""The threads of one page on one platform, computed on demand.

Instants in this module are whole microseconds since 1970 (`…_us`).
"""

import math
from collections.abc import Iterator
from heapq import merge
from typing import Literal

import msgspec

from milepost.simulator import seeded
from milepost.simulator.plan import DEFAULT_SEED, Arrivals, Platform, SimulatedPage, WorldPlan, instant_us

MAX_DETAILED_MESSAGES = 20
"""The Graph API lists no more messages of a thread, and on Instagram has no more of it at all."""

MAX_RECEIVED_NOW = 10_000  # if no webhook sender takes them
_INDEX_BITS = 28
_LONG_SHARE = 0.01


class Position(msgspec.Struct, frozen=True, order=True):
    """A position in an inbox's descending order: the newest message's instant, then the thread's index."""

    updated_us: int
    index: int


HEAD = Position(1 << 62, 0)
"""Before every possible thread."""


class Contact(msgspec.Struct, frozen=True):
    """The person on the other side of a conversation; Instagram shows `username`, Messenger `name`."""

    id: str
    name: str
    username: str


class Moment(msgspec.Struct, frozen=True):
    """One message of a thread: when it arrived, and the random bytes that determine everything else.

    Unless its author `edited` the text, or it is listed without any content (`is_empty`).
    """

    id: str
    at_us: int
    seed: bytes
    edited: str | None = None
    is_empty: bool = False


HappeningKind = Literal["edit", "unsend", "react", "refer"]


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """A manual action on a thread or one of its messages that only webhooks report, with its text if it has one."""

    conversation_id: str
    kind: HappeningKind
    number: int
    message_id: str = ""
    text: str | None = None


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation at an instant."""

    id: str
    page: SimulatedPage
    platform: Platform
    position: Position
    contact: Contact
    seed: bytes
    """Determines what never changes about the thread; the newest moment's seed determines what a message changes."""
    message_count: int
    newest: tuple[Moment, ...]
    """Newest first, at most 20."""

    @property
    def shows_participants(self) -> bool:
        """Whether the participants are included; the API leaves out those of a few conversations."""
        return self.seed[0] >= 5


def is_invented(conversation_id: str, page_id: str, platform: str, seed: int = DEFAULT_SEED) -> bool:
    """Return whether a world of this seed invented the conversation, whatever its plan and page.

    Its id holds 32 bits that depend on seed, page and platform: any other id has them with a chance of 1 in 4e9.
    """
    digits = _digits_of(conversation_id, platform)
    number = seeded.gathered(digits)
    salt = seeded.number(seed, page_id, platform) % (1 << 32)
    return number >> _INDEX_BITS == salt and seeded.scattered(number) == digits


def _digits_of(conversation_id: str, platform: str) -> int:
    """Return the number in an id, which has 19 digits; 0 if there is none."""
    opened = seeded.unsealed(conversation_id) if platform == "instagram" else conversation_id
    digits = (opened or "")[-19:]
    return int(digits) if len(digits) == 19 and digits.isascii() and digits.isdigit() else 0


class Inbox:
    """The threads of one page on one platform."""

    def __init__(self, page: SimulatedPage, platform: Platform, plan: WorldPlan) -> None:
        self.page = page
        self.platform: Platform = platform
        self._seed = seeded.number(plan.seed, page.id, platform)
        self.salt = self._seed % (1 << 32)
        self._chapter_mean = 2 * plan.messages_per_conversation - 2
        self._longest = plan.longest_thread
        self._arrivals = Arrivals(
            seed=self._seed,
            conversations=plan.conversations,
            gap_us=plan.gap_us,
            anchor_us=instant_us(plan.anchor_at),
            end_at_anchor=plan.is_frozen,
        )
        self._received: dict[int, list[int]] = {}
        self._received_now: list[tuple[str, Moment]] = []
        self._deleted: set[int] = set()
        self._edited: dict[str, str] = {}
        self._emptied: set[str] = set()
        self._unsent: set[str] = set()
        self._newcomers = 0
        self._happened: list[Happening] = []
        self._happenings = 0

    def threads(self, at_us: int, below: Position = HEAD) -> Iterator[Thread]:
        """Return the threads after a position, newest first, as in the API."""
        return (self._thread(position, at_us) for position in self._positions(at_us, below))

    def find(self, conversation_id: str, at_us: int) -> Thread | None:
        """Return the thread of this id; None if it is deleted or of another inbox."""
        index = self.index_of(conversation_id)
        if index is None or index in self._deleted:
            return None
        updated_us = self._updated_us(index, at_us)
        return None if updated_us is None else self._thread(Position(updated_us, index), at_us)

    def index_of(self, conversation_id: str) -> int | None:
        """Return the index of the conversation of this id; None if it is not in this inbox."""
        index = seeded.gathered(_digits_of(conversation_id, self.platform)) & ((1 << _INDEX_BITS) - 1)
        known = index < self._arrivals.conversations or index in self._received
        return index if known and self._conversation_id(index) == conversation_id else None

    def messages(self, thread: Thread, at_us: int) -> tuple[Moment, ...]:
        """Return the messages of a thread that can be read one page after the other, newest first."""
        if self.platform == "instagram":
            return thread.newest
        return tuple(self._moments(thread.position.index, at_us, thread.message_count)[0])

    def receive(self, index: int | None, at_us: int, count: int = 1) -> str:
        """Add messages of one instant to a conversation, or to a new one, and return the conversation's id."""
        if index is None:
            index = self._arrivals.conversations + self._newcomers
            self._newcomers += 1
        self._deleted.discard(index)
        conversation_id, instants = self._conversation_id(index), self._received.setdefault(index, [])
        for ordinal in range(len(instants), len(instants) + count):
            self._received_now.append((conversation_id, self._moment(index, f"received {ordinal}", at_us)))
        instants.extend([at_us] * count)
        del self._received_now[:-MAX_RECEIVED_NOW]
        return conversation_id

    def take_received(self) -> list[tuple[str, Moment]]:
        """Return the messages that were received by hand since the last call, each with its conversation's id."""
        taken, self._received_now = self._received_now, []
        return taken

    def arrived(self, after_us: int, until_us: int) -> Iterator[tuple[str, Moment]]:
        """Yield the messages that the formula dealt after one instant and up to another, oldest first."""
        arrivals = self._arrivals
        if arrivals.conversations == 0:
            return
        for slot in range(arrivals.slot_at(after_us) + 1, arrivals.slot_at(until_us) + 1):
            index = arrivals.conversation_of(slot)
            yield self._conversation_id(index), self._moment(index, slot, arrivals.instant_of(slot))

    def delete(self, conversation_id: str) -> None:
        """Remove a conversation without a trace, with all messages that the formula deals it later."""
        index = self.index_of(conversation_id)
        if index is not None:
            self._deleted.add(index)

    def take_happened(self) -> list[Happening]:
        """Return the manual actions since the last call."""
        taken, self._happened = self._happened, []
        return taken

    def note(self, kind: HappeningKind, conversation_id: str, message_id: str, text: str | None) -> None:
        """Record a manual action that only webhooks report."""
        self._happenings += 1
        happening = Happening(
            conversation_id=conversation_id, kind=kind, number=self._happenings, message_id=message_id, text=text
        )
        self._happened.append(happening)
        del self._happened[:-MAX_RECEIVED_NOW]

    def edit(self, message_id: str, text: str) -> None:
        """Edit a message's text. The thread keeps its position."""
        self._edited[message_id] = text

    def empty(self, message_id: str) -> None:
        """List a message without its content, as the API does at times."""
        self._emptied.add(message_id)

    def unsend(self, message_id: str) -> None:
        """Remove a message from its thread, which keeps its position; there must be another message."""
        self._unsent.add(message_id)

    def _positions(self, at_us: int, below: Position) -> Iterator[Position]:
        untouched = (
            position
            for position in self._dealt_positions(at_us, below)
            if position.index not in self._received and position.index not in self._deleted
        )
        if not self._received:
            return untouched
        touched = [
            Position(updated_us, index)
            for index in self._received
            if index not in self._deleted and (updated_us := self._updated_us(index, at_us)) is not None
        ]
        return merge(untouched, sorted((p for p in touched if p < below), reverse=True), reverse=True)

    def _dealt_positions(self, at_us: int, below: Position) -> Iterator[Position]:
        arrivals = self._arrivals
        latest = arrivals.slot_at(at_us)
        start = (below.updated_us - arrivals.anchor_us) // arrivals.gap_us
        for slot, index in arrivals.newest_slots(latest, start):
            position = Position(arrivals.instant_of(slot), index)
            if position < below:
                yield position

    def _updated_us(self, index: int, at_us: int) -> int | None:
        instants = [instant for instant in self._received.get(index, ()) if instant <= at_us]
        if index < self._arrivals.conversations:
            slot = self._arrivals.newest_slot_of(index, self._arrivals.slot_at(at_us))
            instants.append(self._arrivals.instant_of(slot))
        return max(instants, default=None)

    def _thread(self, position: Position, at_us: int) -> Thread:
        index = position.index
        moments, earlier = self._moments(index, at_us, MAX_DETAILED_MESSAGES)
        return Thread(
            id=self._conversation_id(index),
            page=self.page,
            platform=self.platform,
            position=position,
            contact=self._contact(index),
            seed=seeded.draw(self._seed, index, "thread"),
            message_count=len(moments) + earlier,
            newest=tuple(moments[:MAX_DETAILED_MESSAGES]),
        )

    def _moments(self, index: int, at_us: int, most: int) -> tuple[list[Moment], int]:
        """Return the messages of a thread, newest first, and the number of earlier ones.

        They are those received by hand, and the newest ones that the formula has dealt, `most` at most.
        """
        dealt, earlier = self._dealt_moments(index, at_us, most + len(self._unsent))
        received = [
            self._moment(index, f"received {ordinal}", instant)
            for ordinal, instant in enumerate(self._received.get(index, ()))
            if instant <= at_us
        ]
        moments = received[::-1] + dealt
        if received:
            moments.sort(key=lambda moment: moment.at_us, reverse=True)
        if self._unsent:
            moments = [moment for moment in moments if moment.id not in self._unsent]
        return moments, earlier

    def _dealt_moments(self, index: int, at_us: int, most: int) -> tuple[list[Moment], int]:
        """Return the newest messages that the formula has dealt, and the number of earlier ones."""
        arrivals = self._arrivals
        if index >= arrivals.conversations:
            return [], 0
        newest = arrivals.newest_slot_of(index, arrivals.slot_at(at_us))
        round_ = newest // arrivals.conversations
        count = self._message_count(index, round_)
        shown = min(count, most)
        slots = [newest, *(arrivals.slot_in_round(index, round_ - back) for back in range(1, shown))]
        return [self._moment(index, slot, arrivals.instant_of(slot)) for slot in slots], count - shown

    def _message_count(self, index: int, round_: int) -> int:
        """Return the thread's number of messages: it grows by one each round until its chapter ends, then starts over.

        The lengths of chapters are distributed exponentially (most threads are short, a few are long), so that the
        average over all threads is the plan's. The extra long threads do not count towards that average; they have any
        length up to the longest.
        """
        if self._longest and seeded.share(self._seed, index, "long") < _LONG_SHARE:
            return 1 + (round_ + seeded.number(self._seed, index, "phase")) % self._longest
        chapter = 1 + round(-math.log(1 - seeded.share(self._seed, index, "chapter")) * self._chapter_mean)
        return 1 + (round_ + seeded.number(self._seed, index, "phase")) % chapter

    def _moment(self, index: int, which: int | str, at_us: int) -> Moment:
        drawn = seeded.draw(self._seed, index, which)
        message_id = self._message_id(drawn)
        return Moment(message_id, at_us, drawn, self._edited.get(message_id), message_id in self._emptied)

    def _message_id(self, drawn: bytes) -> str:
        if self.platform == "messenger":
            return "m_" + seeded.url_safe(drawn)
        item = int.from_bytes(drawn[:16], "big")
        return seeded.sealed(f"ig_dm_item:1:IGMessageID:{self.page.account_id('instagram')}:{item:039d}")

    def _conversation_id(self, index: int) -> str:
        number = seeded.scattered(self.salt << _INDEX_BITS | index)
        if self.platform == "messenger":
            return f"t_{number}"
        return seeded.sealed(
            f"ig_dm_thread:1:IGThreadID:{self.page.account_id('instagram')}:34028236684171030094{number}"
        )

    def _contact(self, index: int) -> Contact:
        drawn = seeded.number(self._seed, index, "contact")
        handle = f"{seeded.pick(seeded.HANDLES, drawn)}.{seeded.pick(seeded.HANDLES, drawn >> 16)}{drawn % 997}"
        contact_id = seeded.scattered(self.salt << _INDEX_BITS | ((1 << _INDEX_BITS) - 1 - index))
        return Contact(str(contact_id), seeded.pick(seeded.PEOPLE, drawn >> 32), handle)
