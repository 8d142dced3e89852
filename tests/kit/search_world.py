"""An inbox with unreadable threads, walked by the core alone, with outages at chosen calls."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kit.builders import NOON, at, budget, checkpoint_of, contact, context, conversation, fetched, given, message
from kit.decisions import decision_on
from milepost.core.checkpoint import BatchUnchanged, Checkpoint, Run
from milepost.core.events import DeadLetterClosed, DeadLetterOpened
from milepost.core.evolve import skip_unchanged
from milepost.core.failures import check_request, checked, read_alone, to_read_alone, wants_check
from milepost.core.model import ContactRow, Conversation, ConversationRow, Detail, Known, KnownDeadLetter
from milepost.core.plan import Fetch, Finish, Policy, RunBudget, plan
from milepost.core.ports import Held, Outcome, Refused, Request
from milepost.core.problems import Problem, ProblemKind
from milepost.core.records import Record, conclude

DETAILS = tuple(Detail)
DOWN = Problem(ProblemKind.API, "service down", http_status=500, code=2, is_transient=True)
MAX_CALLS = 2_000


@dataclass(frozen=True)
class Sick:
    """A thread with which a list succeeds only up to this detail; with more, it fails with `problem`.

    Reading the thread by itself fails as well, unless it is `readable_alone`.
    """

    problem: Problem
    bears: Detail = Detail.POSITION
    readable_alone: bool = False

    def spoils(self, request: Request) -> bool:
        return DETAILS.index(request.detail) < DETAILS.index(self.bears)


@dataclass
class SearchWorld:
    """An inbox of `threads` threads; `sick` is by their index. `outage` has the numbers of failing calls, from 0.

    If a request asks for less than full detail, `reshuffled` says which thread is listed in place of which.
    """

    threads: int
    sick: Mapping[int, Sick] = field(default_factory=dict)
    outage: Collection[int] = ()
    outage_problem: Problem = DOWN
    policy: Policy = field(default_factory=lambda: Policy(batch_size=8, base_delay_seconds=0.0))
    max_batches: int = 500
    reshuffled: Mapping[int, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    read_alone: list[str] = field(default_factory=list)
    read: dict[str, ConversationRow] = field(default_factory=dict)
    contacts: dict[str, ContactRow] = field(default_factory=dict)
    interaction_events: set[str] = field(default_factory=set)
    open_dead_letters: dict[str, KnownDeadLetter] = field(default_factory=dict)
    runs: int = 1
    last_run: Run | None = None  # the latest that has ended

    @property
    def dead_letters(self) -> set[str]:
        """The subjects of the open dead letters."""
        return set(self.open_dead_letters)

    def sweep(self, checkpoint: Checkpoint | None = None) -> Checkpoint:
        """Make one run after the other until the sweep is complete."""
        checkpoint = checkpoint or checkpoint_of()
        while len(self.requests) < MAX_CALLS:
            action = plan(checkpoint, NOON, self._budget(), self.policy)
            if isinstance(action, Fetch):
                checkpoint = self._settle(checkpoint, self._answer(action.request, checkpoint))
            elif isinstance(action, Finish) and (ending := conclude(checkpoint, action.reason, self._budget())):
                checkpoint = given(*ending.events, after=checkpoint, run_id=f"run-{self.runs}")
            if checkpoint.last_success_at is not None:
                return checkpoint
            if checkpoint.run is not None and checkpoint.run.ended_at is not None:
                self.last_run = checkpoint.run
                self.runs += 1
        raise AssertionError("the walk does not end")

    def _budget(self) -> RunBudget:
        return budget(f"run-{self.runs}", max_batches=self.max_batches)

    def _settle(self, checkpoint: Checkpoint, outcome: Outcome) -> Checkpoint:
        during = context(NOON, during=self._budget(), policy=self.policy)
        known = Known(self.read, self.contacts, frozenset(self.interaction_events), self.open_dead_letters)
        decision = decision_on(checkpoint, outcome, during, known)
        if isinstance(decision, BatchUnchanged):
            return skip_unchanged(checkpoint, decision)
        self._store(decision)
        return given(*decision.events, after=checkpoint, run_id=f"run-{self.runs}")

    def _store(self, record: Record) -> None:
        changes = record.changes
        self.read |= {row.conversation_id: row for row in changes.conversations}
        self.contacts |= {row.contact_id: row for row in changes.contacts}
        self.interaction_events |= {row.event_id for row in changes.interaction_events}
        for event in record.events:
            match event:
                case DeadLetterOpened(dead_letter_id=key, subject=subject, fingerprint=fingerprint):
                    assert subject not in self.open_dead_letters
                    self.open_dead_letters[subject] = KnownDeadLetter(key, fingerprint, NOON, is_open=True)
                case DeadLetterClosed(dead_letter_id=key):
                    closed = {each: it for each, it in self.open_dead_letters.items() if it.dead_letter_id == key}
                    for subject in closed:
                        del self.open_dead_letters[subject]
                case _:
                    pass

    def _answer(self, request: Request, checkpoint: Checkpoint) -> Outcome:
        answer = self._call(request)
        if isinstance(answer, Refused) and wants_check(request, answer.problem):
            together = checked(answer, self._call(check_request(request, checkpoint)))
            assert not isinstance(together, Held)
            return together
        if (suspect := to_read_alone(checkpoint, request, answer)) is not None:
            together = read_alone(answer, self._reread(int(suspect.removeprefix("t_"))), checkpoint.reduced_request)
            assert not isinstance(together, Held)
            return together
        return answer

    def _reread(self, index: int) -> Outcome:
        self.read_alone.append(f"t_{index}")
        sick = self.sick.get(index)
        if sick is not None and not sick.readable_alone:
            return Refused(sick.problem, 0.1)
        return fetched(self._listed(index, Detail.NESTED))

    def _call(self, request: Request) -> Outcome:
        number = len(self.requests)
        self.requests.append(request)
        if number in self.outage:
            return Refused(self.outage_problem, 0.1)
        start = int(request.cursor or 0)
        end = min(start + request.limit, self.threads)
        for index in self._places(request, start, end):
            if index in self.sick and self.sick[index].spoils(request):
                return Refused(self.sick[index].problem, 0.1)
        listed = [self._listed(index, request.detail) for index in self._places(request, start, end)]
        return fetched(*listed, next_cursor=str(end) if end < self.threads else None)

    def _places(self, request: Request, start: int, end: int) -> list[int]:
        is_whole = request.detail in {Detail.NESTED, Detail.SEPARATE}
        return [index if is_whole else self.reshuffled.get(index, index) for index in range(start, end)]

    @staticmethod
    def _listed(index: int, detail: Detail) -> Conversation:
        thread_id, updated_time = f"t_{index}", at(-3600 - index)
        if detail is Detail.POSITION:
            return conversation(thread_id, updated_time)
        messages = () if detail is Detail.BARE else (message(f"m_{index}", updated_time),)
        return conversation(thread_id, updated_time, of=contact(f"c_{index}"), messages=messages)
