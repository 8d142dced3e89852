"""What the API and `--json` show: the schemas of runs, dead letters, results of actions and statuses of streams.

The names of the fields and the values of the enumerations are promised to scripts. Fields may be added; instants are
ISO 8601 in UTC.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import asdict, replace

from milepost.core.checkpoint import Checkpoint, DeadLetter, OperatorPause, Run
from milepost.core.commands import CommandDeferred
from milepost.core.events import Reason, Resolution, RunStatus, Stage
from milepost.core.model import Platform, Stream
from milepost.core.position import HistoryLeft, Mode, Phase
from milepost.core.problems import Problem, Scope
from milepost.reporting.health import DaemonStatus, outage_in
from milepost.reporting.status import ConditionContext, State, condition

# --- runs -------------------------------------------------------------------------------------------------------------


class RunView(Struct, frozen=True):
    """A run: one bounded slice of work on a stream; `ended_at` is null while it is running.

    `mode` is that of its sweep, `reason` why it ended before the sweep did, `problem` the last one that made a batch or
    the run fail. The counts are of what it read and wrote: conversations `inserted`, `updated` and `unchanged`, rows of
    `contacts` and `interaction_events`, and dead letters opened.
    """

    run_id: str
    stream: str
    mode: Mode | None
    status: RunStatus
    reason: Reason | None
    started_at: datetime
    ended_at: datetime | None
    batches: int
    inserted: int
    updated: int
    unchanged: int
    dead_lettered: int
    contacts: int
    interaction_events: int
    retries: int
    failed_batches: int
    problem: Problem | None


def run_view(stream: Stream, run: Run) -> RunView:
    """Return the view of a run of a stream."""
    tally = run.tally
    return RunView(
        run_id=run.run_id,
        stream=stream.key,
        mode=run.mode,
        status=run.status,
        reason=run.reason,
        started_at=run.started_at,
        ended_at=run.ended_at,
        batches=tally.batches,
        inserted=tally.inserted,
        updated=tally.updated,
        unchanged=tally.unchanged,
        dead_lettered=tally.dead_lettered,
        contacts=tally.contacts,
        interaction_events=tally.interaction_events,
        retries=run.retries,
        failed_batches=run.failed_batches,
        problem=run.problem,
    )


# --- dead letters -----------------------------------------------------------------------------------------------------


class DeadLetterView(Struct, frozen=True):
    """Something that could not be read or written (`subject`), and why its latest attempt failed (`reason`).

    `attempts` counts failed redrives, `redrive_at` is when the next automatic one is due (null: never), `note` why it
    was discarded; `fingerprint` changes when the subject does. The payload is left out: it is personal data.
    """

    dead_letter_id: str
    stream: str
    stage: Stage
    subject: str
    reason: str
    opened_at: datetime
    attempts: int
    redrive_at: datetime | None
    closed_at: datetime | None
    resolution: Resolution | None
    note: str
    fingerprint: str


def dead_letter_view(dead_letter: DeadLetter) -> DeadLetterView:
    """Return the view of a dead letter."""
    return DeadLetterView(**asdict(dead_letter) | {"stream": dead_letter.stream.key})


class ActionOutcome(StrEnum):
    """The outcome of an action on a dead letter."""

    CLOSED = "closed"
    FAILED = "failed"  # it was tried and failed again, or cannot be tried
    HELD = "held"  # it was not tried: a rate limit or a stop forbids it
    ACCEPTED = "accepted"  # it takes long, and goes on in the background


class ActionResult(Struct, frozen=True):
    """A dead letter after an action on it. If it is closed the rest is null, if accepted it is as before.

    `reason` is why the latest attempt failed, or why there was none; `attempts` counts failed redrives, `redrive_at` is
    when the next is due (null: never by itself). `is_open` is null if that is not known yet.
    """

    dead_letter_id: str
    outcome: ActionOutcome
    is_open: bool | None
    reason: str | None = None
    attempts: int | None = None
    redrive_at: datetime | None = None


def result_of(before: DeadLetter, after: DeadLetter | None) -> ActionResult:
    """Return the result of a completed action. `after` is None if the dead letter is closed."""
    if after is None:
        return closed(before.dead_letter_id)
    outcome = ActionOutcome.FAILED if after.attempts > before.attempts else ActionOutcome.HELD
    return _unclosed(after, outcome, is_open=True)


def held(before: DeadLetter, reason: CommandDeferred) -> ActionResult:
    """Return the result for a dead letter that cannot be tried now, with why and until when."""
    return replace(_unclosed(before, ActionOutcome.HELD, is_open=True), reason=str(reason))


def closed(dead_letter_id: str) -> ActionResult:
    """Return the result for a dead letter that is closed."""
    return ActionResult(dead_letter_id, ActionOutcome.CLOSED, is_open=False)


def accepted(dead_letter: DeadLetter) -> ActionResult:
    """Return the result of an action that goes on without its client."""
    return _unclosed(dead_letter, ActionOutcome.ACCEPTED, is_open=None)


def refused(dead_letter_id: str, reason: str) -> ActionResult:
    """Return the result of an action that is impossible."""
    return ActionResult(dead_letter_id, ActionOutcome.FAILED, is_open=True, reason=reason)


def _unclosed(dead_letter: DeadLetter, outcome: ActionOutcome, *, is_open: bool | None) -> ActionResult:
    return ActionResult(
        dead_letter.dead_letter_id, outcome, is_open, dead_letter.reason, dead_letter.attempts, dead_letter.redrive_at
    )


# --- streams ----------------------------------------------------------------------------------------------------------


class OpenSweep(Struct, frozen=True):
    """A sweep that is not complete yet: what it has read so far, and how far it goes.

    `reached_at` is the age of the last conversation read; the walk ends at conversations older than `walk_until` (null:
    at the end of the inbox). `expected` estimates how many conversations a full sweep reads, which is how many are
    known; null before the first one is complete, and for an incremental sweep, which reads the new ones only.
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
    """Everything ever written for a stream. Each change of a contact or conversation counts again."""

    conversations_inserted: int
    conversations_updated: int
    contacts: int
    interaction_events: int


class StreamStatus(Struct, frozen=True):
    """The status of a stream. `updated_at` is the time of its last journal entry, `run` its latest run.

    `waits_for` is what keeps it from going on, `advice` what a person can do about it, and `remark` anything else that
    is out of the ordinary. `next_run_at` is an estimate, and so is `until` if it is the same; it is null during a run,
    if no Milepost is at work, and for a stream that is not in the configuration (`is_configured`; null if the simulator
    names the streams). `page_name` is "" if it is unknown. `on_hold` is since when, and by whom, the stream is paused.
    `token_expires_at` is when its token, or the token's access to data, ends: null if it never does; like
    `token_is_valid`, null also as long as that is unknown. `message_backlog` counts conversations with older messages
    that are still to be read; of these, `message_history` counts the ones whose histories are, and how many there were
    since none was: null if none is. `messages_missed` counts the messages that the API has withheld so far, the latest
    of them on record since `messages_missed_at`. `rate_limit_scope` is whose rate limit it waits for: one of the app
    holds up all streams.
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
    message_backlog: int
    message_history: HistoryLeft | None
    messages_missed: int
    messages_missed_at: datetime | None
    next_run_at: datetime | None
    run: RunView | None
    on_hold: OperatorPause | None
    token_is_valid: bool | None
    token_expires_at: datetime | None
    rate_limit_scope: Scope | None = None


class Status(Struct, frozen=True):
    """The status of all streams at the instant `at`. `is_at_work` is whether a Milepost holds the database.

    `daemon` is what the daemon says of itself; null if none answers at `http.listen`.
    """

    at: datetime
    database: str
    is_at_work: bool
    streams: tuple[StreamStatus, ...]
    daemon: DaemonStatus | None = None


def statuses(
    checkpoints: Iterable[Checkpoint],
    context: ConditionContext,
    configured: Sequence[Stream] | None,
    page_names: Mapping[str, str],
    daemon: DaemonStatus | None = None,
) -> tuple[StreamStatus, ...]:
    """Return the status of every stream: the configured ones in their order, then all others in the journal.

    A removed stream is left out, unless it is configured.

    Args:
        checkpoints: those of the streams in the journal.
        context: the other inputs to a status.
        configured: the streams of the configuration; None if the simulator names the streams.
        page_names: the known names of pages, by id.
        daemon: the daemon's own status, if one answers.
    """
    journaled = {checkpoint.stream: checkpoint for checkpoint in checkpoints}
    known = dict.fromkeys(configured or ())
    others = [stream for stream, checkpoint in journaled.items() if checkpoint.removed_at is None]
    return tuple(
        status_of(
            journaled.get(stream) or Checkpoint(stream),
            context if daemon is None else as_of_daemon(context, stream, daemon),
            page_names,
            is_configured=None if configured is None else stream in known,
        )
        for stream in known | dict.fromkeys(others)
    )


def as_of_daemon(context: ConditionContext, stream: Stream, daemon: DaemonStatus) -> ConditionContext:
    """Return the context of one stream, with what only the daemon knows about the stream."""
    return replace(
        context,
        store_outage=outage_in(daemon.issues, daemon.at),
        queued_since=daemon.queued.get(stream.key),
        slowed_down=daemon.slowed_down.get(stream.page_id),
        held_back=daemon.held_back.get(stream.page_id),
    )


def status_of(
    checkpoint: Checkpoint, context: ConditionContext, page_names: Mapping[str, str], *, is_configured: bool | None
) -> StreamStatus:
    """Return the status of one stream."""
    stream = checkpoint.stream
    run, retry, total, token = checkpoint.run, checkpoint.retry, checkpoint.total, checkpoint.token
    is_worked = context.is_at_work and is_configured is not False
    now = condition(checkpoint, replace(context, is_at_work=is_worked))
    missed = checkpoint.missed
    wait, is_source = now.wait, context.store_outage is None  # otherwise it is the database that is retried
    return StreamStatus(
        stream=stream.key,
        platform=stream.platform,
        page_id=stream.page_id,
        page_name=page_names.get(stream.page_id, ""),
        state=now.state,
        is_configured=is_configured,
        waits_for=wait.waits_for if wait is not None else None,
        since=wait.since if wait is not None else None,
        until=wait.until if wait is not None else None,
        reason=run.reason if run is not None else None,
        problem=str(wait.problem) if wait is not None and wait.problem is not None else None,
        advice=now.advice,
        remark=now.remark,
        retry_at=retry.retry_at if retry is not None and now.state is State.RETRYING and is_source else None,
        sweep=open_sweep(checkpoint),
        updated_at=checkpoint.updated_at,
        last_success_at=checkpoint.last_success_at,
        last_full_sweep_at=checkpoint.last_full_sweep_at,
        watermark=checkpoint.watermark,
        written=Written(total.inserted, total.updated, total.contacts, total.interaction_events),
        open_dead_letters=checkpoint.open_dead_letters,
        message_backlog=checkpoint.backlog,
        message_history=checkpoint.history,
        messages_missed=missed.messages if missed is not None else 0,
        messages_missed_at=missed.latest_at if missed is not None else None,
        next_run_at=now.next_run_at,
        run=None if run is None else run_view(stream, run),
        on_hold=checkpoint.operator_pause,
        token_is_valid=token.is_valid if token is not None else None,
        token_expires_at=token.ends_at if token is not None else None,
        rate_limit_scope=wait.scope if wait is not None else None,
    )


def open_sweep(checkpoint: Checkpoint) -> OpenSweep | None:
    """Return the open sweep of a stream; None if there is none."""
    sweep, total = checkpoint.sweep, checkpoint.total
    if sweep is None:
        return None
    position = sweep.position if sweep.set_aside is None else sweep.set_aside.position
    tally = sweep.tally + checkpoint.unrecorded
    is_known = sweep.mode is Mode.FULL and checkpoint.last_full_sweep_at is not None
    return OpenSweep(
        sweep.mode,
        position.phase,
        tally.batches,
        sweep.walk_started_at,
        position.reached_at,
        tally.conversations,
        max(total.inserted + total.moved - total.deleted, 0) if is_known else None,
        sweep.walk_until,
    )
