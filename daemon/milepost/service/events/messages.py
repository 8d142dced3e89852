"""What an event tells: the `data` of a server-sent event, in the words that front ends know."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

RENAMED = {"failed_batches": "failedBatches", "success_rate": "successRate"}  # as front ends have always read them


class Status(StrEnum):
    """What a front end goes by: which toast to show, what to do with the bar."""

    STARTED = "started"
    PROGRESS = "progress"
    RETRYING = "retrying"  # the source failed; the same is tried again
    DB_RETRYING = "db_retrying"  # the database failed; the same is tried again
    BATCH_FAILED = "batch_failed"  # a batch, or something in it, could not be read
    BATCH_DB_FAILED = "batch_db_failed"  # something of a batch could not be stored
    RATE_LIMITED = "rate_limited"
    TIMEOUT_WARNING = "timeout_warning"  # the run reached its time limit; the next one goes on there
    BATCH_LIMIT_WARNING = "batch_limit_warning"  # the same, for the batches of a run
    PAUSED = "paused"
    STOPPED = "stopped"  # somebody has to mend a token, a permission or a setting
    COMPLETE = "complete"
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # with dead letters on the way


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=RENAMED):
    """An event, as JSON. What does not apply is left out.

    `type` is the tag of the journal entry; an event without one is live only, and has no place in the journal. Of a
    batch, `inserted`, `updated`, `skipped` (unchanged) and `dead_lettered` are its own; of the end of a run, the run's.
    `batches`, `failed_batches`, `success_rate` (per cent) and `duration` (seconds) are those of the run so far.
    """

    status: Status
    message: str
    stream: str
    at: datetime
    type: str | None = None
    run: str | None = None
    batch: int | None = None
    inserted: int | None = None
    updated: int | None = None
    skipped: int | None = None
    dead_lettered: int | None = None
    batches: int | None = None
    failed_batches: int | None = None
    success_rate: float | None = None
    duration: float | None = None
    until: datetime | None = None
