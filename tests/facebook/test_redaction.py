"""What is removed from texts and payloads, and what is left alone."""

import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.graph_answers import TOKEN
from milepost.facebook.redaction import MIN_TOKEN_CHARACTERS, KnownTokens, scrub, unsigned, without_token

AWKWARD_TOKEN = "EAAtoken/+%=&~\"'\\<0123456789"


class TestUnsigned:
    @pytest.mark.parametrize(
        "host",
        ["scontent.xx.fbcdn.net", "cdn.fbsbx.com", "lookaside.fbsbx.com", "lookaside.instagram.com", "FBCDN.NET:443",
         "x.cdninstagram.com", "user@scontent.cdninstagram.com"],
    )  # fmt: skip
    def test_media_urls_lose_their_query(self, host: str) -> None:
        assert unsigned(f"https://{host}/v/t1/a.jpg?oh=abc&oe=611F#x") == f"https://{host}/v/t1/a.jpg"

    def test_every_media_url_in_a_text_loses_its_query(self) -> None:
        text = "a https://a.fbcdn.net/1?oh=x b\nHTTPS://b.fbcdn.net/2?oh=y"
        assert unsigned(text) == "a https://a.fbcdn.net/1 b\nHTTPS://b.fbcdn.net/2"

    @pytest.mark.parametrize(
        "text",
        [
            "https://example.org/?q=fbcdn.net",
            "https://notfbcdn.net/?q=1",
            "https://fbcdn.net.example.org/?q=1",
            "what? #1",
        ],
    )
    def test_other_texts_are_unchanged(self, text: str) -> None:
        assert unsigned(text) == text

    def test_a_text_made_of_url_beginnings_takes_no_time(self) -> None:
        text = "http://a" * 500_000
        assert unsigned(text) == text


class TestScrub:
    def test_paging_is_removed_at_every_depth(self) -> None:
        item = {"id": "t_1", "paging": {}, "messages": {"data": [{"paging": {"next": TOKEN}}], "paging": "x"}}
        assert scrub(item) == {"id": "t_1", "messages": {"data": [{}]}}

    def test_tokens_and_signatures_are_removed_from_strings_and_names(self) -> None:
        item = {TOKEN: ["https://a.fbcdn.net/1?oh=x", f"?access_token={TOKEN}&limit=1", 7, None, True]}
        expected = {"[redacted]": ["https://a.fbcdn.net/1", "?access_token=[redacted]&limit=1", 7, None, True]}
        assert scrub(item) == expected


class TestWithoutToken:
    @pytest.mark.parametrize(
        "spelling",
        [AWKWARD_TOKEN, json.dumps(AWKWARD_TOKEN)[1:-1], json.dumps(AWKWARD_TOKEN)[1:-1].replace("/", r"\/"),
         quote(AWKWARD_TOKEN, safe=""), html.escape(AWKWARD_TOKEN)],
    )  # fmt: skip
    def test_the_token_is_removed_however_it_is_spelled(self, spelling: str) -> None:
        assert without_token(f"<{spelling}|{spelling}>".encode(), AWKWARD_TOKEN) == b"<[redacted]|[redacted]>"

    @pytest.mark.parametrize("token", ["", "id", "1" * (MIN_TOKEN_CHARACTERS - 1)])
    def test_a_text_too_short_for_a_token_spoils_no_response(self, token: str) -> None:
        body = b'{"id":"1111111111111111"}'
        assert without_token(body, token) == body

    @given(st.text(), st.text(), st.text(min_size=MIN_TOKEN_CHARACTERS, alphabet="abcdefgh0123"))
    def test_the_token_in_use_never_remains(self, before: str, after: str, token: str) -> None:
        assert token.encode() not in without_token((before + token + after).encode(), token)


class TestKnownTokens:
    @pytest.mark.parametrize(
        "spelling",
        [AWKWARD_TOKEN, json.dumps(AWKWARD_TOKEN)[1:-1], json.dumps(AWKWARD_TOKEN)[1:-1].replace("/", r"\/"),
         quote(AWKWARD_TOKEN, safe=""), html.escape(AWKWARD_TOKEN)],
    )  # fmt: skip
    def test_all_are_removed_however_they_are_spelled(self, spelling: str) -> None:
        known = KnownTokens()
        for secret in (TOKEN, AWKWARD_TOKEN, AWKWARD_TOKEN + "longer"):
            known.learn(secret)
        body = f"<{spelling}|{TOKEN}{TOKEN}|{AWKWARD_TOKEN}longer>".encode()
        assert known.without(body) == b"<[redacted]|[redacted][redacted]|[redacted]>"

    def test_what_only_begins_like_one_is_left_alone(self) -> None:
        known = KnownTokens()
        known.learn(TOKEN)
        body = f"{TOKEN[:-1]} {TOKEN[:20]}{TOKEN[:20]} {TOKEN[1:]}".encode()
        assert known.without(body) == body

    @pytest.mark.parametrize("secret", ["", "id", "1" * (MIN_TOKEN_CHARACTERS - 1)])
    def test_a_text_too_short_for_a_secret_spoils_no_response(self, secret: str) -> None:
        known = KnownTokens()
        known.learn(secret)
        assert known.without(b'{"id":"1111111111111111"}') == b'{"id":"1111111111111111"}'

    @given(st.lists(st.text("abEA", min_size=MIN_TOKEN_CHARACTERS, max_size=20)), st.text('abEA "/'))
    def test_none_remains_whole(self, secrets: list[str], text: str) -> None:
        known = KnownTokens()
        for secret in secrets:
            known.learn(secret)
        body = known.without(" ".join([text, *secrets, text]).encode())
        assert not any(secret.encode() in body for secret in secrets)

    def test_one_may_be_learned_while_a_large_body_is_cleaned_in_a_thread(self) -> None:
        class Body(bytes):
            """A body in which looking for something takes so long that a token is rotated meanwhile."""

            def __contains__(self, part: object) -> bool:
                known.learn(f"another {AWKWARD_TOKEN}")
                return super().__contains__(part)  # type: ignore[operator]  # bytes

        known = KnownTokens()
        known.learn(TOKEN)
        assert known.without(Body(f"<{TOKEN}>".encode())) == b"<[redacted]>"
