"""The remedy for each error, as a table.

The facts come from Meta's documentation ("Handle errors", "Rate limits"), captured responses and reports of users; each
row names its source. The first row that matches counts: the code with its subcode or phrase, then `is_transient`, then
the form of the response. Status codes mislead (limits come as 400 or 403, failures as 200); only 429 always means a
limit.
"""

from enum import StrEnum

from milepost.core.model import Scope
from milepost.core.problems import Pattern, Problem, ProblemKind, any_of

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
