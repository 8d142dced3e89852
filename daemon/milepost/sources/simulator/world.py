"""A world of pages and conversations in which messages keep arriving: a pure function of its plan and the time.

`World` holds no list of what there is. Each `Inbox` (one page on one platform) computes its threads from `Arrivals`, so
that a simulator that was restarted shows the same world gone on, and an inbox of a million threads costs nothing. Only
what is made to happen by hand (`World.receive`, `World.delete`) is kept, and lost with the process.
"""

from datetime import datetime

import msgspec

from milepost.core.errors import BadConfiguration
from milepost.sources.simulator.inbox import Inbox, Thread
from milepost.sources.simulator.instants import instant, instant_us
from milepost.sources.simulator.plan import Platform, SimulatedPage, WorldPlan, pages_of, token_of

__all__ = ["SimulatedPage", "TrueConversation", "World", "WorldPlan"]


class TrueConversation(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk must find of a conversation; `contact_id` is None where the API does not show the participants."""

    id: str
    updated_time: datetime
    contact_id: str | None
    message_count: int
    message_ids: tuple[str, ...]


class World:
    """The pages of a plan and their inboxes.

    Raises:
        BadConfiguration: two pages of the plan have the same id.
    """

    def __init__(self, plan: WorldPlan) -> None:
        self.plan = plan
        self.pages = pages_of(plan)
        self.user_token = token_of(plan.seed, "user")
        self._inboxes = {
            (page.id, platform): Inbox(page, platform, plan) for page in self.pages for platform in page.platforms
        }
        if len({page.id for page in self.pages}) < len(self.pages):
            raise BadConfiguration("two simulated pages have the same id", hint="give each page an id of its own")

    @property
    def inboxes(self) -> tuple[Inbox, ...]:
        """One for each page and platform, in the order of the plan."""
        return tuple(self._inboxes.values())

    def inbox(self, page_id: str, platform: Platform) -> Inbox | None:
        """The inbox of a page on a platform, or None where there is none."""
        return self._inboxes.get((page_id, platform))

    def find(self, conversation_id: str, at: datetime) -> Thread | None:
        """The conversation of this id, in whichever inbox, or None where there is none."""
        found = (inbox.find(conversation_id, instant_us(at)) for inbox in self.inboxes)
        return next((thread for thread in found if thread is not None), None)

    def receive(self, page_id: str, platform: Platform, at: datetime, conversation_id: str | None = None) -> str:
        """Make a message arrive by hand, from somebody new where no conversation is named.

        Returns:
            The id of the conversation.

        Raises:
            KeyError: there is no such page, platform or conversation.
        """
        inbox = self._inboxes[page_id, platform]
        index = None if conversation_id is None else inbox.index_of(conversation_id)
        if conversation_id is not None and index is None:
            raise KeyError(conversation_id)
        return inbox.receive(index, instant_us(at))

    def delete(self, conversation_id: str) -> None:
        """Make a conversation vanish without a trace; only `receive` brings it back.

        Raises:
            KeyError: there is no such conversation.
        """
        for inbox in self.inboxes:
            if (index := inbox.index_of(conversation_id)) is not None:
                inbox.delete(index)
                return
        raise KeyError(conversation_id)

    def truth(self, page_id: str, platform: Platform, at: datetime) -> tuple[TrueConversation, ...]:
        """All that a perfect walk would find at this instant, newest first; nothing where there is no such inbox."""
        inbox = self.inbox(page_id, platform)
        return () if inbox is None else tuple(_truth_of(thread) for thread in inbox.threads(instant_us(at)))


def _truth_of(thread: Thread) -> TrueConversation:
    return TrueConversation(
        id=thread.id,
        updated_time=instant(thread.position.updated_us),
        contact_id=thread.contact.id if thread.shows_participants else None,
        message_count=thread.message_count,
        message_ids=tuple(moment.id for moment in thread.newest),
    )
