"""What a source's refusal is, as a value that may be journaled: no token, no personal data, bounded in size."""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

MAX_MESSAGE_CHARACTERS = 500


class ProblemKind(StrEnum):
    """How the answer failed, before its meaning is looked up."""

    NETWORK = "network"  # no connection, a reset, a name that does not resolve
    TIMEOUT = "timeout"  # no answer in time
    NONSENSE = "nonsense"  # an answer that is no Graph API answer: HTML, JSON cut short, wrong types, a redirect
    OVERSIZE = "oversize"  # more bytes than any batch can have
    API = "api"  # an error envelope of the Graph API
    MISCONFIGURED = "misconfigured"  # an answer that tells of a wrong setting, not of a failure
    CURSOR_LOOP = "cursor_loop"  # the cursor of the next batch is the one just used
    NOT_MANAGED = "not_managed"  # the page is not among those that the discovering token manages any more


class Problem(Struct, frozen=True, omit_defaults=True):
    """Why a batch could not be read. `code`, `subcode` and `is_transient` are the error envelope's.

    `wait_seconds` is how long the server says to stay away: the longest of `Retry-After` and the time to regain access
    of the entry that concerns this call.
    """

    kind: ProblemKind
    message: str
    http_status: int | None = None
    code: int | None = None
    subcode: int | None = None
    is_transient: bool | None = None
    wait_seconds: float | None = None

    def __str__(self) -> str:
        """One line for people: what happened, with the numbers to look up."""
        numbers = [
            f"{name} {value}"
            for name, value in (("HTTP", self.http_status), ("code", self.code), ("subcode", self.subcode))
            if value is not None
        ]
        return f"{self.message} ({', '.join(numbers)})" if numbers else self.message


class Pattern(Struct, frozen=True, kw_only=True):
    """Which problems a row of a table speaks of. What is None fits everything; `phrase` is one that the message has."""

    codes: frozenset[int] | None = None
    subcode: int | None = None
    phrase: str | None = None
    is_transient: bool | None = None
    http_status: int | None = None
    kind: ProblemKind | None = None

    def fits(self, problem: Problem) -> bool:
        """Whether the row speaks of this problem."""
        return (
            (self.codes is None or problem.code in self.codes)
            and (self.subcode is None or problem.subcode == self.subcode)
            and (self.phrase is None or self.phrase in problem.message.lower())
            and (self.is_transient is None or problem.is_transient is self.is_transient)
            and (self.http_status is None or problem.http_status == self.http_status)
            and (self.kind is None or problem.kind is self.kind)
        )


def any_of(*codes: int | Iterable[int]) -> frozenset[int]:
    """List codes and ranges of codes, for a pattern."""
    return frozenset(each for code in codes for each in ([code] if isinstance(code, int) else code))
