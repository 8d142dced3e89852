"""How events are written down and read back, for ever.

An event's data is JSON with defaults left out. A field may be added to an event as long as it has a default. A change
beyond that raises the event's format: its new data carries `"v": n`, and a step in UPCASTS brings format n - 1 to n.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from milepost.core.errors import JournalDamaged
from milepost.core.events import TAGS, Event

Upcast = Callable[[dict[str, Any]], dict[str, Any]]

# By tag, the steps from format 1 to 2, 2 to 3, …: none has been needed so far.
UPCASTS: Mapping[str, tuple[Upcast, ...]] = {}

_encode = msgspec.json.Encoder(order=None).encode


class Codec:
    """Writes events and reads them, in every format that there ever was."""

    def __init__(self, upcasts: Mapping[str, tuple[Upcast, ...]] = UPCASTS) -> None:
        self._upcasts = upcasts
        self._decoders = {tag: msgspec.json.Decoder(kind) for kind, tag in TAGS.items()}
        self._kinds = {tag: kind for kind, tag in TAGS.items()}

    def encode(self, event: Event) -> tuple[str, str]:
        """Give the event's tag and its data as JSON text."""
        tag = TAGS[type(event)]
        upcasts = self._upcasts.get(tag, ())
        if not upcasts:
            return tag, _encode(event).decode()
        return tag, _encode({"v": len(upcasts) + 1, **msgspec.to_builtins(event)}).decode()

    def decode(self, tag: str, data: str) -> Event:
        """Read an event. Raises JournalDamaged for data that no version up to this one wrote."""
        decoder = self._decoders.get(tag)
        if decoder is None:
            raise JournalDamaged(
                f"the journal holds an entry of the unknown type {tag!r}",
                hint="it was written by a newer Milepost, or by something else: run the newer version",
            )
        try:
            if tag not in self._upcasts and '"v":' not in data:
                return decoder.decode(data)
            return self._decode_old(tag, msgspec.json.decode(data, type=dict[str, Any]))
        except msgspec.MsgspecError as error:
            raise JournalDamaged(
                f"a journal entry of type {tag!r} cannot be read: {error}",
                hint="restore the database from a backup",
            ) from error

    def _decode_old(self, tag: str, fields: dict[str, Any]) -> Event:
        upcasts = self._upcasts.get(tag, ())
        version = fields.pop("v", 1)
        if not isinstance(version, int) or not 1 <= version <= len(upcasts) + 1:
            raise JournalDamaged(
                f"a journal entry of type {tag!r} has the unknown format {version!r}",
                hint="it was written by a newer Milepost: run that version",
            )
        for upcast in upcasts[version - 1 :]:
            fields = upcast(fields)
        return msgspec.convert(fields, self._kinds[tag])
