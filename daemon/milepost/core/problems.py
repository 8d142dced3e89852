"""What a source's refusal is, as a value that may be journaled: no token, no personal data, bounded in size."""

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
