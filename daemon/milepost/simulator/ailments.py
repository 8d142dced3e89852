"""Threads that cannot be read as others can: a share of them by the seed, and any by hand."""

from collections.abc import Iterable
from enum import StrEnum

from milepost.simulator import refusals, seeded
from milepost.simulator.conversations import nested_limit
from milepost.simulator.faults import FaultPlan
from milepost.simulator.inbox import Thread
from milepost.simulator.question import Question

_POSITION_FIELDS = frozenset({"id", "updated_time"})


class Ailment(StrEnum):
    """What is wrong with a thread."""

    POISON = "poison"
    """Whatever would show more of it than its id and `updated_time` fails with code 1, lists at any limit."""
    POISON_MESSAGES = "poison_messages"
    """Whatever would show its messages fails with code 1."""
    HEAVY = "heavy"
    """Lists that would show its messages are refused as too heavy at any limit; alone it can be read."""


class Ailments:
    """Which threads are ill. What the seed says of a thread depends on nothing but its id."""

    def __init__(self, faults: FaultPlan) -> None:
        self._seed = faults.seed
        self._shares = (
            (Ailment.POISON, faults.poison_share),
            (Ailment.POISON_MESSAGES, faults.poison_messages_share),
            (Ailment.HEAVY, faults.heavy_share),
        )
        self._by_hand: dict[str, Ailment | None] = {}

    def of(self, conversation_id: str) -> Ailment | None:
        """What is wrong with a thread, if anything is."""
        if conversation_id in self._by_hand:
            return self._by_hand[conversation_id]
        for ailment, share in self._shares:
            if share > 0 and seeded.share(self._seed, conversation_id, ailment.value) < share:
                return ailment
        return None

    def settle(self, conversation_id: str, ailment: Ailment | None) -> None:
        """Say by hand what is wrong with a thread; None makes it well."""
        self._by_hand[conversation_id] = ailment

    def check(self, threads: Iterable[Thread], question: Question) -> None:
        """See whether these threads can be shown as they are asked for.

        Raises:
            Refusal: one of them cannot.
        """
        names = {field.name for field in question.fields}
        shows_messages = question.edge == "messages" or nested_limit(question.fields) > 0
        if names and names <= _POSITION_FIELDS and not shows_messages:
            return
        for thread in threads:
            match self.of(thread.id):
                case Ailment.POISON:
                    raise refusals.unknown_error(question.seed)
                case Ailment.POISON_MESSAGES if shows_messages:
                    raise refusals.unknown_error(question.seed)
                case Ailment.HEAVY if shows_messages and question.edge == "conversations":
                    raise refusals.too_heavy(question.seed)
