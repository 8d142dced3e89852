"""The queries of a PostgreSQL store: those of stores/reader.py, and those that differ for PostgreSQL."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from milepost.core.journal import instant_text
from milepost.core.model import (
    ContactRow,
    ConversationRow,
    InteractionEventRow,
    Keys,
    Known,
    KnownDeadLetter,
    Stream,
)
from milepost.core.position import Stretch
from milepost.core.revisions import read_before, to_look_up
from milepost.stores import rows
from milepost.stores.postgresql.encoding import Texts, searchable, storable
from milepost.stores.reader import Dialect, Fetch, Parameters, Session, span_parameters, stream_parameters

DIALECT = Dialect(searchable, storable, before_all="-infinity", after_all="infinity")


class _Found(Struct, frozen=True):
    """The result of the statement `known`."""

    conversations: list[ConversationRow]
    contacts: list[ContactRow]
    interaction_events: list[str]
    dead_letters: list[tuple[str, str, str, datetime, bool, str | None]]
    forgotten: list[str]
    left_behind: list[tuple[str, str]]


_decode = msgspec.json.Decoder(_Found).decode


class PostgresqlSession(Session):
    """A session; its `fetch` runs statements inside one transaction, or each in its own."""

    def __init__(self, fetch: Fetch) -> None:
        super().__init__(fetch, DIALECT)

    async def _look_up(self, *asked: tuple[str, Parameters]) -> list[list[Any]]:
        """Run several independent lookups; a store does that in one round trip."""
        return [await self.fetch(*each) for each in asked]

    async def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""
        subjects = {storable(subject): subject for subject in keys.subjects}
        asked = _asked_of(keys, searchable(subjects))
        answers = dict(zip(asked, await self._look_up(*asked.items()), strict=True))
        ((found_as_json,),) = answers["known"]
        found = _decode(found_as_json)
        ((unseen, missed, all_missed),) = answers.get("known_of_sweep", [(0, (), 0)])
        ((stored,),) = answers.get("count_stored", [(0,)])
        ((stored_messages, stored_below),) = answers.get("count_messages", [(0, 0)])
        conversations = {row.conversation_id: row for row in found.conversations}
        known = Known(
            conversations,
            {row.contact_id: row for row in found.contacts},
            read_before(keys, conversations).union(found.interaction_events),
            {
                subjects[each]: KnownDeadLetter(key, print_, opened_at, is_open, payload)
                for each, key, print_, opened_at, is_open, payload in found.dead_letters
            },
            frozenset(found.forgotten),
            unseen,
            frozenset(missed),
            all_missed,
            stored,
            stored_messages,
            stored_below,
            await self._known_messages(keys, conversations),
            left_behind=dict(found.left_behind),
        )
        return await self.with_elsewhere(known, keys)

    async def _known_messages(
        self, keys: Keys, conversations: Mapping[str, ConversationRow]
    ) -> dict[str, InteractionEventRow]:
        wanted = to_look_up(keys, conversations)
        if not wanted:
            return {}
        spans = {
            "conversations": [each.conversation_id for each in wanted],
            "oldest": [each.oldest_at for each in wanted],
            "newest": [each.newest_at for each in wanted],
        }
        found = map(rows.interaction_event_row, await self.fetch("known_messages", spans))
        return {row.event_id: row for row in found}

    async def forgotten_among(
        self, stream: Stream, conversation_ids: Iterable[str], contact_ids: Iterable[str]
    ) -> frozenset[str]:
        """Return those of these conversations and contacts of a stream that were erased."""
        keys = {"conversations": searchable(conversation_ids), "contacts": searchable(contact_ids)}
        return frozenset(key for (key,) in await self.fetch("forgotten_among", stream_parameters(stream) | keys))

    async def is_about_forgotten(self, stream: Stream, subject: str, payload: str) -> bool:
        """Return whether a dead letter is about a contact or a conversation that was erased."""
        about = stream_parameters(stream) | {"subject": storable(subject), "payload": payload}
        ((is_about,),) = await self.fetch("is_about_forgotten", about)
        return bool(is_about)


def _asked_of(keys: Keys, subjects: list[str]) -> dict[str, Parameters]:
    """Return the statements that look up the keys, with their parameters."""
    of_stream = stream_parameters(keys.stream)
    conversations = {"conversations": searchable(keys.conversations)}
    of_batch = {"contacts": searchable(keys.contacts), "subjects": subjects}
    asked: dict[str, Parameters] = {"known": {**of_stream, **conversations, **of_batch, **_asked_of_messages(keys)}}
    if keys.full_sweep_at is not None:
        stretch = keys.stretch or Stretch(keys.full_sweep_at, None, None, ())
        of_sweep = {"has_stretch": keys.stretch is not None, "sweep_started_at": instant_text(keys.full_sweep_at)}
        asked["known_of_sweep"] = {**DIALECT.stretch_parameters(keys.stream, stretch), **of_sweep, **conversations}
    if keys.counts_stored:
        asked["count_stored"] = of_stream
    if keys.counts_messages is not None:
        asked["count_messages"] = span_parameters(keys.counts_messages)
    return asked


def _asked_of_messages(keys: Keys) -> dict[str, Any]:
    """Return the parameters of `known` for the messages: those of readings are looked up only if they differ."""
    compared = [each for each in keys.readings if each.fingerprint is not None]
    of_readings = {event_id for each in compared for event_id in each.event_ids}
    return {
        "interaction_events": searchable([each for each in keys.interaction_events if each not in of_readings]),
        "threads": [each.conversation_id for each in compared],
        "fingerprints": [each.fingerprint for each in compared],
        "updated_times": [each.updated_time for each in compared],
        "event_ids": Texts(["\n".join(each.event_ids) for each in compared]),  # which are printable
    }
