"""The heads of inboxes: a response that is the one before, byte for byte, is not decoded again.

Nearly every sweep of nearly every inbox gets such a response, and to decode it is a third of the work of that sweep.
"""

from collections.abc import Callable
from threading import Lock
from weakref import WeakSet

from msgspec import Struct

from milepost.core.model import Batch, OwnId, OwnIdState, Profile
from milepost.core.problems import Problem
from milepost.facebook.decoding import Asked
from milepost.facebook.own_id import OwnIds

MAX_BYTES = 16 * 2**20  # of the bodies whose batches are kept, of all inboxes; a batch takes about as much as its body

EXPECTED = OwnId(OwnIdState.EXPECTED)


class _Kept(Struct, frozen=True, eq=False, weakref=True):
    """A batch that is kept, and the size of its body."""

    batch: Batch
    size: int


class HeadRoom:
    """The room for the heads of one client's inboxes. Bodies are decoded in several threads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept = WeakSet[_Kept]()  # an inbox that is gone takes its head along
        self._lock = Lock()

    def keep(self, batch: Batch, size: int) -> _Kept | None:
        """Return a batch to keep, whose body has this size; None if there is no room for it."""
        with self._lock:
            if size + sum(each.size for each in self._kept) > self._max_bytes:
                return None
            kept = _Kept(batch, size)
            self._kept.add(kept)
            return kept


class _Seen(Struct, frozen=True):
    """What a batch follows from: the body, by a digest; what was asked for; and what is known of our side."""

    digest: int
    size: int
    asked: Asked
    own_ids: frozenset[str]
    profile: Profile


class Head:
    """The latest head of one inbox. Its batch is kept once it has come twice: a busy inbox takes no room."""

    def __init__(self, room: HeadRoom, own_ids: OwnIds) -> None:
        self._room = room
        self._own_ids = own_ids
        self._seen: _Seen | None = None
        self._kept: _Kept | None = None

    def decode(self, body: bytes, asked: Asked, decode: Callable[[], Batch | Problem]) -> Batch | Problem:
        """Return what a body says: what it said before, or what `decode` returns.

        A batch is kept only if an expected id of ours is in it: all that is learned from meeting that again is that.
        """
        seen = self._see(body, asked)
        if self._kept is not None and seen == self._seen:
            self._own_ids.see_expected()
            return self._kept.batch
        self._kept = None
        batch, before = decode(), self._seen
        self._seen = self._see(body, asked)
        if self._seen == before and isinstance(batch, Batch) and batch.own_id == EXPECTED and not batch.unreadable:
            self._kept = self._room.keep(batch, len(body))
        return batch

    def _see(self, body: bytes, asked: Asked) -> _Seen:
        return _Seen(hash(body), len(body), asked, self._own_ids.all, self._own_ids.profile)
