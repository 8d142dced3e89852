"""`/api/dead-letters`: what could not be read or written."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict

from milepost.service.api.endpoint import AnyOperation, Call, Operation, Reply
from milepost.service.api.paging import FROM, Limit, StreamKey, page_of
from milepost.service.letter_view import Letter, dead_letter_view
from milepost.stores.reader import DeadLetterState, JournalReader

PATH = "/api/dead-letters"
ONE = f"{PATH}/{{dead_letter_id}}"

LetterId = Annotated[str, Meta(pattern="^[0-9a-f]+$", max_length=64, description="the dead letter's id")]


class LettersAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which letters are listed."""

    stream: StreamKey | None = None
    state: Annotated[DeadLetterState, Meta(description="only letters that are this")] = DeadLetterState.OPEN
    after: Annotated[str, Meta(pattern="^[0-9a-f]+$", max_length=64, description=FROM)] | None = None
    limit: Limit = 100


class LetterAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which letter is meant."""

    dead_letter_id: LetterId


class Letters(Struct, frozen=True):
    """Dead letters, the oldest first. `next` is null on the last page."""

    dead_letters: tuple[Letter, ...]
    next: str | None


class LetterWithPayload(Letter, frozen=True):
    """A dead letter with what a redrive needs, which is personal data; null once the letter is closed."""

    payload: Annotated[msgspec.Raw | None, Meta(description="any JSON")]


def dead_letters(journal_reader: JournalReader) -> Sequence[AnyOperation]:
    """Declare what can be asked about dead letters."""

    async def list_dead_letters(call: Call[LettersAsked, None]) -> Reply[Letters]:
        asked = call.asked
        found = await journal_reader.dead_letters(
            asked.state, stream=asked.stream, after=asked.after, limit=asked.limit + 1
        )
        page, following = page_of([dead_letter_view(each) for each in found], asked.limit, _id_of)
        return Reply(Letters(page, following))

    async def show_dead_letter(call: Call[LetterAsked, None]) -> Reply[LetterWithPayload]:
        found = await journal_reader.dead_letter(call.asked.dead_letter_id)
        if found is None:
            raise web.HTTPNotFound(text=f"there is no dead letter {call.asked.dead_letter_id}")
        dead_letter, payload = found
        shown = None if payload is None else _as_json(payload)
        return Reply(LetterWithPayload(**asdict(dead_letter), payload=shown))

    listing = Operation(
        "GET", PATH, "List dead letters, the oldest first", asked=LettersAsked, answer=Letters, handle=list_dead_letters
    )
    showing = Operation(
        "GET",
        ONE,
        "Show a dead letter with its payload",
        asked=LetterAsked,
        answer=LetterWithPayload,
        handle=show_dead_letter,
        problems={404: "there is no such letter"},
    )
    return [listing, showing]


def _as_json(payload: str) -> msgspec.Raw:
    """Give a payload as it is if it is JSON, as all are that nobody has tampered with; else as a text."""
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(payload))
    return msgspec.Raw(payload.encode())


def _id_of(dead_letter: Letter) -> str:
    return dead_letter.dead_letter_id
