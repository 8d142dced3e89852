"""Words for what the model refuses: what was found, and what is allowed.

The bounds come from the model, so that the two cannot differ; docs/configuration.md has the same words.
"""

import difflib
import json
import re
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from milepost.settings.model import Section, Settings, key_of, section_in
from milepost.settings.types import Allowed, HoldsSecrets
from milepost.settings.yaml import UNRESOLVED, Document, KeyPath, Problem

_MAX_SHOWN = 60
_MIN_SECRET = 25  # an app secret is a word of 32 hexadecimal digits; what else is written here has shorter words


def problems_in(document: Document, error: ValidationError) -> Iterator[Problem]:
    """Yield what the model refuses, except where a problem is known already."""
    known = {problem.key_path for problem in document.problems}
    for details in error.errors(include_url=False, include_input=False):
        key_path = details["loc"]
        if details["type"] != "extra_forbidden":  # pydantic names a default that breaks a rule by its attribute
            key_path = tuple(step if isinstance(step, int) else key_of(step) for step in key_path)
        if key_path not in known and document.at(key_path) is not UNRESOLVED:
            yield Problem(key_path, _words(document, key_path, details))


def allowed(field: FieldInfo) -> str:
    """Return what a field allows, in words."""
    if (section := section_in(field)) is not None:
        keys = f"the keys {', '.join(keys_of(section))}"
        return keys if field.annotation is section else f"a list, each item of which has {keys}"
    if choices := get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
        return " or ".join(choices)
    words = next(item for item in field.metadata if isinstance(item, Allowed))
    low = next((words.bound(item.ge) for item in field.metadata if isinstance(item, Ge)), "")
    high = next((words.bound(item.le) for item in field.metadata if isinstance(item, Le)), "")
    return words.text.format(low=low, high=high)


def keys_of(section: type[Section]) -> list[str]:
    """Return the keys of a section, in the order of the model."""
    return [key_of(name) for name in section.model_fields]


def _words(document: Document, key_path: KeyPath, details: ErrorDetails) -> str:
    section, field = _look_up(key_path)
    if field is None:
        keys = keys_of(section)
        nearest = difflib.get_close_matches(str(key_path[-1]), keys, n=1, cutoff=0)
        return f"unknown key; did you mean {nearest[0]}? allowed: {', '.join(keys)}"
    match details["type"]:
        case "rule":
            return details["msg"]
        case "missing":
            return f"missing; allowed: {allowed(field)}"
        case _:
            return f"found {_found(document, key_path, field)}; allowed: {allowed(field)}"


def _look_up(key_path: KeyPath) -> tuple[type[Section], FieldInfo | None]:
    """Return the section and the field of a path; only the section if the key is unknown."""
    inner: type[Section] | None = Settings
    section: type[Section] = Settings
    field: FieldInfo | None = None
    for step in key_path:
        if isinstance(step, str) and inner is not None:
            section = inner
            field = next((field for name, field in section.model_fields.items() if key_of(name) == step), None)
            inner = None if field is None else section_in(field)
    return section, field


def _found(document: Document, key_path: KeyPath, field: FieldInfo) -> str:
    """Return what was found, in a form that gives no secret away.

    The value of an environment variable is shown only if it looks like a number: it may be a misplaced secret.
    """
    value, written = document.at(key_path), document.written.get(key_path, "")
    if value is None:
        return "nothing"
    if isinstance(value, dict | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if any(isinstance(item, HoldsSecrets) for item in field.metadata) or field.annotation is SecretStr:
        return "a value that is not shown here"
    if document.answered.get(key_path):
        number_like = re.fullmatch(r"-?[0-9.]{1,12}[a-z]{0,2}", str(value))
        return (
            f"{value} (from {_clipped(written)})"
            if number_like
            else f"the value of {_clipped(written)}, not shown here"
        )
    if isinstance(value, str):
        return json.dumps(_clipped(_without_secrets(value)), ensure_ascii=False)
    return _clipped(written)


def _without_secrets(text: str) -> str:
    """Return a URL without passwords and tokens; in other text, words as long as secrets are cut."""
    text = re.sub(rf"(\w{{12}})\w{{{_MIN_SECRET - 12},}}", r"\1…", text)
    text = re.sub(r"^([a-z+]+://)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"(://[^?#]*[?#]).+", r"\1***", text, flags=re.DOTALL)


def _clipped(text: str) -> str:
    """Cut long text, so that a misplaced token is of no use to the reader."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:12]}…"
