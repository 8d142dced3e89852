"""Threads that cannot be read normally: a share of them by the seed, and any by hand."""

from collections.abc import Iterable
from enum import StrEnum

from milepost.simulator import refusals, seeded
from milepost.simulator.conversations import nested_limit
from milepost.simulator.faults import FaultPlan
from milepost.simulator.inbox import Thread
from milepost.simulator.requests import ApiRequest

_POSITION_FIELDS = frozenset({"id", "updated_time"})


class Ailment(StrEnum):
    """What is wrong with a thread."""

    POISON = "poison"
    """Every request for more than its id and `updated_time` fails with code 1, lists at any limit."""
    SPOILT = "spoilt"
    """The same in another form than code 1, which depends on the thread's id: any other code, or no envelope at all."""
    POISON_MESSAGES = "poison_messages"
    """Every request for its messages fails with code 1."""
    HEAVY = "heavy"
    """Lists with its messages are refused as too heavy at any limit; by itself it can be read."""


class Ailments:
    """Which threads are ill. By the seed, that depends only on the thread's id."""

    def __init__(self, faults: FaultPlan) -> None:
        self._seed = faults.seed
        self._shares = (
            (Ailment.POISON, faults.poison_share),
            (Ailment.SPOILT, faults.spoilt_share),
            (Ailment.POISON_MESSAGES, faults.poison_messages_share),
            (Ailment.HEAVY, faults.heavy_share),
        )
        self._by_hand: dict[str, Ailment | None] = {}

    def of(self, conversation_id: str) -> Ailment | None:
        """Return a thread's ailment, if any."""
        if conversation_id in self._by_hand:
            return self._by_hand[conversation_id]
        for ailment, share in self._shares:
            if share > 0 and seeded.share(self._seed, conversation_id, ailment.value) < share:
                return ailment
        return None

    def override(self, conversation_id: str, ailment: Ailment | None) -> None:
        """Set a thread's ailment by hand; None makes it well."""
        self._by_hand[conversation_id] = ailment

    def check(self, threads: Iterable[Thread], request: ApiRequest) -> None:
        """Check that these threads can be returned as requested.

        Raises:
            Refusal: one of them cannot.
        """
        names = {field.name for field in request.fields}
        shows_messages = request.edge == "messages" or nested_limit(request.fields) > 0
        if names and names <= _POSITION_FIELDS and not shows_messages:
            return
        for thread in threads:
            match self.of(thread.id):
                case Ailment.POISON:
                    raise refusals.unknown_error(request.seed)
                case Ailment.SPOILT:
                    drawn = seeded.number(self._seed, thread.id, "form")
                    raise refusals.spoilt(seeded.pick(refusals.SPOILT_FORMS, drawn))
                case Ailment.POISON_MESSAGES if shows_messages:
                    raise refusals.unknown_error(request.seed)
                case Ailment.HEAVY if shows_messages and request.edge == "conversations":
                    raise refusals.too_heavy(request.seed)
