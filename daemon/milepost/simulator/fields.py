"""The `fields` parameter of the Graph API: `id,participants{id,name},messages.limit(20){id,from}`."""

import re

import msgspec

_TOKEN = re.compile(r"[A-Za-z0-9_]+|[.(){},]")
_MAX_DEPTH = 8


class Field(msgspec.Struct, frozen=True):
    """A requested field: its name, the `.limit(…)` of an edge, and the requested fields of its nodes, if given."""

    name: str
    limit: int | None = None
    fields: "tuple[Field, ...]" = ()


class FieldsSyntax(ValueError):
    """The parameter is malformed."""


def parse_fields(text: str) -> tuple[Field, ...]:
    """Parse the parameter; an empty one names no field.

    Raises:
        FieldsSyntax: with the position of the error.
    """
    parser = _Parser(text)
    fields = parser.fields() if parser.next else ()
    if parser.next:
        raise parser.error("end of string")
    return fields


def pruned(value: object, fields: tuple[Field, ...]) -> object:
    """Return a node, or an edge's `data`, with only the requested fields; the id always stays, as in the API."""
    if not fields or not isinstance(value, dict):
        return value
    if "data" in value:
        return {**value, "data": [pruned(node, fields) for node in value["data"]]}
    wanted = {field.name: field.fields for field in fields} | {"id": ()}
    return {name: pruned(part, wanted[name]) for name, part in value.items() if name in wanted}


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._depth = 0
        self.next = ""
        self._advance()

    def fields(self) -> tuple[Field, ...]:
        found = [self._field()]
        while self._skip(","):
            found.append(self._field())
        return tuple(found)

    def error(self, wanted: str) -> FieldsSyntax:
        return FieldsSyntax(
            f'Syntax error "Expected {wanted} instead of "{self.next}"." at character {self._position}: {self._text}'
        )

    def _field(self) -> Field:
        name = self._word()
        limit: int | None = None
        below: tuple[Field, ...] = ()
        while self._skip("."):
            modifier = self._word()
            self._demand("(")
            argument = self._word()
            self._demand(")")
            if modifier == "limit" and argument.isdigit():
                limit = int(argument)
        if self._skip("{"):
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise self.error(f"at most {_MAX_DEPTH} levels")
            below = self.fields()
            self._depth -= 1
            self._demand("}")
        return Field(name, limit, below)

    def _word(self) -> str:
        word = self.next
        if not word or not word[0].isalnum():
            raise self.error("name")
        self._advance()
        return word

    def _skip(self, sign: str) -> bool:
        if self.next != sign:
            return False
        self._advance()
        return True

    def _demand(self, sign: str) -> None:
        if not self._skip(sign):
            raise self.error(f'"{sign}"')

    def _advance(self) -> None:
        self._position += len(self.next)
        found = _TOKEN.match(self._text, self._position)
        self.next = found.group() if found else self._text[self._position : self._position + 1]
