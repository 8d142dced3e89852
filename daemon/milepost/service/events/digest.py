"""A digest of the event stream: what people can follow while hundreds of streams are worked.

A thousand events a second are no news to anybody, and megabytes a minute to a browser. In a digest, of the events of a
stream with the same status and type the last one stands for all; where even those are many, that of all streams does.
So its size depends on how often it is sent and not on what happens; and as each event says how many it stands for,
nothing is left out in silence.
"""

from collections.abc import Callable, Sequence

from milepost.service.events.messages import EncodedEvent

MAX_EVENTS = 12  # of a digest, before those of all streams become one; there are some thirty statuses with types


def digest_of(events: Sequence[EncodedEvent]) -> bytes:
    """Return a digest of consecutive events as it is sent; its last event is the newest."""
    groups = _grouped(events, lambda event: (event.stream, event.status, event.type))
    if len(groups) > MAX_EVENTS:
        groups = _grouped(events, lambda event: (event.status, event.type))
    groups.sort(key=lambda group: group[-1].seq)
    return b"".join(map(_in_one, groups))


def _grouped(
    events: Sequence[EncodedEvent], key_of: Callable[[EncodedEvent], tuple[str, ...]]
) -> list[list[EncodedEvent]]:
    groups: dict[tuple[str, ...], list[EncodedEvent]] = {}
    for event in events:
        groups.setdefault(key_of(event), []).append(event)
    return list(groups.values())


def _in_one(group: Sequence[EncodedEvent]) -> bytes:
    """Return the last event of a group as it is sent, with how many it stands for."""
    wire, streams = group[-1].wire, len({event.stream for event in group})
    if len(group) > 1:
        wire = wire.replace(b"data: {", b'data: {"times":%d,"streams":%d,' % (len(group), streams), 1)
    return wire
