"""The plan of a simulated world: its seed, its pages, its size and how fast it grows."""

from datetime import UTC, datetime
from typing import Literal

import msgspec

from milepost.core.errors import BadConfiguration
from milepost.simulator import seeded

Platform = Literal["messenger", "instagram"]
PLATFORMS: tuple[Platform, ...] = ("messenger", "instagram")

DEFAULT_SEED = 1
"""Also the seed of the embedded world, by which its conversations are recognized."""

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_FROZEN_GAP_US = 60_000_000
_MAX_CONVERSATIONS = 10_000_000


class SimulatedPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the world. The repr leaves out its `token`, which a client must send."""

    id: str
    name: str
    token: str
    platforms: tuple[Platform, ...] = PLATFORMS
    instagram_account_id: str | None = None

    def __repr__(self) -> str:
        return f"SimulatedPage(id={self.id!r}, name={self.name!r}, platforms={self.platforms!r})"

    def account_id(self, platform: Platform) -> str:
        """Return the id of the page itself in its conversations."""
        return (self.instagram_account_id or self.id) if platform == "instagram" else self.id


class WorldPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a world; equal plans make equal worlds.

    `conversations` and `arrivals_per_minute` are those of each stream (a page on a platform);
    `messages_per_conversation` is an average; besides, one thread in a hundred grows up to `longest_thread` messages
    (0: none does). Nothing arrives after `frozen_at`; with `arrivals_per_minute=0`
    it defaults to the beginning of 2026, and the past has one message a minute.

    Raises:
        BadConfiguration: a number is out of range, or `frozen_at` has no time zone.
    """

    seed: int = DEFAULT_SEED
    pages: int | tuple[SimulatedPage, ...] = 2
    conversations: int = 1000
    messages_per_conversation: float = 5.0
    longest_thread: int = 0
    arrivals_per_minute: float = 6.0
    frozen_at: datetime | None = None

    def __post_init__(self) -> None:
        _within("pages", self.pages if isinstance(self.pages, int) else len(self.pages), 0, 10_000)
        _within("conversations", self.conversations, 0, _MAX_CONVERSATIONS)
        _within("messages_per_conversation", self.messages_per_conversation, 1, 10_000)
        _within("longest_thread", self.longest_thread, 0, 100_000)
        _within("arrivals_per_minute", self.arrivals_per_minute, 0, 600_000)
        if self.frozen_at is not None and self.frozen_at.tzinfo is None:
            raise BadConfiguration("frozen_at has no time zone", hint="write it with one, like 2026-01-01T00:00:00Z")

    @property
    def is_frozen(self) -> bool:
        """Whether arrivals end, at `anchor_at`."""
        return self.frozen_at is not None or self.arrivals_per_minute == 0

    @property
    def anchor_at(self) -> datetime:
        """The instant from which the stream's arrivals are counted, backwards and forwards."""
        return self.frozen_at or _BEGINNING

    @property
    def gap_us(self) -> int:
        """Microseconds from one arrival in a stream to the next, on average."""
        return round(60_000_000 / self.arrivals_per_minute) if self.arrivals_per_minute else _FROZEN_GAP_US


def pages_of(plan: WorldPlan) -> tuple[SimulatedPage, ...]:
    """Return the pages of the plan, invented if it gives only a number, each Instagram account with an id."""
    if isinstance(plan.pages, int):
        return tuple(made_up_page(plan.seed, ordinal) for ordinal in range(plan.pages))
    return tuple(
        msgspec.structs.replace(page, instagram_account_id=_instagram_account_id(plan.seed, page.id))
        if "instagram" in page.platforms and page.instagram_account_id is None
        else page
        for page in plan.pages
    )


def made_up_page(seed: int, ordinal: int) -> SimulatedPage:
    """Return the invented page of this number, from 0, in the world of this seed."""
    page_id = str(61_550_000_000_000_000 + seeded.number(seed, "page", ordinal) % 10**10 * 10_000 + ordinal)
    again = ordinal // len(seeded.PAGE_NAMES)
    return SimulatedPage(
        id=page_id,
        name=seeded.pick(seeded.PAGE_NAMES, ordinal) + (f" {again + 1}" if again else ""),
        token=token_of(seed, page_id),
        instagram_account_id=_instagram_account_id(seed, page_id),
    )


def _instagram_account_id(seed: int, page_id: str) -> str:
    return str(17_841_400_000_000_000 + seeded.number(seed, page_id, "account") % 10**14)


def token_of(seed: int, whose: str) -> str:
    """Return the access token of a page by its id, or of the "user" who manages all of them."""
    return "EAASimulated" + seeded.draw(seed, whose, "token").hex()


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BadConfiguration(f"{name}: found {value}; allowed: a number from {least:,} to {most:,}")
