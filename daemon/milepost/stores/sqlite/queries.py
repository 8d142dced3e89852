"""What the SQLite store is asked: checkpoints, and rows, letters and notes under keys; and places in the journal."""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import datetime

from milepost.core.checkpoint import Checkpoint
from milepost.core.evolve import fold
from milepost.core.journal import Codec, instant_text
from milepost.core.model import Keys, Known, KnownDeadLetter, Stream, Stretch
from milepost.core.ports import DueDeadLetter
from milepost.core.retry import latest_redrive
from milepost.stores import rows
from milepost.stores.removal import StreamRows, names_of

# Beyond every instant, as text: the ends of the inbox.
BEFORE_ALL, AFTER_ALL = "", "~"


def checkpoints(sql: dict[str, str], connection: sqlite3.Connection) -> list[Checkpoint]:
    """Give where every stream stands, ordered by stream."""
    return [rows.checkpoint(state) for (state,) in connection.execute(sql["checkpoints"])]


def load(sql: dict[str, str], codec: Codec, stream: str, connection: sqlite3.Connection) -> Checkpoint:
    """Give a stream's checkpoint: its snapshot, and the entries since."""
    stored = connection.execute(sql["checkpoint"], (stream,)).fetchone()
    checkpoint = rows.checkpoint(stored[0]) if stored else Checkpoint(stream)
    tail = connection.execute(sql["entries_since"], (stream, checkpoint.version))
    return fold((rows.entry(columns, codec) for columns in tail), checkpoint)


def count_rows(sql: dict[str, str], stream: Stream, connection: sqlite3.Connection) -> StreamRows:
    """Count what is stored of a stream."""
    return StreamRows(*connection.execute(sql["count_stream_rows"], names_of(stream)).fetchone())


def known(sql: dict[str, str], keys: Keys, connection: sqlite3.Connection) -> Known:
    """Give what is stored already under the keys."""
    ask, stream = connection.execute, keys.stream
    conversation_ids, contact_ids = rows.json_list(keys.conversations), rows.json_list(keys.contacts)
    conversations = map(rows.conversation_row, ask(sql["known_conversations"], (conversation_ids,)))
    contacts = map(rows.contact_row, ask(sql["known_contacts"], (stream.platform.value, stream.page_id, contact_ids)))
    events = ask(sql["known_interaction_events"], (rows.json_list(keys.interaction_events),))
    unseen, missed, all_missed = _missed(sql, keys, connection)
    return Known(
        {row.conversation_id: row for row in conversations},
        {row.contact_id: row for row in contacts},
        frozenset(event_id for (event_id,) in events),
        _letters(sql, keys, connection) if keys.subjects else {},
        forgotten_among(sql, stream, keys.conversations, keys.contacts, connection),
        unseen,
        missed,
        all_missed,
    )


def _letters(sql: dict[str, str], keys: Keys, connection: sqlite3.Connection) -> dict[str, KnownDeadLetter]:
    found = connection.execute(sql["known_dead_letters"], (keys.stream.key, rows.json_list(keys.subjects)))
    oldest_first = sorted(found, key=lambda columns: columns[1:3])
    return {
        subject: KnownDeadLetter(dead_letter_id, fingerprint, bool(is_open))
        for subject, _, dead_letter_id, fingerprint, is_open in oldest_first
    }


def _missed(sql: dict[str, str], keys: Keys, connection: sqlite3.Connection) -> tuple[int, frozenset[str], int]:
    """Say of a full sweep what Known does: `unseen`, `missed` and `all_missed`."""
    if keys.full_sweep_at is None:
        return 0, frozenset(), 0
    sweep = (keys.stream.key, instant_text(keys.full_sweep_at))
    missed = connection.execute(sql["missed_among"], (*sweep, rows.json_list(keys.conversations)))
    (all_missed,) = connection.execute(sql["count_missed"], sweep).fetchone()
    unseen = 0
    if keys.stretch is not None:
        (unseen,) = connection.execute(sql["count_unseen"], stretch_of(keys.stream, keys.stretch)).fetchone()
    return unseen, frozenset(conversation_id for (conversation_id,) in missed), all_missed


def stretch_of(stream: Stream, stretch: Stretch) -> dict[str, str]:
    """Give the parameters of the statements that look through a stretch of the inbox."""
    return {
        "stream": stream.key,
        "platform": stream.platform.value,
        "page_id": stream.page_id,
        "sweep_started_at": instant_text(stretch.sweep_started_at),
        "newer_than": instant_text(stretch.newer_than) if stretch.newer_than else BEFORE_ALL,
        "older_than": instant_text(stretch.older_than) if stretch.older_than else AFTER_ALL,
        "seen": rows.json_list(stretch.seen),
    }


def forgotten_among(
    sql: dict[str, str],
    stream: Stream,
    conversation_ids: Iterable[str],
    contact_ids: Iterable[str],
    connection: sqlite3.Connection,
) -> frozenset[str]:
    """Give those of these conversations and contacts of a stream that somebody had erased."""
    page = {"platform": stream.platform.value, "page_id": stream.page_id}
    if connection.execute(sql["has_forgotten"], page).fetchone() is None:  # as on most pages
        return frozenset()
    asked = {"conversations": rows.json_list(conversation_ids), "contacts": rows.json_list(contact_ids)}
    return frozenset(key for (key,) in connection.execute(sql["forgotten_among"], page | asked))


def due_dead_letters(
    sql: dict[str, str], stream: str, now: datetime, limit: int, connection: sqlite3.Connection
) -> tuple[DueDeadLetter, ...]:
    """Give open dead letters whose redrive is due, or whose payload was erased; the oldest first."""
    times = {"now": instant_text(now), "latest": instant_text(latest_redrive(now))}
    found = connection.execute(sql["due_dead_letters"], {"stream": stream, "limit": limit, **times})
    return tuple(DueDeadLetter(rows.dead_letter(columns), payload) for *columns, payload in found)


def dead_letters_with_payloads(
    sql: dict[str, str], dead_letter_ids: Iterable[str], connection: sqlite3.Connection
) -> tuple[DueDeadLetter, ...]:
    """Give these dead letters, open or closed."""
    found = connection.execute(sql["dead_letters_with_payloads"], (rows.json_list(dead_letter_ids),))
    return tuple(DueDeadLetter(rows.dead_letter(columns), payload) for *columns, payload in found)


def within_runs(
    sql: dict[str, str], codec: Codec, versions: Mapping[str, int], connection: sqlite3.Connection
) -> dict[str, Checkpoint]:
    """Give where each stream stood before an entry, by its version, as far as the latest run until then tells."""
    return {
        stream: fold(
            (
                rows.entry(columns, codec)
                for columns in connection.execute(sql["entries_of_run_before"], {"stream": stream, "version": version})
            ),
            Checkpoint(stream),
        )
        for stream, version in versions.items()
    }


def seq_before(sql: dict[str, str], instant: datetime, connection: sqlite3.Connection) -> int:
    """Give the seq of the last entry before an instant; 0 where there is none.

    Streams that commit together may differ by a moment, and a clock that was set back by more: then it is one of the
    places where the instant was passed.
    """
    text = instant_text(instant)
    (last,) = connection.execute(sql["last_seq"]).fetchone()

    def recorded_at(seq: int) -> str:
        (at,) = connection.execute(sql["recorded_at"], (seq,)).fetchone()
        return str(at)

    return bisect_left(range(1, last + 1), text, key=recorded_at)
