"""Decodes responses of the conversations edge: bytes in, a Batch or a Problem out, nothing raised.

A list is decoded strictly as a whole, which is fast and nearly always works. If that fails, it is decoded item by item,
so that an odd item loses only itself. If the head of an inbox is the same as before, it is not decoded at all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import Any
from weakref import WeakSet

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.doubts import READ_VERSION
from milepost.core.model import Batch, Conversation, MessagePage, OwnId, OwnIdState, Unreadable
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.leniency import (
    ESCAPED_NUL,
    lenient_or_none,
    mended,
    message_page,
    nested_messages,
    parse_json,
    participants_of,
    read_item,
    with_messages,
)
from milepost.facebook.responses import (
    GRACE_COUNT,
    MAX_LIMIT,
    invalid_response,
    next_cursor,
    problem_of,
    problem_of_error,
    read_list,
    surplus,
)
from milepost.facebook.threads import OwnIds, conversation
from milepost.facebook.wire import Paging, People, Sender, Thread, ThreadList, has_next

MAX_MESSAGES = 20  # as the settings allow: the API withholds the details of older ones

MIN_THREADS = 5
MIN_MESSAGES = 20

DECODER = msgspec.json.Decoder(ThreadList)


class Edge(Struct, frozen=True):
    """The edge that a request reads: our own ids, its URL without the query, and whether it is read from the head."""

    own_ids: OwnIds
    url: str
    is_head: bool = True

    def check(self, threads: Iterable[tuple[str, People | None]], paging: Paging | None) -> OwnId | None:
        """Return whether the threads of a response confirm our own id."""
        return self.own_ids.check(threads, is_head=self.is_head, is_end=not has_next(paging))


class Asked(Struct, frozen=True):
    """The number of requested conversations, and of messages in each. The defaults are the largest that occur."""

    conversations: int = MAX_LIMIT
    messages: int = MAX_MESSAGES


MOST = Asked()


def decode(body: bytes, http_status: int, edge: Edge, asked: Asked = MOST) -> Batch | Problem:
    """Decode a response of the list edge. One with far more than was requested is refused as oversize."""
    try:
        decoded = _decode_whole(body, http_status, edge, asked)
        return _decode_by_item(body, http_status, edge, asked) if decoded is None else decoded
    except RecursionError:
        return invalid_response("the response is nested too deeply", http_status)


def decode_thread(body: bytes, http_status: int, thread_id: str, own_ids: OwnIds) -> Batch | Problem:
    """Decode a response about the thread that was requested, as a batch of one."""

    def read(thread: dict[str, Any]) -> list[Conversation | Unreadable]:
        thread, replaced = mended(thread)
        own_ids.check([participants_of(thread)])
        return read_item(thread, replaced, own_ids.all)

    return _decode_thread(body, http_status, thread_id, read)


def decode_messages(body: bytes, http_status: int, listed: Conversation, own_ids: frozenset[str]) -> Batch | Problem:
    """Decode the messages of a thread whose other fields came with a list, as a batch of one."""

    def read(thread: dict[str, Any]) -> list[Conversation | Unreadable]:
        messages, replaced = mended(thread.get("messages"))
        known = replace(listed, replaced_characters=listed.replaced_characters + replaced)
        return with_messages(known, messages, own_ids)

    return _decode_thread(body, http_status, listed.conversation_id, read)


def decode_message_page(body: bytes, http_status: int, edge: Edge, asked: int) -> MessagePage | Problem:
    """Decode a response of a thread's messages edge to a request for `asked` messages."""
    try:
        found = read_list(body, http_status, asked)
        if isinstance(found, Problem):
            return found
        cursor = next_cursor(found.paging, edge.url, http_status)
        if isinstance(cursor, Problem):
            return cursor
        return message_page(mended(found.items)[0], cursor, edge.own_ids.all)
    except RecursionError:
        return invalid_response("the response is nested too deeply", http_status)


def _decode_whole(body: bytes, http_status: int, edge: Edge, asked: Asked) -> Batch | Problem | None:
    """Decode a response if all its items are valid and all its texts storable; otherwise return None."""
    if ESCAPED_NUL in body:  # half of a surrogate pair is an error anyway
        return None
    try:
        listed = DECODER.decode(body)
        messages = [len(thread.messages.data) for thread in listed.data if thread.messages]
        if too_much := _surplus(len(listed.data), messages, asked, http_status):
            return too_much
        people = ((thread.id, thread.participants) for thread in listed.data)
        own_id = edge.check(people, listed.paging)
        conversations = tuple([conversation(thread, edge.own_ids.all) for thread in listed.data])
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
        return None
    if listed.error is not None:
        return problem_of_error(listed.error, http_status)
    if problem := _without_people(_forms_of(listed.data)):
        return problem
    cursor = next_cursor(listed.paging, edge.url, http_status)
    return cursor if isinstance(cursor, Problem) else Batch(conversations, cursor, own_id=own_id)


def _decode_by_item(body: bytes, http_status: int, edge: Edge, asked: Asked) -> Batch | Problem:
    found = read_list(body, http_status, asked.conversations)
    if isinstance(found, Problem):
        return found
    messages = [len(nested_messages(item.get("messages"))) for item in found.items if isinstance(item, dict)]
    if too_much := _surplus(len(found.items), messages, asked, http_status):
        return too_much
    if problem := _without_people(_forms_of_items(found.items)):
        return problem
    items = [mended(item) for item in found.items]
    own_id = edge.check((participants_of(item) for item, _ in items), found.paging)
    read = [each for item, replaced in items for each in read_item(item, replaced, edge.own_ids.all)]
    cursor = next_cursor(found.paging, edge.url, http_status)
    return cursor if isinstance(cursor, Problem) else _batch(read, cursor, own_id)


def _surplus(conversations: int, messages: Sequence[int], asked: Asked, http_status: int) -> Problem | None:
    """Return the problem of a list with far more than was requested; `messages` has the count of each thread."""
    in_all = asked.conversations * asked.messages
    grace = GRACE_COUNT * MAX_MESSAGES  # a few extra conversations may come, each with its messages
    return (
        surplus("conversations", conversations, asked.conversations, http_status)
        or surplus("messages of a conversation", max(messages, default=0), asked.messages, http_status)
        or surplus("messages", sum(messages), in_all, http_status, grace)
    )


def _batch(read: list[Conversation | Unreadable], next_cursor: str | None = None, own_id: OwnId | None = None) -> Batch:
    unreadable = {each.subject: each for each in read if isinstance(each, Unreadable)}
    conversations = tuple([each for each in read if isinstance(each, Conversation)])
    return Batch(conversations, next_cursor, tuple(unreadable.values()), own_id=own_id)


def _decode_thread(
    body: bytes,
    http_status: int,
    thread_id: str,
    read: Callable[[dict[str, Any]], list[Conversation | Unreadable]],
) -> Batch | Problem:
    try:
        thread = _thread_of(body, http_status)
        if isinstance(thread, Problem):
            return thread
        if thread["id"] != thread_id:  # it says nothing about the requested one, not even that it is gone
            return invalid_response("the response is about another conversation", http_status)
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


# --- whether a list names participants and senders --------------------------------------------------------------------

# Without them, all contacts would be missing and all messages would count as theirs. A single thread may lack them,
# because the API withholds people. If all threads of a list lack them, the list has an unexpected form.

Form = tuple[bool | None, list[bool]]
"""Whether a thread's participants have ids (None: it has no participants), and whether each message has a sender."""


def _without_people(threads: Iterable[Form]) -> Problem | None:
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
        return _another_form(f"none of {without_ids} conversations has participants with ids")
    if not has_senders and silent >= MIN_MESSAGES and silent_threads >= MIN_THREADS:
        return _another_form(f"none of {silent} messages says who sent it")
    return None


def _forms_of(threads: Iterable[Thread]) -> Iterator[Form]:
    """Yield the forms of threads that were decoded strictly."""
    for thread in threads:
        people = thread.participants.data if thread.participants else []
        messages = thread.messages.data if thread.messages else []
        yield (
            any(person.id for person in people) if people else None,
            [bool(message.sender and message.sender.id) for message in messages],
        )


def _forms_of_items(items: Iterable[Any]) -> Iterator[Form]:
    """Yield the forms of threads of any shape."""
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


def _another_form(what: str) -> Problem:
    return Problem(
        ProblemKind.MISCONFIGURED, f"{what}, a form that this version of Milepost cannot read; {READ_VERSION}"
    )


# --- the heads of inboxes ---------------------------------------------------------------------------------------------

# A response that equals the previous one, byte for byte, is not decoded again. Nearly every sweep of nearly every inbox
# gets such a response, and decoding it would be a third of that sweep's work.

MAX_KEPT_BYTES = 16 * 2**20  # of all bodies whose batches are kept; a batch takes about as much memory as its body

EXPECTED = OwnId(OwnIdState.EXPECTED)


class _Kept(Struct, frozen=True, eq=False, weakref=True):
    """A kept batch, and the size of its body."""

    batch: Batch
    size: int


class HeadRoom:
    """The memory limit for the kept heads of one client's inboxes. Threads share it."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept = WeakSet[_Kept]()  # the head of a removed inbox vanishes with it
        self._lock = Lock()

    def keep(self, batch: Batch, size: int) -> _Kept | None:
        """Reserve room for a batch whose body has this size, and return it; None if there is no room."""
        with self._lock:
            if size + sum(each.size for each in self._kept) > self._max_bytes:
                return None
            kept = _Kept(batch, size)
            self._kept.add(kept)
            return kept


class Head:
    """The latest head of one inbox.

    The first batch is kept, because it comes again at once in the scan that follows a first copy. A later one is kept
    once it has come twice, so that busy inboxes take no room.
    """

    def __init__(self, room: HeadRoom, own_ids: OwnIds) -> None:
        self._room = room
        self._own_ids = own_ids
        self._seen: tuple[object, ...] | None = None
        self._kept: _Kept | None = None

    def decode(self, body: bytes, asked: Asked, decode: Callable[[], Batch | Problem]) -> Batch | Problem:
        """Return the kept batch of an equal body, or what `decode` returns.

        A batch is kept only if it contains an expected id of ours. Then decoding it again would only confirm that id
        once more.
        """
        seen = self._see(body, asked)
        if self._kept is not None and seen == self._seen:
            self._own_ids.see_expected()
            return self._kept.batch
        self._kept = None
        batch, before = decode(), self._seen
        self._seen = self._see(body, asked)
        is_wanted = before is None or before == self._seen
        if is_wanted and isinstance(batch, Batch) and batch.own_id == EXPECTED and not batch.unreadable:
            self._kept = self._room.keep(batch, len(body))
        return batch

    def _see(self, body: bytes, asked: Asked) -> tuple[object, ...]:
        """Return everything that the batch depends on: a digest of the body, what was requested, and our own ids."""
        return hash(body), len(body), asked, self._own_ids.all, self._own_ids.profile
