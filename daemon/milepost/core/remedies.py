"""What an error calls for, as a table.

The codes are those of the Graph API (Meta, "Handle errors" and "Rate limits"; some seen in captured answers). The
order of the questions matters: the code first, then the HTTP status, because statuses mislead.
"""

from enum import StrEnum

from milepost.core.problems import Problem, ProblemKind


class Remedy(StrEnum):
    """What to do about a problem."""

    RETRY = "retry"  # it may pass: the same batch again, after a growing wait
    WAIT = "wait"  # a rate limit: calling on prolongs it
    STOP_AUTHORIZATION = "stop_authorization"  # a person has to mend the token or a permission
    STOP_CONFIGURATION = "stop_configuration"  # a person has to mend the configuration


RATE_LIMIT_CODES = frozenset({4, 17, 32, 341, 368, 613, 80014, *range(80000, 80010)})
AUTHORIZATION_CODES = frozenset({3, 10, 102, 190, 492, *range(200, 300)})
CONFIGURATION_CODES = frozenset({12, 104, 2500, 2635})


def remedy(problem: Problem) -> Remedy:
    """Look up what a problem calls for."""
    match problem:
        case Problem(kind=ProblemKind.API, code=int(code)) if code in RATE_LIMIT_CODES:
            return Remedy.WAIT
        case Problem(kind=ProblemKind.API, code=int(code)) if code in AUTHORIZATION_CODES:
            return Remedy.STOP_AUTHORIZATION
        case Problem(kind=ProblemKind.API, code=int(code)) if code in CONFIGURATION_CODES:
            return Remedy.STOP_CONFIGURATION
        case Problem(kind=ProblemKind.MISCONFIGURED):
            return Remedy.STOP_CONFIGURATION
        case Problem(http_status=429):
            return Remedy.WAIT
        case _:
            return Remedy.RETRY
