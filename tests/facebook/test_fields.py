"""Fields that the API refuses by name are left out; the essential ones stop the stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from contracts.source_contract import RecordingGate
from kit.builders import NOON, STREAM, budget, checkpoint_of, given, run_started
from kit.graph_answers import PAGE_ID, Json, error, listed, message, thread
from kit.graph_client import access_of, client_of
from milepost.core.events import FieldsLeftOut, RunStarted
from milepost.core.model import Batch, Detail, Platform, Stream
from milepost.core.ports import Fetched, MessagesRequest, Refused, Request
from milepost.core.problems import Problem, ProblemKind, Remedy, rule_for
from milepost.core.records import note_left_out
from milepost.facebook import calls
from milepost.facebook.calls import refused_field, without
from milepost.facebook.inbox import ESSENTIAL, FacebookInbox, list_fields
from milepost.reporting.advice import advice_on

REQUESTED = list_fields(Platform.MESSENGER, 20, Detail.NESTED)
OPTIONAL = ("link", "snippet", "message_count", "unread_count", "can_reply", "sticker", "attachments", "shares")


def nonexisting(name: str, code: int = 100) -> Json:
    return error(code, f"(#{code}) Tried accessing nonexisting field ({name}) on node type (UnifiedThread)")


class FussyApi:
    """One thread with one message, for requests without the fields that it does not know any more."""

    def __init__(self, *unknown: str) -> None:
        self.unknown = unknown
        self.asked: list[str] = []
        self.meeting = asyncio.Barrier(1)  # of requests that are answered together

    async def respond(self, request: web.Request) -> web.Response:
        fields = request.query["fields"]
        self.asked.append(fields)
        await self.meeting.wait()
        for name in self.unknown:
            if without(fields, [name]) != fields:
                return web.json_response(nonexisting(name), status=400)
        if request.path.endswith("/conversations"):
            return web.json_response(listed(thread("t_1", message("m_1"))))
        return web.json_response(thread("t_1", message("m_1")))


@asynccontextmanager
async def inbox_of(api: FussyApi) -> AsyncIterator[FacebookInbox]:
    async with client_of(api.respond) as client:
        yield FacebookInbox(client, Stream(Platform.MESSENGER, PAGE_ID), access_of(), RecordingGate())


class TestNames:
    @pytest.mark.parametrize("name", OPTIONAL)
    @pytest.mark.parametrize(
        "text",
        [
            "(#100) Tried accessing nonexisting field ({}) on node type (UnifiedThread)",
            "(#12) {} field is deprecated for versions v27.0 and higher",
            "{} is not a valid field",
            "'{}' is not a valid field.",
            "Unknown fields: {}.",
            "Invalid field: messages{{{}}}",
            "The field {} has been removed",
            "Field messages.{} is not supported",
        ],
    )
    def test_a_refused_field_is_known_by_the_words_of_the_refusal(self, name: str, text: str) -> None:
        assert refused_field(Problem(ProblemKind.API, text.format(name), code=100), REQUESTED) == name

    @pytest.mark.parametrize(
        "text",
        [
            "(#100) Invalid parameter",
            "An unexpected error has occurred. Please retry your request later.",
            "(#100) Tried accessing nonexisting field (accounts) on node type (Page)",
            "Please reduce the amount of data you're asking for, then retry your request",
            "A link in this message is invalid",
        ],
    )
    def test_other_refusals_name_no_field(self, text: str) -> None:
        assert refused_field(Problem(ProblemKind.API, text, code=100), REQUESTED) is None

    def test_only_the_api_names_fields(self) -> None:
        assert refused_field(Problem(ProblemKind.INVALID_RESPONSE, "link is not a valid field"), REQUESTED) is None

    @pytest.mark.parametrize("platform", Platform)
    def test_a_request_can_be_made_without_any_of_them(self, platform: Platform) -> None:
        requested = list_fields(platform, 20, Detail.NESTED)
        optional = {*OPTIONAL, "story", "is_unsupported"}

        assert without(requested, optional) == (
            "id,updated_time,participants,messages.limit(20){id,created_time,from,message}"
        )
        assert without(requested, []) == requested
        assert without("id,participants", ["participants"]) == "id"


class TestRequests:
    @pytest.mark.parametrize("name", OPTIONAL)
    async def test_a_field_that_is_refused_is_left_out_from_then_on(self, name: str) -> None:
        api = FussyApi(name)
        async with inbox_of(api) as inbox:
            first, second = await inbox.fetch(Request(None, 5, 20)), await inbox.fetch(Request(None, 5, 20))

        assert isinstance(first, Fetched)
        assert isinstance(second, Fetched)
        assert (first.left_out, second.left_out) == ((name,), (name,))
        assert len(first.batch.conversations[0].interactions) == 1
        assert api.asked == [REQUESTED, *[without(REQUESTED, [name])] * 2], "tried once"

    async def test_a_field_that_was_refused_is_tried_again_after_a_day(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An incident may refuse it, and the daemon may run for months."""
        monkeypatch.setattr(calls, "TRIED_AGAIN_SECONDS", 0.0)
        api = FussyApi("attachments")
        async with inbox_of(api) as inbox:
            await inbox.fetch(Request(None, 5, 20))
            api.unknown = ()
            healed = await inbox.fetch(Request(None, 5, 20))

        assert isinstance(healed, Fetched)
        assert (healed.left_out, api.asked[-1]) == ((), REQUESTED)

    async def test_an_answer_shows_what_its_own_request_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While a list is under way, the day may be over for another request of the same stream."""
        monkeypatch.setattr(calls, "TRIED_AGAIN_SECONDS", 0.0)
        api, messages = FussyApi("link"), MessagesRequest("t_1", None, 5)
        api.meeting = asyncio.Barrier(2)
        async with inbox_of(api) as inbox:
            listing = asyncio.create_task(inbox.fetch(Request(None, 5, 20)))
            await inbox.messages(messages)
            while without(REQUESTED, ["link"]) not in api.asked:  # noqa: ASYNC110  (the server's task brings it about)
                await asyncio.sleep(0)
            await inbox.messages(messages)
            listed = await listing

        assert isinstance(listed, Fetched)
        assert listed.left_out == ("link",)

    async def test_a_field_that_two_requests_find_refused_is_left_out_once(self) -> None:
        api = FussyApi("link")
        api.meeting = asyncio.Barrier(2)
        async with inbox_of(api) as inbox:
            outcomes = await asyncio.gather(*(inbox.fetch(Request(None, 5, 20)) for _ in range(2)))

        assert api.asked == [*[REQUESTED] * 2, *[without(REQUESTED, ["link"])] * 2]
        assert [each.left_out for each in outcomes if isinstance(each, Fetched)] == [("link",)] * 2

    async def test_several_are_left_out_one_after_the_other(self) -> None:
        api = FussyApi("link", "shares", "can_reply")
        async with inbox_of(api) as inbox:
            outcome = await inbox.fetch(Request(None, 5, 20))

        assert isinstance(outcome, Fetched)
        assert outcome.left_out == ("can_reply", "link", "shares")
        assert len(api.asked) == 4

    async def test_single_threads_are_read_without_it_too(self) -> None:
        api = FussyApi("sticker")
        async with inbox_of(api) as inbox:
            separate = await inbox.fetch(Request(None, 1, 20, detail=Detail.SEPARATE))
            reread = await inbox.reread("t_1", 20)

        assert isinstance(separate, Fetched)
        assert isinstance(reread, Fetched)
        assert separate.left_out is None, "the list alone does not show it"
        assert len(separate.batch.conversations[0].interactions) == 1

    async def test_a_new_start_tries_it_again(self) -> None:
        api = FussyApi("link")
        for _ in range(2):
            async with inbox_of(api) as inbox:
                await inbox.fetch(Request(None, 5, 20))

        assert api.asked.count(REQUESTED) == 2

    @pytest.mark.parametrize("name", sorted(ESSENTIAL - {"id", "messages"}))
    async def test_an_essential_field_stops_the_stream_and_is_said_plainly(self, name: str) -> None:
        async with inbox_of(FussyApi(name)) as inbox:
            outcome = await inbox.fetch(Request(None, 5, 20))

        assert isinstance(outcome, Refused)
        assert rule_for(outcome.problem, has_cursor=True).remedy is Remedy.STOP_CONFIGURATION
        assert name in outcome.problem.message
        assert "source.version" in advice_on(outcome.problem, STREAM)


class TestRecord:
    def noted(self, left_out: tuple[str, ...] | None, *on_record: str) -> object:
        outcome = Fetched(Batch((), None), NOON, 0.1, left_out)
        before = given(run_started(), FieldsLeftOut(on_record)) if on_record else given(run_started())
        record = note_left_out(before, outcome, budget())
        return None if record is None else record.events

    def test_what_is_left_out_is_recorded_once(self) -> None:
        assert self.noted(("link",)) == (FieldsLeftOut(("link",)),)
        assert self.noted(("link",), "link") is None
        assert self.noted(("link", "shares"), "link") == (FieldsLeftOut(("link", "shares")),)

    def test_it_is_recorded_that_all_fields_are_read_again(self) -> None:
        assert self.noted((), "link") == (FieldsLeftOut(),)
        assert self.noted(()) is None

    def test_a_request_that_does_not_show_it_records_nothing(self) -> None:
        assert self.noted(None, "link") is None

    def test_a_run_of_which_nothing_is_on_record_begins_with_it(self) -> None:
        record = note_left_out(checkpoint_of(), Fetched(Batch((), None), NOON, 0.1, ("link",)), budget())

        assert record is not None
        assert record.events == (RunStarted(NOON), FieldsLeftOut(("link",)))
