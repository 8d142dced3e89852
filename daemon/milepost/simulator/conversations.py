"""Conversations as the Graph API writes them: some fields missing, participants in any order, counts estimated."""

from collections.abc import Callable, Mapping

from milepost.simulator import refusals, seeded
from milepost.simulator.fields import Field, pruned
from milepost.simulator.inbox import MAX_DETAILED_MESSAGES, Moment, Thread
from milepost.simulator.messages import (
    Link,
    Message,
    Node,
    UnknownField,
    message_node,
    page_node,
    person_node,
    written_time,
)
from milepost.simulator.requests import ApiRequest, paging_node

_DEFAULT_NESTED_LIMIT = 25


def conversation_node(thread: Thread, fields: tuple[Field, ...], link: Link) -> Node:
    """Return a conversation with the requested fields.

    Raises:
        UnknownField: a conversation, or a message in it, has no such field.
    """
    node: Node = {}
    for field in fields or _DEFAULT_FIELDS:
        if field.name == "messages":
            node["messages"] = _messages_edge(thread, field, link)
        elif field.name not in _FIELDS:
            raise UnknownField(field.name)
        elif (value := _FIELDS[field.name](thread)) is not None:
            node[field.name] = pruned(value, field.fields)
    return node if "id" in node else {**node, "id": thread.id}


def message_list(thread: Thread, messages: tuple[Moment, ...], request: ApiRequest) -> Node:
    """Return those of a thread's messages that were requested, newest first.

    It has a `next` as long as the thread has more messages, even if those cannot be read.

    Raises:
        Refusal: the cursor is of none of these messages, or the request pages backwards.
        UnknownField: a message has no such field.
    """
    if "before" in request.query:
        raise refusals.bad_parameter("The simulator does not page backwards")
    start = 0
    if "after" in request.query:
        cursors = [_cursor(moment) for moment in messages]
        if request.query["after"] not in cursors:
            raise refusals.dead_cursor()
        start = cursors.index(request.query["after"]) + 1
    shown = messages[start : start + request.limit]
    if not shown:
        return {"data": []}
    has_more = thread.message_count > start + len(shown)
    paging = paging_node(request, before=_cursor(shown[0]), after=_cursor(shown[-1]), has_more=has_more)
    nodes = [message_node(Message(thread, moment), request.fields, request.link) for moment in shown]
    return {"data": nodes, "paging": paging}


def nested_limit(fields: tuple[Field, ...]) -> int:
    """Return how many messages of each conversation these fields request, at most 20."""
    return max((_limit(field) for field in fields if field.name == "messages"), default=0)


def _limit(edge: Field) -> int:
    return min(_DEFAULT_NESTED_LIMIT if edge.limit is None else edge.limit, MAX_DETAILED_MESSAGES)


def _messages_edge(thread: Thread, edge: Field, link: Link) -> Node:
    limit = _limit(edge)
    shown = thread.newest[:limit]
    if not shown:
        return {"data": []}
    before, after = _cursor(shown[0]), _cursor(shown[-1])
    paging: Node = {"cursors": {"before": before, "after": after}}
    if thread.message_count > len(shown):
        paging["next"] = link.to(f"{thread.id}/messages", pretty="0", limit=str(limit), after=after)
    return {"data": [message_node(Message(thread, moment), edge.fields, link) for moment in shown], "paging": paging}


def _cursor(moment: Moment) -> str:
    return seeded.sealed(f"message:{moment.id}")


def _participants(thread: Thread) -> Node | None:
    if not thread.shows_participants:
        return None
    both = [person_node(thread), page_node(thread)]
    turned = thread.newest[0].seed[21] < 100
    return {"data": both[::-1] if turned else both}


def _snippet(thread: Thread) -> str | None:
    if thread.seed[1] < 5:
        return None
    newest = Message(thread, thread.newest[0])
    return (newest.text or f"{'You' if newest.is_outgoing else thread.contact.name} sent an attachment.")[:80]


def _page_link(thread: Thread) -> str | None:
    if thread.platform == "instagram" or thread.seed[2] < 5:
        return None
    return f"/{thread.page.id}/inbox/{seeded.gathered(int(thread.id[2:]))}/"


def _unread_count(thread: Thread) -> int | None:
    drawn = thread.newest[0].seed[22]
    return None if thread.seed[3] < 5 else max(0, drawn - 250)


def _message_count(thread: Thread) -> int:
    """Return an estimate, as in the API: now and then one too many."""
    return thread.message_count + (thread.newest[0].seed[23] < 10)


_FIELDS: Mapping[str, Callable[[Thread], object]] = {
    "id": lambda thread: thread.id,
    "updated_time": lambda thread: written_time(thread.position.updated_us),
    "participants": _participants,
    "senders": _participants,
    "snippet": _snippet,
    "link": _page_link,
    "message_count": _message_count,
    "unread_count": _unread_count,
    "can_reply": lambda thread: thread.newest[0].seed[35] >= 20,
    "is_subscribed": lambda _: True,
    "scoped_thread_key": lambda thread: thread.id,
}

_DEFAULT_FIELDS = (Field("id"), Field("link"), Field("updated_time"))
