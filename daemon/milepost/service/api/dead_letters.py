"""`/api/dead-letters`: what could not be read or written, and its redrive or discard."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict

from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import CommandDeferred, DeadLetterCommand, Discard, Redrive
from milepost.core.dead_letters import MAX_REASON_CHARACTERS, group_of
from milepost.core.ports import DueDeadLetter
from milepost.engine.mailbox import ExecuteDeadLetterCommand
from milepost.reporting.views import ActionResult, DeadLetterView, accepted, dead_letter_view, held, result_of
from milepost.service.api.background import BackgroundWork, StillRunning
from milepost.service.api.endpoint import (
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
from milepost.service.auth import actor_of
from milepost.stores.reader import DeadLetterState, JournalReader, Thread, all_dead_letters

PATH = "/api/dead-letters"
ITEM_PATH = f"{PATH}/{{dead_letter_id}}"

META = ("https://www.facebook.com/", "https://business.facebook.com/", "https://www.instagram.com/")

_Id = Annotated[str, Meta(pattern="^[0-9a-f]+$", max_length=64, description="the dead letter's id")]
_Cursor = Annotated[str, Meta(pattern="^[0-9a-f]+$", max_length=64, description=CURSOR_DESCRIPTION)]


# --- reading ----------------------------------------------------------------------------------------------------------


class DeadLettersQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters to list."""

    stream: StreamKey | None = None
    state: Annotated[DeadLetterState, Meta(description="only dead letters in this state")] = DeadLetterState.OPEN
    after: _Cursor | None = None
    limit: Limit = 100
    group: Annotated[str, Meta(pattern="^[0-9a-f]+$", max_length=64, description="only those of this group")] | None = (
        None
    )


class DeadLetterParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The dead letter that the path names."""

    dead_letter_id: _Id


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
    """Return the dead letters of a page, and one more if there is any."""
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
    """Return the conversation that a subject is about: its messages, or the older ones, are parts of it."""
    return subject.partition("/")[0]


def link_to(link: str) -> str | None:
    """Return a conversation's link as a browser can follow it: the API leaves out the host. None if it is no link."""
    whole = f"https://www.facebook.com{link}" if link.startswith("/") and not link.startswith("//") else link
    return whole if whole.startswith(META) else None


def _as_json(payload: str) -> msgspec.Raw:
    """Return a payload as it is if it is JSON, as every one is that nobody has tampered with; otherwise as a string."""
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
            # `milepost dead-letters` recognises these words.
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

    common: dict[str, Any] = {
        "parameters": DeadLetterParameters,
        "response": ActionResult,
        "statuses": (200, 202),
        "problems": {404: "no such open dead letter", 409: "it cannot be done; `detail` says why"},
        "max_seconds": None,
    }
    return [
        Operation("POST", f"{ITEM_PATH}/redrive", "Retry a dead letter now", body=Nothing, handle=redrive, **common),
        Operation("POST", f"{ITEM_PATH}/discard", "Discard a dead letter", body=DiscardBody, handle=discard, **common),
    ]
