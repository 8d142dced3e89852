"""The search for what makes a list fail: it finds any thread, whatever the refusal, and blames no healthy one."""

import math
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import at, budget, checkpoint_of, context, conversation, fetched, problem, refused
from kit.decisions import decision_on, events, then, walking
from kit.needs import long_only
from kit.search_world import DOWN, SearchWorld, Sick
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    DeadLetterOpened,
    FetchFailed,
    Reason,
    RunEnded,
    RunStatus,
    SweepCompleted,
)
from milepost.core.failures import (
    CONFIRMATIONS,
    CONFIRMATIONS_OF_LESS,
    MAX_GIVEN_UP_IN_A_ROW,
    check_request,
    checked,
    wants_check,
)
from milepost.core.model import Detail
from milepost.core.plan import Fetch, Policy, plan
from milepost.core.ports import Held, ListCheck, Outcome, Refused, Request
from milepost.core.problems import Problem, ProblemKind

# Forms in which a thread was seen to make every list with it fail (reports of 2026-09), and some more.
FORMS = {
    "code 1": problem(1, http_status=500),
    "code 2": problem(2, http_status=500, is_transient=True),
    "an HTML 502": Problem(ProblemKind.INVALID_RESPONSE, "the response is not JSON: Sorry", http_status=502),
    "a cut body": Problem(ProblemKind.INVALID_RESPONSE, "the response is JSON cut short", http_status=200),
    "null": Problem(
        ProblemKind.INVALID_RESPONSE, "the response is JSON but neither a batch nor an error", http_status=200
    ),
    "code 960": problem(960),
    "code 100/2018001": problem(100, subcode=2_018_001),
    "code 100/33": problem(100, subcode=33),
    "code 100": problem(100),
    "code 10": problem(10, http_status=403),
    "code 3": problem(3),
    "code 230": problem(230),
    "code 2500": problem(2500),
    "a timeout": Problem(ProblemKind.TIMEOUT, "no response within 30 s"),
    "a reset": Problem(ProblemKind.NETWORK, "connection reset"),
    "too much data": Problem(ProblemKind.API, "Please reduce the amount of data", http_status=500, code=1),
    "too many bytes": Problem(ProblemKind.OVERSIZE, "the response is larger than 32 MiB"),
    "an unknown code": problem(9_999_999),
    "code 190": problem(190, http_status=401),
    "code 102": problem(102),
    "code 104": problem(104),
    "code 12": problem(12),
    "code 2635": problem(2635),
    "code 2642": problem(2642),
    "code 21": problem(21),
    "code 803": problem(803, http_status=404),
}
LONGEST = 16  # calls of an outage: more than it takes to fail a run
GENERAL = {
    "a rate limit": problem(613),
    "an app limit": problem(4),
    "a wrong setting": problem(kind=ProblemKind.MISCONFIGURED),
    "too many requests": Problem(ProblemKind.INVALID_RESPONSE, "slow down", http_status=429),
}


def ids(*indexes: int) -> set[str]:
    return {f"t_{index}" for index in indexes}


def all_but(threads: int, *sick: int) -> set[str]:
    return ids(*(index for index in range(threads) if index not in sick))


class TestAnyForm:
    @pytest.mark.parametrize("form", FORMS)
    def test_a_thread_that_fails_in_any_form_is_stepped_over_and_all_others_are_read(self, form: str) -> None:
        for place in (0, 10, 19):
            world = SearchWorld(20, {place: Sick(FORMS[form])})

            after = world.sweep()

            assert world.dead_letters == ids(place)
            assert world.read.keys() == all_but(20, place)
            assert after.run is not None
            assert after.run.failed_batches == 0
            assert world.runs == 1

    @pytest.mark.parametrize("form", FORMS)
    def test_messages_that_fail_in_any_form_are_a_dead_letter_and_their_thread_is_read(self, form: str) -> None:
        world = SearchWorld(20, {7: Sick(FORMS[form], Detail.BARE)})

        world.sweep()

        assert world.dead_letters == {"t_7/messages"}
        assert world.read.keys() == all_but(20)

    @pytest.mark.parametrize("form", FORMS)
    def test_the_newest_messages_of_a_thread_with_too_many_are_read(self, form: str) -> None:
        world = SearchWorld(20, {7: Sick(FORMS[form], Detail.LEAN)})

        world.sweep()

        assert world.dead_letters == {"t_7/messages"}
        assert world.read.keys() == all_but(20)
        assert "m_7" in world.interaction_events

    @pytest.mark.parametrize("form", FORMS)
    def test_a_thread_that_is_read_alone_is_no_dead_letter(self, form: str) -> None:
        world = SearchWorld(20, {7: Sick(FORMS[form], Detail.SEPARATE)})

        world.sweep()

        assert world.dead_letters == set()
        assert world.read.keys() == all_but(20)

    @pytest.mark.parametrize("form", FORMS)
    def test_three_failing_threads_in_a_row_are_three_dead_letters(self, form: str) -> None:
        for places in ((0, 1, 2), (6, 7, 8), (17, 18, 19), (0, 10, 19)):
            world = SearchWorld(20, dict.fromkeys(places, Sick(FORMS[form])))

            world.sweep()

            assert world.dead_letters == ids(*places)
            assert world.read.keys() == all_but(20, *places)

    @pytest.mark.parametrize("form", FORMS)
    def test_an_inbox_of_one_failing_thread_is_swept(self, form: str) -> None:
        for batch_size in (1, 8):
            world = SearchWorld(1, {0: Sick(FORMS[form])}, policy=Policy(batch_size=batch_size, base_delay_seconds=0))

            world.sweep()

            assert world.dead_letters == ids(0)

    @pytest.mark.parametrize("form", FORMS)
    def test_batches_of_one_without_messages_are_searched(self, form: str) -> None:
        policy = Policy(batch_size=1, messages_per_conversation=0, base_delay_seconds=0.0)
        world = SearchWorld(4, {1: Sick(FORMS[form])}, policy=policy)

        world.sweep()

        assert world.dead_letters == ids(1)
        assert world.read.keys() == all_but(4, 1)

    @pytest.mark.parametrize("form", FORMS)
    def test_the_search_takes_few_calls(self, form: str) -> None:
        for batch_size, place in ((size, place) for size in (1, 2, 8, 50, 200) for place in {0, size // 2, size - 1}):
            policy = Policy(batch_size=batch_size, base_delay_seconds=0.0)
            world = SearchWorld(batch_size, {place: Sick(FORMS[form])}, policy=policy)
            world.sweep()

            stepped_over = next(
                number
                for number, each in enumerate(world.requests, 1)
                if each.detail is Detail.POSITION and each.messages  # a check asks for none
            )
            whole = 2 * policy.attempts
            halving = 3 * (math.floor(math.log2(batch_size)) + 1)  # refused, checked, and read on the way
            alone = 2 * (CONFIRMATIONS + 2 * CONFIRMATIONS_OF_LESS) + 1  # separate, lean, bare, position
            assert stepped_over <= whole + halving + alone

    def test_the_search_goes_on_where_a_run_ended(self) -> None:
        """A run of one batch each: the search takes many runs."""
        world = SearchWorld(20, {7: Sick(FORMS["code 2"])}, max_batches=1)

        world.sweep()

        assert world.dead_letters == ids(7)
        assert world.read.keys() == all_but(20, 7)


class SlowWorld(SearchWorld):
    """An inbox whose server needs too long for more than five conversations with their messages."""

    def _call(self, request: Request) -> Outcome:
        if request.detail is Detail.NESTED and request.limit > 5:
            self.requests.append(request)
            return Refused(FORMS["a timeout"], 30.0)
        return super()._call(request)


class TestLargeLists:
    def test_smaller_lists_are_requested_until_they_come_in_time(self) -> None:
        world = SlowWorld(46, policy=Policy(batch_size=20, base_delay_seconds=0.0))

        world.sweep()

        assert world.read.keys() == all_but(46)
        assert world.dead_letters == set()
        assert sum(request.limit > 5 for request in world.requests) <= 3 + 1 + 46 // 25 + 1

    def test_the_size_that_worked_is_kept_over_runs_and_through_an_outage(self) -> None:
        world = SlowWorld(46, policy=Policy(batch_size=20, base_delay_seconds=0.0), max_batches=2)
        world.outage = range(12, 18)  # the requests are those for 5 by then

        world.sweep()

        assert world.runs > 4
        assert world.read.keys() == all_but(46)
        assert sum(request.limit == 20 for request in world.requests) == 3


class TestOutages:
    """An outage fails every request, and blames no thread, whenever it begins and ends."""

    INBOXES: tuple[dict[int, Sick], ...] = (
        {},
        {0: Sick(FORMS["code 2"])},
        {3: Sick(FORMS["a timeout"], Detail.BARE), 8: Sick(FORMS["code 1"])},
        {5: Sick(FORMS["an HTML 502"]), 6: Sick(FORMS["code 10"]), 7: Sick(FORMS["code 960"])},
    )

    @pytest.mark.parametrize("down", ["code 2", *long_only("a timeout", "too much data")])
    @pytest.mark.parametrize(
        "sick",
        [*INBOXES[:2], *long_only(*INBOXES[2:])],
        ids=["all are healthy", "the first", "the last", "three in a row"],
    )
    def test_no_outage_makes_a_dead_letter_of_a_healthy_thread(self, sick: dict[int, Sick], down: str) -> None:
        """The outage may begin and end with any call."""
        expected = {f"t_{index}" + ("/messages" if it.bears is Detail.BARE else "") for index, it in sick.items()}
        policy = Policy(batch_size=4, base_delay_seconds=0.0)
        for begins in count():
            undisturbed = 0
            for lasts in count(1):
                outage = range(begins, begins + lasts)
                world = SearchWorld(9, sick, outage, FORMS[down], policy)
                world.sweep()
                assert world.dead_letters == expected, outage
                assert world.read.keys() >= all_but(9, *sick), outage
                undisturbed = len(world.requests) if begins >= len(world.requests) else 0
                if undisturbed or lasts > LONGEST:
                    break
            if undisturbed:
                break

    @pytest.mark.parametrize("begins", range(12))
    def test_an_outage_that_lasts_fails_the_run_soon(self, begins: int) -> None:
        world = SearchWorld(20, {4: Sick(DOWN)}, range(begins, 10_000))

        with pytest.raises(AssertionError, match="does not end"):
            world.sweep()

        assert world.dead_letters == set()
        assert world.runs > 100

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(outage=st.sets(st.integers(0, 200), max_size=60), sick=st.sets(st.integers(0, 19), max_size=4))
    def test_outages_that_come_and_go_lose_nothing(self, outage: set[int], sick: set[int]) -> None:
        world = SearchWorld(20, dict.fromkeys(sick, Sick(FORMS["code 960"])), outage)

        world.sweep()

        blamed = {each.partition("/")[0] for each in world.dead_letters}
        assert world.read.keys() | blamed >= all_but(20)
        assert ids(*sick) <= blamed


class TestChecks:
    REQUEST = Request("after 1", 8, 20, checks_list=True)

    @pytest.mark.parametrize("form", FORMS)
    def test_a_refusal_that_may_be_about_content_is_checked(self, form: str) -> None:
        assert wants_check(Request("after 1", 1, 20, checks_list=True), FORMS[form])
        assert not wants_check(check_request(self.REQUEST, checkpoint_of()), FORMS[form])

    @pytest.mark.parametrize("form", GENERAL)
    def test_a_refusal_that_every_request_gets_is_not_checked(self, form: str) -> None:
        assert not wants_check(self.REQUEST, GENERAL[form])

    def test_a_refusal_that_is_retried_anyway_is_not_checked_before_the_last_attempt(self) -> None:
        policy = Policy(attempts=3)
        first, *_, last = (
            plan(after, at(10), budget(), policy)
            for after in (walking(), then(walking(), refused(DOWN), refused(DOWN)))
        )
        assert isinstance(first, Fetch)
        assert isinstance(last, Fetch)
        assert (first.request.checks_list, last.request.checks_list) == (False, True)
        assert not wants_check(first.request, DOWN)
        assert wants_check(last.request, DOWN)

    def test_the_check_is_for_one_position_at_the_same_cursor(self) -> None:
        assert check_request(self.REQUEST, checkpoint_of()) == Request("after 1", 1, 0, detail=Detail.POSITION)

    def test_a_check_tells_which_thread_is_at_the_cursor(self) -> None:
        outcome = checked(refused(DOWN, 1.0), fetched(conversation("t_5"), conversation("t_6"), took=0.5))

        assert outcome == Refused(DOWN, 1.5, check=ListCheck(listed=("t_5", "t_6")))

    def test_a_check_that_a_rate_limit_prevents_leaves_the_refusal_unsettled(self) -> None:
        assert checked(refused(DOWN), Held()) == Held()


def alone(detail: Detail = Detail.SEPARATE) -> Checkpoint:
    """Return a stream that requests a thread alone, in the search for the cause of code 2."""
    shrunk = [Refused(DOWN, 0.1, check=ListCheck(listed=("t_1",)))] * (3 + 6)
    after = then(walking(), *shrunk[:3], during=context(policy=Policy(base_delay_seconds=0.0)))
    while after.reduced_request is None or after.reduced_request.detail is not detail:
        after = then(after, shrunk[0])
    return after


class TestRefusedChecks:
    """The error of the list itself decides."""

    @pytest.mark.parametrize(
        ("said", "of_list", "reason"),
        [
            (problem(10), problem(10), Reason.AUTHORIZATION),
            (problem(2), problem(190), Reason.AUTHORIZATION),
            (problem(2500), problem(2500), Reason.CONFIGURATION),
            (problem(2), problem(2635), Reason.CONFIGURATION),
        ],
    )
    def test_a_problem_that_an_operator_must_fix_stops_the_stream(
        self, said: Problem, of_list: Problem, reason: Reason
    ) -> None:
        decided = events(decision_on(walking(), Refused(said, 0.1, check=ListCheck(of_list)), context()))

        ended = decided[-1]
        assert isinstance(ended, RunEnded)
        assert (ended.status, ended.reason, ended.problem) == (RunStatus.STOPPED, reason, of_list)

    def test_a_rate_limit_is_waited_out(self) -> None:
        after = then(walking(), Refused(DOWN, 0.1, check=ListCheck(problem(613))))

        assert after.rate_limit is not None
        assert after.retry is None

    def test_a_dead_cursor_restarts_the_walk(self) -> None:
        after = then(walking(), Refused(DOWN, 0.1, check=ListCheck(problem(2642))))

        assert after.sweep is not None
        assert after.sweep.position.cursor is None

    @pytest.mark.parametrize("said", [problem(10), problem(100), FORMS["too much data"]])
    def test_an_outage_is_retried_whatever_came_before_it(self, said: Problem) -> None:
        down = Refused(said, 0.1, check=ListCheck(DOWN))

        assert isinstance(events(decision_on(walking(), down, context()))[-1], FetchFailed)
        assert [type(each) for each in events(decision_on(then(walking(), down, down), down, context()))] == [
            BatchFailed,
            RunEnded,
        ]

    def test_a_refused_check_clears_the_thread(self) -> None:
        confirmed = then(alone(), *[Refused(DOWN, 0.1, check=ListCheck(listed=("t_1",)))] * (CONFIRMATIONS - 1))
        assert confirmed.retry is not None
        assert (confirmed.retry.suspect, confirmed.retry.confirmed) == ("t_1", CONFIRMATIONS - 1)

        after = then(confirmed, Refused(DOWN, 0.1, check=ListCheck(DOWN)))

        assert after.retry is None, "the run failed"
        assert after.reduced_request is None


LAST_ATTEMPT = context(policy=Policy(attempts=1))


def at_the_last_loop(checkpoint: Checkpoint) -> Checkpoint:
    """Return the stream in a walk that started over because of a cursor loop: it ends at the next one."""
    assert checkpoint.sweep is not None
    return replace(checkpoint, sweep=replace(checkpoint.sweep, is_rewound=True, resets=0))


class TestSuspects:
    def test_another_thread_at_the_cursor_is_confirmed_anew(self) -> None:
        others = [Refused(DOWN, 0.1, check=ListCheck(listed=(f"t_{number % 2}",))) for number in range(8)]

        after = then(alone(), *others)

        assert after.retry is not None
        assert after.retry.confirmed == 1
        assert after.reduced_request is not None
        assert after.reduced_request.detail is Detail.SEPARATE

    @pytest.mark.parametrize("detail", [Detail.LEAN, Detail.BARE, Detail.POSITION])
    def test_a_thread_that_came_in_its_place_is_read_in_full(self, detail: Detail) -> None:
        """At the head of the inbox a message may arrive at any time."""
        before = alone(detail)

        decided = events(decision_on(before, fetched(conversation("t_new"), next_cursor="x"), context()))

        assert decided == (BatchShrunk(1, Detail.SEPARATE, DOWN),)

    def test_a_list_that_gives_more_than_was_asked_for_ends_the_search_and_the_run(self) -> None:
        """None of its threads can be read alone, and the search would begin anew each time."""
        several = fetched(conversation("t_1"), conversation("t_2"), next_cursor="x")

        failed, ended = events(decision_on(alone(Detail.LEAN), several, context()))

        assert isinstance(failed, BatchFailed)
        assert isinstance(ended, RunEnded)
        assert ended.problem == DOWN

    @pytest.mark.parametrize("detail", [Detail.LEAN, Detail.BARE, Detail.POSITION])
    def test_a_thread_that_came_in_its_place_is_read_in_full_where_the_walk_ends(self, detail: Detail) -> None:
        """A list without an order puts any thread there, and its cursors may come round at that very place."""
        before = at_the_last_loop(alone(detail))
        another = fetched(conversation("t_new"), next_cursor="after 1")

        decided = events(decision_on(before, another, LAST_ATTEMPT))
        ending = events(decision_on(then(before, another, during=LAST_ATTEMPT), another, LAST_ATTEMPT))

        assert decided == (BatchShrunk(1, Detail.SEPARATE, DOWN),)
        assert not any(isinstance(each, DeadLetterOpened) for each in ending)
        assert isinstance(ending[-1], BatchStored | SweepCompleted), "the walk ends all the same"
        assert ending[-1].problem is not None

    @pytest.mark.parametrize("detail", [Detail.LEAN, Detail.BARE, Detail.POSITION])
    def test_the_thread_that_fails_is_a_dead_letter_where_the_walk_ends(self, detail: Detail) -> None:
        suspect = fetched(conversation("t_1"), next_cursor="after 1")

        decided = events(decision_on(at_the_last_loop(alone(detail)), suspect, LAST_ATTEMPT))

        blamed = [each.subject.partition("/")[0] for each in decided if isinstance(each, DeadLetterOpened)]
        assert blamed == ["t_1"]

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("bears", [Detail.LEAN, Detail.BARE, Detail.POSITION])
    def test_a_list_that_is_reshuffled_before_each_look_blames_no_healthy_thread(
        self, form: str, bears: Detail
    ) -> None:
        """Each look shows the neighbour of the thread that fails: the same one every time."""
        world = SearchWorld(20, {7: Sick(FORMS[form], bears)}, reshuffled={7: 8, 8: 7})

        world.sweep()

        assert world.dead_letters == set()
        assert world.read.keys() >= all_but(20, 7)
        assert world.interaction_events >= {f"m_{index}" for index in range(20) if index != 7}
        assert set(world.read_alone) == ids(8)

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("bears", [Detail.LEAN, Detail.BARE, Detail.POSITION])
    def test_a_thread_that_only_lists_fail_for_is_read_alone_and_is_no_dead_letter(
        self, form: str, bears: Detail
    ) -> None:
        world = SearchWorld(20, {7: Sick(FORMS[form], bears, readable_alone=True)})

        world.sweep()

        assert world.dead_letters == set()
        assert world.read.keys() == all_but(20)
        assert "m_7" in world.interaction_events

    @pytest.mark.parametrize("form", FORMS)
    def test_three_threads_that_are_really_gone_are_each_read_alone_once(self, form: str) -> None:
        world = SearchWorld(20, dict.fromkeys((6, 7, 8), Sick(FORMS[form])))

        world.sweep()  # whose catch-up scan meets them again

        assert world.dead_letters == ids(6, 7, 8)
        assert world.read_alone == ["t_6", "t_7", "t_8"]

    def test_a_thread_that_is_gone_is_not_blamed(self) -> None:
        after = then(alone(), *[Refused(DOWN, 0.1, check=ListCheck())] * 20)

        assert after.run is not None
        assert after.run.status is RunStatus.FAILED
        assert after.open_dead_letters == 0


class TestKnownThreads:
    """A thread whose dead letter is open is passed without another search."""

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("bears", [Detail.LEAN, Detail.BARE, Detail.POSITION])
    def test_a_known_thread_costs_a_later_sweep_few_calls(self, form: str, bears: Detail) -> None:
        for place in (0, 1, 7, 31, 49):
            sick = {place: Sick(FORMS[form], bears)}
            world = SearchWorld(50, sick, policy=Policy(batch_size=50, base_delay_seconds=0))
            after = world.sweep()
            assert [each.conversation_id for each in after.given_up] == [f"t_{place}"]
            world.requests.clear()
            world.runs += 1

            again = world.sweep(replace(after, last_success_at=None))

            assert len(world.dead_letters) == 1
            assert again.open_dead_letters == 1
            assert len(world.requests) <= 24, "its walk and its catch-up scan"

    def test_a_known_thread_that_is_well_again_is_read(self) -> None:
        world = SearchWorld(20, {5: Sick(FORMS["code 2"]), 9: Sick(FORMS["code 960"])})
        after = world.sweep()
        assert world.dead_letters == ids(5, 9)
        world.sick = {9: world.sick[9]}
        world.runs += 1

        again = world.sweep(replace(after, last_success_at=None))

        assert world.dead_letters == ids(9)
        assert world.read.keys() == all_but(20, 9)
        assert [each.conversation_id for each in again.given_up] == ["t_9"]

    @pytest.mark.parametrize("begins", range(24))
    def test_no_outage_beside_a_known_thread_makes_a_dead_letter(self, begins: int) -> None:
        policy = Policy(batch_size=4, base_delay_seconds=0.0)
        for lasts in range(1, LONGEST):
            world = SearchWorld(9, {4: Sick(FORMS["code 2"])}, policy=policy)
            after = world.sweep()
            world.requests.clear()
            world.runs += 1
            world.outage = range(begins, begins + lasts)

            world.sweep(replace(after, last_success_at=None))

            assert world.dead_letters == ids(4), world.outage


class TestManyInARow:
    """If one thread after the other fails, the cause is in none of them: an inbox must not become dead letters."""

    @pytest.mark.parametrize(
        ("form", "reason"),
        [
            ("code 10", Reason.AUTHORIZATION),
            ("code 2500", Reason.CONFIGURATION),
            ("code 960", Reason.RETRIES_EXHAUSTED),
        ],
    )
    @pytest.mark.parametrize("bears", [Detail.BARE, Detail.POSITION])
    def test_the_stream_stops_after_several_failing_threads_in_a_row(
        self, form: str, reason: Reason, bears: Detail
    ) -> None:
        world = SearchWorld(40, dict.fromkeys(range(40), Sick(FORMS[form], bears)))

        with pytest.raises(AssertionError, match="does not end"):
            world.sweep()

        assert len(world.dead_letters) == MAX_GIVEN_UP_IN_A_ROW
        assert world.last_run is not None
        assert world.last_run.reason is reason

    def test_a_thread_that_is_read_in_between_begins_another_row(self) -> None:
        sick = dict.fromkeys((index for index in range(40) if index % 9), Sick(FORMS["code 960"]))
        world = SearchWorld(40, sick)

        world.sweep()

        assert len(world.dead_letters) == len(sick)


def test_the_first_batch_of_a_stream_is_searched_too() -> None:
    decided = events(
        decision_on(checkpoint_of(), Refused(problem(10), 0.1, check=ListCheck(listed=("t_1",))), context())
    )

    assert isinstance(decided[-1], FetchFailed)
