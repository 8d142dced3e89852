"""The `fields` parameter as the simulator parses it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.simulator.refusals import Refusal
from milepost.simulator.requests import Field, parse_fields, pruned


def test_names_limits_and_nesting_are_parsed() -> None:
    assert parse_fields("id,participants{id,name},messages.limit(20){id,from{id}}") == (
        Field("id"),
        Field("participants", None, (Field("id"), Field("name"))),
        Field("messages", 20, (Field("id"), Field("from", None, (Field("id"),)))),
    )


def test_an_empty_parameter_names_no_field() -> None:
    assert parse_fields("") == ()


def test_other_modifiers_are_skipped() -> None:
    assert parse_fields("messages.order(chronological).limit(3)") == (Field("messages", 3),)


@pytest.mark.parametrize(
    "text", ["id,", ",id", "id{", "id{}", "id}", "a.limit(", "a.limit(3", "a b", "{", "a" + "{a" * 9]
)
def test_a_syntax_error_has_its_position(text: str) -> None:
    with pytest.raises(Refusal, match="at character"):
        parse_fields(text)


@given(st.text("ab,.(){}1", max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        fields = parse_fields(text)
    except Refusal:
        return
    assert all(field.name for field in fields)


def test_pruning_keeps_the_requested_fields_and_the_id() -> None:
    edge = {"data": [{"id": "1", "name": "A", "email": "a@b"}], "paging": {}}
    assert pruned(edge, parse_fields("name")) == {"data": [{"id": "1", "name": "A"}], "paging": {}}
    assert pruned(edge, ()) == edge
