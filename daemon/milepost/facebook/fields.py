"""The fields that are requested, and calls without those that a version of the Graph API refuses by name."""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from msgspec.structs import replace

from milepost.core.model import LEAN_MESSAGES, Detail, Platform
from milepost.core.ports import Held, Refused
from milepost.core.problems import MAX_MESSAGE_CHARACTERS, Problem, ProblemKind
from milepost.core.remedies import INDISPENSABLE
from milepost.facebook.calls import Calls, Decoded, Decoder

T = TypeVar("T")

POSITION_FIELDS = "id,updated_time"
THREAD_FIELDS = f"{POSITION_FIELDS},link,snippet,message_count,unread_count,can_reply,participants"
# Without the `to` of a message, which nothing reads: it makes responses a fifth larger.
MESSAGE_FIELDS = {
    Platform.MESSENGER: "id,created_time,from,message,sticker,attachments,shares",
    Platform.INSTAGRAM: "id,created_time,from,message,attachments,shares,story,is_unsupported",
}
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


def list_fields(platform: Platform, messages: int, detail: Detail) -> str:
    """Return the fields of each thread in a list, with up to `messages` messages if they are nested."""
    match detail:
        case Detail.NESTED:
            return with_messages(THREAD_FIELDS, platform, messages)
        case Detail.SEPARATE | Detail.BARE:
            return THREAD_FIELDS
        case Detail.LEAN:
            nested = f",messages.limit({min(messages, LEAN_MESSAGES)}){{id,created_time,from,message}}"
            return f"{POSITION_FIELDS},participants{nested if messages else ''}"
        case Detail.POSITION:
            return POSITION_FIELDS


def with_messages(fields: str, platform: Platform, messages: int) -> str:
    """Return these fields, and up to `messages` messages."""
    return f"{fields},messages.limit({messages}){{{MESSAGE_FIELDS[platform]}}}" if messages else fields


class FieldCalls:
    """Calls that name fields, made again without each one that the API refuses, now and in later calls."""

    def __init__(self, calls: Calls, essential: Collection[str]) -> None:
        self.left_out: list[str] = []
        self._calls = calls
        self._essential = essential

    async def make(self, path: str, parameters: Mapping[str, str], decode: Decoder[T]) -> Decoded[T] | Refused | Held:
        """Make a call. If it is an essential field that the API refuses, the problem says so."""
        while True:
            fields = without(parameters["fields"], self.left_out)
            outcome = await self._calls.make(path, {**parameters, "fields": fields}, decode)
            name = refused_field(outcome.problem, fields) if isinstance(outcome, Refused) else None
            if name is None or not isinstance(outcome, Refused):
                return outcome
            if name in self._essential:
                return replace(outcome, problem=_indispensable(name, outcome.problem))
            self.left_out.append(name)


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


def _indispensable(name: str, problem: Problem) -> Problem:
    """Return the problem of a field without which no conversation can be kept."""
    message = f"the API refuses the field {name} by name, {INDISPENSABLE}: {problem.message}"
    return Problem(ProblemKind.MISCONFIGURED, message[:MAX_MESSAGE_CHARACTERS], http_status=problem.http_status)
