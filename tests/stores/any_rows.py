"""Hypothesis strategies for rows that hold anything that their columns may."""

import json
from datetime import UTC, datetime
from functools import cache
from typing import TypeVar

from hypothesis import strategies as st

from milepost.core.model import (
    Changes,
    ContactRow,
    ConversationRow,
    DeadLetterPayload,
    InteractionEventRow,
    PageRow,
    Stream,
)

Value = TypeVar("Value")

ODD_TEXTS = (
    "",
    "\0",
    "a\0b",
    "👩‍👩‍👧",
    "مرحبا \u202eabc",
    "a" + "\u0301" * 40,
    "\ufeff\u2028\uffff",
    "'; --",
    "%_\\",
    "NULL",
)
ODD_IDS = ("9007199254740993", "9007199254740992", "aWdf" * 27 + "12", "[1]", '"', "é", "e\u0301", " ", "T_1", "t_1")


def perhaps(strategy: st.SearchStrategy[Value]) -> st.SearchStrategy[Value | None]:
    return st.none() | strategy


def texts(*, with_nul: bool) -> st.SearchStrategy[str]:
    if with_nul:
        return st.text(max_size=40) | st.sampled_from(ODD_TEXTS)
    whole = st.characters(exclude_characters="\0", codec="utf-8")
    return st.text(whole, max_size=40) | st.sampled_from([each for each in ODD_TEXTS if "\0" not in each])


# No NUL in an id: SQLite's json_each ends a text there, and PostgreSQL accepts none.
ids = st.sampled_from(ODD_IDS) | st.text(
    st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=110
)
numbers = st.integers(0, 2**53)
# Instants are kept in whole milliseconds.
naive = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31))  # noqa: DTZ001  (made aware below)
instants = naive.map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC))


@cache
def any_changes(of: Stream, *, with_nul: bool) -> st.SearchStrategy[Changes]:
    """Return a few rows of a stream, no key twice."""
    platform, page_id = st.just(of.platform.value), st.just(of.page_id)
    words = texts(with_nul=with_nul)
    said, counted = perhaps(words), perhaps(numbers)
    conversations = st.builds(
        ConversationRow,
        conversation_id=ids,
        platform=platform,
        page_id=page_id,
        contact_id=perhaps(ids),
        link=said,
        snippet=said,
        message_count=counted,
        unread_count=counted,
        can_reply=perhaps(st.booleans()),
        updated_time=instants,
        first_synced_at=instants,
        synced_at=instants,
        deleted_at=perhaps(instants),
        messages_fingerprint=perhaps(words),
    )
    contacts = st.builds(
        ContactRow,
        platform=platform,
        page_id=page_id,
        contact_id=ids,
        name=said,
        username=said,
        first_seen_at=instants,
        last_interaction_at=instants,
        updated_at=instants,
    )
    events = st.builds(
        InteractionEventRow,
        event_id=ids,
        conversation_id=ids,
        platform=platform,
        page_id=page_id,
        contact_id=perhaps(ids),
        direction=st.sampled_from(("in", "out")),
        kind=words,
        text=said,
        attachments=perhaps(words.map(json.dumps)),
        occurred_at=instants,
    )
    pages = st.builds(
        PageRow,
        platform=platform,
        page_id=page_id,
        name=said,
        username=said,
        first_seen_at=instants,
        last_seen_at=instants,
    )
    payloads = st.builds(DeadLetterPayload, dead_letter_id=ids, payload=words)
    return st.builds(
        Changes,
        st.lists(conversations, max_size=3, unique_by=lambda row: row.conversation_id).map(tuple),
        st.lists(contacts, max_size=3, unique_by=lambda row: row.contact_id).map(tuple),
        st.lists(events, max_size=3, unique_by=lambda row: row.event_id).map(tuple),
        st.lists(payloads, max_size=3, unique_by=lambda row: row.dead_letter_id).map(tuple),
        page=perhaps(pages),
    )
