"""What both databases do with webhook events alike: their columns, and how long each waits."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from milepost.core.journal import instant_text
from milepost.core.model import Stream
from milepost.core.webhooks import WebhookEvent, WebhookKind

# The list of conversations may show a message a few seconds after its webhook; or a worker has died meanwhile.
SOON_SECONDS, LATER_SECONDS = 10.0, 120.0
NEVER = "9000-01-01T00:00:00.000Z"  # until a regular sweep has stored the message, or it is too old


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


def claim_parameters(now: datetime) -> dict[str, str]:
    """Return the instants of a claim: now, and when events that are claimed are due again."""
    return {
        "now": instant_text(now),
        "soon": instant_text(now + timedelta(seconds=SOON_SECONDS)),
        "later": instant_text(now + timedelta(seconds=LATER_SECONDS)),
        "never": NEVER,
    }


def streams_of(keys: Iterable[str]) -> tuple[Stream, ...]:
    """Return streams by their keys, each once."""
    return tuple(Stream.parse(key) for key in sorted(set(keys)))


def only_stream(found: Iterable[tuple[str]]) -> Stream | None:
    """Return the stream of the one key that was found; None if there is none, or more than one."""
    streams = streams_of(key for (key,) in found)
    return streams[0] if len(streams) == 1 else None


def count_expired(deleted: Iterable[tuple[str, object]]) -> Counter[WebhookKind]:
    """Count those of deleted events, by kind and when they were due, that were not processed."""
    return Counter(WebhookKind(kind) for kind, due_at in deleted if due_at is not None)


def by_stream(unsent: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return messages by the keys of their streams."""
    messages: dict[str, list[str]] = {}
    for stream, message_id in unsent:
        messages.setdefault(stream, []).append(message_id)
    return messages
