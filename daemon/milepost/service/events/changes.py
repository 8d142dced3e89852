"""`/api/changes`: the rows that changed, page by page or as server-sent events."""

from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangesPage
from milepost.core.model import Stream
from milepost.core.ports import ChangeReader
from milepost.service.api.endpoint import AnyOperation, Call, Limit, Operation, Reply, StreamKey, etag_of
from milepost.service.api.journal import MAX_SEQ
from milepost.service.events.change_stream import ChangesQuery, ChangeStream
from milepost.service.events.route import MAX_WRITE_SECONDS, MEDIA_TYPE, last_event_id, send_events

_KIND = "|".join(ChangeKind)
After = Annotated[
    int, Meta(ge=0, le=MAX_SEQ, description="only changes with a greater seq: the `next` of the last page")
]
Kinds = Annotated[
    tuple[Annotated[str, Meta(pattern=f"^({_KIND})(,({_KIND}))*$")], ...],
    Meta(description=f"only changes of these kinds, separated by commas: {', '.join(ChangeKind)}"),
]


class ChangesAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which changes to list."""

    after: After = 0
    kinds: Kinds = ()
    stream: StreamKey | None = None
    limit: Limit = 100


class ChangesFollowed(Struct, frozen=True, forbid_unknown_fields=True):
    """Which changes to send. The header Last-Event-ID goes before `after`."""

    after: After = 0
    kinds: Kinds = ()
    stream: StreamKey | None = None


def changes(reader: ChangeReader) -> Sequence[AnyOperation]:
    """Declare the operation that lists changes."""

    async def list_changes(call: Call[ChangesAsked, None]) -> Reply[ChangesPage]:
        asked = call.parameters
        page = await reader.read_changes(asked.after, asked.limit, _kinds(asked.kinds), _stream(asked.stream))
        # Whatever changes in a row, it takes another seq.
        return Reply(page, etag=etag_of([page.next, *(change.seq for change in page.changes)]))

    return [
        Operation(
            "GET",
            "/api/changes",
            "List the rows that changed, in the order of their changes, each as it is now",
            parameters=ChangesAsked,
            response=ChangesPage,
            handle=list_changes,
            statuses=(200, 304),
        )
    ]


def change_stream(followed: ChangeStream, *, max_write_seconds: float = MAX_WRITE_SECONDS) -> Sequence[AnyOperation]:
    """Declare the change feed as server-sent events."""

    async def follow_changes(call: Call[ChangesFollowed, None]) -> web.StreamResponse:
        asked, last_id = call.parameters, last_event_id(call.request)
        after = asked.after if last_id is None else last_id
        query = ChangesQuery(after, _kinds(asked.kinds), _stream(asked.stream))
        async with aclosing(followed.follow(query)) as pieces:
            return await send_events(call.request, pieces, max_write_seconds)

    return [
        Operation(
            "GET",
            "/api/changes/stream",
            "Follow the rows that change, as server-sent events: each is a change, and its id is the seq",
            parameters=ChangesFollowed,
            response=Change,
            handle=follow_changes,
            media_type=MEDIA_TYPE,
            max_seconds=None,
        )
    ]


def _kinds(named: Iterable[str]) -> frozenset[ChangeKind]:
    return frozenset(ChangeKind(kind) for each in named for kind in each.split(",")) or ALL_KINDS


def _stream(key: str | None) -> Stream | None:
    return None if key is None else Stream.parse(key)
