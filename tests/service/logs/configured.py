"""Logging set up for a test, and what was written."""

import io
import json
import os
from typing import Any, NoReturn, TextIO

import structlog

from milepost.service.logs.lines import Redactor
from milepost.service.logs.output import Deduplicator, Format, configure

TOKEN = "tok|en/with+signs"
log = structlog.get_logger()


def configured(
    format: Format = "console",  # noqa: A002  # the name of the setting
    *,
    level: str = "info",
    redactor: Redactor | None = None,
    stream: TextIO | None = None,
    **environment: str,
) -> TextIO:
    stream = stream or io.StringIO()
    configured_deduplicator(format, level=level, redactor=redactor, stream=stream, **environment)
    return stream


def configured_deduplicator(
    format: Format = "console",  # noqa: A002  # the name of the setting
    *,
    level: str = "info",
    redactor: Redactor | None = None,
    stream: TextIO,
    **environment: str,
) -> Deduplicator:
    """Configure as `configured` does, and return the deduplicator."""
    return configure(format, level, redactor or Redactor([TOKEN]), stream=stream, environment=environment)


def journal_stream(stream: TextIO) -> str:
    found = os.fstat(stream.fileno())
    return f"{found.st_dev}:{found.st_ino}"


def text(stream: TextIO) -> str:
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def objects(stream: TextIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text(stream).splitlines()]


def fail(message: str) -> NoReturn:
    raise ValueError(message)
