"""Which participant of a thread is us: the ids that are expected, checked against the threads.

A page or an Instagram professional account can have two ids, and the one that was configured, or that the API names,
may not be the one that stands in participants. Then another id is in every thread. It is taken as ours where that is
certain: a customer is not in several threads with different people.
"""

from collections.abc import Iterable

from milepost.core.model import OwnId, OwnIdState, Profile
from milepost.core.texts import storable
from milepost.facebook.wire import MAX_ID_CHARACTERS, People

MIN_THREADS = 3  # with as many different people, before an id is taken as ours
MAX_THREADS = 50  # that are kept as evidence

Told = tuple[str, People | None]
"""A thread's id and its participants."""


class OwnIds:
    """The ids of our side in one inbox: those that are expected, and one that the threads have shown to be ours."""

    def __init__(self, expected: Iterable[str]) -> None:
        self._expected = frozenset(expected)
        self._taken: str | None = None
        self._is_seen = False  # one that is expected has been among participants
        self._is_from_head = False  # the inbox has been read from its head
        self._evidence: dict[str, frozenset[str]] = {}  # the participants of the latest threads without us
        self.profile = Profile()
        """What our side is called in the threads: Messenger has a name for it, Instagram a user name."""

    @property
    def all(self) -> frozenset[str]:
        """All ids that are ours."""
        return self._expected if self._taken is None else self._expected | {self._taken}

    def expect(self, own_id: str) -> None:
        """Add an id that is ours according to the API."""
        self._expected |= {own_id}

    def recall(self, own_id: str | None) -> None:
        """Take an id as ours that earlier threads have shown to be."""
        if own_id is not None and not self._is_seen:
            self._taken = own_id

    def check(self, threads: Iterable[Told], *, is_head: bool = False, is_end: bool = False) -> OwnId | None:
        """Return what the threads of a response say about our own id; None if they say nothing.

        Threads whose participants are missing, or only one, say nothing. Nor do a few without us, unless they are all
        of an inbox, whose head and end have been read.
        """
        self._is_from_head = self._is_from_head or is_head
        told: dict[str, frozenset[str]] = {}
        for thread_id, participants in threads:
            ids = {person.id for person in participants.data if person.id} if participants else set()
            self._meet(participants)
            if not self._expected.isdisjoint(ids) and self._taken not in ids:
                return self.see_expected()
            if len(ids) > 1:
                told[thread_id] = frozenset(ids)
        if told and not any(self._taken in ids for ids in told.values()):
            self._evidence = dict([*(self._evidence | told).items()][-MAX_THREADS:])
            self._taken = _common(self._evidence.values())
        if self._taken is not None:
            return OwnId(OwnIdState.ANOTHER, self._taken) if told else None
        is_all = is_end and self._is_from_head and not self._is_seen and bool(self._evidence)
        return OwnId(OwnIdState.UNKNOWN) if len(self._evidence) >= MIN_THREADS or is_all else None

    def _meet(self, participants: People | None) -> None:
        """Learn from a thread what we are called."""
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
    told = list(threads)
    common = frozenset.intersection(*told)
    others = frozenset.union(*told) - common
    if len(common) != 1 or min(len(told), len(others)) < MIN_THREADS:
        return None
    (own_id,) = common
    return own_id if own_id.isprintable() and len(own_id) <= MAX_ID_CHARACTERS else None
