"""The one place that catches every exception, so that a failing task stops no other."""

from collections.abc import Awaitable
from typing import TypeVar

import structlog

from milepost.core.errors import MilepostError

Result = TypeVar("Result")

log = structlog.get_logger("milepost")


async def bulkhead(part: str, work: Awaitable[Result]) -> Result | Exception:
    """Await `work` and return its result, or the exception that it raised, which is logged. Cancellation passes."""
    try:
        return await work
    except MilepostError as error:
        log.error("task failed", part=part, error=error.message, hint=error.hint)  # noqa: TRY400  (nothing to trace)
        return error
    except Exception as error:
        log.exception("task failed unexpectedly", part=part, hint="this is a bug in Milepost: please report it")
        return error
