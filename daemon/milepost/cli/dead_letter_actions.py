"""Redrives and discards dead letters: through the daemon if one is using the database, otherwise in this process.

With SQLite, only the process that runs a stream may write to its journal, and a daemon runs all streams.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import assert_never

from milepost.app.build import Parts
from milepost.app.database import store_url_of
from milepost.cli.daemon_client import Daemon
from milepost.cli.stream_actions import CONCERNS_ALL, daemon_or_parts
from milepost.cli.terminal import echo_wrapped
from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import CommandDeferred, DeadLetterCommand
from milepost.core.errors import MilepostError
from milepost.core.events import Reason
from milepost.core.model import Stream
from milepost.engine.interrupt import Stop, stopping_on_signals
from milepost.reporting.humanize import ahead, on_one_line
from milepost.reporting.summary import ExitCode, most_serious
from milepost.reporting.views import ActionOutcome, ActionResult, accepted, closed, held, refused, result_of
from milepost.settings import Settings
from milepost.stores.open import is_at_work, open_reader

Work = Sequence[tuple[str, DeadLetter, DeadLetterCommand]]
"""Dead letters, each with the label that its line begins with, and with the command to perform."""


async def perform(settings: Settings, work: Work, done: str) -> ExitCode:
    """Perform the commands one after the other, print each result, and return the exit code.

    `done` describes a closed dead letter. Raises MilepostError for failures that concern more than one of them.
    """
    stop, answers = Stop(), list[ActionResult]()
    store_url = store_url_of(settings)
    at_work = store_url.file is not None and await is_at_work(store_url)
    async with stopping_on_signals(stop), daemon_or_parts(settings, stop, at_work=at_work) as who:
        for number, (label, dead_letter, command) in enumerate(work, start=1):
            if stop.is_requested:
                break
            answer = await _do(who, dead_letter, command, stop)
            answers.append(answer)
            nth = f"[{number:,}/{len(work):,}] " if len(work) > 1 else ""
            echo_wrapped(f"{nth}{label}: {_words(answer, done)}")
    if len(work) > 1:
        echo_wrapped(f"{sum(answer.outcome is ActionOutcome.CLOSED for answer in answers):,} of {len(work):,} {done}")
    return await _exit_code(settings, work, answers)


# --- performing -------------------------------------------------------------------------------------------------------


async def _do(who: Daemon | Parts, dead_letter: DeadLetter, command: DeadLetterCommand, stop: Stop) -> ActionResult:
    if isinstance(who, Parts):
        return await _here(who, command)
    async with stop.interruptible():
        return await who.do(command)
    return accepted(dead_letter)  # the daemon continues without us


async def _here(parts: Parts, command: DeadLetterCommand) -> ActionResult:
    before = await parts.store.find_open_dead_letters((command.dead_letter_id,))
    if not before:  # closed meanwhile, by the redrive of another dead letter of the same conversation
        return closed(command.dead_letter_id)
    try:
        return result_of(before[0].dead_letter, await parts.supervisor.do(command))
    except CommandDeferred as why:
        return held(before[0].dead_letter, why)
    except CONCERNS_ALL:
        raise
    except MilepostError as error:  # it concerns this dead letter only
        return refused(command.dead_letter_id, str(error))


# --- results ----------------------------------------------------------------------------------------------------------


def _words(answer: ActionResult, done: str) -> str:
    match answer.outcome:
        case ActionOutcome.CLOSED:
            return done
        case ActionOutcome.FAILED:
            at = answer.redrive_at
            again = "" if at is None else f"; next attempt {ahead(at, datetime.now(UTC))}"
            return f"still open: {on_one_line(answer.reason or 'no reason was given')}{again}"
        case ActionOutcome.HELD:
            return f"not tried: {on_one_line(answer.reason or 'no reason was given')}"
        case ActionOutcome.ACCEPTED:
            return "it takes long; the daemon continues with it"
        case unknown:
            assert_never(unknown)


async def _exit_code(settings: Settings, work: Work, answers: Sequence[ActionResult]) -> ExitCode:
    streams = {dead_letter.dead_letter_id: dead_letter.stream for _, dead_letter, _ in work}
    failed = {streams[answer.dead_letter_id] for answer in answers if answer.outcome is ActionOutcome.FAILED}
    are_known = all(answer.outcome in {ActionOutcome.CLOSED, ActionOutcome.FAILED} for answer in answers)
    codes = set() if are_known and len(answers) == len(work) else {ExitCode.PROGRESS_SAVED}
    if failed:
        codes |= {ExitCode.WITH_ERRORS, *await _stops(settings, failed)}
    return most_serious(codes)


async def _stops(settings: Settings, streams: set[Stream]) -> set[ExitCode]:
    """Return the exit codes of those streams that need a person before they can read anything."""
    codes = {Reason.AUTHORIZATION: ExitCode.AUTHORIZATION, Reason.CONFIGURATION: ExitCode.CONFIGURATION}
    async with open_reader(store_url_of(settings)) as journal_reader:
        checkpoints = await journal_reader.checkpoints()
    reasons = {each.failure_streak.reason for each in checkpoints if each.stream in streams and each.failure_streak}
    return {codes[reason] for reason in reasons if reason in codes}
