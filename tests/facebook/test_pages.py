"""The pages that a token manages: read to the end of the list, leniently, and within pace and limits."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from contracts.source_contract import RecordingGate
from kit.graph_answers import ACCOUNT_ID, PAGE_ID, TOKEN, Json, error, listed
from kit.graph_client import access_of, client_of
from kit.loopback import nowhere
from milepost.core.model import Platform
from milepost.core.ports import Held, Usage
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.client import GraphClient
from milepost.facebook.pages import FIELDS, MAX_BATCHES, SIZES, Page, fetch_managed_pages

Found = tuple[Page, ...] | Problem | Held
NEXT_URL = f"https://evil.example.org/v26.0/me/accounts?access_token={TOKEN}&after=elsewhere"


def page(page_id: str = PAGE_ID, **fields: object) -> Json:
    return {"id": page_id, "name": "Corner Bakery", "access_token": f"token-of-{page_id}"} | fields


class Accounts:
    """Sends one response after the other, the last again and again, and records the requests."""

    def __init__(self, *answers: Json | bytes, status: int = 200) -> None:
        self._answers = list(answers)
        self._status = status
        self.queries: list[dict[str, str]] = []
        self.tokens: list[str] = []

    async def respond(self, request: web.Request) -> web.Response:
        assert request.path == "/v26.0/me/accounts"
        self.queries.append(dict(request.query))
        self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        headers = {"X-App-Usage": '{"call_count":28}'}
        if isinstance(answer, bytes):
            return web.Response(body=answer, status=self._status, headers=headers)
        return web.json_response(answer, status=self._status, headers=headers)


async def found(accounts: Accounts, gate: RecordingGate | None = None) -> Found:
    async with client_of(accounts.respond) as client:
        return await fetch_managed_pages(client, access_of(), gate or RecordingGate())


async def pages_of(*answers: Json | bytes) -> list[str]:
    outcome = await found(Accounts(*answers))
    assert isinstance(outcome, tuple), outcome
    return [each.id for each in outcome]


async def problem_of(*answers: Json | bytes) -> Problem:
    outcome = await found(Accounts(*answers))
    assert isinstance(outcome, Problem), outcome
    return outcome


class TestPages:
    async def test_a_page_is_read_with_its_token_and_its_account(self) -> None:
        accounts = Accounts(listed(page(instagram_business_account={"id": ACCOUNT_ID}), page("77")))
        assert await found(accounts) == (
            Page(
                PAGE_ID,
                "Corner Bakery",
                (Platform.MESSENGER, Platform.INSTAGRAM),
                f"token-of-{PAGE_ID}",
                ACCOUNT_ID,
            ),
            Page("77", "Corner Bakery", (Platform.MESSENGER,), "token-of-77"),
        )
        assert accounts.queries == [{"fields": "id,name,access_token,instagram_business_account", "limit": "100"}]
        assert accounts.tokens == [TOKEN]

    @pytest.mark.parametrize(
        "item",
        [
            page(access_token=None),
            page(access_token=""),
            page(access_token="two\nlines"),
            page(access_token="\u2603"),
            page("../me"),
            page("a\0b"),
            page("7\n"),
            page(id=7.5),
            {},
            "odd",
            None,
        ],
    )
    async def test_a_page_that_cannot_be_synced_is_left_out_with_a_warning(self, item: object) -> None:
        with capture_logs() as logs:
            assert await pages_of(listed(item, page("77"))) == ["77"]
        assert [(entry["event"], entry["count"]) for entry in logs] == [("managed pages unreadable", 1)]

    @pytest.mark.parametrize("fields", [{"name": None}, {"instagram_business_account": {"id": 7}}, {"x": 1}])
    async def test_an_odd_field_costs_only_itself(self, fields: Json) -> None:
        assert await pages_of(listed(page() | fields)) == [PAGE_ID]

    async def test_a_page_that_is_listed_twice_is_one(self) -> None:
        assert await pages_of(listed(page(), page())) == [PAGE_ID]

    def test_nothing_secret_is_in_a_repr(self) -> None:
        assert "secret" not in repr(Page(PAGE_ID, "name", (), "secret"))


class TestPaging:
    async def test_paging_continues_by_cursor_while_there_is_a_next(self) -> None:
        accounts = Accounts(
            listed(page("1"), next_url=NEXT_URL, after="c_1"),
            listed(next_url=NEXT_URL, after="c_2"),
            listed(page("2"), after="c_3"),
        )
        outcome = await found(accounts)
        assert isinstance(outcome, tuple)
        assert [each.id for each in outcome] == ["1", "2"]
        assert [query.get("after") for query in accounts.queries] == [None, "c_1", "c_2"]

    async def test_an_empty_list_is_valid(self) -> None:
        assert await pages_of({"data": []}) == []

    async def test_a_repeated_cursor_is_a_problem(self) -> None:
        again = listed(page(), next_url=NEXT_URL, after="c_1")
        assert (await problem_of(again)).kind is ProblemKind.CURSOR_LOOP

    async def test_an_endless_list_is_given_up(self) -> None:
        endless = Accounts(*(listed(next_url=NEXT_URL, after=f"c_{number}") for number in range(MAX_BATCHES + 10)))
        outcome = await found(endless)
        assert isinstance(outcome, Problem)
        assert outcome.kind is ProblemKind.MISCONFIGURED
        assert len(endless.queries) == MAX_BATCHES

    @pytest.mark.parametrize("paging", [{"next": NEXT_URL}, "odd", 7])
    async def test_a_list_without_a_usable_cursor_is_a_problem(self, paging: object) -> None:
        assert (await problem_of({"data": [page()], "paging": paging})).kind is ProblemKind.INVALID_RESPONSE


HEAVY = error(1, "Please reduce the amount of data you're asking for, then retry your request")
FORBIDDEN = error(100, "(#100) Tried accessing nonexisting field (name) on node type (Page)")


class ManagedPages:
    """The edge of a number of pages, which refuses some requests with `refusal`."""

    def __init__(self, pages: int, refuses: Callable[[int, str], bool], refusal: Json = HEAVY) -> None:
        self._pages = pages
        self._refuses = refuses
        self._refusal = refusal
        self.asked: list[tuple[int, str]] = []

    async def respond(self, request: web.Request) -> web.Response:
        limit, fields = int(request.query["limit"]), request.query["fields"]
        self.asked.append((limit, fields))
        if self._refuses(limit, fields):
            return web.json_response(self._refusal, status=500)
        start = int(request.query.get("after", "0"))
        end = min(start + limit, self._pages)
        shown = [
            {name: page(str(number))[name] for name in fields.split(",") if name in page()}
            for number in range(start, end)
        ]
        return web.json_response(listed(*shown, next_url=NEXT_URL if end < self._pages else None, after=str(end)))

    async def found(self) -> Found:
        async with client_of(self.respond) as client:
            return await fetch_managed_pages(client, access_of(), RecordingGate())


class TestHeavyLists:
    @pytest.mark.parametrize("most", [99, 25, 7, 1])
    @pytest.mark.parametrize("refusal", [HEAVY, error(2), error(10), error(960)], ids=str)
    async def test_fewer_pages_are_requested_at_once_until_they_come(self, most: int, refusal: Json) -> None:
        edge = ManagedPages(30, lambda limit, _: limit > most, refusal)

        outcome = await edge.found()

        assert isinstance(outcome, tuple)
        assert len(outcome) == 30
        assert {each.name for each in outcome} == {"Corner Bakery"}
        assert [limit for limit, fields in edge.asked if fields == FIELDS and limit > most] == [
            size.limit for size in SIZES if size.limit > most
        ], "each size that failed once"

    async def test_less_of_each_is_requested_before_the_list_is_given_up(self) -> None:
        edge = ManagedPages(3, lambda _, fields: "instagram_business_account" in fields)

        with capture_logs() as logs:
            outcome = await edge.found()

        assert isinstance(outcome, tuple)
        assert [each.id for each in outcome] == ["0", "1", "2"]
        assert {entry["event"] for entry in logs} == {"managed pages read without their Instagram accounts"}

    async def test_a_list_that_cannot_be_read_at_all_is_given_up_soon(self) -> None:
        edge = ManagedPages(3, lambda *_: True)

        outcome = await edge.found()

        assert isinstance(outcome, Problem)
        assert outcome.code == 1
        assert edge.asked == [(100, FIELDS), (1, "id")]

    async def test_a_field_that_is_refused_by_name_is_left_out(self) -> None:
        edge = ManagedPages(3, lambda _, fields: "name" in fields, FORBIDDEN)

        with capture_logs() as logs:
            outcome = await edge.found()

        assert isinstance(outcome, tuple)
        assert [each.id for each in outcome] == ["0", "1", "2"]
        assert edge.asked[1:] == [(100, "id,access_token,instagram_business_account")]
        assert [entry["field"] for entry in logs] == ["name"]

    async def test_a_token_that_is_refused_by_name_is_said_plainly(self) -> None:
        refusal = error(100, "(#100) Tried accessing nonexisting field (access_token) on node type (Page)")

        outcome = await ManagedPages(3, lambda *_: True, refusal).found()

        assert isinstance(outcome, Problem)
        assert outcome.kind is ProblemKind.MISCONFIGURED
        assert "access_token" in outcome.message


class TestProblems:
    async def test_an_api_error_is_a_problem(self) -> None:
        gate = RecordingGate()
        outcome = await found(Accounts(error(190, error_subcode=463), status=400), gate)
        assert isinstance(outcome, Problem)
        assert (outcome.code, outcome.subcode, outcome.http_status) == (190, 463, 400)
        assert gate.refusals == [outcome]

    @pytest.mark.parametrize("answer", [error(2), {"data": None}, {}, b"", b"[]", b'{"data":[', b"<html>Sorry</html>"])
    async def test_a_response_that_is_not_a_list_is_a_problem(self, answer: Json | bytes) -> None:
        assert (await problem_of(answer)).http_status == 200

    async def test_a_failed_connection_is_a_problem(self) -> None:
        gate = RecordingGate()
        async with GraphClient(nowhere(), "v26.0", clock=lambda: datetime.now(UTC)) as client:
            outcome = await fetch_managed_pages(client, access_of(), gate)
        assert isinstance(outcome, Problem)
        assert outcome.kind is ProblemKind.NETWORK
        assert gate.refusals == [outcome] * 2, "that of the list, and that of a look whether it can be read at all"

    @pytest.mark.parametrize("calls", [0, 1])
    async def test_behind_a_closed_gate_no_call_is_made(self, calls: int) -> None:
        accounts = Accounts(listed(page(), next_url=NEXT_URL, after="c_1"), listed(page("77")))
        assert await found(accounts, RecordingGate(calls_left=calls)) == Held()
        assert len(accounts.queries) == calls

    async def test_the_gate_gets_the_usage(self) -> None:
        gate = RecordingGate()
        await found(Accounts(listed(page())), gate)
        assert [type(usage) for usage in gate.usages] == [Usage]
