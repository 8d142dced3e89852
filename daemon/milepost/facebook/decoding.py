"""Answers of the conversations edge as batches: bytes in, a Batch or a Problem out, and nothing ever raised.

A whole list is decoded strictly and at once, which is fast and nearly always works. Where it does not, it is read again
item by item, so that one odd item costs nothing but itself.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from milepost.core.model import Batch, Conversation, Unreadable
from milepost.core.problems import Problem
from milepost.facebook.leniency import read_json
from milepost.facebook.paging import NoCursor, next_cursor, read_list
from milepost.facebook.problems import error_of, nonsense, problem_of
from milepost.facebook.threads import conversation, read_item, with_messages
from milepost.facebook.wire import Page, Paging

DECODER = msgspec.json.Decoder(Page)


class Mailbox(Struct, frozen=True):
    """Whose inbox is read: the ids of our own side, and the URL of the edge without its query."""

    own_ids: frozenset[str]
    edge_url: str


def decode(body: bytes, http_status: int, mailbox: Mailbox, access_token: str) -> Batch | Problem:
    """Read an answer of the list edge. The token is only needed to keep it out of what is given back."""
    try:
        read = _decode_whole(body, http_status, mailbox, access_token)
        return _decode_by_item(body, http_status, mailbox, access_token) if read is None else read
    except RecursionError:
        return nonsense("the answer is nested too deeply", http_status)


def decode_thread(body: bytes, http_status: int, own_ids: frozenset[str], access_token: str) -> Batch | Problem:
    """Read the answer about one thread, as a batch of one."""
    return _decode_thread(body, http_status, access_token, lambda thread: read_item(thread, own_ids, access_token))


def decode_messages(
    body: bytes, http_status: int, listed: Conversation, own_ids: frozenset[str], access_token: str
) -> Batch | Problem:
    """Read the messages in the answer about one thread, of which a list has told the rest, as a batch of one."""

    def read(thread: dict[str, Any]) -> list[Conversation | Unreadable]:
        return with_messages(listed, thread.get("messages"), own_ids, access_token)

    return _decode_thread(body, http_status, access_token, read)


def _decode_whole(body: bytes, http_status: int, mailbox: Mailbox, access_token: str) -> Batch | Problem | None:
    """Read an answer whose every item is as it should be; None for any other."""
    try:
        page = DECODER.decode(body)
        conversations = tuple([conversation(thread, mailbox.own_ids) for thread in page.data])
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
        return None
    if page.error is not None:
        return error_of(page.error, http_status, access_token)
    return _followed(Batch(conversations, None), page.paging, mailbox, http_status)


def _decode_by_item(body: bytes, http_status: int, mailbox: Mailbox, access_token: str) -> Batch | Problem:
    found = read_list(body, http_status, access_token)
    if isinstance(found, Problem):
        return found
    read = [each for item in found.items for each in read_item(item, mailbox.own_ids, access_token)]
    return _followed(_batch(read), found.paging, mailbox, http_status)


def _followed(batch: Batch, paging: Paging | None, mailbox: Mailbox, http_status: int) -> Batch | Problem:
    """Close a batch with its next cursor."""
    try:
        return msgspec.structs.replace(batch, next_cursor=next_cursor(paging, mailbox.edge_url))
    except NoCursor as error:
        return nonsense(str(error), http_status)


def _batch(read: list[Conversation | Unreadable]) -> Batch:
    unreadable = {each.subject: each for each in read if isinstance(each, Unreadable)}
    return Batch(tuple([each for each in read if isinstance(each, Conversation)]), None, tuple(unreadable.values()))


def _decode_thread(
    body: bytes,
    http_status: int,
    access_token: str,
    read: Callable[[dict[str, Any]], list[Conversation | Unreadable]],
) -> Batch | Problem:
    try:
        thread = _thread_of(body, http_status, access_token)
        return thread if isinstance(thread, Problem) else _batch(read(thread))
    except RecursionError:
        return nonsense("the answer is nested too deeply", http_status)


def _thread_of(body: bytes, http_status: int, access_token: str) -> dict[str, Any] | Problem:
    try:
        value = read_json(body)
    except ValueError:
        return problem_of(body, http_status, access_token)
    if isinstance(value, dict) and value.get("error") is None and isinstance(value.get("id"), str):
        return value
    return problem_of(body, http_status, access_token)
