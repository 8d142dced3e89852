"""Cursors and paging links: where a walk stands, and what the API says of how to go on."""

import re

import msgspec

from milepost.sources.simulator import luck, refusals
from milepost.sources.simulator.inbox import HEAD, Inbox, Position
from milepost.sources.simulator.messages import Node
from milepost.sources.simulator.question import Question

_CURSOR = re.compile(r"([0-9a-f]{8}):(\d{1,20}):(\d{1,20}):(\d{1,9})")


class Cursor(msgspec.Struct, frozen=True):
    """A place in an inbox. `turn` tells cursors of one place apart: the API repeats none, so neither do we."""

    salt: int
    position: Position = HEAD
    turn: int = 0

    def sealed(self) -> str:
        """As clients see it: a text that means nothing to them."""
        return luck.sealed(f"{self.salt:08x}:{self.position.updated_us}:{self.position.index}:{self.turn}")

    def turned(self) -> "Cursor":
        """The same place under another name."""
        return Cursor(self.salt, self.position, self.turn + 1)


def cursor_of(question: Question, inbox: Inbox) -> Cursor:
    """Where to go on; the head, if the question does not say.

    Raises:
        Refusal: the cursor is none of this inbox's, or the question is for the way back.
    """
    if "before" in question.query:
        raise refusals.bad_parameter("The simulator does not page backwards")
    if "after" not in question.query:
        return Cursor(inbox.salt)
    found = _CURSOR.fullmatch(luck.unsealed(question.query["after"]) or "")
    if found is None or int(found[1], 16) != inbox.salt:
        raise refusals.dead_cursor()
    return Cursor(inbox.salt, Position(int(found[2]), int(found[3])), int(found[4]))


def paging_node(question: Question, *, before: str, after: str, has_more: bool) -> Node:
    """The `paging` of a list: cursors always, and links, with the token in them, where there is more."""
    kept = {name: question.query[name] for name in ("platform", "fields") if name in question.query}
    path = f"{question.owner}/{question.edge}"
    paging: Node = {"cursors": {"before": before, "after": after}}
    if has_more:
        paging["next"] = question.link.to(path, **kept, limit=str(question.limit), after=after)
    if "after" in question.query:
        paging["previous"] = question.link.to(path, **kept, limit=str(question.limit), before=before)
    return paging
