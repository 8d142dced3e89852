"""Cursors and paging links: where a walk stands, and what the API says of how to go on."""

import re

import msgspec

from milepost.simulator import refusals, seeded
from milepost.simulator.inbox import HEAD, Inbox, Position
from milepost.simulator.instants import instant_us
from milepost.simulator.messages import Node
from milepost.simulator.question import Question

_CURSOR = re.compile(r"([0-9a-f]{8}):(\d{1,9}):(\d{1,20}):(\d{1,20}):(\d{1,20}):(\d{1,9})")


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """A place in an inbox, and when it was named.

    `generation` counts how often all cursors were killed. `turn` tells cursors of one place apart: the API repeats
    none, so neither do we.
    """

    salt: int
    generation: int
    issued_us: int
    position: Position = HEAD
    turn: int = 0

    def sealed(self) -> str:
        """As clients see it: a text that means nothing to them."""
        place = f"{self.position.updated_us}:{self.position.index}:{self.turn}"
        return seeded.sealed(f"{self.salt:08x}:{self.generation}:{self.issued_us}:{place}")

    def turned(self) -> "Cursor":
        """The same place under another name."""
        return msgspec.structs.replace(self, turn=self.turn + 1)

    def moved(self, position: Position) -> "Cursor":
        """Another place, named now."""
        return msgspec.structs.replace(self, position=position, turn=0)


def cursor_of(question: Question, inbox: Inbox, generation: int, life_seconds: float) -> Cursor:
    """Where to go on, named now; the head, if the question does not say.

    Raises:
        Refusal: the cursor is none of this inbox's or has died, or the question is for the way back.
    """
    if "before" in question.query:
        raise refusals.bad_parameter("The simulator does not page backwards")
    now_us = instant_us(question.at)
    head = Cursor(salt=inbox.salt, generation=generation, issued_us=now_us)
    if "after" not in question.query:
        return head
    found = _CURSOR.fullmatch(seeded.unsealed(question.query["after"]) or "")
    if found is None or int(found[1], 16) != inbox.salt or int(found[2]) < generation:
        raise refusals.dead_cursor()
    if 0 < life_seconds * 1_000_000 < now_us - int(found[3]):
        raise refusals.dead_cursor()
    return msgspec.structs.replace(head, position=Position(int(found[4]), int(found[5])), turn=int(found[6]))


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
