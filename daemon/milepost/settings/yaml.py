"""Reads YAML into plain values with their paths and lines, and substitutes environment variables.

This module knows no keys. Problems with single values (a duplicate key, an unset variable) are collected and reported
together with those that the model finds. An error in the document as a whole is raised at once.
"""

import json
import os
import re
import select
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path

import msgspec
import yaml

from milepost.core.errors import BadConfiguration, ConfigurationAway, may_pass

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 20
PIPE_SECONDS = 10.0  # the command that writes into a pipe may have to ask a person for a key
_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")

KeyPath = tuple[str | int, ...]
"""The keys and indexes that lead to a value: `("pages", 1, "platforms", 0)`."""

UNRESOLVED = object()
"""Replaces a value in the tree whose problem is already known."""


class Problem(msgspec.Struct, frozen=True):
    """Something wrong with one value: what was found, and what is allowed."""

    key_path: KeyPath
    text: str


class Document(msgspec.Struct):
    """A configuration file on its way to becoming settings.

    Attributes:
        path: the file.
        tree: its values; lists are tuples, and FromEnvironment marks unquoted text from the environment.
        lines: the line, from 1, of every key and list item.
        written: every scalar as written in the file, before variables were substituted.
        answered: the environment variables that supplied a value.
        problems: what is wrong with single values.
    """

    path: Path
    tree: dict[str, object]
    lines: dict[KeyPath, int] = {}
    written: dict[KeyPath, str] = {}
    answered: dict[KeyPath, tuple[str, ...]] = {}
    problems: list[Problem] = []

    @property
    def folder(self) -> Path:
        """The folder that its paths are relative to: its own, or for a descriptor the current one."""
        return Path() if self.path.is_relative_to("/dev") else self.path.parent

    def at(self, key_path: KeyPath) -> object:
        """Return the value at a path, or None."""
        value: object = self.tree
        for step in key_path:
            match value, step:
                case dict(), _:
                    value = value.get(step)
                case tuple(), int() if step < len(value):
                    value = value[step]
                case _:
                    return None
        return value

    def describe_problems(self) -> str:
        """Return all problems in the order of the file, one to a line, each with its line number and key."""
        ordered = sorted(((self._line_of(problem.key_path), problem) for problem in self.problems), key=itemgetter(0))
        return "\n".join(
            f"{self.path}:{line}: {format_key_path(problem.key_path)}: {problem.text}" for line, problem in ordered
        )

    def _line_of(self, key_path: KeyPath) -> int:
        """Return the line of a key or of its `_file` form; for a missing key, the line of its section."""
        sections = (key_path[:length] for length in range(len(key_path) - 1, 0, -1))
        candidates = (key_path, (*key_path[:-1], f"{key_path[-1]}_file"), *sections)
        return next((self.lines[each] for each in candidates if each in self.lines), 1)


def format_key_path(key_path: KeyPath) -> str:
    """Format a path as people write it: `pages[1].platforms[0]`; a key that is not a word is quoted."""
    text = ""
    for step in key_path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if re.fullmatch(r"[\w-]{1,60}", step) else f".{json.dumps(step[:60])}"
    return text.removeprefix(".")


def read_document(path: Path, environment: Mapping[str, str]) -> Document:
    """Read a configuration file and substitute environment variables.

    Raises:
        BadConfiguration: the file cannot be read, is not YAML, is empty, or is not a mapping.
    """
    text = read_text(path, max_bytes=MAX_BYTES)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        # The only message of PyYAML that quotes a part of a value, which may be a secret that begins with "!".
        what = re.sub(r"tag handle .*", "tag handle (put text that begins with ! in quotes)", what)
        raise BadConfiguration(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {what}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadConfiguration(f"{path}:{line}: not valid YAML: control character U+{error.character:04X}") from None
    if root is None:
        raise BadConfiguration(f"{path}: is empty", hint="leave -c out to run with the built-in settings")
    if not isinstance(root, yaml.MappingNode):
        raise BadConfiguration(f"{path}:1: must be a mapping of sections, such as source: and sync:")
    document = Document(path, {})
    document.tree.update(_Reading(document, environment).mapping(root, ()))
    return document


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without anchors and aliases, whose expansion is unbounded, and with a limit on depth.

    It is the Python loader, because libyaml overruns the stack on a file of 100,000 brackets.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs
        if event.anchor is not None:
            problem = "anchors (&) and aliases (*) are not supported: write the value out, or text in quotes"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        if self.depth == MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reading:
    """Fills a document in one walk over the nodes of a file."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment

    def mapping(self, node: yaml.MappingNode, key_path: KeyPath) -> dict[str, object]:
        values: dict[str, object] = {}
        for key, value_node, line in self._items(node, key_path):
            inner = (*key_path, key)
            if key in values:
                self._problem(inner, f"given twice, first on line {self._document.lines[inner]}; write it once")
            else:
                values[key] = self._value(value_node, inner)
            self._document.lines[inner] = line
        return values

    def _items(self, node: yaml.MappingNode, key_path: KeyPath) -> Iterator[tuple[str, yaml.Node, int]]:
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if isinstance(key_node, yaml.ScalarNode):
                yield key_node.value, value_node, line
            else:
                self._document.lines[*key_path, "?"] = line
                self._problem((*key_path, "?"), "a key must be a single word")

    def _value(self, node: yaml.Node, key_path: KeyPath) -> object:
        self._document.lines.setdefault(key_path, node.start_mark.line + 1)
        match node:
            case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                return self.mapping(node, key_path)
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                return tuple(self._value(item, (*key_path, index)) for index, item in enumerate(node.value))
            case yaml.ScalarNode():
                return self._scalar(node, key_path)
            case _:
                return self._problem(key_path, "tags (!) are not supported: put text that begins so in quotes")

    def _scalar(self, node: yaml.ScalarNode, key_path: KeyPath) -> object:
        self._document.written[key_path] = node.value
        try:
            if "${" not in node.value:
                value = typed(node.tag, node.value)
                return whole(value) if isinstance(value, str) else value
            text, self._document.answered[key_path] = substitute(node.value, self._environment)
            text = whole(text)
        except (LookupError, ValueError) as error:
            return self._problem(key_path, str(error))
        return FromEnvironment(text) if node.style is None else text

    def _problem(self, key_path: KeyPath, text: str) -> object:
        self._document.problems.append(Problem(key_path, text))
        return UNRESOLVED


# --- single values ----------------------------------------------------------------------------------------------------


class FromEnvironment(str):
    """An unquoted value from the environment: it takes the type of its field.

    A page id stays text even if it is all digits; a batch size becomes a number, as if it were written in the file.
    """

    __slots__ = ()


def substitute(text: str, environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Replace each `${NAME}` and `${NAME:-default}`; return the text and the names found in the environment.

    As in a shell, the default replaces a variable that is unset or empty. `$${` is a plain `${`, and values are not
    substituted again.

    Raises:
        LookupError: a variable without a default is not set; the message names it.
        ValueError: a `${` does not begin a reference.
    """
    answered: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$${":
            return "${"
        if name is None:
            raise ValueError("${ begins ${NAME} or ${NAME:-default}; write $${ for the two characters themselves")
        value = environment.get(name)
        if value is None and default is None:
            raise LookupError(f"environment variable {name} is not set")
        if value or default is None:
            answered.append(name)
            return value or ""
        return str(default)

    return _REFERENCE.sub(replacement, text), tuple(answered)


def typed(tag: str, text: str) -> object:
    """Return the value of a scalar with this YAML tag; a date stays text, because no key has dates.

    Raises:
        ValueError: the tag is not one of text, number, true/false and null, or the text is not of its type.
    """
    kind = tag.removeprefix("tag:yaml.org,2002:")
    if kind in {"str", "timestamp", "value"}:
        return text
    if kind not in {"null", "bool", "int", "float"}:
        raise ValueError("tags (!) and merge keys (<<) are not supported: put text that begins so in quotes")
    try:
        return yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text))
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"not a YAML {kind}") from error


def whole(text: str) -> str:
    """Return a text with the characters for which its pairs of surrogates stand: JSON, which is YAML, spells them so.

    Raises:
        ValueError: no database takes the text. Bytes of the environment that are not UTF-8 are halves of pairs, too.
    """
    try:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ValueError("found half of a surrogate pair, or bytes that are not UTF-8; allowed: text") from None
    if "\0" in text:
        raise ValueError("found the character NUL; allowed: text without it")
    return text


def as_if_written(value: object) -> object:
    """Return an unquoted value from the environment as if it were written in the file; other values unchanged."""
    if not isinstance(value, FromEnvironment):
        return value
    tag = yaml.resolver.Resolver().resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]  # PyYAML's stubs
    return typed(tag, str(value))


# --- files ------------------------------------------------------------------------------------------------------------


def read_text(path: Path, *, max_bytes: int) -> str:
    """Return the text of a small file, such as the configuration or a secret.

    Raises:
        BadConfiguration: the file is missing, unreadable, too large, or not UTF-8; ConfigurationAway if that may pass.
    """
    try:
        content = _drained(path, max_bytes + 1) if path.is_fifo() else _read(path, max_bytes + 1)
    except FileNotFoundError:
        raise BadConfiguration(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise BadConfiguration(f"{path}: is a directory, not a file") from None
    except PermissionError:
        raise BadConfiguration(f"{path}: permission to read it is denied") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        kind = ConfigurationAway if isinstance(error, OSError) and may_pass(error) else BadConfiguration
        raise kind(f"{path!s}: cannot be read: {reason}") from None
    if len(content) > max_bytes:
        raise BadConfiguration(f"{path}: is larger than {max_bytes} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadConfiguration(f"{path}:{line}: is not UTF-8 text") from None


def _read(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _drained(path: Path, count: int) -> bytes:
    """Return the text from a pipe, such as that of a shell's `<(command)`.

    A pipe can be read only once: at a reload, opening it like a file could wait for ever, in a thread that cannot be
    stopped.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
        written = select.poll()
        written.register(pipe, select.POLLIN)
        if written.poll(PIPE_SECONDS * 1000):
            os.set_blocking(pipe.fileno(), True)
            if content := pipe.read(count):
                return content
    raise BadConfiguration(f"{path}: is a pipe, which can be read only once, and nothing came out of it")
