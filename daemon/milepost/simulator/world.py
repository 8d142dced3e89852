"""A world of pages and conversations in which messages keep arriving: a pure function of its plan and the time.

`World` stores no conversations. Each `Inbox` (one page on one platform) computes its threads from `Arrivals`, so that a
restarted simulator continues the same world, and an inbox of a million threads costs nothing. Only manual changes are
kept in memory, and lost with the process.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

import msgspec

from milepost.simulator import refusals, seeded
from milepost.simulator.access import Access
from milepost.simulator.faults import CALM, FaultPlan
from milepost.simulator.inbox import Inbox, Thread
from milepost.simulator.nodes import nested_limit
from milepost.simulator.plan import Platform, SimulatedPage, WorldPlan, instant, instant_us
from milepost.simulator.requests import ApiRequest

MAX_BURST = 10_000
_POSITION_FIELDS = frozenset({"id", "updated_time"})


# --- threads that cannot be read normally: a share of all, by the seed, and others by hand ----------------------------


class Ailment(StrEnum):
    """What is wrong with a thread."""

    POISON = "poison"
    """Every request for more than its id and `updated_time` fails with code 1, lists at any limit."""
    SPOILT = "spoilt"
    """As POISON, but in a form that depends on the thread's id: another code than 1, or no error envelope at all."""
    POISON_MESSAGES = "poison_messages"
    """Every request for its messages fails with code 1."""
    HEAVY = "heavy"
    """Lists with its messages are refused as too heavy at any limit; by itself it can be read."""


class Ailments:
    """The ailments of threads. Those drawn by the seed depend only on the thread's id."""

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


# --- the world --------------------------------------------------------------------------------------------------------


class TrueConversation(msgspec.Struct, frozen=True, kw_only=True):
    """What a full walk must find of a conversation; `contact_id` is None if the API leaves out the participants."""

    id: str
    updated_time: datetime
    contact_id: str | None
    message_count: int
    message_ids: tuple[str, ...]
    ailment: Ailment | None = None
    """What keeps a walk from finding all of it."""


class World:
    """The pages of a plan and their inboxes; `faults` determines which threads are ill.

    What changes a conversation raises KeyError if it does not exist.

    Raises:
        BadConfiguration: two pages of the plan have the same id.
    """

    def __init__(self, plan: WorldPlan, faults: FaultPlan = CALM) -> None:
        self.plan = plan
        self.access = Access(plan)
        self.ailments = Ailments(faults)
        self.cursor_generation = 0
        self._inboxes = {
            (page.id, platform): Inbox(page, platform, plan) for page in self.pages for platform in page.platforms
        }

    @property
    def pages(self) -> tuple[SimulatedPage, ...]:
        """All pages, with their current tokens."""
        return self.access.pages

    @property
    def user_token(self) -> str:
        """The token of the user who manages the pages."""
        return self.access.user_token

    @property
    def inboxes(self) -> tuple[Inbox, ...]:
        """One for each page and platform, in the order of the plan."""
        return tuple(self._inboxes.values())

    def inbox(self, page_id: str, platform: Platform) -> Inbox | None:
        """Return the inbox of a page on a platform; None if there is none."""
        return self._inboxes.get((page_id, platform))

    def find(self, conversation_id: str, at: datetime) -> Thread | None:
        """Return the conversation of this id in any inbox; None if there is none."""
        inbox = self.inbox_with(conversation_id)
        return None if inbox is None else inbox.find(conversation_id, instant_us(at))

    def inbox_with(self, conversation_id: str) -> Inbox | None:
        """Return the inbox that a conversation of this id is in or was deleted from; None if there is none."""
        return next((inbox for inbox in self.inboxes if inbox.index_of(conversation_id) is not None), None)

    def receive(
        self, page_id: str, platform: Platform, at: datetime, conversation_id: str | None = None, count: int = 1
    ) -> str:
        """Make messages arrive at once in one conversation, from a new contact if none is given.

        Returns:
            The id of the conversation.

        Raises:
            KeyError: the page, platform or conversation does not exist.
            ValueError: there are none, or too many.
        """
        inbox = self._inboxes[page_id, platform]
        index = None if conversation_id is None else inbox.index_of(conversation_id)
        if conversation_id is not None and index is None:
            raise KeyError(conversation_id)
        if not 1 <= count <= MAX_BURST:
            msg = f"count must be from 1 to {MAX_BURST}"
            raise ValueError(msg)
        return inbox.receive(index, instant_us(at), count)

    def delete(self, conversation_id: str) -> None:
        """Remove a conversation without a trace; only `receive` brings it back."""
        inbox = self._demand_inbox(conversation_id)
        inbox.delete(conversation_id)

    def edit(self, conversation_id: str, message_id: str, text: str) -> None:
        """Edit a message's text; the conversation's time stays."""
        inbox = self._demand_inbox(conversation_id)
        inbox.edit(message_id, text)
        inbox.note("edit", conversation_id, message_id, text)

    def unsend(self, conversation_id: str, message_id: str) -> None:
        """Remove a message, but not a conversation's only one. The conversation's time changes if it was the newest."""
        inbox = self._demand_inbox(conversation_id)
        inbox.unsend(message_id)
        inbox.note("unsend", conversation_id, message_id, None)

    def react(self, conversation_id: str, message_id: str, reaction: str | None = "love") -> None:
        """Make the contact react to a message, or remove the reaction; only webhooks report it."""
        self._demand_inbox(conversation_id).note("react", conversation_id, message_id, reaction)

    def refer(self, conversation_id: str, ref: str) -> None:
        """Make the contact open a link to the thread; only webhooks report it."""
        self._demand_inbox(conversation_id).note("refer", conversation_id, "", ref)

    def empty(self, conversation_id: str, message_id: str) -> None:
        """List a message without its content from now on."""
        self._demand_inbox(conversation_id).empty(message_id)

    def poison(self, conversation_id: str, ailment: Ailment = Ailment.POISON) -> None:
        """Make a conversation ill from now on, overriding the seed."""
        self._demand_inbox(conversation_id)
        self.ailments.override(conversation_id, ailment)

    def cure(self, conversation_id: str) -> None:
        """Make a conversation well from now on, overriding the seed."""
        self._demand_inbox(conversation_id)
        self.ailments.override(conversation_id, None)

    def kill_cursors(self) -> None:
        """Invalidate every cursor issued so far, of all inboxes."""
        self.cursor_generation += 1

    def add_page(self) -> str:
        """Add a page on both platforms, which the user manages, and return its id."""
        page = self.access.add()
        for platform in page.platforms:
            self._inboxes[page.id, platform] = Inbox(page, platform, self.plan)
        return page.id

    def truth(self, page_id: str, platform: Platform, at: datetime) -> tuple[TrueConversation, ...]:
        """Return all that a perfect walk would find at this instant, newest first; nothing for an unknown inbox."""
        inbox = self.inbox(page_id, platform)
        return () if inbox is None else tuple(map(self._truth_of, inbox.threads(instant_us(at))))

    def _demand_inbox(self, conversation_id: str) -> Inbox:
        inbox = self.inbox_with(conversation_id)
        if inbox is None:
            raise KeyError(conversation_id)
        return inbox

    def _truth_of(self, thread: Thread) -> TrueConversation:
        return TrueConversation(
            id=thread.id,
            updated_time=instant(thread.position.updated_us),
            contact_id=thread.contact.id if thread.shows_participants else None,
            message_count=thread.message_count,
            message_ids=tuple(moment.id for moment in thread.newest),
            ailment=self.ailments.of(thread.id),
        )
