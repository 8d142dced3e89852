"""A stream's inbox in the Graph API: the Source of the engine."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar
from urllib.parse import quote

from msgspec.structs import replace

from milepost.core.model import LEAN_MESSAGES, Batch, Conversation, Detail, Platform, Profile, Stream
from milepost.core.ports import (
    Answered,
    Fetched,
    Gate,
    Held,
    MessagesAnswered,
    MessagesFetched,
    MessagesRequest,
    Refused,
    Request,
)
from milepost.core.problems import Problem, ProblemKind, is_gone
from milepost.core.texts import storable
from milepost.facebook.calls import Access, Calls, Decoded, FieldCalls
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.decoding import Asked, Edge, Head, decode, decode_message_page, decode_messages, decode_thread
from milepost.facebook.pages import linked_account
from milepost.facebook.responses import place_of
from milepost.facebook.threads import OwnIds
from milepost.facebook.wire import is_thread_id

T = TypeVar("T")

POSITION_FIELDS = "id,updated_time"
THREAD_FIELDS = f"{POSITION_FIELDS},link,snippet,message_count,unread_count,can_reply,participants"
# The `to` of a message is not requested: nothing reads it, and it makes responses a fifth larger.
MESSAGE_FIELDS = {
    Platform.MESSENGER: "id,created_time,from,message,sticker,attachments,shares",
    Platform.INSTAGRAM: "id,created_time,from,message,attachments,shares,story,is_unsupported",
}
ESSENTIAL = frozenset({"id", "updated_time", "participants", "messages", "created_time", "from", "message"})


class FacebookInbox:
    """The Source of one stream. If the Instagram account's id is not given, it is fetched once, for `knows_own_ids`.

    `name` is the page's name for people; without it, the name in the page's threads is used.
    """

    def __init__(
        self,
        client: GraphClient,
        stream: Stream,
        access: Access,
        gate: Gate,
        instagram_account_id: str | None = None,
        name: str = "",
    ) -> None:
        self._stream = stream
        self._client = client
        self._list_path = f"{stream.page_id}/conversations"
        self._list_url = str(client.url(self._list_path))
        self._calls = Calls(client, access, gate, stream.key)
        self._field_calls = FieldCalls(self._calls, ESSENTIAL)
        self._own_ids = OwnIds(filter(None, (stream.page_id, instagram_account_id)))
        self._calls.own_ids = self._own_ids.all
        self._head = Head(client.head_room, self._own_ids)
        self._name = storable(name)[0]
        self.knows_own_ids = stream.platform is not Platform.INSTAGRAM or instagram_account_id is not None

    @property
    def own_ids(self) -> frozenset[str]:
        """The known ids of the page and its Instagram account."""
        return self._own_ids.all

    async def fetch(self, request: Request) -> Answered:
        """Fetch a batch. Failures of the API or the network become a Refused, and are never raised."""
        if (obstacle := await self._obstacle()) is not None:
            return obstacle
        self._own_ids.recall(request.own_id)
        listed = await self._get(self._list_path, self._parameters(request), partial(self._decode_list, request))
        if not isinstance(listed, Decoded):
            return listed
        left_out = listed.left_out if request.detail is Detail.NESTED else None
        met = self._own_ids.profile
        batch = replace(listed.value, page=Profile(self._name or met.name, met.username))
        fetched = Fetched(batch, listed.asked_at, listed.took_seconds, left_out)
        if request.detail is Detail.SEPARATE and request.messages:
            return await self._add_messages(fetched, request.messages)
        return fetched

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        """Fetch one conversation, with up to `messages` of its messages, as a batch of one. Fails as `fetch` does."""
        if (obstacle := await self._obstacle(conversation_id)) is not None:
            return obstacle
        fields = with_messages(THREAD_FIELDS, self._stream.platform, messages)
        decoder = partial(decode_thread, thread_id=conversation_id, own_ids=self._own_ids)
        thread = await self._get(_path_of(conversation_id), {"fields": fields}, decoder)
        return Fetched(thread.value, thread.asked_at, thread.took_seconds) if isinstance(thread, Decoded) else thread

    async def messages(self, request: MessagesRequest) -> MessagesAnswered:
        """Fetch messages of one conversation. Fails as `fetch` does."""
        if (obstacle := await self._obstacle(request.conversation_id)) is not None:
            return obstacle
        path = f"{_path_of(request.conversation_id)}/messages"
        fields = MESSAGE_FIELDS[self._stream.platform]
        parameters = {"fields": fields, "limit": str(request.limit), **place_of(request.cursor)}
        edge = Edge(self._own_ids, str(self._client.url(path)))
        found = await self._get(path, parameters, partial(decode_message_page, edge=edge, asked=request.limit))
        return MessagesFetched(found.value, found.asked_at, found.took_seconds) if isinstance(found, Decoded) else found

    async def _get(
        self, path: str, parameters: Mapping[str, str], decode: Callable[[bytes, int], T | Problem]
    ) -> Decoded[T] | Refused | Held:
        """Make a call, and decode its body and HTTP status."""

        def decode_clean(response: GraphResponse) -> T | Problem:
            # A token of ours in a message's text must not reach everybody who reads the tables.
            return decode(self._client.known_tokens.without(response.body), response.status)

        return await self._field_calls.make(path, parameters, decode_clean)

    async def _add_messages(self, fetched: Fetched, messages: int) -> Answered:
        """Fetch the messages of each listed thread; the first failure is the outcome.

        A thread that was deleted after the list was fetched gets none.
        """
        parameters = {"fields": with_messages(POSITION_FIELDS, self._stream.platform, messages)}
        conversations: list[Conversation] = []
        unreadable = {each.subject: each for each in fetched.batch.unreadable}
        took_seconds = fetched.took_seconds
        for listed in fetched.batch.conversations:
            decoder = partial(decode_messages, listed=listed, own_ids=self._own_ids.all)
            thread = await self._get(_path_of(listed.conversation_id), parameters, decoder)
            if isinstance(thread, Held):
                return thread
            took_seconds += thread.took_seconds
            if isinstance(thread, Decoded):
                conversations += thread.value.conversations
                unreadable |= {each.subject: each for each in thread.value.unreadable}
            elif is_gone(thread.problem):
                conversations.append(listed)
            else:
                return replace(thread, took_seconds=took_seconds)
        batch = replace(fetched.batch, conversations=tuple(conversations), unreadable=tuple(unreadable.values()))
        return Fetched(batch, fetched.asked_at, took_seconds)

    async def _obstacle(self, conversation_id: str | None = None) -> Refused | Held | None:
        """Return what prevents a request, about a conversation if one is given; None if nothing does.

        Fetches our own Instagram id if it is unknown: without it, contacts cannot be distinguished from us.
        """
        if conversation_id is not None and not is_thread_id(conversation_id):
            return Refused(Problem(ProblemKind.INVALID_RESPONSE, "a conversation cannot be requested by this id"), 0.0)
        if self.knows_own_ids:
            return None
        parameters, page_id = {"fields": "instagram_business_account"}, self._stream.page_id
        account_id = await self._calls.make(page_id, parameters, partial(linked_account, page_id))
        if not isinstance(account_id, Decoded):
            return account_id
        self._own_ids.expect(account_id.value)
        self._calls.own_ids = self._own_ids.all
        self.knows_own_ids = True
        return None

    def _parameters(self, request: Request) -> dict[str, str]:
        platform = self._stream.platform
        fields = list_fields(platform, request.messages, request.detail)
        limit = str(request.limit)
        return {"platform": platform.value, "fields": fields, "limit": limit, **place_of(request.cursor)}

    def _decode_list(self, request: Request, body: bytes, http_status: int) -> Batch | Problem:
        edge = Edge(self._own_ids, self._list_url, is_head=request.cursor is None)
        asked = Asked(request.limit, request.messages)
        if request.cursor is None and request.detail is Detail.NESTED:
            return self._head.decode(body, asked, partial(decode, body, http_status, edge, asked))
        return decode(body, http_status, edge, asked)


def _path_of(conversation_id: str) -> str:
    """Return the path of a thread: its id as one segment, whatever characters it has (Instagram's are base64)."""
    return quote(conversation_id, safe="")


# --- what is requested ------------------------------------------------------------------------------------------------


def list_fields(platform: Platform, messages: int, detail: Detail) -> str:
    """Return the fields of each thread in a list, with up to `messages` messages if they are nested."""
    match detail:
        case Detail.NESTED:
            return with_messages(THREAD_FIELDS, platform, messages)
        case Detail.SEPARATE | Detail.BARE:
            return THREAD_FIELDS
        case Detail.LEAN:
            nested = f",messages.limit({min(messages, LEAN_MESSAGES)}){{id,created_time,from,message}}"
            return f"{POSITION_FIELDS},participants{nested if messages else ''}"
        case Detail.POSITION:
            return POSITION_FIELDS


def with_messages(fields: str, platform: Platform, messages: int) -> str:
    """Return these fields, and up to `messages` messages."""
    return f"{fields},messages.limit({messages}){{{MESSAGE_FIELDS[platform]}}}" if messages else fields
