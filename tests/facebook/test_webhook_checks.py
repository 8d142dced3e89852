"""Handshakes and signatures of webhooks: what Meta sends passes, and nothing else."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.facebook.webhook_checks import challenge_of, signing_secret

SECRET = "app-secret"
# Umlauts, slashes and emoji come escaped, and what came is what was signed.
BODY = (
    rb'{"object":"page","entry":[{"id":"101","time":1790000000123,'
    rb'"messaging":[{"message":{"mid":"m_1","text":"\u00e4\/\ud83d\ude00"}}]}]}'
)
SIGNATURE = "sha256=7804a612032bd03d005693cff3f9c481244b7459fc039a14ecc7492a3771dd0c"
HANDSHAKE = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": "a-word"}


class TestSignature:
    def test_the_test_vector_is_signed(self) -> None:
        assert len(BODY) == 131
        assert signing_secret(BODY, SIGNATURE, [SECRET]) == 0

    def test_any_of_the_secrets_may_have_signed(self) -> None:
        assert signing_secret(BODY, SIGNATURE, ["", "another", SECRET, SECRET]) == 2

    @pytest.mark.parametrize(
        "signature",
        [
            "",
            "sha256=",
            SIGNATURE.upper(),
            SIGNATURE.removeprefix("sha256="),
            f"{SIGNATURE} ",
            f"{SIGNATURE}\n",
            f"{SIGNATURE[:-1]}d",
            "sha1=" + hmac.new(SECRET.encode(), BODY, hashlib.sha1).hexdigest(),
            "sha256=ä",
        ],
    )
    def test_another_signature_is_refused(self, signature: str) -> None:
        assert signing_secret(BODY, signature, [SECRET]) is None

    def test_a_body_that_was_parsed_and_written_again_is_refused(self) -> None:
        assert signing_secret(BODY.replace(rb"\/", b"/"), SIGNATURE, [SECRET]) is None

    def test_an_empty_secret_signs_nothing(self) -> None:
        signature = "sha256=" + hmac.new(b"", BODY, hashlib.sha256).hexdigest()
        assert signing_secret(BODY, signature, ["", SECRET]) is None

    @given(st.binary(), st.text(st.characters(codec="utf-8"), min_size=1))
    def test_only_the_secret_that_signed_is_accepted(self, body: bytes, secret: str) -> None:
        signature = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
        assert signing_secret(body, signature, [f"{secret}!", secret]) == 1
        assert signing_secret(body + b" ", signature, [f"{secret}!", secret]) is None


class TestHandshake:
    @pytest.mark.parametrize("challenge", ["1158201444", "CHALLENGE_ACCEPTED", "a-b_C9"])
    def test_the_challenge_is_the_answer(self, challenge: str) -> None:
        assert challenge_of({**HANDSHAKE, "hub.challenge": challenge}, "a-word") == challenge

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("hub.mode", "unsubscribe"),
            ("hub.mode", ""),
            ("hub.verify_token", "another"),
            ("hub.verify_token", ""),
            ("hub.verify_token", "a-word\udcff"),
            ("hub.challenge", ""),
            ("hub.challenge", "<script>"),
            ("hub.challenge", "1" * 129),
            ("hub.challenge", "1\n"),
        ],
    )
    def test_anything_else_is_refused(self, name: str, value: str) -> None:
        assert challenge_of({**HANDSHAKE, name: value}, "a-word") is None

    def test_nothing_is_accepted_without_a_verify_token(self) -> None:
        assert challenge_of({**HANDSHAKE, "hub.verify_token": ""}, "") is None
