"""The runbooks as a page, so that the links of alerts lead somewhere as installed, to the text of this very version.

The file is docs/runbooks.md. It needs little of Markdown: headings, paragraphs, numbered lists, indented code, and
links, code and bold words in them.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape

from aiohttp import web

from milepost import __version__
from milepost.service.page.pages import FILES, Document, document

PATH = "/runbooks"
_SPANS = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*|\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
_ITEM = re.compile(r"\d+\. ")


def runbooks() -> Sequence[web.AbstractRouteDef]:
    """Return the route of the page. It is for everybody: it says nothing of this installation."""
    served = runbooks_page()

    async def page(request: web.Request) -> web.Response:
        return served.respond(request)

    return [web.get(PATH, page)]


def runbooks_page() -> Document:
    """Build the page."""
    text = (FILES / "runbooks.md").read_text(encoding="utf-8")
    return document("runbooks", ("look", "runbooks"), (), {"version": __version__, "runbooks": rendered(text)})


def rendered(markdown: str) -> str:
    """Return the HTML of a text in the little Markdown that runbooks need."""
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
    """Return the HTML of a span. A link to another page of the docs, which is not served, becomes its file name."""
    code, bold, text, target = found.group("code", "bold", "text", "target")
    if code is not None:
        return f"<code>{escape(code, quote=False)}</code>"
    if bold is not None:
        return f"<b>{_spans(bold)}</b>"
    if target.startswith("#"):
        return f'<a href="{escape(target)}">{_spans(text)}</a>'
    return f"{_spans(text)} (<code>docs/{escape(target.partition('#')[0])}</code>)"
