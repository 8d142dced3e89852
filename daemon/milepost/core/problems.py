"""Why a source refused a request, as a value fit for the journal: no token, no personal data, bounded in size."""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from milepost.core.texts import visible

MAX_MESSAGE_CHARACTERS = 500


class ProblemKind(StrEnum):
    """How a request failed, before its remedy is looked up."""

    NETWORK = "network"  # no connection, a reset, a name that does not resolve
    TIMEOUT = "timeout"  # no response in time
    INVALID_RESPONSE = "invalid_response"  # not the Graph API's: HTML, truncated JSON, wrong types, a redirect
    OVERSIZE = "oversize"  # more bytes, values or items than any batch has
    API = "api"  # an error envelope of the Graph API
    MISCONFIGURED = "misconfigured"  # a response that shows a wrong setting, not a failure
    CURSOR_LOOP = "cursor_loop"  # the cursor of the next batch was used before
    NO_PROGRESS = "no_progress"  # many batches or runs in a row brought nothing new
    FALSE_END = "false_end"  # an empty answer to an old cursor
    EMPTY_INBOX = "empty_inbox"  # nothing is listed, although conversations are stored
    MOST_MISSING = "most_missing"  # a full sweep did not find most of the stored conversations
    MESSAGES_MISSING = "messages_missing"  # messages are missing in most conversations of an answer
    OUT_OF_ORDER = "out_of_order"  # the list is not ordered by updated_time
    NOT_MANAGED = "not_managed"  # the token used for discovery no longer manages the page

    @classmethod
    def _missing_(cls, value: object) -> "ProblemKind | None":
        """Accept the word that older journals have for an invalid response."""
        return cls.INVALID_RESPONSE if value == "nonsense" else None


class Problem(Struct, frozen=True, omit_defaults=True):
    """Why a batch could not be read. `code`, `subcode` and `is_transient` are the error envelope's.

    `wait_seconds` is how long the server says to wait: the longer of `Retry-After` and the time to regain access in the
    usage entry for this call.
    """

    kind: ProblemKind
    message: str
    http_status: int | None = None
    code: int | None = None
    subcode: int | None = None
    is_transient: bool | None = None
    wait_seconds: float | None = None

    def __str__(self) -> str:
        """Return one line for people: what happened, with the numbers to look up."""
        numbers = [
            f"{name} {value}"
            for name, value in (("HTTP", self.http_status), ("code", self.code), ("subcode", self.subcode))
            if value is not None
        ]
        message = visible(self.message)
        return f"{message} ({', '.join(numbers)})" if numbers else message


def is_gone(problem: Problem) -> bool:
    """Return whether the requested object no longer exists (captured: code 100 with subcode 33)."""
    return (problem.code, problem.subcode) == (100, 33)


class Pattern(Struct, frozen=True, kw_only=True):
    """The problems that a row of a table matches. None matches everything; `phrase` is a part of the message."""

    codes: frozenset[int] | None = None
    subcode: int | None = None
    phrase: str | None = None
    is_transient: bool | None = None
    http_status: int | None = None
    kind: ProblemKind | None = None

    def fits(self, problem: Problem) -> bool:
        """Return whether the row matches this problem."""
        return (
            (self.codes is None or problem.code in self.codes)
            and (self.subcode is None or problem.subcode == self.subcode)
            and (self.phrase is None or self.phrase in problem.message.lower())
            and (self.is_transient is None or problem.is_transient is self.is_transient)
            and (self.http_status is None or problem.http_status == self.http_status)
            and (self.kind is None or problem.kind is self.kind)
        )


def any_of(*codes: int | Iterable[int]) -> frozenset[int]:
    """Return the set of codes and ranges of codes, for a pattern."""
    return frozenset(each for code in codes for each in ([code] if isinstance(code, int) else code))
