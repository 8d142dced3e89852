"""Fields that a version of the Graph API refuses by name: which they are, and requests without them."""

import re
from collections.abc import Collection

from milepost.core.problems import MAX_MESSAGE_CHARACTERS, Problem, ProblemKind
from milepost.core.remedies import INDISPENSABLE

ESSENTIAL = frozenset({"id", "updated_time", "participants", "messages", "created_time", "from", "message"})

# Captured: "(#100) Tried accessing nonexisting field (X) on node type (Y)", "(#12) X field is deprecated for versions
# v3.3 and higher"; reported: "X is not a valid field", "Unknown fields: X". The first group is the field, at the end of
# its path.
_NAME = r"[\"'(`]*(?:\w+[.{])*(\w+)[}\"')`]*"
_REFUSALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"non-?exist(?:ing|ent) field:? {_NAME}",
        rf"(?:invalid|unknown|unsupported|deprecated|retired) fields?:? {_NAME}",
        rf"{_NAME} is not an? (?:valid|known|supported|existing) field",
        rf"{_NAME} field (?:is|was|has been) (?:deprecated|retired|removed)",
        rf"field {_NAME} (?:is|was|has been) (?:deprecated|retired|removed|not supported|unsupported|not available)",
        rf"field {_NAME} (?:does not exist|is unknown|is invalid)",
    )
)


def refused_field(problem: Problem, requested: str) -> str | None:
    """Return which of the requested fields a problem names as the one that is refused; None if it names none."""
    if problem.kind is not ProblemKind.API:
        return None
    names = set(re.findall(r"[a-z_]+", requested)) - {"limit"}
    found = (match[1].lower() for pattern in _REFUSALS for match in pattern.finditer(problem.message))
    return next((name for name in found if name in names), None)


def without(fields: str, left_out: Collection[str]) -> str:
    """Return these fields, which may be nested, without some of them. None of those has fields of its own."""
    for name in left_out:
        fields = re.sub(rf"(?<![^,{{]){re.escape(name)}(?:,|(?=}}|$))", "", fields)
    return re.sub(r",(?=}|$)", "", fields)


def indispensable(name: str, problem: Problem) -> Problem:
    """Return the problem of a field without which no conversation can be kept."""
    message = f"the API refuses the field {name} by name, {INDISPENSABLE}: {problem.message}"
    return Problem(ProblemKind.MISCONFIGURED, message[:MAX_MESSAGE_CHARACTERS], http_status=problem.http_status)
