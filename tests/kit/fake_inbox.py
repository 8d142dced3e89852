"""Inboxes that change while they are read: threads jump to the head, and the edge answers as the real one does.

All instants are by the server's clock; `updated_time` and `asked_at` are whole seconds, as in the API.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from random import Random

from msgspec.structs import replace as replace_struct

from kit.builders import NOON
from kit.fake_outages import OUTAGES, UNKNOWN, Climate, Outages
from kit.virtual_time import VirtualTime
from milepost.core.facts import Edited, detail_of
from milepost.core.model import (
    LEAN_MESSAGES,
    Batch,
    Contact,
    Conversation,
    Detail,
    Direction,
    Interaction,
    MessagePage,
    Stream,
    Unreadable,
)
from milepost.core.ports import Fetched, MessagesFetched, MessagesOutcome, MessagesRequest, Outcome, Refused, Request
from milepost.core.problems import Problem, ProblemKind
from milepost.core.webhooks import WebhookEvent, WebhookKind

TOO_HEAVY = Problem(ProblemKind.API, "Please reduce the amount of data", http_status=500, code=1)
OVERSIZE = Problem(ProblemKind.OVERSIZE, "more than any batch has")
DEAD_CURSORS = (
    Problem(ProblemKind.API, "invalid cursors values", http_status=400, code=2642),
    Problem(ProblemKind.API, "an invalid parameter", http_status=400, code=100),
)
GONE = Problem(ProblemKind.API, "it does not exist", http_status=400, code=100, subcode=33)
SPOILT_LISTS = (  # forms in which one thread was seen to make every list with it fail
    UNKNOWN,
    *OUTAGES,
    Problem(ProblemKind.INVALID_RESPONSE, "JSON cut short", http_status=200),
    Problem(ProblemKind.API, "code 960", http_status=400, code=960),
    Problem(ProblemKind.API, "a missing object", http_status=400, code=100, subcode=2_018_001),
    Problem(ProblemKind.API, "an invalid parameter", http_status=400, code=100),
    Problem(ProblemKind.API, "no permission", http_status=403, code=10),
)

FEW = 4  # an inbox falsely looks empty only if it has more threads than this: otherwise the core rightly believes it
DETAILS = tuple(Detail)  # the most detail first


class Health(Enum):
    """How much of a thread the API can serve: the most detail with which a request can list it."""

    GOOD = Detail.NESTED
    HEAVY = Detail.SEPARATE
    SLOW = Detail.LEAN
    MUTE = Detail.BARE
    POISON = Detail.POSITION

    def bears(self, detail: Detail) -> bool:
        return DETAILS.index(detail) >= DETAILS.index(self.value)


@dataclass(frozen=True)
class Habits:
    """How inboxes behave. Chances are in 0..1, per step or per fetch."""

    arrival_chance: float = 0.3
    new_thread_chance: float = 0.2
    burst_chance: float = 0.0  # several messages arrive at once
    longest_burst: int = 30
    edit_chance: float = 0.0  # a message is edited
    unsend_chance: float = 0.0  # a message is unsent
    window: int = 0  # how many of a thread's newest messages can be read; 0: all
    longest_past: int = 0  # the most messages that a thread has when it is first listed
    unreadable_chance: float = 0.0
    sick_chance: float = 0.0
    deletion_chance: float = 0.0
    displaced_chance: float = 0.0
    ghost_chance: float = 0.0
    empty_chance: float = 0.0
    dead_cursor_chance: float = 0.0
    loop_chance: float = 0.0
    round_chance: float = 0.0  # a cursor leads back to one of those before it
    false_end_chance: float = 0.0  # a cursor of an earlier run gets an empty answer, as at the end
    false_empty_chance: float = 0.0  # the inbox looks empty
    is_ordered: bool = True
    max_messages: int = 10_000  # in one answer
    counts_offsets: bool = False  # cursors are offsets, not places after an item
    climate: Climate = field(default_factory=Climate)

    @property
    def may_shrink(self) -> bool:
        return self.sick_chance > 0 or self.max_messages < 10_000 or self.climate.with_unknown_errors


@dataclass
class Thread:
    """A conversation in its newest state."""

    thread_id: str
    updated_time: datetime
    moved_at: datetime
    listed_since: datetime  # since when it has been in the inbox without a break
    messages: list[Interaction] = field(default_factory=list)  # including unsent ones
    unsent: set[str] = field(default_factory=set)
    is_readable: bool = True
    health: Health = Health.GOOD
    refusal: Problem = UNKNOWN  # the answer to requests for more detail than its health allows
    was_ever_sick: bool = False

    @property
    def there(self) -> list[Interaction]:
        """The messages that still exist."""
        if not self.unsent:
            return self.messages
        return [each for each in self.messages if each.event_id not in self.unsent]

    @property
    def contact_id(self) -> str:
        return f"c_{self.thread_id}"

    @property
    def is_well_alone(self) -> bool:
        """Whether the thread can be read by itself although lists fail with it: true for one in four."""
        return int(self.thread_id.removeprefix("t_")) % 4 == 0


@dataclass(frozen=True)
class Listed:
    """A line of the inbox. Ranks decrease from the head. A ghost is a line that its thread has left behind."""

    rank: float
    thread: Thread
    is_ghost: bool = False


class Inbox:
    """One stream's inbox."""

    def __init__(self, world: "World", stream: Stream) -> None:
        self.world = world
        self.random = world.random
        self.stream = stream
        self.threads: dict[str, Thread] = {}
        self.gone: dict[str, Thread] = {}
        self.listing: list[Listed] = []  # head first
        self._bad_cursors: dict[str, tuple[datetime, Problem | None]] = {}  # None: it leads to itself
        self._issued: list[str] = []  # cursors, in this run and before
        self._old: set[str] = set()  # those of earlier runs
        self._rounds: dict[str, tuple[datetime, str]] = {}  # cursors that lead back, and where to
        self._false_ends: dict[str, datetime] = {}
        self._empty_until = self.now
        self.has_account = True  # otherwise the inbox is empty and nothing arrives

    @property
    def habits(self) -> Habits:
        return self.world.habits

    @property
    def now(self) -> datetime:
        return self.world.now

    # --- changes ---

    def stir(self) -> None:
        """Let something arrive or disappear."""
        while self.has_account and self._happens(self.habits.arrival_chance):
            self.world.pass_time(self.random.random())
            known = [*self.threads.values(), *self.gone.values()]
            if not known or self._happens(self.habits.new_thread_chance):
                self.new_thread()
                continue
            thread = self.random.choice(known)
            is_burst = self._happens(self.habits.burst_chance)
            for _ in range(self.random.randint(2, self.habits.longest_burst) if is_burst else 1):
                self.message_for(thread)
        if self.threads and self._happens(self.habits.deletion_chance) and not self.habits.counts_offsets:
            self.delete(self.random.choice(list(self.threads.values())))
        if self.threads and self._happens(self.habits.sick_chance):
            self.random.choice(list(self.threads.values())).health = Health.GOOD
        if self.habits.edit_chance and self.threads and self._happens(self.habits.edit_chance):
            self.edit(self.random.choice(list(self.threads.values())))
        if self.habits.unsend_chance and self.threads and self._happens(self.habits.unsend_chance):
            self.unsend(self.random.choice(list(self.threads.values())))

    def new_thread(self) -> None:
        thread = Thread(self.world.new_thread_id(), self.now, self.now, self.now)
        age = timedelta(seconds=self.random.choice((10.0, 600.0, 86_400.0)))
        count = self.random.randint(0, self.habits.longest_past)
        for n in range(count):
            event_id, at = f"m_{thread.thread_id}_{n}", self.now - age * ((count - n) / count)
            thread.messages.append(Interaction(event_id, Direction.IN, "message", at, text=event_id))
        self.message_for(thread)

    def delete(self, thread: Thread) -> None:
        self.gone[thread.thread_id] = self.threads.pop(thread.thread_id)
        self.listing = [line for line in self.listing if line.thread.thread_id != thread.thread_id]

    def message_for(self, thread: Thread) -> None:
        """Let a message arrive: its thread jumps to the head, or nearly, and its health may change."""
        if self.gone.pop(thread.thread_id, None) is not None:
            thread.listed_since = self.now
        self.threads[thread.thread_id] = thread
        for index, line in enumerate(self.listing):
            if line.thread is thread:
                del self.listing[index]
                if self._leaves_a_ghost(thread):
                    left_behind = replace(thread, messages=list(thread.messages))
                    self.listing.insert(index, Listed(line.rank, left_behind, is_ghost=True))
                break
        thread.is_readable = not self._happens(self.habits.unreadable_chance)
        thread.health = self.random.choice(list(Health)[1:]) if self._happens(self.habits.sick_chance) else Health.GOOD
        thread.refusal = self.random.choice(SPOILT_LISTS)
        thread.was_ever_sick |= thread.health is not Health.GOOD or not thread.is_readable
        thread.moved_at = self.now
        thread.updated_time = whole_second(self.now)
        event_id = f"m_{thread.thread_id}_{len(thread.messages)}"
        thread.messages.append(Interaction(event_id, Direction.IN, "message", self.now, text=event_id))
        place = self._place_of_arrival()
        self.listing.insert(place, Listed(self._rank_at(place), thread))

    def edit(self, thread: Thread) -> None:
        """Edit one of the newest messages. Its thread keeps its place."""
        message = self.random.choice(thread.there[-8:])
        edited = replace_struct(message, text=f"{message.text}, edited")
        thread.messages[thread.messages.index(message)] = edited
        detail = detail_of(Edited(edited.text or ""))
        self.world.facts.append(self._fact(WebhookKind.EDIT, thread, message, detail))

    def unsend(self, thread: Thread) -> None:
        """Unsend one of the newest messages, but not a thread's last one. Its thread keeps its place."""
        if len(thread.there) > 1:
            message = self.random.choice(thread.there[-8:])
            thread.unsent.add(message.event_id)
            self.world.facts.append(self._fact(WebhookKind.UNSEND, thread, message))

    def _fact(self, kind: WebhookKind, thread: Thread, message: Interaction, detail: str | None = None) -> WebhookEvent:
        which = str(len(self.world.facts))
        return WebhookEvent(self.stream, kind, message.event_id, thread.contact_id, self.now, which, detail=detail)

    def move_to(self, other: "Inbox") -> None:
        """Move the threads to another page with their ids; deleted ones may come back there."""
        other.threads, other.gone, other.listing = self.threads, self.gone, self.listing
        self.threads, self.listing, self.has_account = {}, [], False

    def settle(self) -> None:
        """Remove all ghosts, and let every cursor lead to its true place."""
        self._bad_cursors.clear()
        self._rounds.clear()
        self._false_ends.clear()
        self._empty_until = self.now
        self.listing = [line for line in self.listing if not line.is_ghost]

    def heal(self) -> None:
        """Make every thread readable, in its place. All cursors die."""
        for thread in self.threads.values():
            thread.is_readable, thread.health = True, Health.GOOD
        in_order = sorted(self.threads.values(), key=lambda thread: thread.updated_time)
        self.listing = [Listed(float(rank), thread) for rank, thread in enumerate(in_order)][::-1]

    def _leaves_a_ghost(self, thread: Thread) -> bool:
        return (
            not self.habits.counts_offsets
            and self._happens(self.habits.ghost_chance)
            and thread.updated_time < whole_second(self.now)
        )

    def _place_of_arrival(self) -> int:
        """Choose a place near the head: below lines within the slack, or below a single line of any age.

        A place below older lines needs every item to have its time, because a batch of old lines and an unreadable one
        looks wholly old. If cursors are offsets, only the head is possible: a line that sinks lifts others past them.
        """
        if not self.habits.is_ordered:
            return self.random.randint(0, len(self.listing))
        if not self.listing or self.habits.counts_offsets or not self._happens(self.habits.displaced_chance):
            return 0
        place = 0
        oldest = whole_second(self.now) - self.world.slack
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

    def _happens(self, chance: float) -> bool:
        return self.random.random() < chance

    # --- answers ---

    def answer(self, request: Request) -> Outcome:
        """Answer a call of the list edge."""
        asked_at = whole_second(self.now) - timedelta(seconds=self.random.randrange(3))
        took_seconds = self.random.random()
        problem = self._bad_cursor(request.cursor) or self.world.outages.refusal(self.stream, self.now)
        answer = problem or self._lie(request.cursor) or self._batch(request)
        return Refused(answer, took_seconds) if isinstance(answer, Problem) else Fetched(answer, asked_at, took_seconds)

    def reread(self, conversation_id: str, messages: int) -> Outcome:
        """Answer a call for one conversation."""
        asked_at, took_seconds = whole_second(self.now), self.random.random()
        problem = self.world.outages.refusal(self.stream, self.now)
        thread = self.threads.get(conversation_id)
        if problem is None and thread is None:
            problem = GONE
        if problem is None and thread is not None and not thread.is_well_alone:
            is_sick = not thread.health.bears(self._detail(Detail.SEPARATE, messages))
            problem = thread.refusal if is_sick else None
        if problem is not None or thread is None:
            return Refused(problem or GONE, took_seconds)
        batch = Batch(*_as_listed([thread], messages, None, self.habits.window))
        return Fetched(batch, asked_at, took_seconds)

    def messages(self, request: MessagesRequest) -> MessagesOutcome:
        """Answer a call for messages of one conversation; its cursors are the ids of messages."""
        asked_at, took_seconds = whole_second(self.now), self.random.random()
        problem = self._bad_cursor(request.cursor) or self.world.outages.refusal(self.stream, self.now)
        thread = self.threads.get(request.conversation_id)
        if problem is None and thread is None:
            problem = GONE
        if problem is None and thread is not None and not thread.health.bears(Detail.SEPARATE):
            problem = UNKNOWN
        if problem is None and request.limit > max(1, self.habits.max_messages):
            problem = TOO_HEAVY
        if problem is not None or thread is None:
            return Refused(problem or GONE, took_seconds)
        return MessagesFetched(self._page(thread, request), asked_at, took_seconds)

    def _page(self, thread: Thread, request: MessagesRequest) -> MessagePage:
        after, _, hops = (request.cursor or "").partition("/")
        ids = [each.event_id for each in thread.messages]
        below = set(ids[: ids.index(after)] if after else ids)
        newest_first = thread.there[::-1]
        start = sum(each.event_id not in below for each in newest_first)
        if self.habits.window and start >= self.habits.window:
            return MessagePage(())  # although the previous answer announced more
        newest_first = newest_first[: self.habits.window or None]
        is_last_there = len(newest_first) == len(thread.there)
        is_empty = start > 0 and int(hops or 0) < 3 and self._happens(self.habits.empty_chance)
        shown = newest_first[start : start + (0 if is_empty else self.random.randint(1, request.limit))]
        next_cursor = f"{shown[-1].event_id if shown else after}/{0 if shown else int(hops or 0) + 1}"
        if request.cursor in self._bad_cursors:
            next_cursor = request.cursor
        has_more = start + len(shown) < len(newest_first) or not is_last_there
        return MessagePage(tuple(shown), next_cursor if has_more else None)

    def _bad_cursor(self, cursor: str | None) -> Problem | None:
        if cursor is None:
            return None
        until = self.now + timedelta(seconds=self.random.random() * 60)
        if self._happens(self.habits.dead_cursor_chance):
            self._bad_cursors.setdefault(cursor, (until, self.random.choice(DEAD_CURSORS)))
        elif self._happens(self.habits.loop_chance):
            self._bad_cursors.setdefault(cursor, (until, None))
        if cursor in self._bad_cursors and self._bad_cursors[cursor][0] <= self.now:
            del self._bad_cursors[cursor]
        return self._bad_cursors[cursor][1] if cursor in self._bad_cursors else None

    def age_cursors(self) -> None:
        """End a run: the cursors that it got are old ones for the next run."""
        self._old.update(self._issued)
        del self._issued[:-20]

    def _lie(self, cursor: str | None) -> Batch | None:
        """Occasionally answer as if the inbox ended here or were empty."""
        until = self.now + timedelta(seconds=self.random.random() * 60)
        if cursor is None:
            if self._happens(self.habits.false_empty_chance):
                self._empty_until = max(self._empty_until, until)
            is_empty = self.now < self._empty_until and self.world.stored(self.stream) > FEW
            return Batch((), None) if is_empty else None
        if cursor in self._old and self._happens(self.habits.false_end_chance):
            self._false_ends.setdefault(cursor, until)
        return Batch((), None) if cursor in self._old and self.now < self._false_ends.get(cursor, self.now) else None

    def _led_back(self, cursor: str | None, following: str | None) -> str | None:
        """Return the next cursor, which occasionally leads back to an earlier one."""
        place = self._start(cursor)[0]
        before = [each for each in self._issued[-6:] if self._start(each)[0] <= place]
        if cursor is not None and following is not None and before and self._happens(self.habits.round_chance):
            until = self.now + timedelta(seconds=self.random.random() * 60)
            self._rounds.setdefault(cursor, (until, self.random.choice(before)))
        until, target = self._rounds.get(cursor or "", (self.now, ""))
        if self.now < until and self._start(target)[0] <= place:
            following = target
        if following is not None:
            self._issued.append(following)
            self._old.discard(following)  # a cursor that is issued again is no longer old
        return following

    @staticmethod
    def _detail(detail: Detail, messages: int) -> Detail:
        """Return the effective detail: in a request without messages, details of messages do not matter."""
        return detail if messages or detail is Detail.POSITION else Detail.BARE

    def _batch(self, request: Request) -> Batch | Problem:
        start, hops = self._start(request.cursor)
        if self._happens(self.habits.empty_chance):
            lines, size = [], 0
        else:
            size = self.random.randint(min(2, request.limit), request.limit)
            lines = self.listing[start : start + size]
        threads = [line.thread for line in lines]
        detail = self._detail(request.detail, request.messages)
        spoilt = next((thread for thread in threads if not thread.health.bears(detail)), None)
        if spoilt is not None:
            return TOO_HEAVY if spoilt.health is Health.HEAVY else spoilt.refusal
        nested = sum(min(len(thread.there), request.messages) for thread in threads)
        if detail is Detail.NESTED and len(threads) > 1 and nested > self.habits.max_messages:
            return OVERSIZE
        has_more = start + size < len(self.listing) or (size == 0 and hops < 3)
        if not has_more and self._happens(self.habits.empty_chance):
            has_more = hops < 3  # the last batch is occasionally followed by an empty one
        next_cursor = self._cursor(start, lines, hops + 1) if has_more else None
        if request.cursor in self._bad_cursors:
            next_cursor = request.cursor
        next_cursor = self._led_back(request.cursor, next_cursor)
        most = {Detail.LEAN: LEAN_MESSAGES, Detail.BARE: 0}.get(detail, request.messages)
        listed_messages = min(request.messages, most)
        if detail is Detail.POSITION:
            positions = tuple(Conversation(each.thread_id, each.updated_time) for each in threads)
            return Batch(positions, next_cursor)
        return Batch(*_as_listed(threads, listed_messages, next_cursor, self.habits.window))

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


class World:
    """The inboxes behind one API, and its outages."""

    def __init__(self, random: Random, habits: Habits, time: VirtualTime, slack_seconds: float) -> None:
        self.random = random
        self.habits = habits
        self.time = time
        self.slack = timedelta(seconds=slack_seconds)
        self.outages = Outages(random, habits.climate)
        self.inboxes: dict[Stream, Inbox] = {}
        self.facts: list[WebhookEvent] = []  # what webhooks may report: once, repeatedly or never
        self.is_ordered = habits.is_ordered
        self.stored: Callable[[Stream], int] = lambda _: 0
        self._threads = 0

    @property
    def now(self) -> datetime:
        """The server's clock."""
        return NOON + timedelta(seconds=self.time.seconds)

    def add(self, stream: Stream) -> Inbox:
        self.inboxes[stream] = Inbox(self, stream)
        return self.inboxes[stream]

    def link(self, stream: Stream, another: Stream) -> None:
        """Link the account of a stream to another page."""
        self.inboxes[stream].move_to(self.add(another))

    def new_thread_id(self) -> str:
        self._threads += 1
        return f"t_{self._threads:04}"  # no id is a prefix of another

    def pass_time(self, seconds: float) -> None:
        self.time.seconds += seconds

    def stir(self) -> None:
        """Let some time pass, in which any inbox may change."""
        self.pass_time(self.random.random())
        for stream, inbox in self.inboxes.items():
            inbox.stir()
            self.outages.stir(stream, self.now)

    def settle(self) -> None:
        """Come to rest: nothing arrives any more, every call is answered, and ghosts disappear."""
        calm, habits = Habits(arrival_chance=0.0, window=self.habits.window), self.habits
        self.habits = replace(calm, max_messages=habits.max_messages, counts_offsets=habits.counts_offsets)
        self.outages.clear()
        for inbox in self.inboxes.values():
            inbox.settle()

    def heal(self) -> None:
        self.habits = replace(self.habits, max_messages=10_000)
        for inbox in self.inboxes.values():
            inbox.heal()


def _as_listed(
    threads: list[Thread], messages: int, next_cursor: str | None, window: int
) -> tuple[tuple[Conversation, ...], str | None, tuple[Unreadable, ...]]:
    good = tuple(as_listed(thread, messages, window) for thread in threads if thread.is_readable)
    bad = tuple(
        Unreadable(
            thread.thread_id,
            "link: expected str",
            f'{{"updated_time": "{thread.updated_time}"}}',
        )
        for thread in threads
        if not thread.is_readable
    )
    return good, next_cursor, bad


def as_listed(thread: Thread, messages: int, window: int) -> Conversation:
    """Return a thread as the API lists it, with its newest messages, limited by the window if there is one."""
    there = thread.there
    newest_first = tuple(reversed(there))[: min(messages, window or messages)]
    has_older = len(there) > len(newest_first) > 0
    return Conversation(
        thread.thread_id,
        thread.updated_time,
        contact=Contact(thread.contact_id, f"the contact of {thread.thread_id}"),
        snippet=there[-1].text if there else None,  # every message may be unsent
        message_count=len(there),
        interactions=newest_first,
        has_older=has_older,
        older_cursor=newest_first[-1].event_id if has_older else None,
    )


def whole_second(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)
