"""Drafts: decisions that are committed together, each of which follows from the one before.

Where the API is faster than the database, that saves most of its work: its pages are written once for all of them. It
takes that nothing which one of them writes is what another one has to know of the store.
"""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Event
from milepost.core.journal import Codec
from milepost.core.model import Keys
from milepost.core.ports import Commit
from milepost.core.records import Record, prepare

MAX_DRAFTS = 48  # more save little: by then, many pages of the indexes are written once for several rows


class Draft(Struct, frozen=True):
    """A record that is not stored yet, and its commit. `keys` are what had to be known for it.

    `fetch_seconds` is how long the source took, if it is the outcome of a fetch.
    """

    record: Record
    commit: Commit
    run_id: str
    keys: Keys | None = None
    fetch_seconds: float | None = None


class DraftedIds:
    """The ids that the drafts of a group are about."""

    def __init__(self) -> None:
        self._seen: tuple[set[str], ...] | None = (set(), set(), set(), set())

    def add(self, draft: Draft) -> None:
        """Take in a draft."""
        changes, keys = draft.record.changes, draft.keys
        if keys is None or changes.moved or changes.own_id is not None:  # these write of more than their keys
            self._seen = None
        elif self._seen is not None:
            for seen, ids in zip(self._seen, _ids(keys), strict=True):
                seen.update(ids)

    def leave_alone(self, keys: Keys | None) -> bool:
        """Return whether what is stored under the keys of a decision is what it will be after the drafts."""
        if self._seen is None or keys is None or keys.full_sweep_at is not None or keys.counts_stored:
            return False
        return all(seen.isdisjoint(ids) for seen, ids in zip(self._seen, _ids(keys), strict=True))


def _ids(keys: Keys) -> tuple[tuple[str, ...], ...]:
    return keys.conversations, keys.contacts, keys.interaction_events, keys.subjects


def prepare_after(
    checkpoint: Checkpoint, events: tuple[Event, ...], drafts: Iterable[Draft], now: datetime, codec: Codec
) -> list[Commit]:
    """Return the commits of drafts, the first of which records these events as well, before its own."""
    commits: list[Commit] = []
    for draft in drafts:
        record = replace(draft.record, events=(*events, *draft.record.events))
        commit = prepare(checkpoint, record, draft.run_id, now, codec)
        commits.append(replace(commit, known=draft.commit.known))
        checkpoint, events = commit.checkpoint, ()
    return commits
