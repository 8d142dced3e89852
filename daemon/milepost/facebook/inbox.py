"""One stream's inbox in the Graph API."""

from functools import partial
from urllib.parse import quote

from msgspec.structs import replace

from milepost.core.model import Batch, Conversation, Detail, Platform, Stream
from milepost.core.ports import Answered, Fetched, Gate, Held, Refused, Request
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.access import Access
from milepost.facebook.account import linked_account
from milepost.facebook.calls import Calls, Read
from milepost.facebook.client import Answer, GraphClient
from milepost.facebook.decoding import Mailbox, decode, decode_messages, decode_thread
from milepost.facebook.fields import POSITION_FIELDS, THREAD_FIELDS, list_fields, with_messages
from milepost.facebook.problems import is_gone
from milepost.facebook.rate_limiter import RateLimiter
from milepost.facebook.wire import is_thread_id


class FacebookInbox:
    """The Source of one stream. The Instagram account id is asked of the API once where it is not given."""

    def __init__(
        self,
        client: GraphClient,
        stream: Stream,
        access: Access,
        rate_limiter: RateLimiter,
        gate: Gate,
        instagram_account_id: str | None = None,
    ) -> None:
        self._stream = stream
        self._list_path = f"{stream.page_id}/conversations"
        self._list_url = str(client.url(self._list_path))
        self._calls = Calls(client, access, rate_limiter, gate, stream.key)
        self._calls.own_ids = frozenset(filter(None, (stream.page_id, instagram_account_id)))
        self._knows_own_ids = stream.platform is not Platform.INSTAGRAM or instagram_account_id is not None

    async def fetch(self, request: Request) -> Answered:
        """Read a batch. Never raises for what the API or the network does: that is a Refused."""
        missing = await self._learn_own_ids()
        if missing is not None:
            return missing
        listed = await self._calls.ask(self._list_path, self._parameters(request), self._read_list)
        if not isinstance(listed, Read):
            return listed
        fetched = Fetched(listed.value, listed.asked_at, listed.took_seconds)
        if request.detail is Detail.SEPARATE and request.messages:
            return await self._add_messages(fetched, request.messages)
        return fetched

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        """Read one conversation, with up to `messages` of its messages, as a batch of one. Raises as `fetch` does."""
        if not is_thread_id(conversation_id):
            return Refused(Problem(ProblemKind.NONSENSE, "this is no id that a conversation can be asked for by"), 0.0)
        missing = await self._learn_own_ids()
        if missing is not None:
            return missing
        fields = with_messages(THREAD_FIELDS, self._stream.platform, messages)
        answer = await self._calls.ask(_path_of(conversation_id), {"fields": fields}, self._read_thread)
        if not isinstance(answer, Read):
            return answer
        return Fetched(answer.value, answer.asked_at, answer.took_seconds)

    async def _add_messages(self, fetched: Fetched, messages: int) -> Answered:
        """Ask for the messages of each thread of a list; what comes instead of any of them is the answer.

        A thread that is gone since the list was read stays without.
        """
        parameters = {"fields": with_messages(POSITION_FIELDS, self._stream.platform, messages)}
        conversations: list[Conversation] = []
        unreadable = {each.subject: each for each in fetched.batch.unreadable}
        took_seconds = fetched.took_seconds
        for listed in fetched.batch.conversations:
            path, reading = _path_of(listed.conversation_id), partial(self._read_messages, listed)
            answer = await self._calls.ask(path, parameters, reading)
            if isinstance(answer, Held):
                return answer
            took_seconds += answer.took_seconds
            if isinstance(answer, Read):
                conversations += answer.value.conversations
                unreadable |= {each.subject: each for each in answer.value.unreadable}
            elif is_gone(answer.problem):
                conversations.append(listed)
            else:
                return replace(answer, took_seconds=took_seconds)
        batch = Batch(tuple(conversations), fetched.batch.next_cursor, tuple(unreadable.values()))
        return Fetched(batch, fetched.asked_at, took_seconds)

    async def _learn_own_ids(self) -> Refused | Held | None:
        """Learn the id that our own side has on Instagram, where contacts could not be told from it otherwise."""
        if self._knows_own_ids:
            return None
        parameters = {"fields": "instagram_business_account"}
        answer = await self._calls.ask(self._stream.page_id, parameters, self._read_account)
        if not isinstance(answer, Read):
            return answer
        self._calls.own_ids |= {answer.value}
        self._knows_own_ids = True
        return None

    def _parameters(self, request: Request) -> dict[str, str]:
        platform = self._stream.platform
        fields = list_fields(platform, request.messages, request.detail)
        parameters = {"platform": platform.value, "fields": fields, "limit": str(request.limit)}
        if request.cursor is not None:
            parameters["after"] = request.cursor
        return parameters

    def _read_account(self, answer: Answer, access_token: str) -> str | Problem:
        return linked_account(answer.body, answer.status, self._stream.page_id, access_token)

    def _read_list(self, answer: Answer, access_token: str) -> Batch | Problem:
        mailbox = Mailbox(self._calls.own_ids, self._list_url)
        return decode(answer.body, answer.status, mailbox, access_token)

    def _read_thread(self, answer: Answer, access_token: str) -> Batch | Problem:
        return decode_thread(answer.body, answer.status, self._calls.own_ids, access_token)

    def _read_messages(self, listed: Conversation, answer: Answer, access_token: str) -> Batch | Problem:
        return decode_messages(answer.body, answer.status, listed, self._calls.own_ids, access_token)


def _path_of(conversation_id: str) -> str:
    """Give the path of a thread: its id as one segment, whatever is in it (Instagram's are base64)."""
    return quote(conversation_id, safe="")
