"""Messages and what is said of them as columns: those of `contact_interaction_events`, and of facts that wait."""

from datetime import datetime
from typing import Any

from milepost.core.journal import instant_text
from milepost.core.model import InteractionEventRow
from milepost.core.position import ThreadSpan
from milepost.core.webhooks import DueFact, WebhookKind
from milepost.stores.rows import instant, optional_instant, optional_text, stored_key


def interaction_event_tuple(row: InteractionEventRow) -> tuple[Any, ...]:
    """Return an interaction event's columns."""
    return (
        stored_key(row.event_id),
        row.conversation_id,
        row.platform,
        row.page_id,
        row.contact_id,
        row.direction,
        row.kind,
        row.text,
        row.attachments,
        instant_text(row.occurred_at),
        optional_text(row.content_at),
    )


def interaction_event_row(columns: tuple[Any, ...]) -> InteractionEventRow:
    """Return the interaction event of these columns."""
    *of_all, occurred_at, edited_at, deleted_at, reactions, referral, content_at = columns
    times = instant(occurred_at), optional_instant(edited_at), optional_instant(deleted_at)
    values: tuple[Any, ...] = (*of_all, *times, reactions, referral, optional_instant(content_at))
    return InteractionEventRow(*values)


def is_history(row: InteractionEventRow, news_after: datetime | None) -> bool:
    """Return whether an interaction event is not news when it is stored (see Changes)."""
    return news_after is None or row.occurred_at <= news_after


def revision(row: InteractionEventRow, version: int) -> dict[str, str | int | None]:
    """Return what of an interaction event changes after it was stored."""
    return {
        "version": version,
        "event_id": row.event_id,
        "kind": row.kind,
        "text": row.text,
        "attachments": row.attachments,
        "edited_at": optional_text(row.edited_at),
        "deleted_at": optional_text(row.deleted_at),
        "reactions": row.reactions,
        "referral": row.referral,
        "content_at": optional_text(row.content_at),
    }


def due_fact(columns: tuple[Any, ...]) -> DueFact:
    """Return the fact of these columns, of which those of its message come last."""
    event_key, kind, actor, occurred_at, detail, is_superseded, *message = columns
    row = interaction_event_row(tuple(message))
    return DueFact(event_key, WebhookKind(kind), actor, instant(occurred_at), detail, bool(is_superseded), row)


def span_parameters(span: ThreadSpan) -> dict[str, str]:
    """Return the parameters of the statement that counts messages of a conversation."""
    return {
        "conversation_id": span.conversation_id,
        "back_to": instant_text(span.back_to),
        "newest_at": instant_text(span.newest_at),
        "as_of": instant_text(span.as_of),
    }
