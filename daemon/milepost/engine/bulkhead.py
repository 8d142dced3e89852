"""The one place that catches everything, so that what goes wrong in one part holds up no other."""

from collections.abc import Awaitable
from typing import TypeVar

import structlog

from milepost.core.errors import MilepostError

Answer = TypeVar("Answer")


async def bulkhead(part: str, work: Awaitable[Answer]) -> Answer | Exception:
    """Await `work`; what it raises is logged and given back. Cancellation passes through."""
    log = structlog.get_logger("milepost")
    try:
        return await work
    except MilepostError as error:
        log.error("part failed", part=part, error=error.message, hint=error.hint)  # noqa: TRY400  (nothing to trace)
        return error
    except Exception as error:
        log.exception("part failed unexpectedly", part=part, hint="this is a bug in Milepost: please report it")
        return error
