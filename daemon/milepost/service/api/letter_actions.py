"""What people do about dead letters: redrive or discard them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.commands import DeadLetterCommand, Discard, Redrive
from milepost.core.dead_letters import MAX_REASON_CHARACTERS
from milepost.core.ports import DueDeadLetter
from milepost.engine.mailbox import CommandDeferred, ExecuteDeadLetterCommand
from milepost.service.actor import actor_of
from milepost.service.api.background import BackgroundWork, UnderWay
from milepost.service.api.dead_letters import ONE, LetterAsked
from milepost.service.api.endpoint import AnyOperation, Call, Nothing, Operation, Reply
from milepost.service.outcomes import Answer, accepted, held, outcome_of

Find = Callable[[tuple[str, ...]], Awaitable[tuple[DueDeadLetter, ...]]]


class Discarding(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a letter is given up. It is journaled for ever: without names or texts."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON_CHARACTERS, pattern=r"\S")]


def dead_letter_actions(desk: BackgroundWork, do: ExecuteDeadLetterCommand, find: Find) -> Sequence[AnyOperation]:
    """Declare what can be done about dead letters.

    Args:
        desk: takes it in.
        do: does an errand and gives the dead letter if it is still open; raises MilepostError.
        find: gives those of some dead letters that are open.
    """

    async def act(command: DeadLetterCommand) -> Reply[Answer]:
        found = await desk.look_up(find((command.dead_letter_id,)))
        if not found:
            raise web.HTTPNotFound(text=f"there is no open dead letter {command.dead_letter_id}")
        dead_letter = found[0].dead_letter
        try:
            after = await desk.do(f"errand about {dead_letter.dead_letter_id}", lambda: do(command))
        except CommandDeferred as why:
            return Reply(held(dead_letter, why))
        if isinstance(after, UnderWay):
            return Reply(accepted(dead_letter), status=202)
        return Reply(outcome_of(dead_letter, after))

    async def redrive(call: Call[LetterAsked, Nothing]) -> Reply[Answer]:
        return await act(Redrive(call.asked.dead_letter_id, actor_of(call.request)))

    async def discard(call: Call[LetterAsked, Discarding]) -> Reply[Answer]:
        return await act(Discard(call.asked.dead_letter_id, call.body.reason.strip(), actor_of(call.request)))

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
