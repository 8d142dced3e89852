"""Loads config.yaml into frozen settings, or raises one error that names everything wrong with it."""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from milepost.core.errors import BadConfiguration
from milepost.settings.model import (
    FACEBOOK_STORE,
    HttpSettings,
    Section,
    Settings,
    StoreSettings,
    key_of,
    section_in,
)
from milepost.settings.secrets import SecretOrigin, fill_in, origins, written_items
from milepost.settings.types import Allowed, HoldsSecrets
from milepost.settings.yaml import (
    UNRESOLVED,
    Document,
    KeyPath,
    Problem,
    as_if_written,
    format_key_path,
    read_document,
)

DEFAULT_PATH = Path("config.yaml")
SQLITE = "sqlite:///"


def load(path: Path, environment: Mapping[str, str]) -> Settings:
    """Return the settings in a file.

    Raises:
        BadConfiguration: the file cannot be read, or something in it is wrong; each problem is one line of the text.
    """
    document = _filled_in(path, environment)
    settings = _validated(document)
    if document.problems or settings is None:
        raise BadConfiguration(document.describe_problems())
    return settings.model_copy(update={"store": _located(settings, document.folder)})


def _located(settings: Settings, folder: Path) -> StoreSettings:
    """Return the store with its path resolved against the folder of the file, and the default for its source.

    Real conversations are never kept in the default file of the simulated world.
    """
    store = settings.store
    url = store.url
    if "url" not in store.model_fields_set and settings.source.kind == "facebook":
        url = FACEBOOK_STORE
    if url.startswith(SQLITE):
        url = f"{SQLITE}{folder / url.removeprefix(SQLITE)}"
    return store.model_copy(update={"url": url})


def load_or_default(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """Return the settings of the given file, else of ./config.yaml, else the built-in ones.

    Raises:
        BadConfiguration: as `load` does; a given file must exist.
    """
    path = path or default_path()
    return load(path, environment) if path else Settings()


def default_path() -> Path | None:
    """Return ./config.yaml if it exists, even as a broken link; None if not: the built-in settings apply."""
    return DEFAULT_PATH if os.path.lexists(DEFAULT_PATH) else None


def secret_report(path: Path, environment: Mapping[str, str]) -> tuple[SecretOrigin, ...]:
    """Return where each secret of a file comes from; never its value.

    Raises:
        BadConfiguration: the file cannot be read or is not YAML. Other problems are left to `load`.
    """
    return tuple(origins(_filled_in(path, environment)))


def moved_keys(path: Path, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return what to write instead of keys that have moved since earlier versions. Raises as `secret_report` does."""
    is_old = _OLD_PLACE in read_document(path, environment).tree
    return ("discover_pages: still read here, but moved into source; write source.discover_pages",) if is_old else ()


_OLD_PLACE = "discover_pages"


def _filled_in(path: Path, environment: Mapping[str, str]) -> Document:
    document = read_document(path, environment)
    _move(document)
    fill_in(document, environment)
    return document


def _move(document: Document) -> None:
    """Move `discover_pages` from the top level, its place in earlier versions, into `source`."""
    old, new, source = (_OLD_PLACE,), ("source", _OLD_PLACE), document.tree.get("source", {})
    if _OLD_PLACE not in document.tree or not isinstance(source, dict):
        return
    value = document.tree.pop(_OLD_PLACE)
    if _OLD_PLACE in source:
        document.problems.append(Problem(old, "moved into source, where it is given as well; remove it here"))
        return
    document.tree["source"] = {**source, _OLD_PLACE: value}
    for named in (document.lines, document.written, document.answered):
        _copy(named, old, new)


def _copy(named: dict[KeyPath, Any], old: KeyPath, new: KeyPath) -> None:
    if old in named:
        named[new] = named[old]


def _validated(document: Document) -> Settings | None:
    """Return the settings; None if the document is invalid, with the reasons added to its problems.

    pydantic's error ends here and never becomes a cause: it holds the values, secrets among them.
    """
    document.problems.extend(_broken_rules(document))
    try:
        return Settings.model_validate(document.tree)
    except ValidationError as error:
        document.problems.extend(_refused(document, error))
        return None


# --- what must hold between sections ----------------------------------------------------------------------------------


def _broken_rules(document: Document) -> Iterator[Problem]:
    """Yield the rules that a document breaks. Its secrets must be filled in."""
    yield from _repeated(document, "pages", "id", "page")
    yield from _repeated(document, "deliveries", "name", "destination")
    yield from _one_address(document)
    kind = _kind(document)
    if kind == "facebook":
        yield from _missing_for_facebook(document)
    elif kind == "simulator":
        yield from _real_in_the_simulator(document)


def _kind(document: Document) -> object:
    """Return the kind of source, written or by default; None if the written one is invalid."""
    source = document.at(("source",))
    if source is None:
        return "simulator"
    return source.get("kind", "simulator") if isinstance(source, dict) else None


def _real_in_the_simulator(document: Document) -> Iterator[Problem]:
    """Yield a problem for real pages and tokens with a simulated source: their author means the real API."""
    found = "source.kind is simulator" if document.at(("source", "kind")) else "source.kind is not set: it is simulator"
    remedy = "set source.kind: facebook to copy real conversations"
    if isinstance(pages := document.at(("pages",)), tuple) and pages:
        yield Problem(("pages",), f"{found}, whose world brings pages of its own; {remedy}, or remove pages")
    if document.at(("source", "access_token")) not in (None, ""):
        yield Problem(("source", "access_token"), f"{found}, whose world brings tokens of its own; {remedy}")


def _repeated(document: Document, name: str, key: str, what: str) -> Iterator[Problem]:
    """Yield a problem for each item of a list whose value under a key repeats an earlier item's."""
    first: dict[object, str] = {}
    for key_path, item in written_items(document, name):
        value, here = item.get(key), format_key_path(key_path)
        if isinstance(value, str) and first.setdefault(value, here) != here:
            yield Problem((*key_path, key), f"{first[value]} has this {key}, too; allowed: each {what} once")


def _one_address(document: Document) -> Iterator[Problem]:
    """Yield a problem if webhooks have the address of the status page: nothing else may be served there."""
    taken = document.at(("http", "listen")) or HttpSettings.model_fields["listen"].default
    if document.at(("webhooks", "listen")) == taken and not str(taken).endswith(":0"):
        yield Problem(("webhooks", "listen"), "http.listen is this address; allowed: another one, or another port")


def _missing_for_facebook(document: Document) -> Iterator[Problem]:
    if _discovers(document) and document.at(("source", "access_token")) in (None, ""):
        need = "access_token or access_token_file, whose pages source.discover_pages: true asks for"
        yield Problem(("source", "access_token"), f"missing; allowed: {need}")
    if document.at(("webhooks", "listen")) and not _signs(document):
        need = "app_secret or app_secret_file, which sign the webhooks that webhooks.listen takes"
        yield Problem(("source", "app_secret"), f"missing; allowed: {need}")
    if document.at(("pages",)) in (None, ()) and not _discovers(document):
        yield Problem(("pages",), "missing; allowed: one page or more, which source.kind: facebook needs")
    for key_path, page in written_items(document, "pages"):
        if page.get("access_token") in (None, ""):
            need = "access_token or access_token_file, which source.kind: facebook needs for each page"
            yield Problem((*key_path, "access_token"), f"missing; allowed: {need}")


def _signs(document: Document) -> bool:
    """Return whether a secret is set that webhooks may be signed with."""
    secrets = document.at(("source", "app_secret")), document.at(("webhooks", "secrets"))
    return any(secret not in (None, "", ()) for secret in secrets)


def _discovers(document: Document) -> bool:
    return as_if_written(document.at(("source", "discover_pages"))) is True


# --- messages for what the model refuses: what was found, and what is allowed -----------------------------------------

# The bounds come from the model, so that the two cannot differ; docs/configuration.md has the same texts.
_MAX_SHOWN = 60
_MIN_SECRET = 25  # an app secret has 32 hexadecimal digits; the words of other values are shorter


def _refused(document: Document, error: ValidationError) -> Iterator[Problem]:
    """Yield the problems that the model finds, except for values with a known problem."""
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
        keys = f"the keys {', '.join(_keys_of(section))}"
        return keys if field.annotation is section else f"a list, each item of which has {keys}"
    if choices := get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
        return " or ".join(choices)
    words = next(item for item in field.metadata if isinstance(item, Allowed))
    low = next((words.bound(item.ge) for item in field.metadata if isinstance(item, Ge)), "")
    high = next((words.bound(item.le) for item in field.metadata if isinstance(item, Le)), "")
    return words.text.format(low=low, high=high)


def _keys_of(section: type[Section]) -> list[str]:
    """Return the keys of a section, in the order of the model."""
    return [key_of(name) for name in section.model_fields]


def _words(document: Document, key_path: KeyPath, details: ErrorDetails) -> str:
    section, field = _look_up(key_path)
    if field is None:
        keys = _keys_of(section)
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
    """Return the value that was found, in a form that reveals no secret.

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
    """Return a URL without passwords and tokens, or another text with words cut that are as long as a secret."""
    text = re.sub(r"(whsec_)\S+", r"\1…", text)  # Base64, which holds signs that end a word
    text = re.sub(r"^(?!https?:|sqlite:|postgres|mysql:)([\w+.-]+://).+", r"\1***", text, flags=re.DOTALL)  # of Apprise
    text = re.sub(rf"(\w{{12}})\w{{{_MIN_SECRET - 12},}}", r"\1…", text)
    text = re.sub(r"^([a-z+]+://)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"(://[^?#]*[?#]).+", r"\1***", text, flags=re.DOTALL)


def _clipped(text: str) -> str:
    """Cut a long text, so that nobody can use a misplaced token."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:12]}…"
