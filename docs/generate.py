"""Generates the tables of docs/configuration.md from the settings model: `python docs/generate.py`."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from milepost.app.reload import is_live
from milepost.settings.load import allowed
from milepost.settings.model import Section, Settings, key_of, section_in
from milepost.settings.types import format_duration

PAGE = Path(__file__).parent / "configuration.md"
BEGINNING, END = "<!-- generated from the model: begin -->", "<!-- generated from the model: end -->"
HEAD = ("| key | type | default | allowed | change | meaning |", "|---|---|---|---|---|---|")
# How the page names the types of settings/types.py.
TYPES = {
    "Whole": "number",
    "Number": "number",
    "Flag": "true/false",
    "Seconds": "duration",
    "History": "duration",
    "Secret": "secret",
    "FilePath": "path",
    "Literal": "choice",
    "HostNames": "list",
    "Origins": "list",
    "Platforms": "list",
    "Secrets": "list",
    "SigningSecrets": "secret",
    "ChangeKinds": "list",
    "NoticeUrls": "list",
    "NoticeKinds": "list",
    "tuple": "list",
}


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(written(PAGE.read_text()))


def written(page: str) -> str:
    """Return the page with the tables as the model has them now."""
    before, _, rest = page.partition(BEGINNING)
    _, _, after = rest.partition(END)
    tables = "\n".join(_tables(Settings, "Top level", ""))
    return f"{before}{BEGINNING}\n\n{tables}\n{END}{after}"


def _tables(section: type[Section], heading: str, prefix: str) -> Iterator[str]:
    """Yield the table of a section, then those of its subsections."""
    kinds, meanings = _annotated(section)
    yield from (f"### {heading}", "", *HEAD)
    for name, field in section.model_fields.items():
        kind = "section" if field.annotation is section_in(field) else TYPES.get(kinds[name], "text")
        key = f"{prefix}{key_of(name)}"
        change = "" if kind == "section" else "live" if is_live(key) else "restart"
        cells = (f"`{key}`", kind, _default(field, kind), allowed(field), change, meanings[name])
        yield f"| {' | '.join(cells)} |".replace("|  |", "| |")
    yield ""
    for name, field in section.model_fields.items():
        if (inner := section_in(field)) is not None:
            yield from _tables(inner, name, f"{name}{'' if field.annotation is inner else '[]'}.")


def _annotated(section: type[Section]) -> tuple[dict[str, str], dict[str, str]]:
    """Return each key's type and the text under it, from the model's source."""
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef)
    kinds, meanings = {}, {}
    for key, text in zip(definition.body, definition.body[1:], strict=False):
        match key, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                kinds[name] = ast.unparse(key.annotation).partition("[")[0]
                meanings[name] = " ".join(meaning.split()).rstrip(".")
            case _:
                pass
    return kinds, meanings


def _default(field: FieldInfo, kind: str) -> str:
    if field.is_required():
        return "required"
    match field.get_default(call_default_factory=True):
        case None:
            return "none"
        case Section():
            return ""
        case bool(value):
            text = str(value).lower()
        case float(value):
            text = format_duration(value) if kind == "duration" else f"{value:g}"
        case tuple(items):
            text = f"[{', '.join(items)}]"
        case "" | SecretStr():
            text = '""'
        case value:
            text = str(value)
    return f"`{text}`"


if __name__ == "__main__":
    main()
