"""What must hold between sections, seen in the file as written, so that it is told together with everything else."""

from collections.abc import Iterator

from milepost.settings.scalars import as_if_written
from milepost.settings.secrets import written_pages
from milepost.settings.yaml import Document, Problem


def broken_rules(document: Document) -> Iterator[Problem]:
    """The rules that a document breaks whose secrets are filled in."""
    yield from _repeated_ids(document)
    kind = _kind(document)
    if kind == "facebook":
        yield from _unmet_by_facebook(document)
    elif kind == "simulator":
        yield from _foreign_to_the_simulator(document)


def _kind(document: Document) -> object:
    """Return the source that applies; None where what is written names none."""
    source = document.at(("source",))
    if source is None:
        return "simulator"
    return source.get("kind", "simulator") if isinstance(source, dict) else None


def _foreign_to_the_simulator(document: Document) -> Iterator[Problem]:
    """Real pages and tokens in a simulated world: whoever fills them in means the real one."""
    found = "source.kind is simulator" if document.at(("source", "kind")) else "source.kind is not set: it is simulator"
    remedy = "set source.kind: facebook to copy real conversations"
    if isinstance(pages := document.at(("pages",)), tuple) and pages:
        yield Problem(("pages",), f"{found}, whose world brings pages of its own; {remedy}, or remove pages")
    if document.at(("source", "access_token")) not in (None, ""):
        yield Problem(("source", "access_token"), f"{found}, whose world brings tokens of its own; {remedy}")


def _repeated_ids(document: Document) -> Iterator[Problem]:
    first: dict[object, str] = {}
    for place, page in written_pages(document):
        id_ = page.get("id")
        if isinstance(id_, str) and first.setdefault(id_, f"pages[{place[-1]}]") != f"pages[{place[-1]}]":
            yield Problem((*place, "id"), f"{first[id_]} has this id, too; allowed: each page once")


def _unmet_by_facebook(document: Document) -> Iterator[Problem]:
    if _discovers(document) and document.at(("source", "access_token")) in (None, ""):
        need = "access_token or access_token_file, whose pages discover_pages: true asks for"
        yield Problem(("source", "access_token"), f"missing; allowed: {need}")
    if document.at(("pages",)) in (None, ()) and not _discovers(document):
        yield Problem(("pages",), "missing; allowed: one page or more, which source.kind: facebook needs")
    for place, page in written_pages(document):
        if page.get("access_token") in (None, ""):
            need = "access_token or access_token_file, which source.kind: facebook needs for each page"
            yield Problem((*place, "access_token"), f"missing; allowed: {need}")


def _discovers(document: Document) -> bool:
    return as_if_written(document.at(("discover_pages",))) is True
