"""The OpenAPI document, and whether the daemon conforms to it, whatever schemathesis sends."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from structlog.testing import capture_logs

from kit.builders import STREAM
from kit.needs import long_only
from milepost.service import limits
from service.api.served import dead_letter_id, served
from service.listening import BEARER, TOKEN

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MANY = 1_000_000

AnyOperation = APIOperation[Any, Any, Any, Any]
AnyCase = Case[Any]


class Daemon:
    """A daemon's HTTP service in a thread, for clients that block. It works `stream`, among others."""

    def __init__(self, database: Path) -> None:
        self.url = self.stream = ""
        self._database = database
        self._loop = asyncio.new_event_loop()
        self._is_up, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="daemon")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)
        self._loop.close()

    async def _serve(self) -> None:
        async with served(self._database, token=TOKEN) as (session, parts):
            self.url, self.stream = str(session._base_url).rstrip("/"), parts.supervisor.streams[0].key
            self._is_up.set()
            await self._over.wait()


@pytest.fixture
def daemon(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """Serve a daemon without rate limits on requests."""
    monkeypatch.setattr(limits, "MAX_REQUESTS", MANY)
    monkeypatch.setattr(limits, "MAX_TRIES", MANY)
    with Daemon(database) as daemon:
        yield daemon


def document_of(daemon: Daemon) -> dict[str, Any]:
    response = requests.get(f"{daemon.url}/api/openapi.json", headers=BEARER, timeout=60)
    document: dict[str, Any] = response.json()
    return document


def test_linters_and_generators_of_clients_find_what_they_need(daemon: Daemon) -> None:
    """A name with dots is cut at its last one by generators, and two models of one name exclude each other."""
    document = document_of(daemon)
    assert [name for name in document["components"]["schemas"] if not name.isalnum()] == []
    assert document["servers"]
    assert document["info"]["license"]["identifier"] == "MIT"
    used = {tag for path in document["paths"].values() for operation in path.values() for tag in operation["tags"]}
    assert used == {tag["name"] for tag in document["tags"]}
    properties = [
        each for schema in document["components"]["schemas"].values() for each in schema.get("properties", {}).values()
    ]
    assert [each for each in properties if {} in each.get("anyOf", ())] == []


def operations_of(daemon: Daemon) -> list[AnyOperation]:
    """Return the operations whose responses end."""
    schema = schemathesis.openapi.from_dict(document_of(daemon))
    operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    return [each for each in operations if each.path not in {"/api/events", "/api/changes/stream"}]


def test_the_document_is_valid(daemon: Daemon) -> None:
    schemathesis.openapi.from_dict(document_of(daemon)).validate()


def test_the_document_describes_exactly_the_routes(daemon: Daemon) -> None:
    for path, methods in document_of(daemon)["paths"].items():
        wrong = requests.request(
            "put", daemon.url + path.translate({ord("{"): None, ord("}"): None}), headers=BEARER, timeout=60
        )
        allowed = {method.lower() for method in wrong.headers["Allow"].split(",")} - {"head"}
        assert (wrong.status_code, allowed) == (405, methods.keys()), path


def test_every_operation_has_a_unique_name_and_describes_its_responses(daemon: Daemon) -> None:
    described = [each for methods in document_of(daemon)["paths"].values() for each in methods.values()]
    names = [each["operationId"] for each in described]
    assert len(set(names)) == len(names)
    for each in described:
        assert each["summary"]
        assert {"400", "401", "429", "503"} <= each["responses"].keys()
        for parameter in each["parameters"]:
            assert parameter["description"], (each["operationId"], parameter["name"])


@pytest.mark.parametrize("examples", [6, *long_only(20)])  # for each operation and each way to make them
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_response_conforms_to_the_document(daemon: Daemon, mode: GenerationMode, examples: int) -> None:
    with capture_logs() as lines:
        for operation in operations_of(daemon):
            for known in (
                {},
                {"key": daemon.stream},
                {"key": STREAM.key},
                {"dead_letter_id": dead_letter_id(STREAM, 1)},
            ):
                if all(f"{{{name}}}" in operation.path for name in known) and can_be_asked(operation, mode, known):
                    ask(operation, daemon, mode, known, examples)
    assert [line for line in lines if line["log_level"] in {"error", "critical"}] == []


def can_be_asked(operation: AnyOperation, mode: GenerationMode, known: dict[str, str]) -> bool:
    """Return whether there is anything left to get wrong."""
    is_open = bool(operation.query) or bool(operation.body) or (not known and bool(operation.path_parameters))
    return mode is GenerationMode.POSITIVE or is_open


def ask(operation: AnyOperation, daemon: Daemon, mode: GenerationMode, known: dict[str, str], examples: int) -> None:
    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(mode, path_parameters=known or None))
    def answer(case: AnyCase) -> None:
        response = case.call(base_url=daemon.url, headers=BEARER, timeout=60)
        case.validate_response(response, checks=CHECKS)

    answer()
