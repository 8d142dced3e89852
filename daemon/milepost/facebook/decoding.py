"""Responses of the conversations edge as batches: bytes in, a Batch or a Problem out, nothing raised.

A list is decoded strictly as a whole, which is fast and nearly always works; otherwise item by item, so that an odd
item costs nothing but itself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.model import Batch, Conversation, MessagePage, OwnId, Unreadable
from milepost.core.problems import Problem
from milepost.facebook.forms import nobody_is_told, told_by, told_by_items
from milepost.facebook.leniency import ESCAPED_NUL, mended, parse_json
from milepost.facebook.own_id import OwnIds
from milepost.facebook.paging import GRACE_COUNT, MAX_LIMIT, NoCursor, has_next, next_cursor, read_list, surplus
from milepost.facebook.problems import invalid_response, problem_of, problem_of_error
from milepost.facebook.threads import (
    conversation,
    message_page,
    nested_messages,
    participants_of,
    read_item,
    with_messages,
)
from milepost.facebook.wire import Paging, People, ThreadList

MAX_MESSAGES = 20  # as the settings allow: the API withholds the details of older ones

DECODER = msgspec.json.Decoder(ThreadList)


class Mailbox(Struct, frozen=True):
    """Whose inbox is read, and whether at its head: the ids of our side, and the URL of the edge without its query."""

    own_ids: OwnIds
    edge_url: str
    is_head: bool = True

    def check(self, threads: Iterable[tuple[str, People | None]], paging: Paging | None) -> OwnId | None:
        """Return what the threads of a response say about our own id."""
        return self.own_ids.check(threads, is_head=self.is_head, is_end=not has_next(paging))


class Asked(Struct, frozen=True):
    """The most conversations that were asked for, and the most messages of each. By default, the most that ever are."""

    conversations: int = MAX_LIMIT
    messages: int = MAX_MESSAGES


MOST = Asked()


def decode(body: bytes, http_status: int, mailbox: Mailbox, asked: Asked = MOST) -> Batch | Problem:
    """Decode a response of the list edge. One with far more than was asked for is refused as oversize."""
    try:
        decoded = _decode_whole(body, http_status, mailbox, asked)
        return _decode_by_item(body, http_status, mailbox, asked) if decoded is None else decoded
    except RecursionError:
        return invalid_response("the response is nested too deeply", http_status)


def decode_thread(body: bytes, http_status: int, own_ids: OwnIds) -> Batch | Problem:
    """Decode a response about one thread, as a batch of one."""

    def read(thread: dict[str, Any]) -> list[Conversation | Unreadable]:
        own_ids.check([participants_of(thread)])
        return read_item(thread, own_ids.all)

    return _decode_thread(body, http_status, read)


def decode_messages(body: bytes, http_status: int, listed: Conversation, own_ids: frozenset[str]) -> Batch | Problem:
    """Decode the messages of a thread whose other fields came with a list, as a batch of one."""

    def read(thread: dict[str, Any]) -> list[Conversation | Unreadable]:
        messages, replaced = mended(thread.get("messages"))
        known = replace(listed, replaced_characters=listed.replaced_characters + replaced)
        return with_messages(known, messages, own_ids)

    return _decode_thread(body, http_status, read)


def decode_message_page(body: bytes, http_status: int, mailbox: Mailbox, asked: int) -> MessagePage | Problem:
    """Decode a response of a thread's messages edge, of which `asked` messages were requested."""
    try:
        found = read_list(body, http_status, asked)
        if isinstance(found, Problem):
            return found
        cursor = next_cursor(found.paging, mailbox.edge_url)
        return message_page(mended(found.items)[0], cursor, mailbox.own_ids.all)
    except NoCursor as error:
        return invalid_response(str(error), http_status)
    except RecursionError:
        return invalid_response("the response is nested too deeply", http_status)


def _decode_whole(body: bytes, http_status: int, mailbox: Mailbox, asked: Asked) -> Batch | Problem | None:
    """Decode a response whose every item is valid, and every text storable; return None for any other."""
    if ESCAPED_NUL in body:  # half of a surrogate pair is an error anyway
        return None
    try:
        listed = DECODER.decode(body)
        messages = [len(thread.messages.data) for thread in listed.data if thread.messages]
        too_much = _surplus(len(listed.data), messages, asked, http_status)
        if too_much is not None:
            return too_much
        told = ((thread.id, thread.participants) for thread in listed.data)
        own_id = mailbox.check(told, listed.paging)
        conversations = tuple([conversation(thread, mailbox.own_ids.all) for thread in listed.data])
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
        return None
    if listed.error is not None:
        return problem_of_error(listed.error, http_status)
    if problem := nobody_is_told(told_by(listed.data)):
        return problem
    return _followed(Batch(conversations, None, own_id=own_id), listed.paging, mailbox, http_status)


def _decode_by_item(body: bytes, http_status: int, mailbox: Mailbox, asked: Asked) -> Batch | Problem:
    found = read_list(body, http_status, asked.conversations)
    if isinstance(found, Problem):
        return found
    messages = [len(nested_messages(item.get("messages"))) for item in found.items if isinstance(item, dict)]
    too_much = _surplus(len(found.items), messages, asked, http_status) or nobody_is_told(told_by_items(found.items))
    if too_much is not None:
        return too_much
    own_id = mailbox.check(map(participants_of, found.items), found.paging)
    read = [each for item in found.items for each in read_item(item, mailbox.own_ids.all)]
    return _followed(msgspec.structs.replace(_batch(read), own_id=own_id), found.paging, mailbox, http_status)


def _surplus(conversations: int, messages: Sequence[int], asked: Asked, http_status: int) -> Problem | None:
    """Return the problem of a list with far more than was asked for; `messages` has the number of each thread."""
    in_all = asked.conversations * asked.messages
    grace = GRACE_COUNT * MAX_MESSAGES  # conversations may come beyond those asked for, and messages with them
    return (
        surplus("conversations", conversations, asked.conversations, http_status)
        or surplus("messages of a conversation", max(messages, default=0), asked.messages, http_status)
        or surplus("messages", sum(messages), in_all, http_status, grace)
    )


def _followed(batch: Batch, paging: Paging | None, mailbox: Mailbox, http_status: int) -> Batch | Problem:
    """Return the batch with its next cursor."""
    try:
        return replace(batch, next_cursor=next_cursor(paging, mailbox.edge_url))
    except NoCursor as error:
        return invalid_response(str(error), http_status)


def _batch(read: list[Conversation | Unreadable]) -> Batch:
    unreadable = {each.subject: each for each in read if isinstance(each, Unreadable)}
    return Batch(tuple([each for each in read if isinstance(each, Conversation)]), None, tuple(unreadable.values()))


def _decode_thread(
    body: bytes,
    http_status: int,
    read: Callable[[dict[str, Any]], list[Conversation | Unreadable]],
) -> Batch | Problem:
    try:
        thread = _thread_of(body, http_status)
        if isinstance(thread, Problem):
            return thread
        messages = len(nested_messages(thread.get("messages")))
        return surplus("messages of a conversation", messages, MAX_MESSAGES, http_status) or _batch(read(thread))
    except RecursionError:
        return invalid_response("the response is nested too deeply", http_status)


def _thread_of(body: bytes, http_status: int) -> dict[str, Any] | Problem:
    try:
        value = parse_json(body)
    except ValueError:
        return problem_of(body, http_status)
    if isinstance(value, dict) and value.get("error") is None and isinstance(value.get("id"), str):
        return value
    return problem_of(body, http_status)
