"""`/api/dead-letters`: what could not be read or written, and its redrive or discard, one by one or by reason."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import CommandDeferred, DeadLetterCommand, Discard, Redrive
from milepost.core.dead_letters import MAX_REASON_CHARACTERS, group_of
from milepost.core.errors import MilepostError
from milepost.core.events import Stage
from milepost.core.model import Stream
from milepost.core.ports import DueDeadLetter
from milepost.engine.context import ExecuteDeadLetterCommand
from milepost.reporting.views import ActionResult, DeadLetterView, accepted, dead_letter_view, held, result_of
from milepost.service.api.background import BackgroundWork, StillRunning, actions
from milepost.service.auth import actor_of
from milepost.service.endpoint import (
    CURSOR_DESCRIPTION,
    AnyOperation,
    Call,
    Limit,
    Nothing,
    Operation,
    Reply,
    StreamKey,
    page_of,
)
from milepost.stores.reader import DeadLetterState, JournalReader, Thread, all_dead_letters

PATH = "/api/dead-letters"
ITEM_PATH = f"{PATH}/{{dead_letter_id}}"

META = ("https://www.facebook.com/", "https://business.facebook.com/", "https://www.instagram.com/")

_HEX = Meta(pattern="^[0-9a-f]+$", max_length=64)


# --- reading ----------------------------------------------------------------------------------------------------------


class DeadLettersQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters to list."""

    stream: StreamKey | None = None
    state: Annotated[DeadLetterState, Meta(description="only dead letters in this state")] = DeadLetterState.OPEN
    after: Annotated[str, _HEX, Meta(description=CURSOR_DESCRIPTION)] | None = None
    limit: Limit = 100
    group: Annotated[str, _HEX, Meta(description="only those of this group")] | None = None


class DeadLetterParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The dead letter that the path names."""

    dead_letter_id: Annotated[str, _HEX, Meta(description="the dead letter's id")]


class ListedDeadLetter(DeadLetterView, frozen=True):
    """A dead letter with its `group`, and who the conversation is with, and where Meta shows it, if it is stored."""

    group: str
    contact_name: str | None
    link: str | None


class DeadLetters(Struct, frozen=True):
    """Dead letters, oldest first. `next` is null on the last page."""

    dead_letters: tuple[ListedDeadLetter, ...]
    next: str | None


class DeadLetterWithPayload(DeadLetterView, frozen=True):
    """A dead letter with what a redrive needs, which is personal data; null once it is closed."""

    payload: Annotated[msgspec.Raw | None, Meta(description="any JSON")]


def dead_letters(journal_reader: JournalReader) -> Sequence[AnyOperation]:
    """Declare the operations that read dead letters."""

    async def list_dead_letters(call: Call[DeadLettersQuery, None]) -> Reply[DeadLetters]:
        query = call.parameters
        page, cursor = page_of(await _found(journal_reader, query), query.limit, lambda each: each.dead_letter_id)
        threads = await journal_reader.threads({conversation_of(each.subject) for each in page})
        return Reply(DeadLetters(tuple(_listed(each, threads) for each in page), cursor))

    async def show_dead_letter(call: Call[DeadLetterParameters, None]) -> Reply[DeadLetterWithPayload]:
        found = await journal_reader.dead_letter(call.parameters.dead_letter_id)
        if found is None:
            raise web.HTTPNotFound(text=f"there is no dead letter {call.parameters.dead_letter_id}")
        dead_letter, payload = found
        shown = None if payload is None else _as_json(payload)
        return Reply(DeadLetterWithPayload(**asdict(dead_letter_view(dead_letter)), payload=shown))

    listing = Operation(
        "GET",
        PATH,
        "List dead letters, oldest first",
        parameters=DeadLettersQuery,
        response=DeadLetters,
        handle=list_dead_letters,
    )
    showing = Operation(
        "GET",
        ITEM_PATH,
        "Show a dead letter with its payload",
        parameters=DeadLetterParameters,
        response=DeadLetterWithPayload,
        handle=show_dead_letter,
        problems={404: "no such dead letter"},
    )
    return [listing, showing]


async def _found(journal_reader: JournalReader, query: DeadLettersQuery) -> list[DeadLetter]:
    """Return the dead letters of a page, and one more if there is a next page."""
    state, stream, after, wanted = query.state, query.stream, query.after, query.limit + 1
    if query.group is None:
        return await journal_reader.dead_letters(state, stream=stream, after=after, limit=wanted)
    found = list[DeadLetter]()
    async for each in all_dead_letters(journal_reader, state, stream=stream, after=after):
        if group_of(each.stage, each.reason) == query.group:
            found.append(each)
            if len(found) == wanted:
                break
    return found


def _listed(dead_letter: DeadLetter, threads: Mapping[str, Thread]) -> ListedDeadLetter:
    thread = threads.get(conversation_of(dead_letter.subject), Thread(None, None))
    link = None if thread.link is None else link_to(thread.link)
    return ListedDeadLetter(
        **asdict(dead_letter_view(dead_letter)),
        group=group_of(dead_letter.stage, dead_letter.reason),
        contact_name=thread.contact_name,
        link=link,
    )


def conversation_of(subject: str) -> str:
    """Return the id of the conversation that a subject is about; a subject may be only a part of it."""
    return subject.partition("/")[0]


def link_to(link: str) -> str | None:
    """Return a conversation's link with the host, which the API leaves out; None if it is not a link."""
    whole = f"https://www.facebook.com{link}" if link.startswith("/") and not link.startswith("//") else link
    return whole if whole.startswith(META) else None


def _as_json(payload: str) -> msgspec.Raw:
    """Return a payload unchanged if it is JSON, otherwise as a string: somebody has edited it in the database."""
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(payload))
    return msgspec.Raw(payload.encode())


# --- actions ----------------------------------------------------------------------------------------------------------

FindOpen = Callable[[tuple[str, ...]], Awaitable[tuple[DueDeadLetter, ...]]]


class DiscardBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a dead letter is discarded. The journal keeps it for ever: no names or texts."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON_CHARACTERS, pattern=r"\S")]


def dead_letter_actions(
    work: BackgroundWork, execute: ExecuteDeadLetterCommand, find_open: FindOpen
) -> Sequence[AnyOperation]:
    """Declare the actions on dead letters.

    Args:
        work: runs them.
        execute: executes a command and returns the dead letter if it is still open; raises MilepostError.
        find_open: returns those of the given dead letters that are open.
    """

    async def act(command: DeadLetterCommand) -> Reply[ActionResult]:
        found = await work.look_up(find_open((command.dead_letter_id,)))
        if not found:
            # `milepost dead-letters` matches this text.
            raise web.HTTPNotFound(text=f"there is no open dead letter {command.dead_letter_id}")
        dead_letter = found[0].dead_letter
        try:
            after = await work.run(f"action on dead letter {dead_letter.dead_letter_id}", lambda: execute(command))
        except CommandDeferred as reason:
            return Reply(held(dead_letter, reason))
        if isinstance(after, StillRunning):
            return Reply(accepted(dead_letter), status=202)
        return Reply(result_of(dead_letter, after))

    async def redrive(call: Call[DeadLetterParameters, Nothing]) -> Reply[ActionResult]:
        return await act(Redrive(call.parameters.dead_letter_id, actor_of(call.request)))

    async def discard(call: Call[DeadLetterParameters, DiscardBody]) -> Reply[ActionResult]:
        return await act(Discard(call.parameters.dead_letter_id, call.body.reason.strip(), actor_of(call.request)))

    return actions(
        ITEM_PATH,
        DeadLetterParameters,
        ActionResult,
        "no such open dead letter",
        ("redrive", "Retry a dead letter now", Nothing, redrive),
        ("discard", "Discard a dead letter", DiscardBody, discard),
    )


# --- groups: open dead letters by their reason ------------------------------------------------------------------------

# One cause can make hundreds of dead letters. A person wants to see the cause once, and to act once.
GROUPS_PATH = f"{PATH}/groups"
GROUP_PATH = f"{GROUPS_PATH}/{{group}}"
MAX_GROUPS = 200
MAX_KEPT = 2_000  # while they are counted: what a server makes up may be in the reasons
MAX_AT_ONCE = 10_000  # dead letters in one action


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


async def grouped(found: AsyncIterable[DeadLetter]) -> DeadLetterGroups:
    """Group dead letters, given oldest first, without holding them: there may be hundreds of thousands."""
    groups: dict[str, DeadLetterGroup] = {}
    streams = defaultdict[str, set[Stream]](set)
    async for each in found:
        key = group_of(each.stage, each.reason)
        if key not in groups and len(groups) == MAX_KEPT:
            continue
        streams[key].add(each.stream)
        groups[key] = _with(groups.get(key), key, each, len(streams[key]))
    largest = sorted(groups.values(), key=lambda each: -each.count)
    return DeadLetterGroups(tuple(largest[:MAX_GROUPS]), len(largest) <= MAX_GROUPS)


def _with(before: DeadLetterGroup | None, key: str, added: DeadLetter, streams: int) -> DeadLetterGroup:
    """Return a group of `streams` with a dead letter added; None stands for an empty group."""
    if before is None:
        opened_at = added.opened_at
        return DeadLetterGroup(key, added.stage, added.reason, 1, streams, opened_at, opened_at, added.redrive_at)
    return replace(
        before,
        count=before.count + 1,
        streams=streams,
        latest_at=added.opened_at,
        redrive_at=min(filter(None, (before.redrive_at, added.redrive_at)), default=None),
    )


def dead_letter_groups(journal_reader: JournalReader) -> Sequence[AnyOperation]:
    """Declare the operation that lists the groups."""

    async def list_groups(_: Call[Nothing, None]) -> Reply[DeadLetterGroups]:
        return Reply(await grouped(all_dead_letters(journal_reader, DeadLetterState.OPEN)))

    return [Operation("GET", GROUPS_PATH, "List open dead letters by reason", Nothing, DeadLetterGroups, list_groups)]


# --- actions on groups ------------------------------------------------------------------------------------------------


class GroupParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The group that the path names."""

    group: Annotated[str, _HEX, Meta(description="a group's id")]


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
    """An action on many dead letters: those of different streams concurrently, those of one stream in turn."""

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
            except CommandDeferred:  # the stream's other dead letters would be deferred as well
                self.held += len(found) - index
                return
            except MilepostError:  # counted; the others are still tried
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

    return actions(
        GROUP_PATH,
        GroupParameters,
        GroupResult,
        "no dead letter of the group is open",
        ("redrive", "Retry a group now", Nothing, redrive_group),
        ("discard", "Discard a group", DiscardBody, discard_group),
    )


async def _members(journal_reader: JournalReader, group: str) -> list[DeadLetter]:
    """Return the members of a group, oldest first, up to MAX_AT_ONCE."""
    members: list[DeadLetter] = []
    async with aclosing(all_dead_letters(journal_reader, DeadLetterState.OPEN)) as found:
        async for each in found:
            if group_of(each.stage, each.reason) == group:
                members.append(each)
            if len(members) == MAX_AT_ONCE:
                break
    return members
