"""The requests that the simulator has seen, and the pace of each page."""

from collections import Counter, defaultdict, deque
from datetime import datetime

import msgspec

_MAX_KEPT_REQUESTS = 10_000


class SeenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the Graph API and its outcome."""

    number: int
    """In its stream, from 1: the fault plan's random draws depend on it."""
    at: datetime
    """When it arrived, by the world's clock."""
    page_id: str | None
    """The page that the call counts for; for a thread, the thread's page."""
    owner: str
    edge: str
    platform: str | None
    after: str | None
    limit: str | None
    fields: str | None
    status: int
    """Of the response; 0 if none was sent."""
    fault: str | None
    """The name of the fault that struck, if any."""
    during_limit: bool
    """Whether a limit was active that the client knew of."""


class Traffic:
    """Counts all requests and keeps the last ten thousand."""

    def __init__(self) -> None:
        self.last: deque[SeenRequest] = deque(maxlen=_MAX_KEPT_REQUESTS)
        self.total = 0
        self.by_stream: Counter[str] = Counter()
        self.by_page: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.too_fast: Counter[str] = Counter()
        """Calls beyond the plan's pace, by page."""
        self.during_limit: Counter[str] = Counter()
        """Calls during a limit that the client knew of, by page; those of no page by the requested object."""
        self.max_calls_in_a_second: Counter[str] = Counter()
        """The most calls that arrived within any second of real time, by page."""
        self._arrivals: defaultdict[str, deque[float]] = defaultdict(deque)

    def next_number(self, stream: str) -> int:
        """Count an arriving request of this stream and return its number, from 1."""
        self.total += 1
        self.by_stream[stream] += 1
        return self.by_stream[stream]

    def arrive(self, page_id: str, now_seconds: float) -> None:
        """Count a call of a page that arrives at this instant of a monotonic clock."""
        self.by_page[page_id] += 1
        recent = self._arrivals[page_id]
        recent.append(now_seconds)
        while recent[0] <= now_seconds - 1:
            recent.popleft()
        self.max_calls_in_a_second[page_id] = max(self.max_calls_in_a_second[page_id], len(recent))

    def note(self, request: SeenRequest) -> None:
        """Record the outcome of a request."""
        self.last.append(request)
        self.by_status[request.status] += 1
        if request.fault is not None:
            self.by_fault[request.fault] += 1
        if request.during_limit:
            self.during_limit[request.page_id or request.owner] += 1


class Pace:
    """The allowed pace of each page: a number of calls a second on average, with bursts of one second's worth plus one.

    The extra one is for jitter: without it a client that keeps exactly to the pace would now and then be refused.
    """

    def __init__(self, max_calls_per_second: float) -> None:
        self._max_calls_per_second = max_calls_per_second
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, page_id: str, now_seconds: float) -> bool:
        """Return whether a page may be called at this instant of a monotonic clock, and count the call if so."""
        most = self._max_calls_per_second
        if most <= 0:
            return True
        left, since_seconds = self._left.get(page_id, (most + 1, now_seconds))
        left = min(most + 1, left + (now_seconds - since_seconds) * most)
        allowed = left >= 1
        self._left[page_id] = (left - 1 if allowed else left, now_seconds)
        return allowed
