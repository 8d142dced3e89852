"""Webhook events: what the platform says by itself, and the port to where they wait until they are processed.

An event about a message that is not stored yet is a hint: it says that a sweep will find something, for messages come
from sweeps only. What no sweep can find is a fact, which is applied to its message (core/facts.py).
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from milepost.core.model import InteractionEventRow, Stream


class WebhookKind(StrEnum):
    """What an event says of its message."""

    MESSAGE = "message"  # it was written, by the contact or by the page
    REVISION = "revision"  # it was edited, the event does not say how: whoever reads it again sees that
    EDIT = "edit"
    UNSEND = "unsend"
    REACTION = "reaction"  # somebody reacted to it, or no longer does
    REFERRAL = "referral"  # which ad or link led to it
    READ = "read"  # the page has read it, and what is older

    @property
    def is_fact(self) -> bool:
        """Whether it is applied to its message, and waits for that if it is not stored yet."""
        return self not in {WebhookKind.MESSAGE, WebhookKind.REVISION}


class WebhookEvent(Struct, frozen=True):
    """An event about one message. `contact_id` is None where the event names nobody.

    `which` distinguishes several events of a kind about a message. A fact has `detail`, the JSON of what it says, and
    an `actor` where that may be said by several people. Without a `message_id` a fact is about the message of the
    contact that was the first after a referral, or the last before a reading.
    """

    stream: Stream
    kind: WebhookKind
    message_id: str
    contact_id: str | None
    occurred_at: datetime
    which: str = ""
    actor: str = ""
    detail: str | None = None

    @property
    def key(self) -> str:
        """What a repetition of the event has in common with it."""
        return f"{self.stream.key} {self.kind} {self.message_id} {self.which}".rstrip()


class DueFact(Struct, frozen=True):
    """A fact whose `message` is stored. It `is_superseded` if a later one of its kind is known, applied or not."""

    event_key: str
    kind: WebhookKind
    actor: str
    occurred_at: datetime
    detail: str | None
    is_superseded: bool
    message: InteractionEventRow


class FactsApplied(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Facts were applied to stored messages: how many were edited or unsent, or got reactions or referrals.

    `reads` counts conversations that the page has read, and `outdated` the facts that changed nothing: a newer one was
    applied before, or the message was read later.
    """

    edited: int = 0
    unsent: int = 0
    reactions: int = 0
    referrals: int = 0
    reads: int = 0
    outdated: int = 0


class WebhookInbox(Protocol):
    """Where events wait. Its methods raise StoreAway and StoreRefused as those of a Store do.

    An event stays there for a while after it was processed, so that its repetitions are recognized.
    """

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""
        ...

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        """Return the streams that have to be read because of events that are due, which nobody else is given then.

        Where rows of a page have moved, as with an account that was linked to another one, that one's stream, too.

        Events whose message is stored or was unsent are processed, and so are revisions. The others are due again after
        a while, and then once more: the list may show a message later than the event, and a worker that has claimed one
        may die.
        """
        ...

    async def streams_with_facts(self) -> tuple[Stream, ...]:
        """Return the streams that have facts about messages that are stored: a Store returns them as due."""
        ...

    async def announced(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        """Return those of these messages that an event has announced, processed or not."""
        ...

    async def instagram_stream(self, message_ids: tuple[str, ...], contact_ids: tuple[str, ...]) -> Stream | None:
        """Return the Instagram stream of which any of these messages or contacts are stored.

        None if there is none, or more than one.
        """
        ...

    async def trim(self, received_before: datetime, max_events: int) -> Counter[WebhookKind]:
        """Delete events that are older, and the oldest of too many; count those that were not processed."""
        ...
