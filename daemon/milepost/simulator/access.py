"""The tokens of the pages and the user, which expire and are renewed, permissions, and the user's pages."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from milepost.core.errors import BadConfiguration
from milepost.simulator import refusals
from milepost.simulator.plan import SimulatedPage, WorldPlan, made_up_page, pages_of, token_of

USER = "me"
"""The owner of the user's token, as opposed to a page's."""


ALL_FIELDS = frozenset(
    (
        *("messages", "message_echoes", "message_edits", "message_reactions", "message_reads", "message_deliveries"),
        *("messaging_postbacks", "messaging_referrals", "messaging_handovers", "standby"),
    )
)


class Access:
    """The pages of a world and their tokens.

    The owner of a token is a page's id, or `me` for the user. Methods raise KeyError for an unknown page.

    Raises:
        BadConfiguration: two pages of the plan have the same id.
    """

    def __init__(self, plan: WorldPlan) -> None:
        self._plan = plan
        planned = pages_of(plan)
        self._pages = {page.id: page for page in planned}
        if len(self._pages) < len(planned):
            raise BadConfiguration("two simulated pages have the same id", hint="give each page an id of its own")
        self._user_token = token_of(plan.seed, "user")
        self._owner_of_token = {self._user_token: USER} | {page.token: page.id for page in planned}
        self._page_of_account = {page.instagram_account_id: page.id for page in planned}
        self._unmanaged: set[str] = set()
        self._revoked: dict[str, int] = {}
        self._expiries: dict[str, datetime] = {}
        self._forbidden: dict[str, int] = {}
        self._renewals = 0
        self._subscribed: dict[str, frozenset[str]] = {}

    @property
    def pages(self) -> tuple[SimulatedPage, ...]:
        """All pages, with their current tokens."""
        return tuple(self._pages.values())

    def managed_pages(self, start: int) -> Iterator[tuple[int, SimulatedPage]]:
        """Return the pages under `me/accounts` with their indexes, from `start` on; a page's index never changes."""
        return (
            (index, page) for index, page in enumerate(self.pages) if index >= start and page.id not in self._unmanaged
        )

    @property
    def user_token(self) -> str:
        """The user's current token."""
        return self._user_token

    def page(self, page_id: str) -> SimulatedPage:
        """Return the page of this id."""
        return self._pages[page_id]

    def page_named(self, object_id: str) -> SimulatedPage | None:
        """Return the page of this id or with this Instagram account, if any."""
        return self._pages.get(self._page_of_account.get(object_id, object_id))

    def page_of_token(self, token: str) -> SimulatedPage | None:
        """Return the page that this token belongs or belonged to, if it is a page's."""
        return self._pages.get(self._owner_of_token.get(token, ""))

    def check(self, token: str) -> None:
        """Check that a token is valid.

        Raises:
            Refusal: it is revoked or unknown.
        """
        if token in self._revoked:
            raise refusals.dead_token(self._revoked[token])
        if token not in self._owner_of_token:
            raise refusals.invalid_token()

    def missing_permission(self, page_id: str) -> int | None:
        """Return the code with which the page's conversations are refused, if they are."""
        return self._forbidden.get(page_id)

    def revoke(self, owner: str, subcode: int = 460) -> None:
        """Revoke a token, with the subcode of the error: 460 for a changed password, 463 for an expired token."""
        self._revoked[self._token(owner)] = subcode

    def renew(self, owner: str) -> str:
        """Issue and return a new token; the previous one is revoked."""
        self._revoked.setdefault(self._token(owner), 460)
        self._renewals += 1
        token = token_of(self._plan.seed, f"{owner} {self._renewals}")
        self._owner_of_token[token] = owner
        if owner == USER:
            self._user_token = token
        else:
            self._pages[owner] = msgspec.structs.replace(self._pages[owner], token=token)
        return token

    def expire(self, owner: str, in_seconds: float, at: datetime) -> None:
        """Set when a token expires, counted from `at`. Only `debug_token` shows it: use `revoke` to end the token."""
        self._expiries[self._token(owner)] = at + timedelta(seconds=in_seconds)

    def expiry(self, token: str) -> datetime | None:
        """Return when a token expires; None for never."""
        return self._expiries.get(token)

    def forbid(self, page_id: str, code: int = 10) -> None:
        """Withdraw the permission to read a page's conversations: they are refused with code 10, or 200 to 299."""
        self._forbidden[self.page(page_id).id] = code

    def allow(self, owner: str) -> None:
        """Undo `revoke` and `forbid`: the owner's current token is valid for everything."""
        self._revoked.pop(self._token(owner), None)
        self._forbidden.pop(owner, None)

    def subscribed_fields(self, page_id: str) -> frozenset[str]:
        """Return the fields of webhooks that a page is subscribed to: all that exist, until that is changed."""
        return self._subscribed.get(self.page(page_id).id, ALL_FIELDS)

    def subscribe(self, page_id: str, fields: str = "") -> None:
        """Replace a page's subscription; fields are separated by commas, and none ends it."""
        self._subscribed[self.page(page_id).id] = frozenset(filter(None, fields.split(",")))

    def unmanage(self, page_id: str) -> None:
        """Remove a page from the user's list; its token stays valid."""
        self._unmanaged.add(self.page(page_id).id)

    def manage(self, page_id: str) -> None:
        """Put a page back on the user's list."""
        self._unmanaged.discard(self.page(page_id).id)

    def add(self) -> SimulatedPage:
        """Add and return a page, which the user manages."""
        page = made_up_page(self._plan.seed, len(self._pages))
        self._pages[page.id] = page
        self._owner_of_token[page.token] = page.id
        self._page_of_account[page.instagram_account_id] = page.id
        return page

    def _token(self, owner: str) -> str:
        return self._user_token if owner == USER else self.page(owner).token
