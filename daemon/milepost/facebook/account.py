"""Which Instagram account belongs to a page: `GET /{page-id}?fields=instagram_business_account`."""

import msgspec
from msgspec import Struct

from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.problems import problem_of
from milepost.facebook.wire import Id


class Account(Struct):
    """An Instagram professional account."""

    id: Id


class Page(Struct):
    """A page, as far as it was asked for. A page without an Instagram account has its id only."""

    id: Id
    instagram_business_account: Account | None = None


def linked_account(body: bytes, http_status: int, page_id: str, access_token: str) -> str | Problem:
    """Read the answer: the account's id, or why there is none."""
    try:
        page = msgspec.json.decode(body, type=Page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return problem_of(body, http_status, access_token)
    if page.instagram_business_account is None:
        message = (
            f"page {page_id} has no Instagram professional account linked, or the token may not see it; link one, "
            "set the page's instagram_account_id, or take instagram out of its platforms"
        )
        return Problem(ProblemKind.MISCONFIGURED, message, http_status=http_status)
    return page.instagram_business_account.id
