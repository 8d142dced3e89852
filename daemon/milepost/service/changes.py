"""Whether a stretch of work changed anything, as its tally tells."""

from milepost.core.events import Tally


def has_changes(tally: Tally) -> bool:
    """Whether any row was written or dead letter opened.

    A batch without changes is passed over until an entry covers it. So of the batches in an entry's tally, at most the
    last one has changes.
    """
    return any((tally.inserted, tally.updated, tally.dead_lettered, tally.contacts, tally.interaction_events))
