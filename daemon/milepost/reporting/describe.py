"""The one description of a journal entry, which the log, the event stream and `milepost journal tail` share.

A description names no person. The reason that an operator gives for discarding a dead letter may name one, so it is
kept apart in `note`, which only the operator's own terminal shows.
"""

from datetime import datetime
from typing import Any, assert_never

from msgspec import Struct
from msgspec.structs import asdict, replace

from milepost.core import events
from milepost.core.checkpoint import Run
from milepost.core.events import Entry, Reason, Resolution, RunStatus, Stage, Tally
from milepost.core.model import OwnId, OwnIdState, Stream
from milepost.core.plan import Size
from milepost.core.position import MessagesFailed, MessagesMissed, MessagesOwed, MessagesRead, Mode, Phase
from milepost.core.problems import ProblemKind
from milepost.core.webhooks import FactsApplied
from milepost.reporting.advice import advice_on
from milepost.reporting.humanize import (
    Description,
    Level,
    batches_in_brief,
    counted,
    counts,
    describe_backlog,
    has_errors,
    in_brief,
    lasting,
    on_one_line,
    seconds,
    summary,
    to_the_second,
)
from milepost.reporting.status import SET_OWN_ID, limit_in_words, own_id_in_words, size_in_words, token_in_words


class Ending(Struct, frozen=True):
    """How a run ended before its sweep did, and what happens next."""

    what: str
    next: str


ENDINGS = {
    Reason.TIME_LIMIT: Ending("Stopped at the time limit of a run", "the next run continues there"),
    Reason.BATCH_LIMIT: Ending("Stopped at the batch limit of a run", "the next run continues there"),
    Reason.SHUTDOWN: Ending("Stopped for a shutdown", "the next start continues there"),
    Reason.REQUEST: Ending("Stopped because the stream was paused", "it continues there when the stream is resumed"),
    Reason.REMOVED: Ending(
        "Stopped because the page is no longer configured", "it continues there when the page is back"
    ),
    Reason.RATE_LIMIT: Ending("Stopped at a rate limit", "it continues there when the limit is over"),
    Reason.RETRIES_EXHAUSTED: Ending("Failed after all attempts", "the next run tries again"),
    Reason.AUTHORIZATION: Ending("Stopped for authorization", "the token or a permission must be fixed"),
    Reason.CONFIGURATION: Ending("Stopped for the configuration", "it must be fixed"),
    Reason.PROCESS_DIED: Ending("The previous run was interrupted", "work continues from the last stored batch"),
    Reason.BROKE_OFF: Ending(
        "The run ended unexpectedly",
        "work continues from the last stored batch; an earlier log line says what happened",
    ),
}
OPENINGS = {
    Stage.FETCH: "A conversation could not be read",
    Stage.STORE: "A row could not be stored",
    Stage.EVENTS: "Messages of a conversation could not be stored",
}
CLOSINGS = {
    Resolution.REDRIVEN: "A dead letter was redriven successfully",
    Resolution.RECOVERED: "A dead letter was closed: a sweep read and stored what it was about",
    Resolution.DISCARDED: "A dead letter was discarded",
    Resolution.FORGOTTEN: "A dead letter was erased together with the person it was about",
}


def describe(  # noqa: C901, PLR0911, PLR0912  (one case for each kind of event)
    entry: Entry, run: Run | None = None
) -> Description:
    """Describe an entry. `run` is its run as of the entry; None if there is none, or if it is not known."""
    now = entry.recorded_at
    match entry.event:
        case events.RunStarted():
            return Description("run started", "Run started", Level.DEBUG)
        case events.SweepStarted() as event:
            return _sweep_started(event, now)
        case events.BatchStored() as event:
            return _batch_stored(event, run, entry.stream)
        case events.FetchFailed() | events.BatchFailed() | events.BatchShrunk() as event:
            return _batch_refused(event, run, now)
        case events.FieldsLeftOut() as event:
            return _fields_left_out(event)
        case events.RateLimited() | events.CursorLost() as event:
            return _stream_refused(event, entry.stream, now)
        case events.DeadLetterOpened() | events.RedriveFailed() | events.DeadLetterClosed() as event:
            return _dead_letter(event, now)
        case MessagesOwed() | MessagesRead() | MessagesFailed() | MessagesMissed() as event:
            return describe_backlog(event, now)
        case FactsApplied() as event:
            return _facts_applied(event)
        case events.SweepCompleted() as event:
            return _sweep_completed(event, run, entry.stream)
        case events.RunEnded() as event:
            return _run_ended(event, run, entry.stream)
        case events.StoreReturned() as event:
            return _store_returned(event)
        case (
            events.StreamPaused()
            | events.StreamResumed()
            | events.SyncRequested()
            | events.TokenChecked()
            | events.OwnIdChecked()
            | events.StreamRemoved() as event
        ):
            return _stream_changed(event)
        case unknown:
            assert_never(unknown)


# --- sweeps and batches -----------------------------------------------------------------------------------------------


def _sweep_started(event: events.SweepStarted, now: datetime) -> Description:
    until = event.walk_until
    reach = "reading all conversations" if until is None else f"reading back to {to_the_second(until, now)}"
    fields = {"mode": event.mode.value, "back_to": "the oldest" if until is None else until.isoformat()}
    return Description("sweep started", f"{_sweep(event.mode)} started: {reach}", fields=fields)


def _batch_stored(event: events.BatchStored, run: Run | None, stream: Stream) -> Description:
    tally, position = event.tally, event.position
    fields = counts(replace(tally, batches=0))
    if position.reached_at is not None:
        fields["reached"] = position.reached_at.isoformat()
    starts_scan = position.phase is Phase.CATCH_UP and position.cursor is None
    again = " again" if position.scan.number > 1 else ""
    then = f"; the catch-up scan starts{again}" if starts_scan else ""
    subject = _batches(tally, run)
    if event.problem is not None:
        sentence = f"The walk ends here, though the list goes on: {on_one_line(event.problem)}"
        fields["problem"] = str(event.problem)
        return Description("walk ended early", sentence, Level.WARNING, fields, advice_on(event.problem, stream))
    if tally.has_changes:
        return Description("batch stored", f"{subject} stored: {in_brief(tally)}{then}", fields=fields)
    unchanged = f", {tally.unchanged:,} unchanged" if tally.unchanged else ""
    return Description("batch unchanged", f"{subject}: nothing new{unchanged}{then}", Level.DEBUG, fields)


def _batches(tally: Tally, run: Run | None) -> str:
    """Return the batches that a tally covers, by their numbers in the run."""
    if run is None or not run.tally.batches:
        return counted(tally.batches, "batch", "batches")
    last = run.tally.batches
    first = last - tally.batches + 1
    return f"Batches {first:,} to {last:,}" if 0 < first < last else f"Batch {last:,}"


def _sweep_completed(event: events.SweepCompleted, run: Run | None, stream: Stream) -> Description:
    tally, problem = event.tally if run is None else run.tally, event.problem
    fields = {"mode": event.mode.value, **summary(event, run)}
    if problem is not None:
        why = f"in doubt, and deletes nothing: {on_one_line(problem)}"
        sentence = f"{_sweep(event.mode)} complete ({batches_in_brief(tally)}), but {why}"
        fields["problem"] = str(problem)
        return Description("sweep completed", sentence, Level.WARNING, fields, advice_on(problem, stream))
    how = "complete with dead letters" if has_errors(run) else "complete"
    sentence = f"{_sweep(event.mode)} {how}: {batches_in_brief(tally)}"
    return Description("sweep completed", sentence, fields=fields)


def _sweep(mode: Mode) -> str:
    return f"{mode.value.capitalize()} sweep"


# --- failures ---------------------------------------------------------------------------------------------------------


def _batch_refused(
    event: events.FetchFailed | events.BatchFailed | events.BatchShrunk, run: Run | None, now: datetime
) -> Description:
    batch = "A batch" if run is None else f"Batch {run.tally.batches + 1:,}"
    problem, why = {"problem": str(event.problem)}, on_one_line(event.problem)
    match event:
        case events.FetchFailed(attempt=attempt, retry_at=retry_at):
            return Description(
                "fetch failed, retrying",
                f"{batch} could not be read (attempt {attempt:,}), {_next_attempt(retry_at, now)}: {why}",
                Level.WARNING,
                {"attempt": attempt, "wait_seconds": seconds(retry_at - now)} | problem,
            )
        case events.BatchFailed(stage=stage, attempts=attempts):
            return Description(
                "batch given up",
                f"{batch} was given up for this run after {counted(attempts, 'attempt')}: {why}",
                Level.WARNING,
                {"stage": stage.value, "attempts": attempts} | problem,
            )
        case events.BatchShrunk(limit=limit, detail=detail):
            size = size_in_words(Size(limit, detail))
            sentence = f"{batch} is requested again, {size}: {why}"
            return Description("batch size reduced", sentence, fields={"asked_for": size} | problem)


def _stream_refused(event: events.RateLimited | events.CursorLost, stream: Stream, now: datetime) -> Description:
    why = on_one_line(event.problem)
    match event:
        case events.RateLimited(scope=scope, attempts=attempts, since=since, until=until):
            times = "" if attempts == 1 else f" {counted(attempts, 'time')} since {to_the_second(since, now)}"
            fields = {
                "scope": scope.value,
                "attempts": attempts,
                "since": since.isoformat(),
                "until": until.isoformat(),
                "wait_seconds": seconds(until - now),
                "problem": str(event.problem),
            }
            sentence = f"Reached {limit_in_words(scope)}{times}, no calls until {to_the_second(until, now)}: {why}"
            return Description("rate limited", sentence, Level.WARNING, fields, advice_on(event.problem, stream))
        case events.CursorLost(is_last=is_last):
            what = "The list leads nowhere" if is_last else "The cursor was refused"
            sentence = f"{what}, the walk restarts at the head of the inbox: {why}"
            hint = "the walk restarts at the head of the inbox"
            return Description("cursor refused", sentence, Level.WARNING, {"problem": str(event.problem)}, hint)


def _fields_left_out(event: events.FieldsLeftOut) -> Description:
    if not event.fields:
        return Description("all fields read again", "The API knows all requested fields again")
    names = on_one_line(", ".join(event.fields))
    sentence = f"The API refuses fields by name: conversations are read without {names}"
    hint = "nothing is lost but these fields; they are tried again daily, at each start and with another version"
    return Description("fields left out", sentence, Level.WARNING, {"left_out": names}, hint)


# --- dead letters -----------------------------------------------------------------------------------------------------


def _dead_letter(
    event: events.DeadLetterOpened | events.RedriveFailed | events.DeadLetterClosed, now: datetime
) -> Description:
    fields: dict[str, Any] = {"dead_letter": event.dead_letter_id}
    match event:
        case events.DeadLetterOpened(stage=stage, subject=subject, reason=reason, redrive_at=redrive_at):
            return Description(
                "dead letter opened",
                f"{OPENINGS[stage]} and became a dead letter, {_next_attempt(redrive_at, now)}: {on_one_line(reason)}",
                Level.WARNING,
                fields | {"stage": stage.value, "subject": subject, "reason": reason},
                f"its payload is kept; {_redrive_hint(event)}",
            )
        case events.RedriveFailed(attempts=attempts, reason=reason, redrive_at=redrive_at):
            attempt, why = f"attempt {attempts:,}{_via(event.by)}", on_one_line(reason)
            return Description(
                "redrive failed",
                f"A dead letter could not be redriven ({attempt}), {_next_attempt(redrive_at, now)}: {why}",
                Level.WARNING,
                fields | {"attempts": attempts, "reason": reason},
                _redrive_hint(event),
            )
        case events.DeadLetterClosed(resolution=resolution, tally=tally, reason=reason):
            brought = f": {in_brief(tally)}" if tally.has_changes else ""
            return Description(
                "dead letter closed",
                f"{CLOSINGS[resolution]}{_via(event.by)}{brought}",
                fields=fields | {"resolution": resolution.value, **counts(tally)},
                note=reason,
            )


def _next_attempt(redrive_at: datetime | None, now: datetime) -> str:
    return "no automatic redrive" if redrive_at is None else f"next attempt at {to_the_second(redrive_at, now)}"


def _redrive_hint(event: events.DeadLetterOpened | events.RedriveFailed) -> str:
    if event.redrive_at is not None:
        return f"it is redriven automatically at {event.redrive_at.isoformat()}"
    return f"it is not redriven automatically: see `milepost dead-letters show {event.dead_letter_id}`"


def _via(actor: str) -> str:
    return f" via {on_one_line(actor)}" if actor else ""


def _facts_applied(event: FactsApplied) -> Description:
    fields = {name: count for name, count in asdict(event).items() if count}
    said = (
        (event.edited, "edited message", None),
        (event.unsent, "unsent message", None),
        (event.reactions, "reaction", None),
        (event.referrals, "referral", None),
        (event.reads, "conversation that was read", "conversations that were read"),
    )
    words = ", ".join(counted(count, noun, plural) for count, noun, plural in said if count)
    return Description("facts applied", f"Webhooks said: {words or 'nothing new'}", Level.DEBUG, fields)


# --- runs and streams -------------------------------------------------------------------------------------------------


def _run_ended(event: events.RunEnded, run: Run | None, stream: Stream) -> Description:
    ending, problem = ENDINGS[event.reason], event.problem
    tally = event.tally if run is None else run.tally
    words = f"{ending.what} ({batches_in_brief(tally)})" if tally.batches else ending.what
    title = "run ended early" if event.status is RunStatus.PAUSED else f"run {event.status.value}"
    fields = {"reason": event.reason.value, **summary(event, run)}
    if problem is None:
        return Description(title, f"{words}; {ending.next}", _level(event), fields, ending.next)
    advice = advice_on(problem, stream)
    words = f"{words}: {on_one_line(problem)}"
    is_stopped = event.status is RunStatus.STOPPED
    sentence = f"{words}. What to do: {advice}" if is_stopped else f"{words}; {ending.next}"
    return Description(title, sentence, _level(event), fields | {"problem": str(problem)}, advice)


def _level(ended: events.RunEnded) -> Level:
    if ended.status in {RunStatus.FAILED, RunStatus.STOPPED}:
        return Level.ERROR
    if ended.reason in {Reason.PROCESS_DIED, Reason.BROKE_OFF}:
        return Level.WARNING
    if ended.problem is not None and ended.problem.kind is ProblemKind.NO_PROGRESS:
        return Level.WARNING
    return Level.INFO


def _store_returned(event: events.StoreReturned) -> Description:
    after = f"{lasting(event.away_seconds)} and {counted(event.attempts, 'attempt')}"
    fields = {"away_seconds": round(event.away_seconds, 1), "attempts": event.attempts}
    return Description("database available again", f"The database is available again after {after}", fields=fields)


def _stream_changed(event: events.StreamEvent) -> Description:
    match event:
        case events.StreamPaused(by=by):
            hint = "no run starts until it is resumed"
            return Description(
                "stream paused", f"Paused{_via(by)} until it is resumed", Level.WARNING, {"by": by}, hint
            )
        case events.StreamResumed(by=by):
            return Description("stream resumed", f"Resumed{_via(by)}", fields={"by": by})
        case events.SyncRequested(by=by, full=full):
            sentence = f"{'Full sweep' if full else 'Sync'} requested{_via(by)}"
            return Description("sync requested", sentence, fields={"by": by, "full": full})
        case events.TokenChecked(health=health):
            words = token_in_words(health)
            level = Level.INFO if health.is_valid else Level.WARNING
            return Description("token checked", f"{words[0].upper()}{words[1:]}", level, {"found": words})
        case events.OwnIdChecked(found=found):
            return _own_id_checked(found)
        case events.StreamRemoved(by=by):
            hint = "its rows are deleted; if it is configured again, it starts from scratch"
            return Description("stream removed", f"Removed{_via(by)} with all rows", Level.WARNING, {"by": by}, hint)


def _own_id_checked(found: OwnId) -> Description:
    words = own_id_in_words(found)
    sentence = f"{words[0].upper()}{words[1:]}"
    fields = {"state": found.state.value} | ({"own_id": found.own_id} if found.own_id else {})
    match found.state:
        case OwnIdState.EXPECTED:
            return Description("own id found", sentence, fields=fields)
        case OwnIdState.ANOTHER:
            hint = "it is taken as ours, and the next sweep reads everything again; set instagram_account_id to it"
            return Description("own id is another", sentence, Level.WARNING, fields, hint)
        case OwnIdState.UNKNOWN:
            return Description("own id unknown", sentence, Level.WARNING, fields, SET_OWN_ID)
        case unknown:
            assert_never(unknown)
