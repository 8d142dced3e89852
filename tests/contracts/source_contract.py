"""What every Source must do, whatever it reads from.

A subclass is named Test… and has three fixtures, whose sources use the fixture `gate`:

- `inbox`: an Inbox that does not change while it is read;
- `gapped_inbox`: an Inbox that answers with an empty batch and a next cursor now and then;
- `faulty`: a Source that meets the Fault in `request.param` at every request, and gives up on silence within a second.
"""

import asyncio
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import pairwise

import pytest
from msgspec import Struct

from kit.builders import NOON
from milepost.core.model import LEAN_MESSAGES, Batch, Conversation, Detail
from milepost.core.ports import Answered, Fetched, Held, Refused, Request, Source, Usage
from milepost.core.problems import MAX_MESSAGE_CHARACTERS, Problem, ProblemKind

MAX_BATCHES = 100


class Inbox(Struct):
    """A source and the ids of all its conversations, newest first: at least seven of them, with messages.

    `calls` grows with every call that the source makes.
    """

    source: Source
    conversation_ids: tuple[str, ...]
    calls: list[str]


class RecordingGate(Struct):
    """A Gate that is closed on demand, or after so many calls, and records what it is passed."""

    closed: bool = False
    calls_left: int | None = None
    refusals: list[Problem] = []
    usages: list[Usage] = []

    def is_closed(self) -> bool:
        if self.calls_left is not None:
            self.calls_left -= 1
            self.closed = self.calls_left < 0
        return self.closed

    def refused(self, problem: Problem) -> datetime:
        self.refusals.append(problem)
        return NOON

    def used(self, usages: tuple[Usage, ...]) -> None:
        self.usages += usages


class Fault(StrEnum):
    """What goes wrong between a source and what it reads from."""

    UNREACHABLE = "unreachable"  # nothing listens
    SILENT = "silent"  # the connection is open, and no response comes
    RESET = "reset"  # the connection is reset without a response
    CUT_SHORT = "cut_short"  # the connection ends in the middle of the response
    TRUNCATED_JSON = "truncated_json"  # the response is complete, and its JSON is not
    HTML = "html"  # an HTML page with status 502
    REDIRECT = "redirect"  # to another host
    OVERSIZE = "oversize"  # more bytes than the source accepts
    ERROR = "error"  # an error envelope


KINDS = {
    Fault.UNREACHABLE: ProblemKind.NETWORK,
    Fault.SILENT: ProblemKind.TIMEOUT,
    Fault.RESET: ProblemKind.NETWORK,
    Fault.CUT_SHORT: ProblemKind.NETWORK,
    Fault.TRUNCATED_JSON: ProblemKind.INVALID_RESPONSE,
    Fault.HTML: ProblemKind.INVALID_RESPONSE,
    Fault.REDIRECT: ProblemKind.INVALID_RESPONSE,
    Fault.OVERSIZE: ProblemKind.OVERSIZE,
    Fault.ERROR: ProblemKind.API,
}


class SourceContract:
    @pytest.fixture
    def gate(self) -> RecordingGate:
        return RecordingGate()

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

    async def test_a_walk_is_independent_of_other_walks(self, inbox: Inbox) -> None:
        walks = await asyncio.gather(*(walk(inbox.source, limit) for limit in (1, 2, 3)))
        assert [tuple(ids(batches)) for batches in walks] == [inbox.conversation_ids] * 3

    @pytest.mark.parametrize("messages", [0, 1, 20])
    async def test_no_more_messages_come_than_were_requested(self, inbox: Inbox, messages: int) -> None:
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

    async def test_a_response_has_the_time_of_its_request_and_its_duration(self, inbox: Inbox) -> None:
        fetched = await inbox.source.fetch(Request(None, 1, 0))
        assert isinstance(fetched, Fetched)
        assert fetched.asked_at.utcoffset() == timedelta(0)
        assert fetched.took_seconds >= 0

    async def test_an_unknown_cursor_harms_nothing(self, inbox: Inbox) -> None:
        outcome = await inbox.source.fetch(Request("no such cursor & = ? / \u2603", 3, 0))
        assert isinstance(outcome, Fetched | Refused)
        assert tuple(ids(await walk(inbox.source, 3))) == inbox.conversation_ids

    @pytest.mark.parametrize("detail", list(Detail))
    async def test_with_any_detail_a_walk_passes_the_same_conversations(self, inbox: Inbox, detail: Detail) -> None:
        read = conversations(await walk(inbox.source, 3, 2, detail))
        assert tuple(each.conversation_id for each in read) == inbox.conversation_ids
        nested = conversations(await walk(inbox.source, 3, 2))
        assert [each.updated_time for each in read] == [each.updated_time for each in nested]

    async def test_stepping_over_a_conversation_reads_nothing_else_of_it(self, inbox: Inbox) -> None:
        for each in conversations(await walk(inbox.source, 3, 2, Detail.POSITION)):
            assert each == Conversation(each.conversation_id, each.updated_time)

    async def test_messages_that_are_requested_separately_are_the_same(self, inbox: Inbox) -> None:
        assert await walk(inbox.source, 3, 2, Detail.SEPARATE) == await walk(inbox.source, 3, 2)

    async def test_of_a_lean_conversation_come_the_newest_messages(self, inbox: Inbox) -> None:
        lean = conversations(await walk(inbox.source, 3, 20, Detail.LEAN))
        whole = conversations(await walk(inbox.source, 3, 20))
        for few, all_ in zip(lean, whole, strict=True):
            assert few.contact == all_.contact
            assert [each.event_id for each in few.interactions] == [
                each.event_id for each in all_.interactions[:LEAN_MESSAGES]
            ]

    async def test_without_its_messages_a_conversation_is_the_same(self, inbox: Inbox) -> None:
        assert await walk(inbox.source, 3, 2, Detail.BARE) == await walk(inbox.source, 3)

    @pytest.mark.parametrize("messages", [0, 2])
    async def test_a_conversation_is_reread_as_it_was_fetched(self, inbox: Inbox, messages: int) -> None:
        for each in conversations(await walk(inbox.source, 200, messages)):
            outcome = await inbox.source.reread(each.conversation_id, messages)
            assert isinstance(outcome, Fetched)
            assert outcome.batch == Batch((each,), None)
            assert outcome.asked_at.utcoffset() == timedelta(0)

    async def test_rereading_a_missing_conversation_is_refused(self, inbox: Inbox) -> None:
        assert isinstance(await inbox.source.reread("t_of_nobody", 2), Refused)

    async def test_a_conversation_without_an_id_cannot_be_reread(self, inbox: Inbox) -> None:
        outcome = await inbox.source.reread(f"sha256:{'0' * 64}", 2)
        assert isinstance(outcome, Refused)
        assert outcome.problem.kind is ProblemKind.INVALID_RESPONSE
        assert inbox.calls == []

    async def test_behind_a_closed_gate_no_call_is_made(self, inbox: Inbox, gate: RecordingGate) -> None:
        gate.closed = True
        for detail in Detail:
            assert await inbox.source.fetch(Request(None, 3, 2, detail=detail)) == Held()
        assert await inbox.source.reread(inbox.conversation_ids[0], 2) == Held()
        assert (inbox.calls, gate.refusals) == ([], [])
        gate.closed = False
        assert tuple(ids(await walk(inbox.source, 3))) == inbox.conversation_ids
        assert inbox.calls

    @pytest.mark.parametrize("faulty", list(Fault), indirect=True)
    async def test_a_fault_is_a_value_and_is_reported_to_the_gate(
        self, faulty: Source, gate: RecordingGate, request: pytest.FixtureRequest
    ) -> None:
        fault = request.node.callspec.params["faulty"]
        for ask in (partial(faulty.fetch, Request(None, 3, 1)),) * 2 + (partial(faulty.reread, "t_1", 1),):
            outcome: Answered = await ask()
            assert isinstance(outcome, Refused)
            assert outcome.problem.kind is KINDS[fault]
            assert 0 < len(outcome.problem.message) <= MAX_MESSAGE_CHARACTERS
            assert outcome.took_seconds >= 0
            assert gate.refusals == [outcome.problem]
            gate.refusals.clear()

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


async def walk(source: Source, limit: int, messages: int = 0, detail: Detail = Detail.NESTED) -> list[Batch]:
    """Read from the head to the end."""
    batches = [await batch_of(source, Request(None, limit, messages, detail=detail))]
    while batches[-1].next_cursor is not None:
        batches.append(await batch_of(source, Request(batches[-1].next_cursor, limit, messages, detail=detail)))
        assert len(batches) <= MAX_BATCHES, "the walk does not end"
    return batches


def conversations(batches: list[Batch]) -> list[Conversation]:
    return [each for batch in batches for each in batch.conversations]


def ids(batches: list[Batch]) -> list[str]:
    return [each.conversation_id for each in conversations(batches)]
