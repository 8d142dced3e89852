"""The pages: self-contained, under a policy that admits nothing else, and each alert's link leads to its runbook."""

import hashlib
import re
from base64 import b64encode
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path

import aiohttp
import pytest
import yaml

from milepost import __version__
from milepost.reporting.health import IssueKind
from milepost.reporting.status import State
from milepost.service.events.messages import Status
from milepost.service.pages import (
    FILES,
    LOGIN_SCRIPTS,
    STATUS_SCRIPTS,
    Document,
    login_page,
    pages,
    rendered,
    runbooks,
    runbooks_page,
    status_page,
)
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


# --- the runbooks -----------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "monitoring/prometheus/alerts.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
HTML = runbooks_page().html.decode()


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("## MilepostDown", '<h2 id="milepostdown"><a id="MilepostDown" href="#milepostdown">MilepostDown</a></h2>'),
        ("**Meaning.** A <b> & `x < y`.", "<p><b>Meaning.</b> A &lt;b&gt; &amp; <code>x &lt; y</code>.</p>"),
        ("    a  # <b>\n      b", "<pre>a  # &lt;b&gt;\n  b</pre>"),
        ("1. One,\n   still.\n2. Two.", "<ol><li>One, still.</li><li>Two.</li></ol>"),
        ("see [Down](#milepostdown)", '<p>see <a href="#milepostdown">Down</a></p>'),
        ("see [errors](errors.md#which)", "<p>see errors (<code>docs/errors.md</code>)</p>"),
    ],
)
def test_the_markdown_of_runbooks_is_rendered(markdown: str, html: str) -> None:
    assert rendered(markdown) == html


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALERTS])
def test_every_alert_has_its_place(alert: str) -> None:
    assert f'<h2 id="{alert.lower()}"><a id="{alert}"' in HTML


def test_nothing_of_the_markdown_is_left_over_and_every_link_leads_somewhere() -> None:
    text = re.sub(r"<(pre|style|code)>.*?</\1>", "", HTML, flags=re.DOTALL)
    assert not re.search(r"\*\*|`|\]\(|^#|^\d+\. |\{\{", text, re.MULTILINE)
    assert set(re.findall(r'href="#([^"]+)"', HTML)) <= set(re.findall(r'id="([^"]+)"', HTML))


async def test_they_are_served_without_a_token() -> None:
    async with listening(runbooks(), token=TOKEN) as session, session.get("/runbooks") as answer:
        assert (answer.status, await answer.text()) == (200, HTML)
        assert "script-src 'none'" in answer.headers["Content-Security-Policy"]
