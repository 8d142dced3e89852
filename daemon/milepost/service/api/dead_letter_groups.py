"""`/api/dead-letters/groups`: open dead letters by their reason, and their redrive or discard all at once.

One cause makes hundreds of dead letters. A person wants to know of the cause, once, and to act once.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import CommandDeferred, DeadLetterCommand, Discard, Redrive
from milepost.core.dead_letters import group_of
from milepost.core.errors import MilepostError
from milepost.core.events import Stage
from milepost.core.model import Stream
from milepost.engine.mailbox import ExecuteDeadLetterCommand
from milepost.service.api.background import BackgroundWork, StillRunning
from milepost.service.api.dead_letters import DiscardBody
from milepost.service.api.endpoint import AnyOperation, Call, Nothing, Operation, Reply
from milepost.service.auth import actor_of
from milepost.stores.reader import DeadLetterState, JournalReader, all_dead_letters

PATH = "/api/dead-letters/groups"
ITEM_PATH = f"{PATH}/{{group}}"
MAX_GROUPS = 200
MAX_AT_ONCE = 10_000  # dead letters that one action is about

GroupId = Annotated[str, Meta(pattern="^[0-9a-f]+$", max_length=64, description="a group's id")]


# --- reading ----------------------------------------------------------------------------------------------------------


class DeadLetterGroup(Struct, frozen=True):
    """Open dead letters with one reason: how many, of how many streams, since when, and when the next is retried.

    `reason` is that of the oldest; the others' may name other ids.
    """

    group: str
    stage: Stage
    reason: str
    count: int
    streams: int
    opened_at: datetime
    latest_at: datetime
    redrive_at: datetime | None


class DeadLetterGroups(Struct, frozen=True):
    """The groups, largest first. `is_complete` is false if there are more groups than are listed."""

    groups: tuple[DeadLetterGroup, ...]
    is_complete: bool


def grouped(found: Iterable[DeadLetter]) -> DeadLetterGroups:
    """Group dead letters, given oldest first."""
    by_group = defaultdict[str, list[DeadLetter]](list)
    for each in found:
        by_group[group_of(each.stage, each.reason)].append(each)
    groups = sorted((_group(key, each) for key, each in by_group.items()), key=lambda each: -each.count)
    return DeadLetterGroups(tuple(groups[:MAX_GROUPS]), len(groups) <= MAX_GROUPS)


def _group(key: str, found: Sequence[DeadLetter]) -> DeadLetterGroup:
    return DeadLetterGroup(
        group=key,
        stage=found[0].stage,
        reason=found[0].reason,
        count=len(found),
        streams=len({each.stream for each in found}),
        opened_at=found[0].opened_at,
        latest_at=found[-1].opened_at,
        redrive_at=min((each.redrive_at for each in found if each.redrive_at is not None), default=None),
    )


def dead_letter_groups(journal_reader: JournalReader) -> Sequence[AnyOperation]:
    """Declare the operation that lists the groups."""

    async def list_groups(_: Call[Nothing, None]) -> Reply[DeadLetterGroups]:
        return Reply(grouped([each async for each in all_dead_letters(journal_reader, DeadLetterState.OPEN)]))

    return [Operation("GET", PATH, "List open dead letters by reason", Nothing, DeadLetterGroups, list_groups)]


# --- actions ----------------------------------------------------------------------------------------------------------


class GroupParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The group that the path names."""

    group: GroupId


class GroupResult(Struct, frozen=True):
    """The result of an action on a group of `count` dead letters.

    Each was `closed`, has `failed` again or was `held` by a rate limit or a stop. `is_over` is false if it goes on.
    """

    group: str
    count: int
    closed: int
    failed: int
    held: int
    is_over: bool


class _Action:
    """An action on many dead letters: streams at the same time, those of one stream in turn."""

    def __init__(self, execute: ExecuteDeadLetterCommand, command_for: Callable[[str], DeadLetterCommand]) -> None:
        self._execute = execute
        self._command_for = command_for
        self.closed = self.failed = self.held = 0

    async def run(self, found: Sequence[DeadLetter]) -> None:
        by_stream = defaultdict[Stream, list[DeadLetter]](list)
        for each in found:
            by_stream[each.stream].append(each)
        await asyncio.gather(*map(self._run_stream, by_stream.values()))

    async def _run_stream(self, found: Sequence[DeadLetter]) -> None:
        for index, each in enumerate(found):
            try:
                after = await self._execute(self._command_for(each.dead_letter_id))
            except CommandDeferred:  # so would be all others of the stream
                self.held += len(found) - index
                return
            except MilepostError:  # one that cannot be done is counted, and keeps none of the others from it
                self.failed += 1
                continue
            if after is None:
                self.closed += 1
            else:
                self.failed += 1


def dead_letter_group_actions(
    work: BackgroundWork, execute: ExecuteDeadLetterCommand, journal_reader: JournalReader
) -> Sequence[AnyOperation]:
    """Declare the actions on groups of dead letters. `work` runs them; `execute` is as in `dead_letter_actions`."""

    async def act(group: str, command_for: Callable[[str], DeadLetterCommand]) -> Reply[GroupResult]:
        found = await work.look_up(_members(journal_reader, group))
        if not found:
            raise web.HTTPNotFound(text=f"there is no open dead letter in the group {group}")
        action = _Action(execute, command_for)
        done = await work.run(f"action on dead letters {group}", lambda: action.run(found))
        is_over = not isinstance(done, StillRunning)
        result = GroupResult(group, len(found), action.closed, action.failed, action.held, is_over)
        return Reply(result, status=200 if is_over else 202)

    async def redrive_group(call: Call[GroupParameters, Nothing]) -> Reply[GroupResult]:
        by = actor_of(call.request)
        return await act(call.parameters.group, lambda dead_letter_id: Redrive(dead_letter_id, by))

    async def discard_group(call: Call[GroupParameters, DiscardBody]) -> Reply[GroupResult]:
        by, reason = actor_of(call.request), call.body.reason.strip()
        return await act(call.parameters.group, lambda dead_letter_id: Discard(dead_letter_id, reason, by))

    common: dict[str, Any] = {
        "parameters": GroupParameters,
        "response": GroupResult,
        "statuses": (200, 202),
        "problems": {404: "no dead letter of the group is open", 409: "it cannot be done; `detail` says why"},
        "max_seconds": None,
    }
    return [
        Operation("POST", f"{ITEM_PATH}/redrive", "Retry a group now", body=Nothing, handle=redrive_group, **common),
        Operation("POST", f"{ITEM_PATH}/discard", "Discard a group", body=DiscardBody, handle=discard_group, **common),
    ]


async def _members(journal_reader: JournalReader, group: str) -> list[DeadLetter]:
    found = all_dead_letters(journal_reader, DeadLetterState.OPEN)
    return [each async for each in found if group_of(each.stage, each.reason) == group][:MAX_AT_ONCE]
