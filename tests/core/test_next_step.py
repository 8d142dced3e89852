"""plan.next_step: what interrupts a run, the most urgent first."""

from kit.builders import NOON, POLICY, RATE_LIMIT, budget, checkpoint_of, refused
from milepost.core.events import Reason
from milepost.core.plan import (
    Fetch,
    Finish,
    Interruptions,
    ReadMessages,
    Reload,
    RunCommands,
    SettleRefusal,
    Step,
    next_step,
)

REFUSED = refused(RATE_LIMIT)


def step(interruptions: Interruptions, stops_for: Reason | None = None) -> Step:
    return next_step(checkpoint_of(), NOON, budget(stops_for=stops_for), POLICY, None, interruptions)


def test_what_somebody_else_wrote_is_loaded_before_anything_is_decided() -> None:
    assert step(Interruptions(is_outdated=True, refused=REFUSED, has_commands=True)) == Reload()


def test_a_refusal_goes_on_record_before_a_command() -> None:
    assert step(Interruptions(refused=REFUSED, has_commands=True)) == SettleRefusal(REFUSED)


def test_a_refusal_goes_on_record_before_a_stop_ends_the_run() -> None:
    assert step(Interruptions(refused=REFUSED), Reason.SHUTDOWN) == SettleRefusal(REFUSED)


def test_commands_are_executed_before_a_stop_ends_the_run() -> None:
    assert step(Interruptions(has_commands=True), Reason.SHUTDOWN) == RunCommands()


def test_older_messages_are_read_where_a_batch_would_be_and_before_nothing_else() -> None:
    assert step(Interruptions(are_messages_due=True)) == ReadMessages()
    assert step(Interruptions(are_messages_due=True), Reason.SHUTDOWN) == Finish(Reason.SHUTDOWN)
    assert step(Interruptions(has_commands=True, are_messages_due=True)) == RunCommands()


def test_a_run_that_nothing_interrupts_follows_its_plan() -> None:
    assert step(Interruptions(), Reason.SHUTDOWN) == Finish(Reason.SHUTDOWN)
    assert isinstance(step(Interruptions()), Fetch)
