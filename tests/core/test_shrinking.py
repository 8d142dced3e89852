"""The size of a request: smaller and smaller where it is too large, and slowly larger again."""

from collections.abc import Callable

import pytest

from kit.builders import (
    NETWORK,
    RATE_LIMIT,
    TOO_HEAVY,
    UNKNOWN,
    at,
    budget,
    context,
    conversation,
    fetched,
    given,
    refused,
    walking,
)
from kit.decisions import decision_on, events, knowing, record, then
from kit.decisions import walking as walking_since_noon
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import BatchFailed, BatchShrunk, BatchStored, FetchFailed, RunEnded, SweepCompleted, Tally
from milepost.core.model import Detail
from milepost.core.plan import GROW_AFTER, Fetch, Policy, Size, plan, size_now, smaller, whole
from milepost.core.ports import ListCheck, Refused
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind

POLICY = Policy(batch_size=50)
WHOLE = Size(50, Detail.NESTED)
LADDER = [
    WHOLE,
    *(Size(limit, Detail.NESTED) for limit in (25, 12, 6, 3, 1)),
    Size(1, Detail.SEPARATE),
    Size(1, Detail.LEAN),
    Size(1, Detail.BARE),
    Size(1, Detail.POSITION),
]
HARMLESS = [size for size in LADDER if not size.detail.leaves_out]
OVERSIZE = Problem(ProblemKind.OVERSIZE, "more than 32 MB")


def shrunk_to(limit: int, detail: Detail = Detail.NESTED) -> Checkpoint:
    return given(BatchShrunk(limit, detail, TOO_HEAVY), after=walking_since_noon())


def stored(checkpoint: Checkpoint, batches: int) -> Checkpoint:
    """Return the checkpoint after so many batches, each recorded."""
    for _ in range(batches):
        checkpoint = given(BatchStored(walking("x"), Tally(batches=1, inserted=1)), after=checkpoint)
    return checkpoint


def skipped(checkpoint: Checkpoint, batches: int) -> Checkpoint:
    answers = [fetched(conversation("t_1"), next_cursor=f"after {number + 2}") for number in range(batches)]
    return then(checkpoint, *answers, known=knowing(conversation("t_1")))


class TestSmallerRequests:
    def test_shrinking_halves_then_drops_the_messages_then_all_but_the_position(self) -> None:
        sizes: list[Size | None] = [WHOLE]
        while sizes[-1] is not None:
            sizes.append(smaller(sizes[-1], POLICY))

        assert sizes == [*LADDER, None]

    def test_shrinking_has_no_messages_to_drop_if_none_are_requested(self) -> None:
        assert smaller(Size(1, Detail.NESTED), Policy(messages_per_conversation=0)) == Size(1, Detail.POSITION)

    @pytest.mark.parametrize("problem", [TOO_HEAVY, OVERSIZE])
    def test_a_batch_that_is_too_large_is_shrunk_without_a_delay(self, problem: Problem) -> None:
        checkpoint = walking_since_noon()
        for size in HARMLESS[1:]:
            assert events(decision_on(checkpoint, refused(problem), context())) == (
                BatchShrunk(size.limit, size.detail, problem),
            )
            checkpoint = then(checkpoint, refused(problem))
            assert size_now(checkpoint, POLICY) == size
            action = plan(checkpoint, at(0), budget(), POLICY)
            assert isinstance(action, Fetch)
            assert (action.request.limit, action.request.detail) == (size.limit, size.detail)
            assert action.request.cursor == "after 1"

    @pytest.mark.parametrize("problem", [UNKNOWN, NETWORK, Problem(ProblemKind.API, "no permission", code=10)])
    def test_any_other_refusal_shrinks_the_batch_only_after_the_retries(self, problem: Problem) -> None:
        about_content = Refused(problem, 0.1, check=ListCheck(listed=("t_1",)))
        tried = then(walking_since_noon(), about_content, about_content)
        assert tried.reduced_request is None
        assert tried.retry is not None

        shrunk = then(tried, about_content)

        assert size_now(shrunk, POLICY) == LADDER[1]
        assert shrunk.retry is None
        assert size_now(then(shrunk, about_content), POLICY) == LADDER[2], "the search is under way"

    def test_another_problem_is_retried_before_the_batch_is_shrunk_further(self) -> None:
        """What fails now and then must not make batches smaller and smaller."""
        decided = events(decision_on(shrunk_to(6), Refused(NETWORK, 0.1, check=ListCheck(listed=("t_1",))), context()))

        assert [type(event) for event in decided] == [FetchFailed]

    @pytest.mark.parametrize("problem", [UNKNOWN, TOO_HEAVY])
    def test_shrinking_ends_in_retries_if_not_even_positions_can_be_read(self, problem: Problem) -> None:
        bottom = shrunk_to(1, Detail.POSITION)

        (first,) = events(decision_on(bottom, refused(problem), context()))
        last = events(decision_on(then(bottom, refused(problem), refused(problem)), refused(problem), context()))

        assert isinstance(first, FetchFailed)
        assert [type(event) for event in last] == [BatchFailed, RunEnded]

    def test_a_rate_limit_or_the_network_shrinks_nothing(self) -> None:
        for problem in (RATE_LIMIT, NETWORK, Problem(ProblemKind.API, "service down", code=2)):
            after = then(walking_since_noon(), *[refused(problem)] * 5)
            assert after.reduced_request is None, problem

    def test_a_reduced_size_outlasts_a_rate_limit(self) -> None:
        after = then(shrunk_to(6), refused(RATE_LIMIT))

        assert size_now(after, POLICY) == Size(6, Detail.NESTED)

    def test_shrinking_is_recorded_after_unchanged_batches(self) -> None:
        before = skipped(walking_since_noon(), 1)

        decided = events(decision_on(before, refused(TOO_HEAVY), context()))

        assert [type(event) for event in decided] == [BatchStored, BatchShrunk]


class TestFailedRun:
    """While shrinking, an outage looks like a poison thread: the next run has to search again."""

    def test_a_failed_run_resets_the_reduced_request_to_what_worked(self) -> None:
        searching = then(stored(shrunk_to(6), 1), refused(TOO_HEAVY), refused(TOO_HEAVY))
        assert size_now(searching, POLICY).limit == 1

        assert size_now(then(searching, *[refused(NETWORK)] * 3), POLICY) == Size(6, Detail.NESTED)
        assert size_now(then(stored(shrunk_to(6), 1), *[refused(NETWORK)] * 3), POLICY) == Size(6, Detail.NESTED)

    def test_a_failed_run_resets_the_reduced_request_if_nothing_worked(self) -> None:
        down = then(shrunk_to(1, Detail.POSITION), *[refused(UNKNOWN)] * 3)

        assert down.run is not None
        assert down.run.ended_at is not None
        assert size_now(down, POLICY) == WHOLE

    def test_nothing_is_stepped_over_once_the_outage_is_over(self) -> None:
        outage = [refused(UNKNOWN)] * (len(LADDER) + 4)
        down = then(walking_since_noon(), *outage)
        assert down.run is not None
        assert down.run.ended_at is not None

        after = then(down, fetched(conversation("t_1"), next_cursor="after 2"), run_id="run-2")

        assert after.open_dead_letters == 0


class TestGrowth:
    def test_the_size_doubles_after_enough_good_batches(self) -> None:
        for batches, limit in [(0, 6), (4, 6), (5, 12), (9, 12), (10, 24), (14, 24), (15, 48), (19, 48), (20, 50)]:
            assert size_now(stored(shrunk_to(6), batches), POLICY) == Size(limit, Detail.NESTED), batches

    def test_growth_counts_unchanged_batches(self) -> None:
        assert size_now(skipped(shrunk_to(6), GROW_AFTER - 1), POLICY).limit == 6
        assert size_now(skipped(shrunk_to(6), GROW_AFTER), POLICY).limit == 12

    def test_growth_counts_across_runs(self) -> None:
        ended = then(skipped(shrunk_to(6), 3), refused(Problem(ProblemKind.API, "expired", code=190)))

        assert size_now(stored(ended, 2), POLICY).limit == 12

    def test_growth_counts_the_batches_of_whole_sweeps(self) -> None:
        swept = given(SweepCompleted(Mode.FULL, at(0), at(0), Tally(batches=5)), after=shrunk_to(6), run_id="run-2")

        assert size_now(swept, POLICY).limit == 12

    def test_messages_are_requested_separately_for_a_while_and_then_nested_again(self) -> None:
        separate = shrunk_to(1, Detail.SEPARATE)

        assert size_now(stored(separate, GROW_AFTER - 1), POLICY) == Size(1, Detail.SEPARATE)
        assert size_now(stored(separate, GROW_AFTER), POLICY) == Size(1, Detail.NESTED)
        assert size_now(stored(separate, 2 * GROW_AFTER), POLICY) == Size(2, Detail.NESTED)

    @pytest.mark.parametrize("read", [stored, skipped])
    @pytest.mark.parametrize("detail", [Detail.LEAN, Detail.BARE])
    def test_messages_are_left_out_for_one_batch_only(
        self, detail: Detail, read: Callable[[Checkpoint, int], Checkpoint]
    ) -> None:
        assert size_now(read(shrunk_to(1, detail), 1), POLICY) == Size(1, Detail.SEPARATE)
        assert size_now(stored(shrunk_to(1, detail), 1 + GROW_AFTER), POLICY) == Size(1, Detail.NESTED)

    @pytest.mark.parametrize("read", [stored, skipped])
    @pytest.mark.parametrize("detail", [Detail.LEAN, Detail.BARE, Detail.POSITION])
    def test_the_size_is_whole_again_after_the_thread_that_failed_alone(
        self, detail: Detail, read: Callable[[Checkpoint, int], Checkpoint]
    ) -> None:
        found = given(BatchShrunk(1, detail, TOO_HEAVY, "t_1"), after=walking_since_noon())

        assert size_now(found, POLICY) == Size(1, detail)
        assert size_now(read(found, 1), POLICY) == WHOLE

    def test_the_size_is_whole_again_after_stepping_over_the_faulty_thread(self) -> None:
        assert size_now(stored(shrunk_to(1, Detail.POSITION), 1), POLICY) == WHOLE

    def test_growth_starts_at_the_size_that_failed_last(self) -> None:
        grown = stored(shrunk_to(6), GROW_AFTER)

        assert size_now(then(grown, refused(TOO_HEAVY)), POLICY) == Size(6, Detail.NESTED)

    def test_growth_that_fails_each_time_is_tried_later_and_later(self) -> None:
        """It may cost a timeout of half a minute each time."""
        small = shrunk_to(6)
        waits: list[int] = []
        for _ in range(7):
            batches = next(n for n in range(1, 500) if size_now(stored(small, n), POLICY).limit > 6)
            waits.append(batches)
            small = then(stored(small, batches), refused(TOO_HEAVY))
            assert size_now(small, POLICY) == Size(6, Detail.NESTED)

        assert waits == [GROW_AFTER * times for times in (1, 2, 4, 8, 16, 16, 16)]

    def test_growth_that_succeeds_once_is_as_quick_as_ever_from_there(self) -> None:
        small = then(stored(shrunk_to(6), GROW_AFTER), refused(TOO_HEAVY))
        larger = then(stored(small, 3 * 2 * GROW_AFTER), refused(TOO_HEAVY))

        assert size_now(larger, POLICY) == Size(24, Detail.NESTED)
        assert size_now(stored(larger, GROW_AFTER), POLICY) == Size(48, Detail.NESTED)

    def test_growth_never_exceeds_the_batch_size(self) -> None:
        assert size_now(stored(shrunk_to(25), 200), POLICY) == whole(POLICY)


class TestPoisonThread:
    """Every list with the thread fails as in an outage, but all its neighbours are read."""

    THREADS = tuple(conversation(f"t_{number}", at(-number)) for number in range(1, 121))
    POISON = 70

    def live(self, checkpoint: Checkpoint) -> tuple[Checkpoint, set[str], list[Size]]:
        read: set[str] = set()
        requested: list[Size] = []
        around = context(policy=Policy(base_delay_seconds=0.0))
        for _ in range(200):
            action = plan(checkpoint, at(0), budget(), POLICY)
            assert isinstance(action, Fetch)
            request = action.request
            requested.append(Size(request.limit, request.detail))
            start = int(request.cursor or 0)
            chosen = self.THREADS[start : start + request.limit]
            is_spoilt = any(each.conversation_id == f"t_{self.POISON}" for each in chosen)
            if is_spoilt and request.detail is not Detail.POSITION:
                check = ListCheck(listed=(chosen[0].conversation_id,)) if request.checks_list else None
                checkpoint = then(checkpoint, Refused(UNKNOWN, 0.1, check=check), during=around)
                continue
            end = start + len(chosen)
            answer = fetched(*chosen, next_cursor=str(end) if end < len(self.THREADS) else None)
            read |= {
                row.conversation_id for row in record(decision_on(checkpoint, answer, around)).changes.conversations
            }
            checkpoint = then(checkpoint, answer, during=around)
            if end == len(self.THREADS):
                return checkpoint, read, requested
        raise AssertionError("the walk does not end")

    def test_a_poison_thread_in_a_batch_is_found_and_all_others_are_read(self) -> None:
        start = given(BatchStored(walking("0"), Tally(batches=1)), after=walking_since_noon())

        after, read, requested = self.live(start)

        assert read == {each.conversation_id for each in self.THREADS} - {f"t_{self.POISON}"}
        assert after.open_dead_letters == 1
        assert requested.count(Size(1, Detail.POSITION)) == 1
        assert requested[-1] == WHOLE
        assert after.run is not None
        assert after.run.failed_batches == 0
