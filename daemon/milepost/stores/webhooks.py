"""The webhook events in either database: their columns, how long each waits, and the queries on them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from milepost.core.checkpoint import TOLERATED_SECONDS
from milepost.core.errors import StoreAway
from milepost.core.journal import instant_text
from milepost.core.model import Stream
from milepost.core.revisions import erased_in
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.stores.reader import Fetch

T = TypeVar("T")

Steps = Callable[[Fetch], Coroutine[Any, Any, T]]
"""A function that runs several statements and returns their joint result."""

# A claimed event is due again after the first, then the second: the list of conversations may show its message only
# seconds after the webhook, and the worker that claimed it may have died.
SOON_SECONDS, LATER_SECONDS = 10.0, 120.0
NEVER = "9000-01-01T00:00:00.000Z"  # until a regular sweep has stored the message, or it is too old
AFTER_ALL = "9999-01-01T00:00:00.000Z"


class StoredWebhooks(ABC):
    """The part of a WebhookInbox (see core/webhooks.py) that both databases share. `keys` makes keys a parameter."""

    def __init__(self, read: Fetch, keys: Callable[[Iterable[str]], object]) -> None:
        self._read = read
        self._keys = keys

    @abstractmethod
    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""

    @abstractmethod
    async def _write(self, steps: Steps[T]) -> T:
        """Run the steps; each statement may be committed by itself."""

    @abstractmethod
    async def _write_alone(self, stream: str, steps: Steps[None]) -> None:
        """Run the steps in one transaction, while nobody else commits to the stream or adds events."""

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        """Claim the events that are due, and return the streams to read because of them."""
        instants = {
            "now": instant_text(now),
            "soon": instant_text(now + timedelta(seconds=SOON_SECONDS)),
            "later": instant_text(now + timedelta(seconds=LATER_SECONDS)),
            "ahead": instant_text(now + timedelta(seconds=LATER_SECONDS + TOLERATED_SECONDS)),
            "never": NEVER,
        }

        async def claim(fetch: Fetch) -> set[str]:
            # Without those that are never due: they may be many, as those of a stream that is stopped.
            await fetch("settle_webhook_events", {"due_before": NEVER})
            return {key for (key,) in await fetch("claim_webhook_events", instants)}

        claimed = await self._write(claim)
        moved = await self._read("moved_streams", (self._keys(claimed),)) if claimed else ()
        return _streams_of(claimed.union(*moved))

    async def streams_with_facts(self) -> tuple[Stream, ...]:
        """Return the streams with facts about stored messages."""

        async def attach(fetch: Fetch) -> list[tuple[str]]:
            await fetch("attach_facts")
            await fetch("follow_moves")
            return await fetch("streams_with_facts")

        for (stream,) in await self._read("streams_with_unsent"):
            with suppress(StoreAway):  # for a commit that takes long, as a removal: the others do not wait for it
                await self._write_alone(stream, partial(self._erase_unsent, stream))
        return _streams_of(key for (key,) in await self._write(attach))

    async def _erase_unsent(self, stream: str, fetch: Fetch) -> None:
        """Erase unsent messages from wherever their content is kept besides their rows, which may not exist yet."""
        message_ids = [message_id for (message_id,) in await fetch("take_unsent", (stream,))]
        wanted = self._keys(message_ids)
        await fetch("erase_edits", (wanted,))
        for dead_letter_id, payload in await fetch("payloads_about", {"stream": stream, "event_ids": wanted}):
            erased = {"dead_letter_id": dead_letter_id, "payload": erased_in(payload, message_ids)}
            await fetch("rewrite_payload", erased)

    async def announced(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        """Return those of these messages that an event has announced, processed or not."""
        found = await self._read("told_messages", (self._keys(message_ids),))
        return frozenset(message_id for (message_id,) in found)

    async def instagram_stream(self, message_ids: tuple[str, ...], contact_ids: tuple[str, ...]) -> Stream | None:
        """Return the Instagram stream that has any of these messages or contacts; None if no or several streams do."""
        named = {"message_ids": self._keys(message_ids), "contact_ids": self._keys(contact_ids)}
        streams = _streams_of(key for (key,) in await self._read("instagram_streams", named))
        return streams[0] if len(streams) == 1 else None

    async def trim(self, received_before: datetime, max_events: int) -> Counter[WebhookKind]:
        """Delete events received before an instant, and the oldest beyond `max_events`; count those not processed."""
        limits = {"received_before": instant_text(received_before), "max_events": max_events}

        async def trim(fetch: Fetch) -> list[tuple[str, object]]:
            await fetch("settle_webhook_events", {"due_before": AFTER_ALL})
            old = await fetch("delete_old_webhook_events", limits)
            return [*old, *await fetch("delete_webhook_events_beyond", limits)]

        return Counter(WebhookKind(kind) for kind, due_at in await self._write(trim) if due_at is not None)


def event_columns(event: WebhookEvent) -> dict[str, str | None]:
    """Return an event's columns."""
    return {
        "event_key": event.key,
        "platform": event.stream.platform.value,
        "page_id": event.stream.page_id,
        "kind": event.kind.value,
        "message_id": event.message_id,
        "contact_id": event.contact_id,
        "occurred_at": instant_text(event.occurred_at),
        "actor": event.actor,
        "detail": event.detail,
    }


def _streams_of(keys: Iterable[str]) -> tuple[Stream, ...]:
    """Return streams by their keys, each once."""
    return tuple(Stream.parse(key) for key in sorted(set(keys)))
