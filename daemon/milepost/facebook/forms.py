"""Whether a list tells who takes part and who wrote: without that, all people would be missing and all messages theirs.

A single thread may leave it out, because the API withholds people. A list in which none has it is in another form than
expected.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from milepost.core.doubts import READ_VERSION
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.leniency import lenient_or_none
from milepost.facebook.threads import nested_messages, participants_of
from milepost.facebook.wire import Sender, Thread

MIN_THREADS = 5
MIN_MESSAGES = 20

Told = tuple[bool | None, list[bool]]
"""Whether a thread's participants have ids (None: there are none), and of each message whether it has a sender."""


def nobody_is_told(threads: Iterable[Told]) -> Problem | None:
    """Return the problem of a list in which no participant has an id, or no message a sender."""
    has_people = has_senders = False
    without_ids = silent = silent_threads = 0
    for has_ids, senders in threads:
        has_people = has_people or has_ids is True
        has_senders = has_senders or any(senders)
        if has_people and has_senders:
            return None
        without_ids += has_ids is False
        silent += len(senders)
        silent_threads += bool(senders)
    if not has_people and without_ids >= MIN_THREADS:
        return _problem(f"none of {without_ids} conversations has participants with ids")
    if not has_senders and silent >= MIN_MESSAGES and silent_threads >= MIN_THREADS:
        return _problem(f"none of {silent} messages says who sent it")
    return None


def told_by(threads: Iterable[Thread]) -> Iterator[Told]:
    """Return what threads tell that were decoded strictly."""
    for thread in threads:
        people = thread.participants.data if thread.participants else []
        messages = thread.messages.data if thread.messages else []
        yield (
            any(person.id for person in people) if people else None,
            [bool(message.sender and message.sender.id) for message in messages],
        )


def told_by_items(items: Iterable[Any]) -> Iterator[Told]:
    """Return what threads of any shape tell."""
    for item in items:
        if isinstance(item, dict):
            _, people = participants_of(item)
            has_ids = people is not None and any(person.id for person in people.data)
            yield (
                has_ids if item.get("participants") not in (None, [], {}, {"data": []}) else None,
                [_has_sender(message) for message in nested_messages(item.get("messages"))],
            )


def _has_sender(message: Any) -> bool:  # noqa: ANN401 -- JSON of any shape
    sender = lenient_or_none(message.get("from"), Sender) if isinstance(message, dict) else None
    return sender is not None and bool(sender.id)


def _problem(what: str) -> Problem:
    return Problem(
        ProblemKind.MISCONFIGURED, f"{what}, another form than this version of Milepost reads; {READ_VERSION}"
    )
