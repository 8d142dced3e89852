"""Webhook events: what the platform says by itself, and the port to where they wait until they are worked off.

They are hints. Rows come from sweeps only: an event about a message that is not stored yet says that a sweep will find
something.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from milepost.core.model import Stream


class WebhookKind(StrEnum):
    """What an event says of its message."""

    MESSAGE = "message"  # it was written, by the contact or by the page
    REVISION = "revision"  # it was edited or unsent: whoever reads it again sees that


class WebhookEvent(Struct, frozen=True):
    """An event about one message. `contact_id` is None where the event names nobody.

    `which` distinguishes several revisions of a message.
    """

    stream: Stream
    kind: WebhookKind
    message_id: str
    contact_id: str | None
    occurred_at: datetime
    which: str = ""

    @property
    def key(self) -> str:
        """What a repetition of the event has in common with it."""
        return f"{self.stream.key} {self.kind} {self.message_id} {self.which}".rstrip()


class WebhookInbox(Protocol):
    """Where events wait. Its methods raise StoreAway and StoreRefused as those of a Store do.

    An event stays there for a while after it was worked off, so that its repetitions are recognized.
    """

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""
        ...

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        """Return the streams that have to be read because of events that are due, which nobody else is given then.

        Events whose message is stored are worked off, and so are revisions. The others are due again after a while, and
        then once more: the list may show a message later than the event, and a worker that has claimed one may die.
        """
        ...

    async def told(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        """Return those of these messages that an event has announced, worked off or not."""
        ...

    async def trim(self, received_before: datetime, max_events: int) -> int:
        """Delete events that are older, and the oldest of too many; return how many were not worked off."""
        ...
