"""An inbox that lives: threads that jump to the head while it is read, and an edge that answers as the real one does.

All instants are the server's; `updated_time` and `asked_at` are whole seconds, as on the wire.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

from milepost.core.model import Batch, Contact, Conversation, Direction, Interaction, Unreadable
from milepost.core.ports import Fetched, Refused, Request
from milepost.core.problems import Problem, ProblemKind

PROBLEMS = (
    Problem(ProblemKind.NETWORK, "connection reset"),
    Problem(ProblemKind.TIMEOUT, "no answer"),
    Problem(ProblemKind.NONSENSE, "a page of HTML", http_status=502),
    Problem(ProblemKind.API, "an unknown error", http_status=500, code=2, is_transient=True),
    Problem(ProblemKind.API, "too many calls", http_status=400, code=613),
    Problem(ProblemKind.API, "the token has expired", http_status=400, code=190),
    Problem(ProblemKind.API, "an unknown version", http_status=400, code=2635),
)


@dataclass(frozen=True)
class Habits:
    """How this inbox behaves. What is a chance lies in 0..1, per step or per fetch."""

    arrival_chance: float = 0.3
    new_thread_chance: float = 0.2
    unreadable_chance: float = 0.0
    displaced_chance: float = 0.0
    ghost_chance: float = 0.0
    empty_chance: float = 0.0
    refusal_chance: float = 0.0
    loop_chance: float = 0.0
    counts_offsets: bool = False  # cursors are offsets, not places after an item


@dataclass
class Thread:
    """A conversation in its newest state."""

    thread_id: str
    updated_time: datetime
    moved_at: datetime
    messages: list[Interaction] = field(default_factory=list)
    is_readable: bool = True


@dataclass(frozen=True)
class Listed:
    """A line of the inbox: ranks fall from the head on. A ghost is a line that its thread has left behind."""

    rank: float
    thread: Thread
    is_ghost: bool = False


class World:
    """One stream's inbox."""

    def __init__(self, random: Random, habits: Habits, now: datetime, slack_seconds: float) -> None:
        self.random = random
        self.habits = habits
        self.now = now
        self.slack = timedelta(seconds=slack_seconds)
        self.threads: dict[str, Thread] = {}
        self.listing: list[Listed] = []  # head first
        self._count = 0

    # --- what happens in it ---

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def stir(self) -> None:
        """Let some time pass, in which something may arrive."""
        self.pass_time(self.random.random())
        while self.random.random() < self.habits.arrival_chance:
            self.pass_time(self.random.random())
            if not self.threads or self.random.random() < self.habits.new_thread_chance:
                self.new_thread()
            else:
                self.message_for(self.random.choice(list(self.threads.values())))

    def settle(self) -> None:
        """Cease: nothing arrives any more, nothing fails, and what was left behind disappears."""
        self.habits = Habits(arrival_chance=0.0, counts_offsets=self.habits.counts_offsets)
        self.listing = [line for line in self.listing if not line.is_ghost]

    def new_thread(self) -> None:
        self._count += 1
        thread = Thread(f"t_{self._count}", self.now, self.now)
        self.threads[thread.thread_id] = thread
        self.message_for(thread)

    def message_for(self, thread: Thread) -> None:
        """Let a message arrive: its thread jumps to the head, or nearly, and may become unreadable or readable."""
        left_behind = replace(thread, messages=list(thread.messages))
        for index, line in enumerate(self.listing):
            if line.thread is thread:
                del self.listing[index]
                if self._leaves_a_ghost(thread):
                    self.listing.insert(index, Listed(line.rank, left_behind, is_ghost=True))
                break
        thread.is_readable = self.random.random() >= self.habits.unreadable_chance
        thread.moved_at = self.now
        thread.updated_time = whole_second(self.now)
        event_id = f"m_{thread.thread_id}_{len(thread.messages)}"
        thread.messages.append(Interaction(event_id, Direction.IN, "message", self.now, text=event_id))
        place = self._place_of_arrival()
        self.listing.insert(place, Listed(self._rank_at(place), thread))

    def _leaves_a_ghost(self, thread: Thread) -> bool:
        return (
            not self.habits.counts_offsets
            and self.random.random() < self.habits.ghost_chance
            and thread.updated_time < whole_second(self.now)
        )

    def _place_of_arrival(self) -> int:
        """Choose a place near the head: below lines within the slack, or below a single line of any age.

        Below older lines only where every item tells its time, because a batch of old lines and an unreadable one
        looks wholly old. Nowhere but at the head where cursors are offsets: a line that sinks lifts others over them.
        """
        if not self.listing or self.habits.counts_offsets or self.random.random() >= self.habits.displaced_chance:
            return 0
        place = 0
        oldest = whole_second(self.now) - self.slack
        while place < min(3, len(self.listing)) and self.listing[place].thread.updated_time >= oldest:
            place += 1
        return place if self.habits.unreadable_chance else max(1, place)

    def _rank_at(self, place: int) -> float:
        if not self.listing:
            return 0.0
        if place == 0:
            return self.listing[0].rank + 1.0
        above = self.listing[place - 1].rank
        below = self.listing[place].rank if place < len(self.listing) else above - 1.0
        return (above + below) / 2

    # --- how it answers ---

    def answer(self, request: Request) -> Fetched | Refused:
        """Answer a call of the list edge."""
        asked_at = whole_second(self.now) - timedelta(seconds=self.random.randrange(3))
        took_seconds = self.random.random()
        if self.random.random() < self.habits.refusal_chance:
            self.pass_time(took_seconds)
            return Refused(self.random.choice(PROBLEMS), took_seconds)
        fetched = Fetched(self._batch(request), asked_at, took_seconds)
        self.pass_time(took_seconds)
        return fetched

    def _batch(self, request: Request) -> Batch:
        start, hops = self._start(request.cursor)
        if self.random.random() < self.habits.empty_chance:
            lines, size = [], 0
        else:
            size = self.random.randint(min(2, request.limit), request.limit)
            lines = self.listing[start : start + size]
        has_more = start + size < len(self.listing) or (size == 0 and hops < 3)
        if not has_more and self.random.random() < self.habits.empty_chance:
            has_more = hops < 3  # the last batch is now and then followed by an empty one
        next_cursor = self._cursor(start, lines, hops + 1) if has_more else None
        if request.cursor is not None and self.random.random() < self.habits.loop_chance:
            next_cursor = request.cursor
        conversations = tuple(told(line.thread, request.messages) for line in lines if line.thread.is_readable)
        bad = tuple(
            Unreadable(line.thread.thread_id, "updated_time: expected str", "{}")
            for line in lines
            if not line.thread.is_readable
        )
        return Batch(conversations, next_cursor, bad)

    def _start(self, cursor: str | None) -> tuple[int, int]:
        """Find where a cursor leads to, and how many empty answers led to it."""
        if cursor is None:
            return 0, 0
        after, hops = cursor.split("/")
        if self.habits.counts_offsets:
            return int(after), int(hops)
        start = next((index for index, line in enumerate(self.listing) if line.rank < float(after)), len(self.listing))
        return start, int(hops)

    def _cursor(self, start: int, lines: list[Listed], hops: int) -> str:
        hops = 0 if lines else hops
        if self.habits.counts_offsets:
            return f"{start + len(lines)}/{hops}"
        if lines:
            return f"{lines[-1].rank!r}/{hops}"
        after = self.listing[start - 1].rank if start else float("inf")
        return f"{after!r}/{hops}"


def told(thread: Thread, messages: int) -> Conversation:
    """Give a thread as the API tells it, with its newest messages."""
    newest_first = tuple(reversed(thread.messages))[:messages]
    return Conversation(
        thread.thread_id,
        thread.updated_time,
        contact=Contact(f"c_{thread.thread_id}", f"the contact of {thread.thread_id}"),
        snippet=thread.messages[-1].text,
        message_count=len(thread.messages),
        interactions=newest_first,
    )


def whole_second(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)
