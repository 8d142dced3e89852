"""docs/http-api.md documents the operations as they are declared."""

import re
from pathlib import Path
from typing import Any

import pytest

from milepost.service import activity
from milepost.service.api.background import MAX_WAIT_SECONDS
from milepost.service.auth import MAX_SESSION_SECONDS
from milepost.service.http import MAX_BODY_BYTES, MAX_CONNECTIONS, MAX_IDLE_SECONDS
from milepost.service.limits import IN_SECONDS, LOG_SECONDS, MAX_REQUESTS, MAX_TRIES
from service.api.served import get_json, served

PAGE = (Path(__file__).parents[3] / "docs" / "http-api.md").read_text()
SECTIONS = dict(re.findall(r"^### `(\w+ [^`]+)`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
# What is documented once for several operations.
CHAPTERS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
async def document(tmp_path: Path) -> dict[str, Any]:
    async with served(tmp_path / "milepost.db") as (session, _):
        return await get_json(session, "/api/openapi.json")


def names_in(text: str) -> set[str]:
    """Return the words that are formatted as code."""
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", code)}


def fields_of(document: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """Return the fields of a response or a body, nested ones included."""
    if "$ref" in schema:
        return fields_of(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    named = set(schema.get("properties", ()))
    inside = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    if isinstance(schema.get("items"), dict):
        inside.append(schema["items"])
    return named.union(*(fields_of(document, each) for each in inside)) if inside else named


def test_every_operation_has_a_section_and_every_section_an_operation(document: dict[str, Any]) -> None:
    declared = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert SECTIONS.keys() == declared


def test_every_parameter_and_every_field_of_a_body_is_documented_in_its_section(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            section = names_in(SECTIONS[f"{method.upper()} {path}"])
            asked = {each["name"] for each in operation["parameters"] if each["in"] == "query"}
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            assert asked | fields_of(document, body) <= section, (method, path)


def test_every_field_of_a_response_is_documented_in_its_chapter(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            heading = f"### `{method.upper()} {path}`"
            (chapter,) = (text for text in CHAPTERS.values() if heading in text)
            answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
            unsaid = fields_of(document, answer.get("schema", {})) - names_in(chapter + CHAPTERS["Runs"])
            assert unsaid <= {"is_transient", "wait_seconds"}, (method, path)


def test_every_problem_is_documented(document: dict[str, Any]) -> None:
    rows = set(re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE))
    declared = {
        status
        for methods in document["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
        if status >= "400"
    }
    assert rows == declared | {"405"}


def test_the_limits_are_documented_as_they_are() -> None:
    rate = f"{MAX_REQUESTS / IN_SECONDS:,.0f} requests a second, {MAX_REQUESTS:,} at once"
    assert f"{rate}, {'ten' if MAX_TRIES == 10 else MAX_TRIES} wrong tokens of a client a minute" in PAGE
    assert LOG_SECONDS == 60.0
    assert "a line for each client and minute" in PAGE
    assert f"{MAX_CONNECTIONS} connections at a time" in PAGE
    assert f"closed after {MAX_IDLE_SECONDS:.0f} s" in PAGE
    assert f"larger than {MAX_BODY_BYTES // 1024} KiB" in PAGE
    assert f"longer than {MAX_WAIT_SECONDS:.0f} s" in PAGE
    assert f"{activity.BUCKETS} buckets of {activity.STEP_SECONDS} seconds" in PAGE
    assert f"up to {activity.MAX_LOADED:,}" in PAGE
    assert MAX_SESSION_SECONDS == 12 * 3600
    assert "good for twelve hours" in PAGE
