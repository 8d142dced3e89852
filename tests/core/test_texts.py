"""Texts as every database takes them, and as a reader can trust them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.texts import storable, storable_id, visible

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT)
def test_a_storable_text_is_utf8_without_nul_and_as_long(text: str) -> None:
    stored, replaced = storable(text)
    assert b"\0" not in stored.encode()
    assert len(stored) == len(text)
    assert replaced == sum(before != after for before, after in zip(text, stored, strict=True))


def test_an_id_keeps_its_nul_which_is_refused_elsewhere() -> None:
    assert storable_id("t_\0\ud83d") == ("t_\0\ufffd", 1)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain words", "plain words"),
        (" two\r\nlines\tand\u00a0more \u2028", "two lines and more"),
        ("red \x1b[31malert\x07", r"red \x1b[31malert\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u2066b\u2069c\u200ed\u061c", r"a\u2066b\u2069c\u200ed\u061c"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("tag \U000e0041", r"tag \U000e0041"),
        ("nul\0", r"nul\x00"),
        ("family 👩\u200d👩\u200d👧 नमस्ते क\u200cष", "family 👩\u200d👩\u200d👧 नमस्ते क\u200cष"),
        ("half \ud83d", "half \ufffd"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text: str, seen: str) -> None:
    assert visible(text) == seen


@given(ANY_TEXT)
def test_a_visible_text_is_one_line_that_drives_no_terminal(text: str) -> None:
    seen = visible(text)
    assert seen.replace("\u200c", "").replace("\u200d", "").isprintable()
    assert visible(seen) == seen
