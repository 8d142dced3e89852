"""Reads the change feed of either database: splits a request into statements, and turns rows into changes.

How far each destination of the feed has got is kept beside it.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from milepost.core.changes import Change, ChangeKind, ChangeOp, ChangesPage, Delivery
from milepost.core.errors import HistoryRewritten
from milepost.core.journal import instant_text
from milepost.core.model import Stream
from milepost.stores.reader import Fetch

PASSED_OVER = 50_000  # numbers that a statement may scan for one stream's changes: no index covers a stream
MAX_STATEMENTS = 20  # for one request; after that it gets an empty page, and the next request continues from there

KEYS: Mapping[ChangeKind, tuple[str, ...]] = {
    ChangeKind.CONTACT: ("platform", "page_id", "contact_id"),
    ChangeKind.CONVERSATION: ("conversation_id",),
    ChangeKind.MESSAGE: ("event_id",),
}
STATEMENTS: Mapping[ChangeKind, str] = {
    ChangeKind.CONTACT: "changed_contacts",
    ChangeKind.CONVERSATION: "changed_conversations",
    ChangeKind.MESSAGE: "changed_messages",
}

_decode = msgspec.json.Decoder().decode

# Columns that need converting for JSON: SQLite has no booleans, and both databases return JSON as text here.
CONVERTED: Mapping[str, Callable[[Any], object]] = {
    "can_reply": bool,
    "history": bool,
    "attachments": _decode,
    "reactions": _decode,
    "referral": _decode,
}


class ChangesAsked(Struct, frozen=True):
    """Which changes to read: see ChangeReader."""

    after: int
    limit: int
    kinds: AbstractSet[ChangeKind]
    stream: Stream | None = None
    mark: str = ""

    def spans(self, end: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of numbers that successive statements scan, none of them beyond `end`."""
        place = self.after
        for _ in range(MAX_STATEMENTS):
            if place >= end:
                return
            up_to = end if self.stream is None else min(end, place + PASSED_OVER)
            yield place, up_to
            place = up_to

    def parameters(self, after: int, up_to: int) -> dict[str, object]:
        """Return the parameters of the statements that read between two numbers."""
        return {
            "after": after,
            "up_to": up_to,
            "limit": self.limit,
            "contacts": ChangeKind.CONTACT in self.kinds,
            "conversations": ChangeKind.CONVERSATION in self.kinds,
            "messages": ChangeKind.MESSAGE in self.kinds,
            "stream": None if self.stream is None else self.stream.key,
        }

    def statements(self) -> Mapping[ChangeKind, str]:
        """Return the statements that read rows of these kinds."""
        return {kind: statement for kind, statement in STATEMENTS.items() if kind in self.kinds}


async def read_changes(
    asked: ChangesAsked,
    ends: tuple[int, int],
    fetch: Fetch,
    read_rows: Callable[[dict[str, object]], Awaitable[list[Change]]],
) -> ChangesPage:
    """Return a page of changes; `read_rows` reads those in the range that its parameters give.

    `ends` are the number up to which the feed is settled, and the latest one; both were read before. The statements
    need not see the same moment: a row that changes between two of them is on a later page.

    An `after` beyond the latest number is from before the database was restored. The numbers in between are assigned
    again, so a reader that stayed at its place would miss the rows that get them.
    """
    last, latest = ends
    mark = await _checked_mark(asked, latest, fetch)
    following = asked.after if asked.after <= latest else last
    for place, up_to in asked.spans(last):
        ((full_at, count),) = await fetch("changes_up_to", asked.parameters(place, up_to))
        following = full_at if count == asked.limit else up_to
        if count:
            changes = await read_rows(asked.parameters(place, following))
            return ChangesPage(tuple(sorted(changes, key=lambda change: change.seq)), following, mark)
    return ChangesPage((), following, mark)


def changed(kind: ChangeKind, names: Sequence[str], found: Iterable[tuple[Any, ...]]) -> list[Change]:
    """Return rows with these columns as changes."""
    keys = KEYS[kind]
    converted = [(name, convert) for name, convert in CONVERTED.items() if name in names]
    changes = []
    for columns in found:
        row = dict(zip(names, columns, strict=True))
        for name, convert in converted:
            if row[name] is not None:
                row[name] = convert(row[name])
        key = {name: row[name] for name in keys}
        changes.append(Change(row["change_seq"], kind, ChangeOp.UPSERT, key, row, row.get("history", False)))
    return changes


def deleted(found: Iterable[tuple[int, str, str, str, str]]) -> list[Change]:
    """Return rows of `deleted_rows` as changes."""
    changes = []
    for seq, name, platform, page_id, row_id in found:
        kind = ChangeKind(name)
        of_page = {"platform": platform, "page_id": page_id} if kind is ChangeKind.CONTACT else {}
        changes.append(Change(seq, kind, ChangeOp.DELETE, {**of_page, KEYS[kind][-1]: row_id}, None))
    return changes


# --- the mark of a history --------------------------------------------------------------------------------------------

# A mark names the latest entry of the journal and the latest deletion, and holds a hash of both. Neither is ever
# changed or removed, and every change up to a place is committed before, or together with, one of those that its mark
# names: batches with their entries, and erasures, which have no entry, with their deletions. So a database that has
# both has all these changes. Updates without an entry, as by hand, are covered as soon as the next entry follows.
_MARK = re.compile(r"([0-9]{1,18})-([0-9]{1,18})-[0-9a-f]{16}")


async def _checked_mark(asked: ChangesAsked, latest: int, fetch: Fetch) -> str:
    """Return the mark of the database as it is now. Raises HistoryRewritten if the one asked with does not hold."""
    named = _MARK.fullmatch(asked.mark)
    seq, deletion = map(int, named.groups()) if named else (0, 0)
    ((*there, last_seq, last_hash, last_deletion, last_id),) = await fetch(
        "history", {"seq": seq, "deletion": deletion}
    )
    is_known = asked.after <= latest and asked.mark == _mark(seq, deletion, *there)
    if asked.after and asked.mark and not is_known:
        raise HistoryRewritten(
            f"the change feed up to {asked.after} is no longer what it was: a restore or a failover has lost changes",
            hint="begin again at 0, with an empty mirror",
        )
    return _mark(last_seq or 0, last_deletion or 0, last_hash, last_id)


def _mark(seq: int, deletion: int, entry_hash: str | None, deleted_id: str | None) -> str:
    return f"{seq}-{deletion}-{sha256(f'{entry_hash} {deleted_id}'.encode()).hexdigest()[:16]}"


# --- how far each destination has got ---------------------------------------------------------------------------------


class StoredDeliveries:
    """The part of DeliveryPlaces (see core/changes.py) that both databases share. `write` commits."""

    def __init__(self, read: Fetch, write: Fetch) -> None:
        self._read = read
        self._write = write

    async def begin(self, destination: str, place: int) -> None:
        """Add a destination that begins at `place`, unless one of this name exists."""
        await self._write("begin_delivery", {"destination": destination, "place": place})

    async def all(self) -> Mapping[str, Delivery]:
        """Return where each destination stands, by its name."""
        found = map(_delivery_of, await self._read("deliveries"))
        return {delivery.destination: delivery for delivery in found}

    async def pause(self, destination: str, now: datetime) -> bool:
        """Pause a destination; return False if there is none of this name."""
        return bool(await self._write("pause_delivery", {"destination": destination, "now": instant_text(now)}))

    async def resume(self, destination: str) -> bool:
        """Resume a destination and make it due at once; return False if there is none of this name."""
        return bool(await self._write("resume_delivery", {"destination": destination}))

    async def move(self, destination: str, place: int) -> bool:
        """Move a destination to another place; return False if there is none of this name."""
        return bool(await self._write("move_delivery", {"destination": destination, "place": place}))

    async def _find(self, destination: str) -> Delivery | None:
        found = await self._read("delivery", {"destination": destination})
        return _delivery_of(found[0]) if found else None


def parameters_of(before: Delivery, after: Delivery) -> dict[str, Any]:
    """Return the parameters that record a destination's new state."""
    columns = {
        name: instant_text(value) if isinstance(value, datetime) else value
        for name, value in msgspec.structs.asdict(after).items()
    }
    return {**columns, "before": before.place, "failures_before": before.failures}


def _delivery_of(columns: tuple[Any, ...]) -> Delivery:
    return msgspec.convert(dict(zip(Delivery.__struct_fields__, columns, strict=True)), Delivery)
