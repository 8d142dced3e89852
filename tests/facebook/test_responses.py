"""Error bodies in the forms that the Graph API sends, and bodies that it never would."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.graph_answers import TOKEN, encoded, error
from milepost.core.problems import MAX_MESSAGE_CHARACTERS, Problem, ProblemKind, Remedy, rule_for
from milepost.facebook.responses import problem_of


class TestErrorEnvelope:
    def test_code_subcode_and_transience_are_read(self) -> None:
        body = encoded(error(17, "Too Many API Calls", error_subcode=2446079, is_transient=False))
        assert problem_of(body, 400) == Problem(
            ProblemKind.API, "Too Many API Calls", http_status=400, code=17, subcode=2446079, is_transient=False
        )

    def test_an_envelope_needs_only_a_code(self) -> None:
        problem = problem_of(b'{"error":{"code":1}}', 500)
        assert (problem.code, problem.subcode, problem.is_transient) == (1, None, None)
        assert problem.message

    @pytest.mark.parametrize(
        ("code", "expected"),
        [("190", 190), (190, 190), (None, None), ("", None), ("x", None), (True, None), (1.5, None), ([4], None)],
    )
    def test_codes_of_a_wrong_type_are_read_where_possible(self, code: object, expected: int | None) -> None:
        assert problem_of(encoded(error(code)), 400).code == expected

    @pytest.mark.parametrize("code", [10**40, -(10**40), "9" * 40, "४"])
    def test_a_code_that_no_integer_column_holds_is_none(self, code: object) -> None:
        assert problem_of(encoded(error(code)), 400).code is None

    @pytest.mark.parametrize(("sent", "expected"), [(True, True), ("true", True), ("false", False), (1, None)])
    def test_transience_may_be_a_string(self, sent: object, expected: bool | None) -> None:
        assert problem_of(encoded(error(2, is_transient=sent)), 500).is_transient is expected

    @pytest.mark.parametrize("envelope", ["invalid_request", 7, [], ["x"], True])
    def test_an_error_that_is_not_an_object_is_still_an_error(self, envelope: object) -> None:
        problem = problem_of(encoded({"error": envelope}), 400)
        assert problem.kind is ProblemKind.API
        assert problem.message

    def test_a_message_is_bounded(self) -> None:
        assert len(problem_of(encoded(error(1, "x" * 10_000)), 500).message) == MAX_MESSAGE_CHARACTERS

    @pytest.mark.parametrize(
        "message",
        [
            f"Malformed access token {TOKEN}",
            "Cannot parse access token EAAxyzABCDEF0123456789abcdef",
            "Bad IGQVJXabcdefghijklmnop0123",
            "see https://graph.facebook.com/me?access_token=s3cret|t0ken&fields=id",
            'sent {"access_token": "s3cret|t0ken"}',
        ],
    )
    def test_a_message_holds_no_token(self, message: str) -> None:
        found = problem_of(encoded(error(190, message)), 400).message
        assert "[redacted]" in found
        assert not any(secret in found for secret in (TOKEN, "EAAxyz", "IGQVJX", "s3cret", "t0ken"))

    @pytest.mark.parametrize("address", ["nora.v@example.org", "nora%40example.org", "NORA+x@xn--e1a.example", "nora@"])
    def test_a_message_holds_no_email_address(self, address: str) -> None:
        found = problem_of(encoded(error(100, f"User <{address}> (or {address}), see {address}: no")), 400)
        assert found.message == "User <[redacted]> (or [redacted]), see [redacted]: no"

    def test_a_message_holds_no_half_of_an_email_address_where_it_is_cut(self) -> None:
        found = problem_of(encoded(error(100, f"{'x' * (MAX_MESSAGE_CHARACTERS - 5)} nora.v@example.org")), 400)
        assert "nora" not in found.message

    def test_a_message_holds_no_lone_surrogate(self) -> None:
        body = rb'{"error":{"message":"bad \ud83d thing","code":1}}'
        assert problem_of(body, 500).message == "bad \ufffd thing"

    @pytest.mark.parametrize(
        ("message", "seen"),
        [
            ("first\nsecond\r\n\tthird", "first second third"),
            ("\x1b[2Jall is well\x07", r"\x1b[2Jall is well\x07"),
            ("token \u202edilav si\u2066", r"token \u202edilav si\u2066"),
        ],
    )
    def test_what_a_message_hides_is_made_visible(self, message: str, seen: str) -> None:
        assert problem_of(encoded(error(190, message)), 400).message == seen

    def test_a_message_stays_bounded_when_it_is_made_visible(self) -> None:
        found = problem_of(encoded(error(190, "\u202e" * MAX_MESSAGE_CHARACTERS)), 400)
        assert len(found.message) == MAX_MESSAGE_CHARACTERS

    def test_a_message_about_tokens_stays_readable(self) -> None:
        message = "Error validating access token: Session has expired on 2014年8月17日 8:00."
        assert problem_of(encoded(error(190, message)), 400).message == message


class TestNoEnvelope:
    def test_what_an_html_page_hides_is_made_visible(self) -> None:
        problem = problem_of("<p>Sorry\u202e\x1b[31m\0&#8238;</p>".encode(), 502)
        assert problem.message == r"the response is not JSON: Sorry\u202e\x1b[31m \u202e"

    def test_an_html_page_is_quoted_as_text(self) -> None:
        body = (
            b"<html><style>h1 {color: red}</style>\n<h1 id=sorry>Sorry,\n something &amp; else</h1> went wrong.</html>"
        )
        problem = problem_of(body, 502)
        assert (problem.kind, problem.http_status, problem.code) == (ProblemKind.INVALID_RESPONSE, 502, None)
        assert problem.message == "the response is not JSON: Sorry, something & else went wrong."

    def test_a_quotation_holds_no_token_and_is_short(self) -> None:
        problem = problem_of(f"<p>{TOKEN}</p> {'x' * 100_000}".encode(), 502)
        assert TOKEN not in problem.message
        assert len(problem.message) < 300

    @pytest.mark.parametrize(
        "body", [b'ora Villase\xc3\xb1or","id":"26508222372100001"}]}', b"Hello Nora", b"\x00\xff", b'"Nora"x']
    )
    def test_what_may_be_part_of_a_conversation_is_not_quoted(self, body: bytes) -> None:
        problem = problem_of(body, 200)
        assert (problem.kind, problem.message) == (ProblemKind.INVALID_RESPONSE, "the response is not JSON")

    def test_a_quotation_holds_no_email_address_and_nothing_unprintable(self) -> None:
        body = b"<p>&#xd83d;&#27;&#0;Ask nora.v@example.org</p>"
        assert problem_of(body, 502).message == "the response is not JSON: Ask [redacted]"

    @pytest.mark.parametrize("body", [b"", b"  \r\n"])
    def test_an_empty_body_is_an_invalid_response(self, body: bytes) -> None:
        problem = problem_of(body, 500)
        assert (problem.kind, problem.message) == (ProblemKind.INVALID_RESPONSE, "the response is empty")

    @pytest.mark.parametrize("body", [b'{"error":{"code":190', b'{"error":' + b"[" * 100_000, b'{"a":NaN}'])
    def test_malformed_json_is_an_invalid_response(self, body: bytes) -> None:
        assert problem_of(body, 400).kind is ProblemKind.INVALID_RESPONSE

    @pytest.mark.parametrize("body", [b"", b"<html>slow down</html>", b"{}"])
    def test_a_429_without_an_envelope_still_calls_for_waiting(self, body: bytes) -> None:
        problem = problem_of(body, 429)
        assert problem.http_status == 429
        assert rule_for(problem, has_cursor=False).remedy is Remedy.WAIT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("message", "type", "code", "error_subcode", "is_transient", "error_user_msg"), JSON),
)


@settings(max_examples=40)
@given(ENVELOPES, st.integers(400, 599))
def test_any_envelope_is_a_bounded_problem(envelope: dict[str, object], http_status: int) -> None:
    problem = problem_of(encoded({"error": envelope}), http_status)
    assert problem.http_status == http_status
    assert 0 < len(problem.message) <= MAX_MESSAGE_CHARACTERS
    problem.message.encode()


@given(st.binary())
def test_any_bytes_are_a_problem(body: bytes) -> None:
    assert 0 < len(problem_of(body, 500).message) <= MAX_MESSAGE_CHARACTERS
