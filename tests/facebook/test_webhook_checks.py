"""Handshakes and signatures of webhooks: what Meta sends passes, and nothing else."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.facebook.webhooks import SignedRequest, challenge_of, signed_request_of, signing_secret

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


def signed_request(said: object, secret: str = SECRET) -> str:
    payload = urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=")
    digest = hmac.new(secret.encode(), payload, hashlib.sha256).digest()
    return f"{urlsafe_b64encode(digest).rstrip(b'=').decode()}.{payload.decode()}"


class TestSignedRequest:
    VECTOR = (
        "URuV1QnWW2iBEJKFqnZx3BWXwcn4kIsFwMKXXb0RKYM."
        "eyJhbGdvcml0aG0iOiJITUFDLVNIQTI1NiIsImlzc3VlZF9hdCI6MTc5MDAwMDAwMCwidXNlcl9pZCI6IjcwMDEifQ"
    )

    def test_the_test_vector_says_whom_it_is_about(self) -> None:
        assert signed_request_of(self.VECTOR, [SECRET]) == SignedRequest("HMAC-SHA256", "7001")
        assert signed_request_of(self.VECTOR, ["", "another", SECRET]) is not None

    def test_one_that_another_secret_signed_is_refused(self) -> None:
        assert signed_request_of(self.VECTOR, ["another"]) is None
        assert signed_request_of(self.VECTOR, []) is None
        assert signed_request_of(signed_request({"algorithm": "HMAC-SHA256", "user_id": "1"}, ""), [""]) is None

    @pytest.mark.parametrize(
        "said",
        [{"algorithm": "none", "user_id": "7001"}, {"user_id": "7001"}, {"algorithm": "HMAC-SHA256"}, [], "7001"],
    )
    def test_one_that_says_something_else_is_refused(self, said: object) -> None:
        assert signed_request_of(signed_request(said), [SECRET]) is None

    @pytest.mark.parametrize(
        "text", ["", ".", "a.b", VECTOR[:-1], VECTOR.replace(".", ""), f"{VECTOR}.{VECTOR}", f"ä{VECTOR}", VECTOR[1:]]
    )
    def test_one_that_is_cut_short_or_none_is_refused(self, text: str) -> None:
        assert signed_request_of(text, [SECRET]) is None

    @given(st.text())
    def test_no_text_is_an_error(self, text: str) -> None:
        assert signed_request_of(text, [SECRET]) is None
