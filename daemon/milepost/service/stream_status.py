"""Where every stream stands, as a value: what `milepost status` shows, and `--json` and the API give as it is.

The names of the fields and the values of `state` are promised to scripts. New fields may be added; instants are
ISO 8601 in UTC.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, OperatorPause
from milepost.core.events import Mode, Phase, Reason
from milepost.core.model import Platform, Stream
from milepost.reporting.status import ConditionContext, State, condition
from milepost.service.run_view import RunView, run_view


class OpenSweep(Struct, frozen=True):
    """The sweep that is not complete yet: what it has read so far, and how far it goes.

    `reached_at` is how old the last conversation was; the walk ends where that is older than `walk_until` (null: at the
    end of the inbox). `expected` is an estimate of the conversations that a full sweep reads, which is how many are
    known; null before the first is complete, and for an incremental one, which reads the new ones only.
    """

    mode: Mode
    phase: Phase
    batches: int
    walk_started_at: datetime
    reached_at: datetime | None
    conversations: int
    expected: int | None
    walk_until: datetime | None


class Written(Struct, frozen=True):
    """What was ever written for a stream. Of contacts and conversations each change counts again."""

    conversations_inserted: int
    conversations_updated: int
    contacts: int
    interaction_events: int


class StreamStatus(Struct, frozen=True):
    """Where a stream stands. `updated_at` is the time of its last journal entry, `run` the latest run.

    `waits_for` is what keeps it from going on, in words, `advice` what a person can do about it, and `remark` what is
    out of the ordinary beside that. `next_run_at` is an estimate, and so is `until` where it is the same; None while a
    run is under way, where no Milepost is at work, and for a stream that the configuration does not name
    (`is_configured`; None where it leaves that to the simulator). `page_name` is "" where nobody has told it.
    `on_hold` says since when, and by whose wish, the stream is not worked. `token_expires_at` is when its token, or the
    token's access to data, ends: None where it never does, and, like `token_is_valid`, where nobody knows yet.
    """

    stream: str
    platform: Platform
    page_id: str
    page_name: str
    state: State
    is_configured: bool | None
    waits_for: str | None
    since: datetime | None
    until: datetime | None
    reason: Reason | None
    problem: str | None
    advice: str | None
    remark: str | None
    retry_at: datetime | None
    sweep: OpenSweep | None
    updated_at: datetime | None
    last_success_at: datetime | None
    last_full_sweep_at: datetime | None
    watermark: datetime | None
    written: Written
    open_dead_letters: int
    next_run_at: datetime | None
    run: RunView | None
    on_hold: OperatorPause | None
    token_is_valid: bool | None
    token_expires_at: datetime | None


class Status(Struct, frozen=True):
    """Where all streams stand at the instant `at`. `is_at_work`: whether a Milepost holds the database."""

    at: datetime
    database: str
    is_at_work: bool
    streams: tuple[StreamStatus, ...]


def statuses(
    checkpoints: Iterable[Checkpoint],
    around: ConditionContext,
    configured: Sequence[str] | None,
    page_names: Mapping[str, str],
) -> tuple[StreamStatus, ...]:
    """Say where every journaled or configured stream stands: the configured ones in their order, then the others.

    One that was removed is not shown, unless it is configured.

    `configured` is None where the simulator names the streams; `page_names` are those that are known, by the pages'
    ids.
    """
    journaled = {checkpoint.stream: checkpoint for checkpoint in checkpoints}
    known = dict.fromkeys(configured or ())
    others = [key for key, checkpoint in journaled.items() if checkpoint.removed_at is None]
    return tuple(
        status_of(
            journaled.get(key) or Checkpoint(key),
            around,
            page_names,
            is_configured=None if configured is None else key in known,
        )
        for key in known | dict.fromkeys(others)
    )


def status_of(
    checkpoint: Checkpoint, around: ConditionContext, page_names: Mapping[str, str], *, is_configured: bool | None
) -> StreamStatus:
    """Say where one stream stands."""
    stream = Stream.parse(checkpoint.stream)
    run, retry, total, token = checkpoint.run, checkpoint.retry, checkpoint.total, checkpoint.token
    is_worked = around.is_at_work and is_configured is not False
    stands = condition(checkpoint, replace(around, is_at_work=is_worked))
    wait = stands.wait
    return StreamStatus(
        stream=checkpoint.stream,
        platform=stream.platform,
        page_id=stream.page_id,
        page_name=page_names.get(stream.page_id, ""),
        state=stands.state,
        is_configured=is_configured,
        waits_for=wait.waits_for if wait is not None else None,
        since=wait.since if wait is not None else None,
        until=wait.until if wait is not None else None,
        reason=run.reason if run is not None else None,
        problem=str(wait.problem) if wait is not None and wait.problem is not None else None,
        advice=stands.advice,
        remark=stands.remark,
        retry_at=retry.retry_at if retry is not None and stands.state is State.RETRYING else None,
        sweep=_open_sweep(checkpoint),
        updated_at=checkpoint.updated_at,
        last_success_at=checkpoint.last_success_at,
        last_full_sweep_at=checkpoint.last_full_sweep_at,
        watermark=checkpoint.watermark,
        written=Written(total.inserted, total.updated, total.contacts, total.interaction_events),
        open_dead_letters=checkpoint.open_dead_letters,
        next_run_at=stands.next_run_at,
        run=None if run is None else run_view(checkpoint.stream, run),
        on_hold=checkpoint.operator_pause,
        token_is_valid=token.is_valid if token is not None else None,
        token_expires_at=token.ends_at if token is not None else None,
    )


def _open_sweep(checkpoint: Checkpoint) -> OpenSweep | None:
    sweep, total = checkpoint.sweep, checkpoint.total
    if sweep is None:
        return None
    position, tally = sweep.position, sweep.tally + checkpoint.unrecorded
    is_known = sweep.mode is Mode.FULL and checkpoint.last_full_sweep_at is not None
    return OpenSweep(
        sweep.mode,
        position.phase,
        tally.batches,
        sweep.walk_started_at,
        position.reached_at,
        tally.conversations,
        max(total.inserted - total.deleted, 0) if is_known else None,
        sweep.walk_until,
    )
