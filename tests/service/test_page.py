"""The documents of the status page: self-contained, and under a policy that admits nothing else."""

import hashlib
import re
from base64 import b64encode
from contextlib import AbstractAsyncContextManager
from enum import StrEnum

import aiohttp
import pytest

from milepost import __version__
from milepost.reporting.health import IssueKind
from milepost.reporting.status import State
from milepost.service.events.messages import Status
from milepost.service.page.pages import FILES, LOGIN_SCRIPTS, STATUS_SCRIPTS, Document, login_page, pages, status_page
from service.listening import BEARER, TOKEN, listening

PAGES = {"status": status_page(is_signed_in=False), "login": login_page()}


@pytest.fixture(params=list(PAGES))
def document(request: pytest.FixtureRequest) -> Document:
    return PAGES[request.param]


def served(token: str = "") -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    return listening(pages(asks_for_token=bool(token)), token=token)


def sources(document: Document, directive: str) -> list[str]:
    """Return the sources that the policy allows for a directive."""
    policy = dict(part.strip().split(" ", 1) for part in document.policy.split(";"))
    return policy[directive].split()


@pytest.mark.parametrize(("directive", "element"), [("script-src", "script"), ("style-src", "style")])
def test_only_its_own_script_and_style_are_allowed(document: Document, directive: str, element: str) -> None:
    (own,) = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", document.html.decode(), re.DOTALL)
    digest = b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert sources(document, directive) == [f"'sha256-{digest}'"]


def test_everything_that_is_not_named_is_forbidden(document: Document) -> None:
    for directive in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert sources(document, directive) == ["'none'"]
    assert sources(document, "connect-src") == ["'self'"]


def test_the_document_names_no_other_host(document: Document) -> None:
    named = set(re.findall(rb"https?://[^\s'\"<>)]+", document.html)) - {b"http://www.w3.org/2000/svg"}
    assert named == set()
    assert not re.search(rb"<(script|img|iframe|object|embed)[^>]*\s(src|data)=|@import|url\((?!#)", document.html)


def test_no_style_or_script_is_in_an_attribute_where_the_policy_would_block_it(document: Document) -> None:
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", document.html.decode(), flags=re.DOTALL)
    assert not re.search(r"\s(style|on[a-z]+)\s*=", markup)


def test_every_placeholder_is_filled_in(document: Document) -> None:
    assert b"{{" not in document.html


def test_no_text_of_the_api_can_become_markup() -> None:
    for script in (FILES / "scripts").glob("*.js"):
        unsafe = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", script.read_text()
        )
        assert unsafe is None, script.name


def test_every_script_is_in_a_page() -> None:
    assert {*STATUS_SCRIPTS, *LOGIN_SCRIPTS} == {script.stem for script in (FILES / "scripts").glob("*.js")}


@pytest.mark.parametrize(
    ("script", "table", "kinds"),
    [("health", "ISSUE_TONES", IssueKind), ("states", "STATES", State), ("states", "STATUSES", Status)],
)
def test_the_page_knows_every_issue_state_and_status(script: str, table: str, kinds: type[StrEnum]) -> None:
    found = re.search(
        rf"const {table} = {{(.*?)^}};", (FILES / f"scripts/{script}.js").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    assert set(re.findall(r"^  (\w+):", found[1], re.MULTILINE)) == {kind.value for kind in kinds}


def test_the_page_shows_the_version() -> None:
    assert f"<small>{__version__}</small>".encode() in PAGES["status"].html


def test_signing_out_is_offered_only_if_a_token_is_required() -> None:
    assert b'id="sign-out" >' in status_page(is_signed_in=True).html
    assert b'id="sign-out" hidden>' in status_page(is_signed_in=False).html


async def test_the_page_is_served_under_its_policy_and_compressed() -> None:
    async with served() as session, session.get("/") as answer:
        assert answer.status == 200
        assert (answer.content_type, answer.charset) == ("text/html", "utf-8")
        assert answer.headers["Content-Security-Policy"] == PAGES["status"].policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Content-Encoding" in answer.headers
        assert await answer.read() == PAGES["status"].html


async def test_a_browser_that_has_the_page_gets_a_304() -> None:
    async with served() as session:
        async with session.get("/") as first:
            known = {"If-None-Match": first.headers["ETag"]}
        async with session.get("/", headers=known) as again:
            assert (again.status, await again.read()) == (304, b"")
            assert again.headers["Content-Security-Policy"] == PAGES["status"].policy
        async with session.get("/", headers={"If-None-Match": '"another"'}) as renewed:
            assert renewed.status == 200


async def test_if_a_token_is_required_only_whoever_sends_it_sees_the_status_page() -> None:
    async with served(TOKEN) as session:
        async with session.get("/") as answer:
            assert (answer.status, await answer.read()) == (200, PAGES["login"].html)
            kept = {"If-None-Match": answer.headers["ETag"]}
        async with session.get("/", headers=kept | BEARER) as answer:
            assert (answer.status, await answer.read()) == (200, status_page(is_signed_in=True).html)
