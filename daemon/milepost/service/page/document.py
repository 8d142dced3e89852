"""A page as one document that loads nothing, under a policy that lets nothing run in it but what it came with.

Styles and scripts lie in files of their own, for people to read, and are put into the document when it is made. The
policy names them by their digests (Content Security Policy Level 3), so that a text of the API which became markup by
some mistake would still be dead.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path

from aiohttp import ETag, web
from msgspec import Struct

FILES = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Document(Struct, frozen=True):
    """A page, ready to be sent."""

    html: bytes
    policy: str
    etag: str

    def answer(self, request: web.Request) -> web.Response:
        """Give the page, or say that the browser has it already."""
        known = request.if_none_match or ()
        is_known = any(each.value == self.etag for each in known)
        response = web.Response(status=304) if is_known else web.Response(body=self.html, content_type="text/html")
        response.headers["Content-Security-Policy"] = self.policy
        # Who is signed in decides which page it is: a browser may keep it, but has to ask each time.
        response.headers["Cache-Control"] = "private, no-cache"
        response.etag = ETag(self.etag, is_weak=True)  # weak, as it is the same page compressed
        if not is_known:
            response.charset = "utf-8"
            response.enable_compression()
        return response


def document(name: str, styles: Iterable[str], scripts: Iterable[str], words: Mapping[str, str]) -> Document:
    """Make a page of its files.

    Args:
        name: the HTML file, without its ending. It has `{{style}}`, `{{script}}` and the keys of `words` to fill in.
        styles: the style sheets, in their order, without their ending.
        scripts: the scripts, in the order in which they run, without their ending. They share one module.
        words: what else is put in; it has to be fit for HTML.
    """
    style = _joined(styles, "css")
    script = _joined((f"scripts/{each}" for each in scripts), "js")
    html = (FILES / f"{name}.html").read_text(encoding="utf-8")
    for key, value in (*words.items(), ("style", style), ("script", script)):
        html = html.replace(f"{{{{{key}}}}}", value)
    body = html.encode()
    policy = POLICY.format(script=_digest(script), style=_digest(style))
    return Document(body, policy, hashlib.sha256(body).hexdigest()[:32])


def _joined(names: Iterable[str], ending: str) -> str:
    return "\n".join((FILES / f"{name}.{ending}").read_text(encoding="utf-8") for name in names)


def _digest(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
