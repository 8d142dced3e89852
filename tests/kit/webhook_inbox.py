"""An inbox of webhook events that refuses every call: tests override those that they are about."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from milepost.core.model import Stream
from milepost.core.webhooks import WebhookEvent, WebhookKind


class NoInbox:
    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        raise NotImplementedError(events, now)

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        raise NotImplementedError(now)

    async def announced(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        raise NotImplementedError(message_ids)

    async def streams_with_facts(self) -> tuple[Stream, ...]:
        return ()

    async def trim(self, received_before: datetime, max_events: int) -> Counter[WebhookKind]:
        raise NotImplementedError(received_before, max_events)
