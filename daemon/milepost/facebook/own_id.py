"""Finds out which participant of a thread is us, by checking our expected ids against the threads.

A page or an Instagram professional account can have two ids, and participants may have another one than the
configuration or the API. Then that other id is in every thread. It is taken as ours once that is certain: no customer
is in several threads with different people.
"""

from collections.abc import Iterable

from milepost.core.model import OwnId, OwnIdState, Profile
from milepost.core.texts import storable
from milepost.facebook.wire import MAX_ID_CHARACTERS, People

MIN_THREADS = 3  # with as many different people, before an id is taken as ours
MAX_THREADS = 50  # kept as evidence

ThreadPeople = tuple[str, People | None]
"""A thread's id and its participants."""


class OwnIds:
    """Our own ids in one inbox: the expected ones, and possibly one that the threads have shown to be ours."""

    def __init__(self, expected: Iterable[str]) -> None:
        self._expected = frozenset(expected)
        self._taken: str | None = None
        self._is_seen = False  # an expected id has been among the participants
        self._is_from_head = False  # the inbox has been read from its head
        self._evidence: dict[str, frozenset[str]] = {}  # the participants of the latest threads without us
        self.profile = Profile()
        """Our own name in the threads: on Messenger a name, on Instagram a user name."""

    @property
    def all(self) -> frozenset[str]:
        """All ids that are ours."""
        return self._expected if self._taken is None else self._expected | {self._taken}

    def expect(self, own_id: str) -> None:
        """Add an id that is ours according to the API."""
        self._expected |= {own_id}

    def recall(self, own_id: str | None) -> None:
        """Take an id as ours that earlier threads have shown to be ours."""
        if own_id is not None and not self._is_seen:
            self._taken = own_id

    def check(self, threads: Iterable[ThreadPeople], *, is_head: bool = False, is_end: bool = False) -> OwnId | None:
        """Return whether the threads of a response confirm our own id; None if they neither confirm nor refute it.

        Threads with fewer than two participants prove nothing. Nor do a few threads without us, unless they are the
        whole inbox, read from its head to its end.
        """
        self._is_from_head = self._is_from_head or is_head
        evidence: dict[str, frozenset[str]] = {}
        for thread_id, participants in threads:
            ids = {person.id for person in participants.data if person.id} if participants else set()
            self._meet(participants)
            if not self._expected.isdisjoint(ids) and self._taken not in ids:
                return self.see_expected()
            if len(ids) > 1:
                evidence[thread_id] = frozenset(ids)
        if evidence and not any(self._taken in ids for ids in evidence.values()):
            self._evidence = dict([*(self._evidence | evidence).items()][-MAX_THREADS:])
            self._taken = _common(self._evidence.values())
        if self._taken is not None:
            return OwnId(OwnIdState.ANOTHER, self._taken) if evidence else None
        is_all = is_end and self._is_from_head and not self._is_seen and bool(self._evidence)
        return OwnId(OwnIdState.UNKNOWN) if len(self._evidence) >= MIN_THREADS or is_all else None

    def _meet(self, participants: People | None) -> None:
        """Learn our own name from a thread."""
        for person in participants.data if participants else ():
            if person.id in self.all:
                self.profile = Profile(
                    _name(person.name) or self.profile.name, _name(person.username) or self.profile.username
                )

    def see_expected(self) -> OwnId:
        """Note that one of our expected ids is among the participants of a thread."""
        self._is_seen, self._taken = True, None
        self._evidence.clear()
        return OwnId(OwnIdState.EXPECTED)


def _name(text: str | None) -> str | None:
    return storable(text)[0] if text else None


def _common(threads: Iterable[frozenset[str]]) -> str | None:
    """Return the one id that is in every thread, if there are enough threads with enough other people."""
    ids = list(threads)
    common = frozenset.intersection(*ids)
    others = frozenset.union(*ids) - common
    if len(common) != 1 or min(len(ids), len(others)) < MIN_THREADS:
        return None
    (own_id,) = common
    return own_id if own_id.isprintable() and len(own_id) <= MAX_ID_CHARACTERS else None
