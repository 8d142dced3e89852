"""Webhook events, which the platform sends by itself, and the port to the inbox in which they wait.

Messages come from sweeps only. So an event about a message that is not stored yet is only a hint that a sweep will find
something. An event about something that no sweep can find is a fact, and is applied to its message (core/facts.py).
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from milepost.core.model import InteractionEventRow, Stream


class WebhookKind(StrEnum):
    """What an event says about its message."""

    MESSAGE = "message"  # it was written, by the contact or by the page
    REVISION = "revision"  # it was edited, but the event does not say how: it has to be read again
    EDIT = "edit"
    UNSEND = "unsend"
    REACTION = "reaction"  # somebody reacted to it, or no longer does
    REFERRAL = "referral"  # which ad or link led to it
    READ = "read"  # the page has read it, and all older ones

    @property
    def is_fact(self) -> bool:
        """Whether it is applied to its message; if the message is not stored yet, it waits."""
        return self not in {WebhookKind.MESSAGE, WebhookKind.REVISION}


class WebhookEvent(Struct, frozen=True):
    """An event about one message. `contact_id` is None if the event names nobody.

    `which` distinguishes several events of a kind about a message. A fact has its content as JSON in `detail`, and an
    `actor` if several people may cause such facts. Without a `message_id`, a referral is about the contact's first
    message after it, and a reading about the last one before it.
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
        """The key that repetitions of the event share."""
        return f"{self.stream.key} {self.kind} {self.message_id} {self.which}".rstrip()


class DueFact(Struct, frozen=True):
    """A fact whose `message` is stored. It `is_superseded` if a later fact of its kind is known, applied or not."""

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
    """Stores events until they are processed. Its methods raise StoreAway and StoreRefused as those of a Store do.

    An event stays for a while after it was processed, so that its repetitions are recognised.
    """

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""
        ...

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        """Claim the events that are due, and return the streams that have to be read because of them.

        No other worker gets these events meanwhile. If rows of a page have moved to another page, as when an account is
        linked to another one, the other page's stream is returned as well.

        Events whose message is stored or was unsent count as processed, and so do revisions. The others are due again
        after a while, and then once more: the list may show a message later than the event, and a worker that has
        claimed one may die.
        """
        ...

    async def streams_with_facts(self) -> tuple[Stream, ...]:
        """Return the streams that have facts about stored messages, which a Store returns as due."""
        ...

    async def announced(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        """Return which of these messages an event has announced, processed or not."""
        ...

    async def instagram_stream(self, message_ids: tuple[str, ...], contact_ids: tuple[str, ...]) -> Stream | None:
        """Return the Instagram stream that any of these messages or contacts are stored for.

        None if there is none, or more than one.
        """
        ...

    async def trim(self, received_before: datetime, max_events: int) -> Counter[WebhookKind]:
        """Delete older events, and the oldest ones beyond `max_events`; count those that were not processed."""
        ...
