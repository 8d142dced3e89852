"""Why a source refused a request, and the remedy for that, as a table.

A problem is a value fit for the journal: no token, no personal data, bounded in size.
"""

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


# --- remedies ---------------------------------------------------------------------------------------------------------

# The facts come from Meta's documentation ("Handle errors", "Rate limits"), captured responses and reports of users;
# each row names its source. The first row that matches counts: the code with its subcode or phrase, then
# `is_transient`, then the form of the response. Status codes mislead (limits come as 400 or 403, failures as 200); only
# 429 always means a limit.

TOO_MUCH_DATA = "reduce the amount of data"  # the only phrase that is more specific than its code
BAD_SIGNATURE = "appsecret_proof"
INDISPENSABLE = "and it is indispensable"  # a field that the API refuses by name; our own words


class Remedy(StrEnum):
    """What to do about a problem."""

    RETRY = "retry"  # it may pass: the same batch again, after a growing delay
    WAIT = "wait"  # a rate limit: further calls prolong it
    SHRINK = "shrink"  # a smaller request; an item that fails alone becomes a dead letter and is stepped over
    RESET = "reset"  # the cursor is dead: restart at the head
    STOP_AUTHORIZATION = "stop_authorization"  # an operator has to fix the token or a permission
    STOP_CONFIGURATION = "stop_configuration"  # an operator has to fix the configuration


class Scope(StrEnum):
    """Whose calls a rate limit counts, and so whose calls it holds back."""

    APP = "app"
    PAGE = "page"
    STREAM = "stream"


class Rule(Pattern, frozen=True):
    """A row of the table.

    `then` applies once the retries are exhausted (RETRY: nothing more in this run). `is_general` is whether the cause
    is in no single object. Any refusal of a list but a rate limit has its remedy only while the list cannot be read at
    all. `scope` is whose calls have to wait, and `least_wait_seconds` for how long at least.
    """

    remedy: Remedy
    source: str
    then: Remedy = Remedy.RETRY
    is_general: bool = False
    scope: Scope = Scope.STREAM
    least_wait_seconds: float = 0.0


# fmt: off
RULES: tuple[Rule, ...] = (
    # --- too much at once ---
    Rule(Remedy.SHRINK, "captured: HTTP 500, code 1", codes=any_of(1), phrase=TOO_MUCH_DATA),
    Rule(Remedy.SHRINK, "captured: HTTP 500, code 1 with subcode 99", codes=any_of(1), subcode=99),
    Rule(Remedy.SHRINK, "a response larger than any batch", kind=ProblemKind.OVERSIZE),
    # --- it may pass ---
    # Some chats make every list with them fail like an outage, with any code (seen in 2026-09): if the list can be read
    # without its content, smaller requests find them.
    Rule(Remedy.RETRY, "Handle errors: API Unknown, API Service", codes=any_of(1, 2)),
    # --- rate limits: wait, and longer after further calls ---
    Rule(Remedy.WAIT, "Rate limits: app", codes=any_of(4), scope=Scope.APP, is_general=True),
    Rule(Remedy.WAIT, "Rate limits: user, page, custom", codes=any_of(17, 32, 341, 613), scope=Scope.PAGE,
         is_general=True),
    Rule(Remedy.WAIT, "Rate limits: business use cases", codes=any_of(range(80000, 80010), 80014), scope=Scope.PAGE,
         is_general=True),
    Rule(Remedy.WAIT, "Handle errors: blocked for policy", codes=any_of(368), scope=Scope.PAGE,
         is_general=True, least_wait_seconds=3600.0),
    # --- an operator is needed ---
    Rule(Remedy.STOP_AUTHORIZATION, "Handle errors: session, token", codes=any_of(102, 190, 492), is_general=True),
    Rule(Remedy.STOP_AUTHORIZATION, "Handle errors: permission", codes=any_of(3, 10, range(200, 300))),
    Rule(Remedy.STOP_AUTHORIZATION, "discovery: no longer managed", kind=ProblemKind.NOT_MANAGED,
         is_general=True),
    Rule(Remedy.STOP_CONFIGURATION, "Secure Graph API calls", codes=any_of(104), is_general=True),
    Rule(Remedy.STOP_CONFIGURATION, "Secure Graph API calls", codes=any_of(100), phrase=BAD_SIGNATURE,
         is_general=True),
    Rule(Remedy.STOP_CONFIGURATION, "a retired version", codes=any_of(12, 2635), is_general=True),
    Rule(Remedy.STOP_CONFIGURATION, "no such query", codes=any_of(2500)),
    Rule(Remedy.STOP_CONFIGURATION, "reported: the page was migrated, or has no such id", codes=any_of(21, 803)),
    Rule(Remedy.STOP_CONFIGURATION, "the response shows a wrong setting", kind=ProblemKind.MISCONFIGURED,
         is_general=True),
    # --- a dead cursor, or what looks like one ---
    Rule(Remedy.RETRY, "captured: the object is gone, or a hidden limit", codes=any_of(100), subcode=33,
         then=Remedy.STOP_CONFIGURATION),
    Rule(Remedy.RETRY, "reported: a cursor that leads to itself", kind=ProblemKind.CURSOR_LOOP, then=Remedy.RESET,
         is_general=True),
    Rule(Remedy.RESET, "reported: empty batches without end", kind=ProblemKind.NO_PROGRESS, is_general=True),
    Rule(Remedy.RESET, "reported: an empty answer to a dead cursor", kind=ProblemKind.FALSE_END, is_general=True),
    Rule(Remedy.RETRY, "reported: an incident shown as an empty list", kind=ProblemKind.EMPTY_INBOX, is_general=True),
    Rule(Remedy.RESET, "captured: invalid cursors values", codes=any_of(2642), is_general=True),
    Rule(Remedy.RESET, "reported: also returned for cursors", codes=any_of(100)),
    # --- no known code ---
    Rule(Remedy.WAIT, "RFC 6585", http_status=429, scope=Scope.PAGE, is_general=True),
    Rule(Remedy.RETRY, "Handle errors: is_transient", is_transient=True),
    Rule(Remedy.RETRY, "network, outage, an invalid response, an unknown code"),
)
# fmt: on


def rule_for(problem: Problem, *, has_cursor: bool) -> Rule:
    """Return the rule for a problem. A complaint about the cursor, if none was sent, is about the query."""
    rule = next(rule for rule in RULES if rule.fits(problem))
    if rule.remedy is Remedy.RESET and not has_cursor:
        return Rule(Remedy.STOP_CONFIGURATION, rule.source)
    return rule


def is_unnamed_limit(problem: Problem) -> bool:
    """Return whether a refusal is a rate limit by its code, and does not say when it ends."""
    return rule_for(problem, has_cursor=False).remedy is Remedy.WAIT and problem.wait_seconds is None
