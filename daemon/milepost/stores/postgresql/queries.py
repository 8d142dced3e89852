"""What the PostgreSQL store is asked: rows, letters and notes under keys."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from psycopg.rows import TupleRow

from milepost.core.checkpoint import Checkpoint
from milepost.core.evolve import fold
from milepost.core.journal import Codec, instant_text
from milepost.core.model import ContactRow, ConversationRow, Keys, Known, KnownDeadLetter, Stream, Stretch
from milepost.core.ports import DueDeadLetter
from milepost.core.retry import latest_redrive
from milepost.stores import rows
from milepost.stores.postgresql.connection import Database, Parameters
from milepost.stores.postgresql.encoding import askable, storable

# Beyond every instant: the ends of the inbox.
BEFORE_ALL, AFTER_ALL = "-infinity", "infinity"


class _Found(Struct, frozen=True):
    """The answer of the statement `known`."""

    conversations: list[ConversationRow]
    contacts: list[ContactRow]
    interaction_events: list[str]
    dead_letters: list[tuple[str, str, str, bool]]
    forgotten: list[str]


Ask = Callable[[str, Parameters], Awaitable[list[TupleRow]]]
"""Asks one statement, by its name."""

_decode = msgspec.json.Decoder(_Found).decode


async def load(ask: Ask, codec: Codec, stream: str) -> Checkpoint:
    """Give a stream's checkpoint: its snapshot, and the entries since."""
    stored = await ask("checkpoint", (stream,))
    checkpoint = rows.checkpoint(stored[0][0]) if stored else Checkpoint(stream)
    tail = await ask("entries_since", (stream, checkpoint.version))
    return fold((rows.entry(columns, codec) for columns in tail), checkpoint)


async def known(database: Database, keys: Keys) -> Known:
    """Give what is stored already under the keys."""
    stream = keys.stream
    subjects = {storable(subject): subject for subject in keys.subjects}
    asked = {
        "stream": stream.key,
        "platform": stream.platform.value,
        "page_id": stream.page_id,
        "conversations": askable(keys.conversations),
        "contacts": askable(keys.contacts),
        "interaction_events": askable(keys.interaction_events),
        "subjects": askable(subjects),
    }
    ((answer,),) = await database.rows("known", asked)
    found = _decode(answer)
    unseen, missed, all_missed = await _missed(database, keys)
    return Known(
        {row.conversation_id: row for row in found.conversations},
        {row.contact_id: row for row in found.contacts},
        frozenset(found.interaction_events),
        {subjects[each]: KnownDeadLetter(key, print_, is_open) for each, key, print_, is_open in found.dead_letters},
        frozenset(found.forgotten),
        unseen,
        missed,
        all_missed,
    )


async def _missed(database: Database, keys: Keys) -> tuple[int, frozenset[str], int]:
    """Say of a full sweep what Known does: `unseen`, `missed` and `all_missed`."""
    if keys.full_sweep_at is None:
        return 0, frozenset(), 0
    stretch = keys.stretch or Stretch(keys.full_sweep_at, None, None, ())
    asked = stretch_of(keys.stream, stretch) | {
        "has_stretch": keys.stretch is not None,
        "sweep_started_at": instant_text(keys.full_sweep_at),
        "conversations": askable(keys.conversations),
    }
    ((unseen, missed, all_missed),) = await database.rows("known_of_sweep", asked)
    return unseen, frozenset(missed), all_missed


def stretch_of(stream: Stream, stretch: Stretch) -> dict[str, Any]:
    """Give the parameters of the statements that look through a stretch of the inbox."""
    return {
        "stream": stream.key,
        "platform": stream.platform.value,
        "page_id": stream.page_id,
        "sweep_started_at": instant_text(stretch.sweep_started_at),
        "newer_than": instant_text(stretch.newer_than) if stretch.newer_than else BEFORE_ALL,
        "older_than": instant_text(stretch.older_than) if stretch.older_than else AFTER_ALL,
        "seen": askable(stretch.seen),
    }


async def due_dead_letters(database: Database, stream: str, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
    """Give open dead letters whose redrive is due, or whose payload was erased; the oldest first."""
    times = instant_text(now), instant_text(latest_redrive(now))
    found = await database.rows("due_dead_letters", (stream, *times, limit))
    return tuple(DueDeadLetter(rows.dead_letter(columns[:-1]), columns[-1]) for columns in found)


async def dead_letters_with_payloads(database: Database, dead_letter_ids: Iterable[str]) -> tuple[DueDeadLetter, ...]:
    """Give these dead letters, open or closed."""
    found = await database.rows("dead_letters_with_payloads", (askable(dead_letter_ids),))
    return tuple(DueDeadLetter(rows.dead_letter(columns[:-1]), columns[-1]) for columns in found)
