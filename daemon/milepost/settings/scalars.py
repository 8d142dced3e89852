"""Single values of a YAML document: what type each has, and what the environment puts into it."""

import re
from collections.abc import Mapping

import yaml

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


class FromEnvironment(str):
    """An unquoted value with a part out of the environment: its type is that of the field that it is for.

    A page id stays text even if it is all digits; a batch size becomes the number that it would be had it been written.
    """

    __slots__ = ()


def substitute(text: str, environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The text with each `${NAME}` and `${NAME:-default}` replaced, and the names that the environment answered.

    As in a shell, the default stands in for a variable that is unset or empty. `$${` is a plain `${`, and what a
    variable holds is not looked through again.

    Raises:
        LookupError: a variable without a default is not set; the text names it.
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
    """The value of a scalar with this YAML tag; a date stays text, because no key holds one.

    Raises:
        ValueError: the tag is none of text, number, true/false and null, or the text is not of its type.
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


def as_if_written(value: object) -> object:
    """What an unquoted value out of the environment would be had it been written in the file; others as they are."""
    if not isinstance(value, FromEnvironment):
        return value
    tag = yaml.resolver.Resolver().resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]  # PyYAML's stubs
    return typed(tag, str(value))
