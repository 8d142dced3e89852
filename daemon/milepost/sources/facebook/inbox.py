"""One stream's inbox in the Graph API."""

from aiolimiter import AsyncLimiter

from milepost.core.model import Batch, Platform, Stream
from milepost.core.ports import Fetched, Outcome, Refused, Request
from milepost.core.problems import Problem
from milepost.sources.facebook.account import linked_account
from milepost.sources.facebook.client import Answer, GraphClient
from milepost.sources.facebook.decoding import Mailbox, decode
from milepost.sources.facebook.problems import problem_of

THREAD_FIELDS = "id,updated_time,link,snippet,message_count,unread_count,can_reply,participants"
# Without the `to` of a message, which nothing reads: it makes answers a fifth larger.
MESSAGE_FIELDS = {
    Platform.MESSENGER: "id,created_time,from,message,sticker,attachments,shares",
    Platform.INSTAGRAM: "id,created_time,from,message,attachments,shares,story,is_unsupported",
}


def pace(calls_per_second: float) -> AsyncLimiter | None:
    """Make what spaces the calls of one page evenly; both its streams share it. None where the rate is 0: no pacing.

    Calls come one by one, not in bursts, so that no second sees more than the rate, whenever it is taken to begin.
    """
    return AsyncLimiter(1, 1 / calls_per_second) if calls_per_second else None


class FacebookInbox:
    """The Source of one stream. The Instagram account id is asked of the API once where it is not given."""

    def __init__(
        self,
        client: GraphClient,
        stream: Stream,
        access_token: str,
        limiter: AsyncLimiter | None,
        instagram_account_id: str | None = None,
    ) -> None:
        self._client = client
        self._stream = stream
        self._access_token = access_token
        self._limiter = limiter
        self._instagram_account_id = instagram_account_id

    async def fetch(self, request: Request) -> Outcome:
        """Read a batch. Never raises for what the API or the network does: that is a Refused."""
        refused = await self._find_account()
        if refused is not None:
            return refused
        path = f"{self._stream.page_id}/conversations"
        answer = await self._ask(path, self._parameters(request))
        if isinstance(answer, Refused):
            return answer
        match self._decode(answer, path):
            case Problem() as problem:
                return Refused(problem, answer.took_seconds)
            case batch:
                return Fetched(batch, answer.asked_at, answer.took_seconds)

    def _parameters(self, request: Request) -> dict[str, str]:
        platform = self._stream.platform
        fields = THREAD_FIELDS
        if request.messages:
            fields += f",messages.limit({request.messages}){{{MESSAGE_FIELDS[platform]}}}"
        parameters = {"platform": platform.value, "fields": fields, "limit": str(request.limit)}
        if request.cursor is not None:
            parameters["after"] = request.cursor
        return parameters

    def _decode(self, answer: Answer, path: str) -> Batch | Problem:
        if answer.status >= 300:
            return problem_of(answer.body, answer.status, self._access_token)
        own_ids = frozenset(filter(None, (self._stream.page_id, self._instagram_account_id)))
        mailbox = Mailbox(own_ids, str(self._client.url(path)))
        return decode(answer.body, answer.status, mailbox, self._access_token)

    async def _find_account(self) -> Refused | None:
        """Learn the id that our own side has on Instagram, where contacts could not be told from it otherwise."""
        if self._stream.platform is not Platform.INSTAGRAM or self._instagram_account_id is not None:
            return None
        answer = await self._ask(self._stream.page_id, {"fields": "instagram_business_account"})
        if isinstance(answer, Refused):
            return answer
        match linked_account(answer.body, answer.status, self._stream.page_id, self._access_token):
            case Problem() as problem:
                return Refused(problem, answer.took_seconds)
            case account_id:
                self._instagram_account_id = account_id
                return None

    async def _ask(self, path: str, parameters: dict[str, str]) -> Answer | Refused:
        if self._limiter is not None:
            await self._limiter.acquire()
        return await self._client.get(path, parameters, self._access_token)
