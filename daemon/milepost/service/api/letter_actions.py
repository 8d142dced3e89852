"""What people do about dead letters: redrive or discard them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.letters import MAX_REASON_CHARACTERS
from milepost.core.ports import DueLetter
from milepost.engine.errands import Discard, HeldBack, LetterErrand, Performer, Redrive
from milepost.service.api.dead_letters import ONE, LetterAsked
from milepost.service.api.desk import Desk, UnderWay
from milepost.service.api.operations import AnyOperation, Call, Nothing, Operation, Reply
from milepost.service.asker import asker_of
from milepost.service.outcomes import Answer, accepted, held, outcome_of

Find = Callable[[tuple[str, ...]], Awaitable[tuple[DueLetter, ...]]]


class Discarding(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a letter is given up. It is journaled for ever: without names or texts."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON_CHARACTERS, pattern=r"\S")]


def letter_actions(desk: Desk, do: Performer, find: Find) -> Sequence[AnyOperation]:
    """Declare what can be done about dead letters.

    Args:
        desk: takes it in.
        do: does an errand and gives the dead letter if it is still open; raises MilepostError.
        find: gives those of some dead letters that are open.
    """

    async def act(errand: LetterErrand) -> Reply[Answer]:
        found = await desk.look_up(find((errand.dead_letter_id,)))
        if not found:
            raise web.HTTPNotFound(text=f"there is no open dead letter {errand.dead_letter_id}")
        letter = found[0].letter
        try:
            after = await desk.do(f"errand about {letter.dead_letter_id}", lambda: do(errand))
        except HeldBack as why:
            return Reply(held(letter, why))
        if isinstance(after, UnderWay):
            return Reply(accepted(letter), status=202)
        return Reply(outcome_of(letter, after))

    async def redrive(call: Call[LetterAsked, Nothing]) -> Reply[Answer]:
        return await act(Redrive(call.asked.dead_letter_id, asker_of(call.request)))

    async def discard(call: Call[LetterAsked, Discarding]) -> Reply[Answer]:
        return await act(Discard(call.asked.dead_letter_id, call.body.reason.strip(), asker_of(call.request)))

    told: dict[str, Any] = {
        "asked": LetterAsked,
        "answer": Answer,
        "statuses": (200, 202),
        "problems": {404: "there is no such letter that is open", 409: "it cannot be done; the detail says why"},
        "max_seconds": None,
    }
    return [
        Operation("POST", f"{ONE}/redrive", "Try a dead letter again now", body=Nothing, handle=redrive, **told),
        Operation("POST", f"{ONE}/discard", "Give a dead letter up", body=Discarding, handle=discard, **told),
    ]
