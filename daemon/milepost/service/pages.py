"""The status page, the login page and the runbooks: each loads nothing, and runs nothing but its own script.

Styles and scripts are separate files, so that people can read them, and are inlined when a page is built. The policy
allows them by their digests (Content Security Policy Level 3). So if a bug turned a text from the API into markup, its
scripts would not run.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from aiohttp import ETag, web
from msgspec import Struct

from milepost import __version__
from milepost.service.auth import is_admitted

FILES = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# In the order in which they run: the top level of a script uses only what comes before it.
STATUS_SCRIPTS = (
    "words", "elements", "states", "daemon", "notices", "health", "connection", "theme", "actions", "stream",
    "table", "filter", "causes", "streams", "verdict", "runs", "drawer", "chart", "toasts", "feed", "dead-letters",
    "dead-letter-groups", "deliveries", "refresh", "page",
)  # fmt: skip
LOGIN_SCRIPTS = ("words", "elements", "daemon", "login")


class Document(Struct, frozen=True):
    """A page, ready to be sent."""

    html: bytes
    policy: str
    etag: str

    def respond(self, request: web.Request) -> web.Response:
        """Return the page, or a 304 if the browser has it already."""
        is_known = any(each.value == self.etag for each in request.if_none_match or ())
        response = web.Response(status=304) if is_known else web.Response(body=self.html, content_type="text/html")
        response.headers["Content-Security-Policy"] = self.policy
        # Which page it is depends on who is signed in: a browser may keep it, but has to revalidate it each time.
        response.headers["Cache-Control"] = "private, no-cache"
        response.etag = ETag(self.etag, is_weak=True)  # weak, because the compressed page is the same page
        if not is_known:
            response.charset = "utf-8"
            response.enable_compression()
        return response


def status_page(*, is_signed_in: bool) -> Document:
    """Build the status page. `is_signed_in` says whether there is a session to sign out of."""
    words = {"version": __version__, "sign_out": "" if is_signed_in else "hidden"}
    return document("page", ("look", "page"), STATUS_SCRIPTS, words)


def login_page() -> Document:
    """Build the page that asks for the token."""
    return document("login", ("look",), LOGIN_SCRIPTS, {})


def pages(*, asks_for_token: bool) -> Sequence[web.AbstractRouteDef]:
    """Return the route of the status page, which shows the login page to whoever is not admitted."""
    status, login = status_page(is_signed_in=asks_for_token), login_page()

    async def root(request: web.Request) -> web.Response:
        return (status if is_admitted(request) else login).respond(request)

    return [web.get("/", root)]


def document(name: str, styles: Iterable[str], scripts: Iterable[str], words: Mapping[str, str]) -> Document:
    """Build a page from its files.

    Args:
        name: the HTML file, without its suffix; `{{style}}`, `{{script}}` and the keys of `words` in it are filled in.
        styles: the style sheets in order, without their suffix.
        scripts: the scripts in the order in which they run, without their suffix. They share one module. Without any,
            the policy admits none.
        words: other texts to fill in, by key; they have to be safe as HTML.
    """
    style = _joined(styles, "css")
    script = _joined((f"scripts/{each}" for each in scripts), "js")
    html = (FILES / f"{name}.html").read_text(encoding="utf-8")
    for key, value in (*words.items(), ("style", style), ("script", script)):
        html = html.replace(f"{{{{{key}}}}}", value)
    body = html.encode()
    policy = POLICY.format(script=_digest(script) if script else "none", style=_digest(style))
    return Document(body, policy, hashlib.sha256(body).hexdigest()[:32])


def _joined(names: Iterable[str], suffix: str) -> str:
    return "\n".join((FILES / f"{name}.{suffix}").read_text(encoding="utf-8") for name in names)


def _digest(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# --- the runbooks -----------------------------------------------------------------------------------------------------

# They are served so that the links in alerts work as installed, and show the text of this version. The source is
# docs/runbooks.md, which uses little of Markdown: headings, paragraphs, numbered lists, indented code, and in them
# links, code and bold words.
RUNBOOKS_PATH = "/runbooks"
_SPANS = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*|\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
_ITEM = re.compile(r"\d+\. ")


def runbooks() -> Sequence[web.AbstractRouteDef]:
    """Return the route of the page. It needs no token, because it says nothing about this installation."""
    served = runbooks_page()

    async def page(request: web.Request) -> web.Response:
        return served.respond(request)

    return [web.get(RUNBOOKS_PATH, page)]


def runbooks_page() -> Document:
    """Build the page."""
    text = (FILES / "runbooks.md").read_text(encoding="utf-8")
    return document("runbooks", ("look", "runbooks"), (), {"version": __version__, "runbooks": rendered(text)})


def rendered(markdown: str) -> str:
    """Return the HTML of a text in the subset of Markdown that runbooks use."""
    return "\n".join(_block(block) for block in re.split(r"\n{2,}", markdown.strip("\n")))


def _block(block: str) -> str:
    marks, _, title = block.partition(" ")
    if block.startswith("#"):
        name = re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))
        level = len(marks)
        as_written = f' id="{title}"' if title.isidentifier() and title != name else ""  # as Grafana's tables have it
        return f'<h{level} id="{name}"><a{as_written} href="#{name}">{_spans(title)}</a></h{level}>'
    if block.startswith("    "):
        code = "\n".join(line.removeprefix("    ") for line in block.splitlines())
        return f"<pre>{escape(code)}</pre>"
    if _ITEM.match(block):
        return f"<ol>{''.join(f'<li>{_spans(item)}</li>' for item in _items(block))}</ol>"
    return f"<p>{_spans(block)}</p>"


def _items(block: str) -> Iterator[str]:
    for item in re.split(r"^\d+\. ", block, flags=re.MULTILINE)[1:]:
        yield " ".join(item.split())


def _spans(text: str) -> str:
    parts, end = [], 0
    for found in _SPANS.finditer(text):
        parts += [escape(text[end : found.start()], quote=False), _span(found)]
        end = found.end()
    return "".join([*parts, escape(text[end:], quote=False)])


def _span(found: re.Match[str]) -> str:
    """Return the HTML of a span. Other pages of the docs are not served, so a link to one becomes its file name."""
    code, bold, text, target = found.group("code", "bold", "text", "target")
    if code is not None:
        return f"<code>{escape(code, quote=False)}</code>"
    if bold is not None:
        return f"<b>{_spans(bold)}</b>"
    if target.startswith("#"):
        return f'<a href="{escape(target)}">{_spans(text)}</a>'
    return f"{_spans(text)} (<code>docs/{escape(target.partition('#')[0])}</code>)"
