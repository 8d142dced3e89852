"""A dead letter as it is shown: every field by its name, the payload left out."""

from datetime import datetime

from msgspec import Struct
from msgspec.structs import astuple

from milepost.core.checkpoint import DeadLetter
from milepost.core.events import Resolution, Stage


class Letter(Struct, frozen=True):
    """Something that could not be read or written, its `subject`, because of `reason`, that of the latest failure.

    `attempts` is how many redrives failed, `redrive_at` when it is tried again by itself (null: never), `note` why it
    was discarded; `fingerprint` tells whether what it is about has changed.
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


def dead_letter_view(dead_letter: DeadLetter) -> Letter:
    """Show a dead letter."""
    return Letter(*astuple(dead_letter))
