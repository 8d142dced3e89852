"""What every Source has to do, whatever it reads from.

A subclass is named Test… and gives three fixtures:

- `inbox`: an Inbox that does not change while it is read;
- `gapped_inbox`: an Inbox that answers with an empty batch and a next cursor now and then;
- `faulty`: a Source that meets the Fault in `request.param` at every request, and gives up on silence within a second.
"""

import asyncio
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise

import pytest
from msgspec import Struct

from milepost.core.model import Batch, Conversation
from milepost.core.ports import Fetched, Outcome, Refused, Request, Source
from milepost.core.problems import MAX_MESSAGE_CHARACTERS, ProblemKind

MAX_BATCHES = 100


class Inbox(Struct):
    """A source and the ids of all its conversations, newest first: at least seven of them, with messages."""

    source: Source
    conversation_ids: tuple[str, ...]


class Fault(StrEnum):
    """What goes wrong between a source and what it reads from."""

    UNREACHABLE = "unreachable"  # nothing listens
    SILENT = "silent"  # the connection stands and no answer comes
    RESET = "reset"  # the connection is reset without an answer
    CUT_SHORT = "cut_short"  # the connection ends in the middle of the answer
    TRUNCATED_JSON = "truncated_json"  # the answer is whole and its JSON is not
    HTML = "html"  # an HTML page with status 502
    REDIRECT = "redirect"  # to another host
    OVERSIZE = "oversize"  # more bytes than the source accepts
    ERROR = "error"  # an error envelope


KINDS = {
    Fault.UNREACHABLE: ProblemKind.NETWORK,
    Fault.SILENT: ProblemKind.TIMEOUT,
    Fault.RESET: ProblemKind.NETWORK,
    Fault.CUT_SHORT: ProblemKind.NETWORK,
    Fault.TRUNCATED_JSON: ProblemKind.NONSENSE,
    Fault.HTML: ProblemKind.NONSENSE,
    Fault.REDIRECT: ProblemKind.NONSENSE,
    Fault.OVERSIZE: ProblemKind.OVERSIZE,
    Fault.ERROR: ProblemKind.API,
}


class SourceContract:
    @pytest.mark.parametrize("limit", [1, 3, 200])
    async def test_a_walk_by_cursors_reads_every_conversation_once_and_ends(self, inbox: Inbox, limit: int) -> None:
        batches = await walk(inbox.source, limit)
        assert tuple(ids(batches)) == inbox.conversation_ids
        assert all(len(batch.conversations) <= limit for batch in batches)

    async def test_a_walk_reads_newest_first(self, inbox: Inbox) -> None:
        times = [each.updated_time for each in conversations(await walk(inbox.source, 3))]
        assert all(newer >= older for newer, older in pairwise(times))

    async def test_an_empty_batch_in_the_middle_is_not_the_end(self, gapped_inbox: Inbox) -> None:
        batches = await walk(gapped_inbox.source, 3)
        assert any(not batch.conversations and batch.next_cursor is not None for batch in batches)
        assert tuple(ids(batches)) == gapped_inbox.conversation_ids

    async def test_the_same_request_again_brings_the_same_batch(self, inbox: Inbox) -> None:
        first = await batch_of(inbox.source, Request(None, 3, 2))
        second = Request(first.next_cursor, 3, 2)
        assert await batch_of(inbox.source, second) == await batch_of(inbox.source, second)
        assert await batch_of(inbox.source, Request(None, 3, 2)) == first

    async def test_a_walk_does_not_depend_on_being_the_only_one(self, inbox: Inbox) -> None:
        walks = await asyncio.gather(*(walk(inbox.source, limit) for limit in (1, 2, 3)))
        assert [tuple(ids(batches)) for batches in walks] == [inbox.conversation_ids] * 3

    @pytest.mark.parametrize("messages", [0, 1, 20])
    async def test_no_more_messages_come_than_were_asked_for(self, inbox: Inbox, messages: int) -> None:
        counts = {len(each.interactions) for each in conversations(await walk(inbox.source, 200, messages))}
        assert max(counts) <= messages
        assert messages == 0 or max(counts) > 0

    async def test_instants_are_in_utc(self, inbox: Inbox) -> None:
        for each in conversations(await walk(inbox.source, 200, 20)):
            times = [each.updated_time, *(event.occurred_at for event in each.interactions)]
            assert all(time.utcoffset() == timedelta(0) for time in times)

    async def test_no_conversation_and_no_event_shares_its_id_with_another(self, inbox: Inbox) -> None:
        read = conversations(await walk(inbox.source, 200, 20))
        events = [event.event_id for each in read for event in each.interactions]
        assert len(set(events)) == len(events)
        assert all(each.conversation_id for each in read)

    async def test_an_answer_says_when_it_was_asked_for_and_how_long_it_took(self, inbox: Inbox) -> None:
        fetched = await inbox.source.fetch(Request(None, 1, 0))
        assert isinstance(fetched, Fetched)
        assert fetched.asked_at.utcoffset() == timedelta(0)
        assert fetched.took_seconds >= 0

    async def test_a_cursor_that_never_was_harms_nothing(self, inbox: Inbox) -> None:
        outcome = await inbox.source.fetch(Request("no such cursor & = ? / \u2603", 3, 0))
        assert isinstance(outcome, Fetched | Refused)
        assert tuple(ids(await walk(inbox.source, 3))) == inbox.conversation_ids

    @pytest.mark.parametrize("faulty", list(Fault), indirect=True)
    async def test_a_fault_is_a_value(self, faulty: Source, request: pytest.FixtureRequest) -> None:
        fault = request.node.callspec.params["faulty"]
        for _ in range(2):
            outcome: Outcome = await faulty.fetch(Request(None, 3, 1))
            assert isinstance(outcome, Refused)
            assert outcome.problem.kind is KINDS[fault]
            assert 0 < len(outcome.problem.message) <= MAX_MESSAGE_CHARACTERS
            assert outcome.took_seconds >= 0

    @pytest.mark.parametrize("faulty", [Fault.SILENT], indirect=True)
    async def test_cancellation_ends_a_fetch(self, faulty: Source) -> None:
        fetch = asyncio.ensure_future(faulty.fetch(Request(None, 3, 1)))
        await asyncio.sleep(0)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch


async def batch_of(source: Source, request: Request) -> Batch:
    outcome = await source.fetch(request)
    assert isinstance(outcome, Fetched), outcome
    return outcome.batch


async def walk(source: Source, limit: int, messages: int = 0) -> list[Batch]:
    """Read from the head to the end."""
    batches = [await batch_of(source, Request(None, limit, messages))]
    while batches[-1].next_cursor is not None:
        batches.append(await batch_of(source, Request(batches[-1].next_cursor, limit, messages)))
        assert len(batches) <= MAX_BATCHES, "the walk does not end"
    return batches


def conversations(batches: list[Batch]) -> list[Conversation]:
    return [each for batch in batches for each in batch.conversations]


def ids(batches: list[Batch]) -> list[str]:
    return [each.conversation_id for each in conversations(batches)]
