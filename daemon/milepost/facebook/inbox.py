"""A stream's inbox in the Graph API: the Source of the engine."""

from collections.abc import Mapping
from functools import partial
from typing import TypeVar
from urllib.parse import quote

from msgspec.structs import replace

from milepost.core.model import Batch, Conversation, Detail, MessagePage, Platform, Profile, Stream
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
from milepost.core.problems import Problem, ProblemKind
from milepost.core.texts import storable
from milepost.facebook.calls import Access, Calls, Decoded, Decoder
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.decoding import Asked, Mailbox, decode, decode_message_page, decode_messages, decode_thread
from milepost.facebook.fields import ESSENTIAL, indispensable, refused_field, without
from milepost.facebook.heads import Head
from milepost.facebook.own_id import OwnIds
from milepost.facebook.pages import linked_account
from milepost.facebook.paging import place_of
from milepost.facebook.problems import is_gone
from milepost.facebook.wire import (
    MESSAGE_FIELDS,
    POSITION_FIELDS,
    THREAD_FIELDS,
    is_thread_id,
    list_fields,
    with_messages,
)

T = TypeVar("T")


class FacebookInbox:
    """The Source of one stream. An Instagram account id that is not given is fetched once.

    `name` is what people call the page; without it, the page is called as in its threads.
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
        self._known_tokens = client.known_tokens
        self._calls = Calls(client, access, gate, stream.key)
        self._own_ids = OwnIds(filter(None, (stream.page_id, instagram_account_id)))
        self._calls.own_ids = self._own_ids.all
        self._head = Head(client.head_room, self._own_ids)
        self._name = storable(name)[0]
        self._left_out: set[str] = set()  # fields that the API refuses by name
        self._knows_own_ids = stream.platform is not Platform.INSTAGRAM or instagram_account_id is not None

    @property
    def own_ids(self) -> frozenset[str]:
        """The ids of the page and its Instagram account, as far as they are known."""
        return self._own_ids.all

    async def fetch(self, request: Request) -> Answered:
        """Fetch a batch. Never raises for what the API or the network does: that is a Refused."""
        missing = await self._fetch_own_ids()
        if missing is not None:
            return missing
        self._own_ids.recall(request.own_id)
        listed = await self._get(self._list_path, self._parameters(request), partial(self._decode_list, request))
        if not isinstance(listed, Decoded):
            return listed
        left_out = tuple(sorted(self._left_out)) if request.detail is Detail.NESTED else None
        batch = replace(listed.value, page=self._profile())
        fetched = Fetched(batch, listed.asked_at, listed.took_seconds, left_out)
        if request.detail is Detail.SEPARATE and request.messages:
            return await self._add_messages(fetched, request.messages)
        return fetched

    def _profile(self) -> Profile:
        met = self._own_ids.profile
        return Profile(self._name or met.name, met.username)

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        """Fetch one conversation, with up to `messages` of its messages, as a batch of one. Never raises, either."""
        if not is_thread_id(conversation_id):
            return Refused(Problem(ProblemKind.INVALID_RESPONSE, "a conversation cannot be requested by this id"), 0.0)
        missing = await self._fetch_own_ids()
        if missing is not None:
            return missing
        fields = with_messages(THREAD_FIELDS, self._stream.platform, messages)
        thread = await self._get(_path_of(conversation_id), {"fields": fields}, self._decode_thread)
        if not isinstance(thread, Decoded):
            return thread
        return Fetched(thread.value, thread.asked_at, thread.took_seconds)

    async def messages(self, request: MessagesRequest) -> MessagesAnswered:
        """Fetch messages of one conversation. Never raises, either."""
        if not is_thread_id(request.conversation_id):
            return Refused(Problem(ProblemKind.INVALID_RESPONSE, "a conversation cannot be requested by this id"), 0.0)
        missing = await self._fetch_own_ids()
        if missing is not None:
            return missing
        path = f"{_path_of(request.conversation_id)}/messages"
        fields = MESSAGE_FIELDS[self._stream.platform]
        parameters = {"fields": fields, "limit": str(request.limit), **place_of(request.cursor)}
        decoder = partial(self._decode_message_page, str(self._client.url(path)), request.limit)
        found = await self._get(path, parameters, decoder)
        return MessagesFetched(found.value, found.asked_at, found.took_seconds) if isinstance(found, Decoded) else found

    async def _get(self, path: str, parameters: Mapping[str, str], decode: Decoder[T]) -> Decoded[T] | Refused | Held:
        """Make a call, and again without each field that the API refuses by name, now and in later calls."""
        while True:
            fields = without(parameters["fields"], self._left_out)
            outcome = await self._calls.get(path, {**parameters, "fields": fields}, decode)
            name = refused_field(outcome.problem, fields) if isinstance(outcome, Refused) else None
            if name is None or not isinstance(outcome, Refused):
                return outcome
            if name in ESSENTIAL:
                return replace(outcome, problem=indispensable(name, outcome.problem))
            self._left_out.add(name)

    async def _add_messages(self, fetched: Fetched, messages: int) -> Answered:
        """Fetch the messages of each listed thread; the first failure is the outcome.

        A thread that is gone since the list was fetched stays without.
        """
        parameters = {"fields": with_messages(POSITION_FIELDS, self._stream.platform, messages)}
        conversations: list[Conversation] = []
        unreadable = {each.subject: each for each in fetched.batch.unreadable}
        took_seconds = fetched.took_seconds
        for listed in fetched.batch.conversations:
            path, decoder = _path_of(listed.conversation_id), partial(self._decode_messages, listed)
            thread = await self._get(path, parameters, decoder)
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

    async def _fetch_own_ids(self) -> Refused | Held | None:
        """Fetch our own Instagram id if it is unknown: contacts cannot be told from our side without it."""
        if self._knows_own_ids:
            return None
        parameters = {"fields": "instagram_business_account"}
        account_id = await self._calls.get(self._stream.page_id, parameters, self._decode_account)
        if not isinstance(account_id, Decoded):
            return account_id
        self._own_ids.expect(account_id.value)
        self._calls.own_ids = self._own_ids.all
        self._knows_own_ids = True
        return None

    def _parameters(self, request: Request) -> dict[str, str]:
        platform = self._stream.platform
        fields = list_fields(platform, request.messages, request.detail)
        return {
            "platform": platform.value,
            "fields": fields,
            "limit": str(request.limit),
            **place_of(request.cursor),
        }

    def _decode_account(self, response: GraphResponse) -> str | Problem:
        return linked_account(response, self._stream.page_id)

    def _decode_list(self, request: Request, response: GraphResponse) -> Batch | Problem:
        mailbox = Mailbox(self._own_ids, self._list_url, is_head=request.cursor is None)
        body, asked = self._body(response), Asked(request.limit, request.messages)
        decoded = partial(decode, body, response.status, mailbox, asked)
        if request.cursor is not None or request.detail is not Detail.NESTED:
            return decoded()
        return self._head.decode(body, (request.limit, request.messages), decoded)

    def _decode_thread(self, response: GraphResponse) -> Batch | Problem:
        return decode_thread(self._body(response), response.status, self._own_ids)

    def _decode_messages(self, listed: Conversation, response: GraphResponse) -> Batch | Problem:
        return decode_messages(self._body(response), response.status, listed, self._own_ids.all)

    def _body(self, response: GraphResponse) -> bytes:
        """Return a body whose texts hold no token of ours: whoever reads the tables would have it."""
        return self._known_tokens.without(response.body)

    def _decode_message_page(self, edge_url: str, asked: int, response: GraphResponse) -> MessagePage | Problem:
        mailbox = Mailbox(self._own_ids, edge_url)
        return decode_message_page(self._body(response), response.status, mailbox, asked)


def _path_of(conversation_id: str) -> str:
    """Return the path of a thread: its id as one segment, whatever characters it has (Instagram's are base64)."""
    return quote(conversation_id, safe="")
