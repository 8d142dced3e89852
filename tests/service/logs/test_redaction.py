"""Secrets are blotted out of texts and values, however they are spelt, and nothing else is."""

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from milepost.service.logs.lines import BLOT, Redactor

TOKEN = "tok|en/with+signs"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (f"token {TOKEN}!", f"token {BLOT}!"),
        ("after=tok%7Cen%2Fwith%2Bsigns&x=1", f"after={BLOT}&x=1"),
        ("after=tok%7Cen/with%2Bsigns", f"after={BLOT}"),
        ("https://h/x?access_token=unknown&a=1", f"https://h/x?access_token={BLOT}&a=1"),
        ("next%3Faccess_token%3Dunknown", f"next%3Faccess_token%3D{BLOT}"),
        ("?appsecret_proof=00ff", f"?appsecret_proof={BLOT}"),
        ("?AppSecret_Proof=00ff", f"?AppSecret_Proof={BLOT}"),
        ("?app\u017fecret_proof=00ff", f"?app\u017fecret_proof={BLOT}"),
        ('{"access_token":"unknown","id":"1"}', f'{{"access_token":"{BLOT}","id":"1"}}'),
        ('{\\"access_token\\":\\"unknown\\"}', f'{{\\"access_token\\":\\"{BLOT}\\"}}'),
        ("Authorization: Bearer abc", f"Authorization: Bearer {BLOT}"),
        ("<CIMultiDict('Authorization': 'Bearer abc')>", f"<CIMultiDict('Authorization': 'Bearer {BLOT}')>"),
        ("(b'Authorization', b'Bearer abc')", f"(b'Authorization', b'Bearer {BLOT}')"),
        ("sent Bearer 0123456789abcdef", f"sent Bearer {BLOT}"),
        ("postgresql://milepost:pw@db/x", f"postgresql://milepost:{BLOT}@db/x"),
        ("a EAABsbCS1iHgBAKZC0123456789abcdef b", f"a {BLOT} b"),
        (
            "https://scontent.fbcdn.net/v/1.jpg?x=1&oh=00_AfA&oe=65",
            f"https://scontent.fbcdn.net/v/1.jpg?x=1&oh={BLOT}&oe=65",
        ),
    ],
)
def test_secrets_are_blotted_out_of_texts(said: str, left: str) -> None:
    assert Redactor([TOKEN]).redact(said) == left


@pytest.mark.parametrize(
    "said",
    [
        "pages[0].access_token: is empty; it must hold the secret",
        "stopped for authorization: the token has expired",
        "a Bearer token is missing",
        "postgresql://db:5432/x",
        "2026-11-23 21:40:01 info",
    ],
)
def test_prose_about_secrets_is_left_alone(said: str) -> None:
    assert Redactor([TOKEN]).redact(said) == said


@pytest.mark.parametrize(
    ("secret", "spelt"),
    [
        ("from-a-file\n", "from-a-file"),
        ("pass word", "pass+word"),
        ("pass word", "pass%20word"),
        ("a/b c/d", "a%2Fb%20c%2Fd"),
        ('pä"ssword', r"p\u00e4\"ssword"),
        ('pä"ssword', r"pä\"ssword"),
        (r"pä'\ssword", r"pä'\\ssword"),
    ],
)
def test_secrets_are_recognised_as_urls_json_and_reprs_spell_them(secret: str, spelt: str) -> None:
    assert Redactor([secret]).redact(f"({spelt})") == f"({BLOT})"


def test_short_secrets_are_ignored() -> None:
    assert Redactor(["", "   ", "abcde"]).redact("abcde  fghij") == "abcde  fghij"


def test_a_secret_is_learned_once() -> None:
    redactor = Redactor(["a/secret/with/slashes", "another-secret"])
    learned = redactor._spellings
    redactor.learn("another-secret\n")
    assert redactor._spellings is learned
    redactor.learn("a%2Fsecret%2Fwith%2Fslashes")  # the spelling of another one is a secret of its own
    assert redactor._spellings is not learned


def test_a_secret_that_contains_another_leaves_no_rest() -> None:
    assert Redactor(["secret", "secret-and-more"]).redact("secret-and-more secret") == f"{BLOT} {BLOT}"


def test_the_repr_of_the_redactor_shows_no_secret() -> None:
    assert TOKEN not in repr(Redactor([TOKEN]))


@given(secret=st.text(min_size=6).map(str.strip).filter(lambda secret: len(secret) >= 6))
def test_any_secret_is_blotted_out_anywhere(secret: str) -> None:
    class Holder(msgspec.Struct):
        token: str

    assume(secret not in f"x {BLOT} y")
    cleaned = Redactor([secret]).clean([f"x {secret} y", {secret: 1}, secret.encode(), Holder(secret)])
    assert isinstance(cleaned, list)
    for left in cleaned:
        assert BLOT in str(left)
        assert secret not in str(left)
