"""What a run is given: its slot, the mailbox of its stream, and the parts of the engine that all streams share."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import datetime

from msgspec import Struct, field
from msgspec.structs import replace

from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import Command, CommandDeferred, DeadLetterCommand
from milepost.core.errors import MilepostError
from milepost.core.events import Reason
from milepost.core.model import Stream
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import Clock, Store
from milepost.core.records import QuietHead
from milepost.engine.clock import Deadline
from milepost.engine.feed import Feed
from milepost.engine.interrupt import Interrupt, Stop
from milepost.engine.prefetch import RowsAhead
from milepost.engine.rate_limits import CallShares, RateLimits

# --- slots ------------------------------------------------------------------------------------------------------------


class Slots:
    """A resizable semaphore: `concurrency` streams run at once, first come, first served.

    A run that waits releases its slot, so that it holds up no other stream. `observe_wait` is called with the seconds
    that a stream has waited for its slot.
    """

    def __init__(self, concurrency: int, observe_wait: Callable[[float], None] = lambda _: None) -> None:
        self._concurrency = concurrency
        self._observe_wait = observe_wait
        self._surplus = 0  # slots to withdraw as they become free
        self._free = asyncio.Semaphore(concurrency)
        # By the event loop's clock, which stops while the process is suspended.
        self._held_since: dict[Stream, float] = {}
        self._waiting_since: dict[Stream, float] = {}
        self._due_since: dict[Stream, float] = {}

    def held_seconds(self) -> Mapping[Stream, float]:
        """Return for how long each stream has held its slot without a break."""
        now = asyncio.get_running_loop().time()
        return {stream: now - held_since for stream, held_since in self._held_since.items()}

    def waiting_seconds(self) -> Mapping[Stream, float]:
        """Return for how long each stream has been waiting for a slot."""
        now = asyncio.get_running_loop().time()
        return {stream: now - since for stream, since in (self._due_since | self._waiting_since).items()}

    @property
    def waiting(self) -> Collection[Stream]:
        """The streams that wait for a slot. May be called from another thread."""
        return (self._due_since | self._waiting_since).keys()

    def note_due(self, streams: Iterable[Stream]) -> None:
        """Note the streams that are due but may not ask for a slot yet: their wait begins now, if it has not begun.

        A worker of a fleet asks for a slot only once it has a lease on the stream.
        """
        now = asyncio.get_running_loop().time()
        self._due_since = {stream: self._due_since.get(stream, now) for stream in streams}

    @property
    def free(self) -> int:
        """How many more streams get a slot at once; less than 0 if some have to wait."""
        return self._concurrency - len(self._held_since) - len(self._waiting_since)

    @property
    def all_taken(self) -> bool:
        """Whether a stream that asks for a slot has to wait."""
        return self.free <= 0

    def resize(self, concurrency: int) -> None:
        """Change how many streams run at once. Surplus runs go on; their slots are withdrawn when they end."""
        self._surplus += self._concurrency - concurrency
        self._concurrency = concurrency
        while self._surplus < 0:
            self._surplus += 1
            self._free.release()

    @asynccontextmanager
    async def hold(
        self, stream: Stream, meanwhile: AbstractAsyncContextManager[None] | None = None
    ) -> AsyncIterator[None]:
        """Hold a slot during the block; wait for it inside `meanwhile`."""
        try:
            async with meanwhile or nullcontext():
                await self._acquire(stream)
                self._held_since[stream] = asyncio.get_running_loop().time()
            yield
        finally:
            if self._held_since.pop(stream, None) is not None:  # `released` may have been cancelled as it waited
                self._free.release()

    @asynccontextmanager
    async def released(self, stream: Stream) -> AsyncIterator[None]:
        """Within `hold`: release the slot during the block."""
        del self._held_since[stream]
        self._free.release()
        try:
            yield
        finally:
            await self._acquire(stream)
            self._held_since[stream] = asyncio.get_running_loop().time()

    async def _acquire(self, stream: Stream) -> None:
        now = asyncio.get_running_loop().time()
        since = self._waiting_since[stream] = self._due_since.pop(stream, now)
        try:
            await self._free.acquire()
            while self._surplus > 0:  # withdraw this one, and wait for another
                self._surplus -= 1
                await self._free.acquire()
        finally:
            del self._waiting_since[stream]
        self._observe_wait(asyncio.get_running_loop().time() - since)


# --- mailbox ----------------------------------------------------------------------------------------------------------

# Commands for a stream are handed to the task that runs it, because no other task may write to the stream.

MAX_WAITING = 1_000


# The dead letter that the command names, if it is still open; or why the command was not executed.
CommandResult = DeadLetter | MilepostError | None


# Executes a command for a dead letter, and returns that if it is still open. Raises MilepostError if it cannot.
ExecuteDeadLetterCommand = Callable[[DeadLetterCommand], Awaitable[DeadLetter | None]]

# Executes a command for the task that runs the stream. Raises errors that prevent the other commands as well.
ExecuteCommand = Callable[[Command], Awaitable[CommandResult]]


class RunRequest(Struct, frozen=True):
    """A request for a run at once, with a `full` sweep or whichever is due."""

    full: bool = False


class Mailbox:
    """The commands that wait for one stream, and whether a run is wanted at once. `interrupt` is set while any waits.

    A stream `is_dismissed` if its task is to end after the current batch. `prompted` interrupts whoever waits for its
    next run when there is news of it.
    """

    def __init__(self) -> None:
        self.is_dismissed = False
        self.prompted = Interrupt()
        self._prompted_at: datetime | None = None
        self._version = self._noted_version = 0
        self._waiting: deque[tuple[Command, asyncio.Future[CommandResult]]] = deque()
        self._wanted: RunRequest | None = None
        self._lock = asyncio.Lock()
        self._owners = 0
        self.interrupt = Interrupt()

    def request_run(self, *, full: bool = False) -> None:
        """Request a run at once, even if none is due yet."""
        before = self._wanted is not None and self._wanted.full
        self._wanted = RunRequest(full or before)
        self.interrupt.set()

    @property
    def is_prompted(self) -> bool:
        """Whether there is news of the stream for which no run has begun."""
        return self._prompted_at is not None

    def prompt(self, now: datetime) -> None:
        """Note that there is news of the stream: its next run is due soon."""
        self._prompted_at = now
        self.prompted.set()
        self.prompted.clear()

    def observe_run(self, started_at: datetime | None = None) -> None:
        """Note that a run has begun, which finds all news from before its start; without an instant, it began now."""
        if started_at is None or (self._prompted_at is not None and started_at >= self._prompted_at):
            self._prompted_at = None

    def set_version(self, version: int) -> None:
        """Set the version that the current run has reached."""
        self._version = version

    def observe_version(self, version: int) -> None:
        """Note the version in the journal. Another process's entry is loaded before the next batch."""
        self._noted_version = max(self._noted_version, version)
        if self.is_outdated and self.has_owner:
            self.interrupt.set()

    @property
    def noted_version(self) -> int:
        """The latest version in the journal, as far as it was noted."""
        return self._noted_version

    def retract_version(self, noted: int, stored: int) -> None:
        """Note that the journal has lost the version `noted`, and ends at `stored`, unless it has moved on since."""
        if self._noted_version == noted:
            self._noted_version = stored

    @property
    def is_outdated(self) -> bool:
        """Whether another process has written to the stream."""
        return self._noted_version > self._version

    def dismiss(self) -> None:
        """Make the stream's task end after the current batch."""
        self.is_dismissed = True
        self.interrupt.set()

    @property
    def run_requested(self) -> bool:
        """Whether a run was requested and has not begun."""
        return self._wanted is not None

    @property
    def wants_run(self) -> bool:
        """Whether another run is wanted as soon as the current one can end."""
        return self.run_requested or self.is_prompted

    def take_run_request(self) -> RunRequest | None:
        """Return the request for a run, if there is one, and clear it."""
        wanted, self._wanted = self._wanted, None
        return wanted

    @property
    def has_owner(self) -> bool:
        """Whether a task runs the stream, and so executes its commands."""
        return self._owners > 0

    @asynccontextmanager
    async def owned(self) -> AsyncIterator[None]:
        """Own the stream during the block, after any other owner has finished.

        If no other owner follows, commands that are still waiting are deferred.
        """
        self._owners += 1
        try:
            async with self._lock:
                yield
        finally:
            self._owners -= 1
            if not self.has_owner:
                why = "the page is being removed" if self.is_dismissed else "Milepost is stopping"
                self.fail_all(CommandDeferred(why, hint="try again when it is running"))

    @property
    def has_commands(self) -> bool:
        """Whether commands wait."""
        return bool(self._waiting)

    def ask(self, command: Command) -> asyncio.Future[CommandResult]:
        """Queue a command for the stream's task. Raises MilepostError if too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise MilepostError("too many commands are waiting", hint="try again in a minute")
        result: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, result))
        self.interrupt.set()
        return result

    async def run(self, execute: ExecuteCommand) -> None:
        """Execute all waiting commands. An error of `execute` becomes the command's result, and is raised."""
        while self._waiting:
            command, result = self._waiting.popleft()
            if result.cancelled():  # nobody waits for it any more
                continue
            outcome: CommandResult = aborted()
            try:
                outcome = await execute(command)
            except MilepostError as error:
                outcome = error
                raise
            finally:
                _resolve(result, outcome)
        self.interrupt.clear()

    def fail_all(self, error: MilepostError) -> None:
        """Fail all waiting commands."""
        while self._waiting:
            _resolve(self._waiting.popleft()[1], error)
        self.interrupt.clear()


def aborted() -> MilepostError:
    """Return the error of a command that was not executed, because of a bug or the end of the process."""
    return MilepostError("the command was aborted", hint="see the log")


def _resolve(result: asyncio.Future[CommandResult], outcome: CommandResult) -> None:
    if not result.cancelled():
        result.set_result(outcome)


# --- what all streams share -------------------------------------------------------------------------------------------


class EngineContext(Struct, frozen=True, eq=False):
    """The parts of the engine that all streams share."""

    store: Store
    clock: Clock
    feed: Feed
    stop: Stop
    policy: Policy
    rate_limits: RateLimits
    slots: Slots
    call_shares: CallShares = field(default_factory=CallShares)
    rows_ahead: RowsAhead = field(default_factory=RowsAhead)
    quiet_heads: dict[Stream, QuietHead] = field(default_factory=dict)

    def is_interrupted(self, mailbox: Mailbox) -> bool:
        """Return whether something has come up that must be handled between two batches."""
        return self.stop.is_requested or mailbox.interrupt.is_set or mailbox.is_dismissed or mailbox.is_outdated

    def budget_now(self, budget: RunBudget, deadline: Deadline, mailbox: Mailbox) -> RunBudget:
        """Return a run's budget with its deadline by the clock's current setting, and with any reason to stop."""
        stops_for = Reason.SHUTDOWN if self.stop.is_requested else Reason.REMOVED if mailbox.is_dismissed else None
        return replace(budget, deadline_at=deadline.at, stops_for=stops_for)
