"""Conversations as the Graph API writes them: some fields missing, participants in any order, counts guessed."""

from collections.abc import Callable, Mapping

from milepost.sources.simulator import luck
from milepost.sources.simulator.fields import Field, pruned
from milepost.sources.simulator.inbox import MAX_DETAILED_MESSAGES, Thread
from milepost.sources.simulator.messages import (
    Link,
    Message,
    Node,
    UnknownField,
    message_node,
    page_node,
    person_node,
    written_time,
)

_DEFAULT_NESTED_LIMIT = 25


def conversation_node(thread: Thread, fields: tuple[Field, ...], link: Link) -> Node:
    """A conversation with the wanted fields.

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


def _messages_edge(thread: Thread, edge: Field, link: Link) -> Node:
    limit = min(_DEFAULT_NESTED_LIMIT if edge.limit is None else edge.limit, MAX_DETAILED_MESSAGES)
    shown = thread.newest[:limit]
    if not shown:
        return {"data": []}
    before, after = (luck.sealed(f"message:{moment.at_us}") for moment in (shown[0], shown[-1]))
    paging: Node = {"cursors": {"before": before, "after": after}}
    if thread.message_count > len(shown):
        paging["next"] = link.to(f"{thread.id}/messages", pretty="0", limit=str(limit), after=after)
    return {"data": [message_node(Message(thread, moment), edge.fields, link) for moment in shown], "paging": paging}


def _participants(thread: Thread) -> Node | None:
    if not thread.shows_participants:
        return None
    both = [person_node(thread), page_node(thread)]
    turned = thread.newest[0].luck[21] < 100
    return {"data": both[::-1] if turned else both}


def _snippet(thread: Thread) -> str | None:
    if thread.luck[1] < 5:
        return None
    newest = Message(thread, thread.newest[0])
    return (newest.text or f"{'You' if newest.is_outgoing else thread.contact.name} sent an attachment.")[:80]


def _page_link(thread: Thread) -> str | None:
    if thread.platform == "instagram" or thread.luck[2] < 5:
        return None
    return f"/{thread.page.id}/inbox/{luck.gathered(int(thread.id[2:]))}/"


def _unread_count(thread: Thread) -> int | None:
    drawn = thread.newest[0].luck[22]
    return None if thread.luck[3] < 5 else max(0, drawn - 250)


def _message_count(thread: Thread) -> int:
    """An estimate, as in the API: now and then one too many."""
    return thread.message_count + (thread.newest[0].luck[23] < 10)


_FIELDS: Mapping[str, Callable[[Thread], object]] = {
    "id": lambda thread: thread.id,
    "updated_time": lambda thread: written_time(thread.position.updated_us),
    "participants": _participants,
    "senders": _participants,
    "snippet": _snippet,
    "link": _page_link,
    "message_count": _message_count,
    "unread_count": _unread_count,
    "can_reply": lambda thread: thread.newest[0].luck[35] >= 20,
    "is_subscribed": lambda _: True,
    "scoped_thread_key": lambda thread: thread.id,
}

_DEFAULT_FIELDS = (Field("id"), Field("link"), Field("updated_time"))
