"""The form of the journal: events as JSON, entries in a hash chain, projections folded from them.

The data of an event is JSON without defaults. A field with a default may be added to an event at any time. Any other
change raises the event's format: new data has `"v": n`, and a step in UPCASTS converts format n - 1 to n.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, DeadLetter, Run
from milepost.core.errors import JournalDamaged
from milepost.core.events import TAGS, DeadLetterClosed, DeadLetterOpened, Entry, Event, RedriveFailed, StreamRemoved
from milepost.core.evolve import evolve
from milepost.core.model import Stream
from milepost.core.position import Gap, MessagesFailed, MessagesOwed, MessagesRead, is_kept_after

Upcast = Callable[[dict[str, Any]], dict[str, Any]]

# By tag, the steps from format 1 to 2, 2 to 3, …; none has been needed so far.
UPCASTS: Mapping[str, tuple[Upcast, ...]] = {}

KINDS = {tag: kind for kind, tag in TAGS.items()}

_encode_event = msgspec.json.Encoder(order=None).encode


@cache
def _decoder(kind: type[Event]) -> msgspec.json.Decoder[Event]:
    """Return the decoder of a kind of event; it takes longer to make one than to use it."""
    return msgspec.json.Decoder(kind)


class Codec:
    """Encodes events, and decodes them in every format since the first."""

    def __init__(self, upcasts: Mapping[str, tuple[Upcast, ...]] = UPCASTS) -> None:
        self._upcasts = upcasts

    def encode(self, event: Event) -> tuple[str, str]:
        """Return the event's tag and its data as JSON text."""
        tag = TAGS[type(event)]
        upcasts = self._upcasts.get(tag, ())
        if not upcasts:
            return tag, _encode_event(event).decode()
        return tag, _encode_event({"v": len(upcasts) + 1, **msgspec.to_builtins(event)}).decode()

    def decode(self, tag: str, data: str) -> Event:
        """Return the event of stored data. Raises JournalDamaged for data that no version up to this one wrote."""
        kind = KINDS.get(tag)
        if kind is None:
            raise JournalDamaged(
                f"the journal holds an entry of the unknown type {tag!r}",
                hint="it was written by a newer Milepost, or by something else: run the newer version",
            )
        try:
            if tag not in self._upcasts and '"v":' not in data:
                return _decoder(kind).decode(data)
            return self._decode_old(tag, msgspec.json.decode(data, type=dict[str, Any]))
        except msgspec.MsgspecError as error:
            raise JournalDamaged(
                f"a journal entry of type {tag!r} cannot be read: {error}",
                hint="restore the database from a backup",
            ) from error

    def _decode_old(self, tag: str, fields: dict[str, Any]) -> Event:
        upcasts = self._upcasts.get(tag, ())
        version = fields.pop("v", 1)
        if not isinstance(version, int) or not 1 <= version <= len(upcasts) + 1:
            raise JournalDamaged(
                f"a journal entry of type {tag!r} has the unknown format {version!r}",
                hint="it was written by a newer Milepost: run that version",
            )
        for upcast in upcasts[version - 1 :]:
            fields = upcast(fields)
        return msgspec.convert(fields, KINDS[tag])


_encode_json = msgspec.json.Encoder().encode


@lru_cache(1024)
def instant_text(instant: datetime) -> str:
    """Return an instant as the journal and the SQLite tables have it: ISO 8601, UTC, milliseconds, `Z`.

    All have the same width, so that they sort as text. msgspec takes a fifth of the time of `isoformat`, and each
    conversation has eight instants, of which hardly more than one is new.
    """
    quoted = _encode_json(instant if instant.tzinfo is UTC else instant.astimezone(UTC)).decode()
    return f"{quoted[1:24]}Z" if instant.microsecond else f"{quoted[1:20]}.000Z"


def link(previous_hash: str, entry: tuple[str, int, str | None, str, str, str]) -> str:
    """Return an entry's hash: SHA-256 over its predecessor's hash and all its own columns, as a JSON array."""
    return sha256(_encode_json((previous_hash, *entry))).hexdigest()


def derived_id(*parts: str) -> str:
    """Return an id that depends only on these parts, so that it is the same each time, and in each copy."""
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def seal(
    checkpoint: Checkpoint, events: Iterable[Event], run_id: str | None, recorded_at: datetime, codec: Codec
) -> tuple[Entry, ...]:
    """Return events as the entries that follow the checkpoint."""
    version, previous_hash = checkpoint.version, checkpoint.hash
    recorded_at = recorded_at.replace(microsecond=recorded_at.microsecond // 1000 * 1000)  # the stored precision
    at_text = instant_text(recorded_at)
    entries = []
    for event in events:
        version += 1
        tag, data = codec.encode(event)
        previous_hash = link(previous_hash, (checkpoint.stream.key, version, run_id, at_text, tag, data))
        entries.append(Entry(checkpoint.stream, version, run_id, recorded_at, tag, data, previous_hash, event))
    return tuple(entries)


def check_link(checkpoint: Checkpoint, entry: Entry) -> None:
    """Raise JournalDamaged unless the entry follows from the checkpoint before it."""
    columns = (entry.stream.key, entry.version, entry.run_id, instant_text(entry.recorded_at), entry.type, entry.data)
    if entry.version != checkpoint.version + 1:
        raise _damaged(entry, f"follows version {checkpoint.version}: entries are missing")
    if entry.hash != link(checkpoint.hash, columns):
        raise _damaged(entry, "does not follow: its hash is not that of its content and its predecessor")


def _damaged(entry: Entry, how: str) -> JournalDamaged:
    return JournalDamaged(
        f"entry {entry.version} of {entry.stream} {how}",
        hint="the journal was changed outside Milepost, or its disk is failing: restore the database from a backup",
    )


class RunOf(Struct, frozen=True):
    """A run of a stream after its last entry."""

    stream: Stream
    run: Run


class GapOf(Struct, frozen=True):
    """A gap of a stream that is kept."""

    stream: Stream
    gap: Gap


Projected = Checkpoint | RunOf | DeadLetter | GapOf


Open = TypeVar("Open", DeadLetter, GapOf)


class Held(Protocol[Open]):
    """Holds what is open by its id, as a dict does: there may be more than fits in memory."""

    def get(self, key: str, /) -> Open | None:
        """Return what is held under an id."""
        ...

    def __setitem__(self, key: str, item: Open, /) -> None:
        """Hold something, in place of an earlier state of it."""
        ...

    def pop(self, key: str, default: None, /) -> object:
        """Drop something, if it is held."""
        ...

    def values(self) -> Iterable[Open]:
        """Return all that is held."""
        ...


def since_removal(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries of one stream that follow its latest removal; all of them if there was none."""
    for index in range(len(entries), 0, -1):
        if isinstance(entries[index - 1].event, StreamRemoved):
            return entries[index:]
    return entries


def project(
    entries: Iterable[Entry],
    removed: Mapping[Stream, int],
    dead_letters: Held[DeadLetter] | None = None,
    gaps: Held[GapOf] | None = None,
) -> Iterator[Projected]:
    """Yield the projections of a whole journal, given in the order of seq, and check its hash chains on the way.

    `removed` has the version of each stream's latest removal: no runs, dead letters or gaps remain from before it.
    `dead_letters` and `gaps` hold those that are open, at first none; by default in memory.

    Raises JournalDamaged at the first entry that does not follow from its predecessor.
    """
    checkpoints: dict[Stream, Checkpoint] = {}
    dead_letters = dict[str, DeadLetter]() if dead_letters is None else dead_letters
    gaps = dict[str, GapOf]() if gaps is None else gaps
    for entry in entries:
        before = checkpoints.get(entry.stream) or Checkpoint(entry.stream)
        check_link(before, entry)
        after = evolve(before, entry)
        checkpoints[entry.stream] = after
        if entry.version <= removed.get(entry.stream, 0):
            continue
        if before.run is not None and after.run is not None and before.run.run_id != after.run.run_id:
            yield RunOf(entry.stream, before.run)
        dead_letter = dead_letter_after(entry, dead_letters.get)
        if dead_letter is not None and dead_letter.closed_at is not None:
            dead_letters.pop(dead_letter.dead_letter_id, None)
            yield dead_letter
        elif dead_letter is not None:
            dead_letters[dead_letter.dead_letter_id] = dead_letter
        for each in gaps_after(entry.event):
            if each.is_kept:
                gaps[each.gap.gap_id] = GapOf(entry.stream, each.gap)
            else:
                gaps.pop(each.gap.gap_id, None)
    yield from dead_letters.values()
    yield from gaps.values()
    for checkpoint in checkpoints.values():
        if checkpoint.run is not None:
            yield RunOf(checkpoint.stream, checkpoint.run)
        yield checkpoint


class GapAfter(Struct, frozen=True):
    """A gap as of an entry; `is_kept` if anything is still owed, or would be with an earlier limit."""

    gap: Gap
    is_kept: bool


def gaps_after(event: object) -> tuple[GapAfter, ...]:
    """Return the gaps of an event, as they are after it."""
    match event:
        case MessagesOwed(gaps=gaps):
            return tuple(GapAfter(gap, is_kept=True) for gap in gaps)
        case MessagesRead(gap=gap, ending=ending) | MessagesFailed(gap=gap, ending=ending):
            return (GapAfter(gap, is_kept=is_kept_after(ending)),)
        case _:
            return ()


def dead_letter_after(entry: Entry, before: Callable[[str], DeadLetter | None]) -> DeadLetter | None:
    """Return the dead letter that an entry is about, as it is after the entry; None if it is about none."""
    match entry.event:
        case DeadLetterOpened() as event:
            return DeadLetter(
                event.dead_letter_id,
                entry.stream,
                event.stage,
                event.subject,
                event.reason,
                entry.recorded_at,
                redrive_at=event.redrive_at,
                fingerprint=event.fingerprint,
            )
        case RedriveFailed(dead_letter_id=key) as event if dead_letter := before(key):
            return replace(dead_letter, attempts=event.attempts, reason=event.reason, redrive_at=event.redrive_at)
        case DeadLetterClosed(dead_letter_id=key) as event if dead_letter := before(key):
            return replace(
                dead_letter,
                closed_at=entry.recorded_at,
                resolution=event.resolution,
                note=event.reason,
                redrive_at=None,
            )
        case _:
            return None
